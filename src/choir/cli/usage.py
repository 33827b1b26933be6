"""``choir usage``: the ledger, newest calls last."""

from __future__ import annotations

import argparse
import sys

import msgspec

from choir.contract import UsageRecord
from choir.paths import State
from choir.storage.ledger import Ledger

HEADINGS = ("when", "user", "provider", "model", "status", "time", "first", "in", "out", "sandbox")


def usage(state: State, arguments: argparse.Namespace) -> int:
    records = Ledger(state.ledger).query(
        sandbox_id=arguments.sandbox, user_id=arguments.user, limit=max(arguments.limit, 1)
    )
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(records).decode() + "\n")
    elif not records:
        print("No calls yet.")
    else:
        print(table(HEADINGS, [row(record) for record in reversed(records)]))
    return 0


def row(record: UsageRecord) -> tuple[str, ...]:
    """One call as columns; unknown is a dash."""
    status = str(record.status) if record.outcome == "ok" else f"{record.status} {record.outcome}"
    if record.count > 1:
        status += f" ×{record.count}"
    return (
        record.ts[:19].replace("T", " "),
        record.user_id,
        record.provider,
        record.model or "-",
        status,
        f"{record.latency_ms:,.0f} ms",
        "-" if record.ttft_ms is None else f"{record.ttft_ms:,.0f} ms",
        "-" if record.input_tokens is None else f"{record.input_tokens:,}",
        "-" if record.output_tokens is None else f"{record.output_tokens:,}",
        record.sandbox_id[-8:],
    )


def table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Columns padded to their widest cell."""
    widths = [max(len(line[i]) for line in [headings, *rows]) for i in range(len(headings))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [headings, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)
