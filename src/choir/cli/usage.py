"""``choir usage``: the ledger, newest calls last; or added up by person, model or day."""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time

import msgspec

from choir.cli.ledger_notes import ledger_notes
from choir.contract import UsageRecord
from choir.errors import ChoirError
from choir.paths import State
from choir.storage.ledger import Ledger
from choir.storage.report import Sum, add_up, shares_csv, sums_csv

SUMS = ("calls", "failed", "in", "out", "cached", "USD")
HEADINGS = ("when", "user", "provider", "model", "status", "time", "first", "in", "out", "sandbox")


def usage(state: State, arguments: argparse.Namespace) -> int:
    """
    Raises:
        ChoirError: ``ledger_unreadable``.
    """
    for line in ledger_notes(state):
        print(f"choir: {line}", file=sys.stderr)
    try:
        return _usage(state, arguments)
    except sqlite3.Error as error:
        raise ChoirError(
            "ledger_unreadable",
            f"The usage ledger {state.ledger} cannot be read: {error}.",
            "Another program may hold it open; nothing is lost, calls are kept in the journal.",
        ) from error


def _usage(state: State, arguments: argparse.Namespace) -> int:
    if arguments.by or arguments.csv:
        return _report(Ledger(state.ledger), arguments)
    records = Ledger(state.ledger).query(sandbox_id=arguments.sandbox, user_id=arguments.user, limit=arguments.limit)
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(records).decode() + "\n")
    elif not records:
        print("No calls yet.")
    else:
        print(table(HEADINGS, [row(record) for record in reversed(records)]))
    return 0


def _report(ledger: Ledger, arguments: argparse.Namespace) -> int:
    since = time.strftime("%Y-%m-%d", time.gmtime(time.time() - (arguments.days - 1) * 86400))
    shares = ledger.shares(since, arguments.user)
    if arguments.by is None:
        sys.stdout.write(shares_csv(shares))
        return 0
    sums = add_up(shares, arguments.by)
    if arguments.csv:
        sys.stdout.write(sums_csv(sums, arguments.by))
    elif arguments.json:
        sys.stdout.write(msgspec.json.encode(sums).decode() + "\n")
    elif not sums:
        print(f"No calls since {since}.")
    else:
        print(table((arguments.by, *SUMS), [sum_row(one) for one in sums]))
        if any(one.unpriced for one in sums):
            print("+: and calls whose price is not known (see [prices] in choir.toml)")
    return 0


def sum_row(one: Sum) -> tuple[str, ...]:
    """One sum as columns; a cost that is not known of every call has a plus."""
    numbers = (one.calls, one.failed, one.input_tokens, one.output_tokens, one.cached_tokens)
    return one.name, *(f"{number:,}" for number in numbers), f"{one.cost_usd:,.4f}{'+' if one.unpriced else ''}"


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
