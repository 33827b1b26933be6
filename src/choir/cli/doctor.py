"""``choir doctor``."""

from __future__ import annotations

import argparse
import dataclasses
import json

from choir.app.doctor import Finding, examine, repair
from choir.errors import EXIT_FAILED
from choir.paths import State


def doctor(state: State, arguments: argparse.Namespace) -> int:
    """Exit code 0 when nothing is wrong, or everything that was could be mended."""
    findings = []
    for finding in examine(arguments.config, state):
        findings.append(finding)
        if not arguments.json:
            print(_line(finding))
    if arguments.repair:
        mended = list(repair(state, findings))
        names = {finding.name for finding in mended}
        findings = [finding for finding in findings if finding.name not in names] + mended
        if not arguments.json:
            print("".join(f"{_line(finding)}\n" for finding in mended), end="")
    if arguments.json:
        print(json.dumps([{**dataclasses.asdict(finding), "repair": None} for finding in findings]))
    return 0 if all(finding.ok for finding in findings) else EXIT_FAILED


def _line(finding: Finding) -> str:
    hint = f"\n    {finding.hint}" if finding.hint else ""
    return f"{'ok  ' if finding.ok else 'BAD '} {finding.name}: {finding.message}{hint}"
