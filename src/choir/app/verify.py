"""``choir verify``: the proof that a deployment is keyless. Attacks it from inside a sandbox and says what came back.

Against the running ``choir up`` of this state folder, else against a gateway started for the purpose. Exit codes, for
a health check: 0 everything held, 1 something failed, 69 it could not be tried (``choir.errors``; 78: the configuration
is wrong).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from choir import __version__
from choir import config as configuration
from choir.app.audit.finding import Finding
from choir.app.audit.page import page
from choir.app.audit.report import Report, line
from choir.app.audit.run import about, audit
from choir.app.run import gateway_for
from choir.errors import EXIT_FAILED, ChoirError, ConfigError, StartError
from choir.isolation import backends
from choir.paths import State


async def verify(
    config_path: Path | None, state: State, as_json: bool, html: Path | None = None, watch: float | None = None
) -> int:
    """Run every check; the exit code.

    Args:
        html: where the report is put, too, as a page. It replaces what is there.
        watch: verify again and again, with so many seconds in between; see ``_watch``.

    Raises:
        StartError: it could not be tried at all.
        ConfigError
    """
    if watch is not None:
        return await _watch(config_path, state, as_json, html, watch)

    def told(text: str) -> None:
        if not as_json:
            print(text, flush=True)

    report = await _round(config_path, state, lambda finding: told(line(finding)), told)
    if html is not None:
        _write(html, page(report))
    if as_json:
        print(json.dumps(report.as_dict()))
    elif report.failed:
        print(f"choir: {report.verdict()}", file=sys.stderr)
    else:
        print(f"{report.verdict()}  ({report.seconds:.0f} s{f', {html}' if html else ''})")
    return 0 if report.ok else EXIT_FAILED


async def _watch(config_path: Path | None, state: State, as_json: bool, html: Path | None, seconds: float) -> int:
    """A line a round, until the first round that fails: a watcher's end is what a script or a unit can act on. A round
    that could not be tried may have met a restart: only the second in a row ends it. SIGTERM and SIGINT: exit 0."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopped = asyncio.create_task(stop.wait())
    missed = 0
    while True:
        turn = asyncio.create_task(_round(config_path, state, lambda _: None, lambda _: None))
        await asyncio.wait({turn, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not turn.done():
            turn.cancel()
            await asyncio.gather(turn, return_exceptions=True)
            return 0
        try:
            report = turn.result()
            missed = 0
        except ChoirError as error:
            missed += 1
            entry = {"ok": None, "verdict": f"not tried: {error.message}", "reason": error.reason}
            _tell(entry, as_json, error.message)
            if missed > 1:
                return error.exit_code
        else:
            if html is not None:
                _write(html, page(report))
            _tell(report.as_dict(), as_json, f"{report.verdict()}  ({report.seconds:.0f} s)")
            if not report.ok:
                for finding in report.failed:
                    print(line(finding), file=sys.stderr)
                return EXIT_FAILED
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(stopped), seconds)
            return 0


def _tell(entry: Mapping[str, object], as_json: bool, words: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    print(json.dumps({"ts": now, **entry}) if as_json else f"{now}  {words}", flush=True)


async def _round(
    config_path: Path | None, state: State, found: Callable[[Finding], None], told: Callable[[str], None]
) -> Report:
    """One audit.

    Raises:
        StartError: it could not be tried at all.
        ConfigError
    """
    try:
        return await _tried(config_path, state, found, told)
    except ConfigError:
        raise
    except ChoirError as error:  # whatever it was, the exit code is that of an audit that was not made
        raise StartError(error.reason, error.message, error.hint) from error


async def _tried(
    config_path: Path | None, state: State, found: Callable[[Finding], None], told: Callable[[str], None]
) -> Report:
    began = time.monotonic()
    config = configuration.load(config_path)
    state.prepare()
    backend = backends.choose(config.sandbox.backend)
    async with gateway_for(config, state) as gateway:
        report = Report(await about(config, state, gateway))
        told(f"choir {__version__}  verifying {report.about['verified']}")
        async for finding in audit(config, state, backend, gateway):
            report.findings.append(finding)
            found(finding)
    report.seconds = time.monotonic() - began
    report.about["duration"] = f"{report.seconds:.1f} s"
    return report


def _write(path: Path, text: str) -> None:
    """Whole or not at all.

    Raises:
        ChoirError: ``report_unwritable``.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text)
        draft.replace(path)
    except OSError as error:
        raise ChoirError("report_unwritable", f"Cannot write {path}: {error.strerror}.") from error
