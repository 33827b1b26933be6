"""What an operator must know of the usage ledger: records that wait because it takes none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from choir.control_client import GatewayControl, running_gateways
from choir.errors import ChoirError
from choir.paths import State


def ledger_notes(state: State) -> list[str]:
    """A line for each running gateway whose records do not reach the ledger; [] when all is well."""
    sockets = list(running_gateways(state))
    return asyncio.run(_ask(sockets)) if sockets else []


async def _ask(sockets: list[Path]) -> list[str]:
    notes = []
    for socket in sockets:
        control = GatewayControl(socket)
        try:
            status = await control.status()
        except ChoirError as error:
            notes.append(error.message)
            continue
        finally:
            await control.close()
        if line := note(status["ledger"]):
            notes.append(f"gateway {status['pid']}: {line}")
    return notes


def note(ledger: dict[str, Any]) -> str:
    """``ledger`` of a ``status`` answer in words, "" when it takes records."""
    if ledger["full"]:
        return "no place is left for usage records, and calls are refused with `ledger_full`. Free disk space."
    if ledger["journal_failing"] and ledger["waiting"]:  # whether it can be written again, the next record will tell
        return (
            f"neither the ledger's disk nor its journal takes records; {ledger['waiting']} wait in memory, and are "
            "lost if the gateway dies. Free disk space."
        )
    if ledger["failing"]:
        return f"the ledger takes no records just now; {ledger['waiting']} wait in its journal. Calls go on."
    return ""
