"""What the audit found, for a program (``as_dict``) and as lines of text; ``page`` makes HTML of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from choir.app.audit.finding import LAYERS, Finding

SCHEMA = 1
"""Of ``as_dict``; raised when a name in it changes its meaning."""


@dataclass
class Report:
    """``about``: name and value of what was verified and with what, in the order to show them."""

    about: dict[str, str]
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> list[Finding]:
        return [each for each in self.findings if each.outcome == "failed"]

    @property
    def held(self) -> int:
        return sum(each.outcome == "held" for each in self.findings)

    @property
    def limits(self) -> int:
        return sum(each.outcome == "limit" for each in self.findings)

    @property
    def ok(self) -> bool:
        """Whether something was tried and everything held."""
        return not self.failed and self.held > 0

    def verdict(self) -> str:
        """One line."""
        if self.failed:
            names = ", ".join(each.name for each in self.failed)
            return f"{len(self.failed)} of {self.held + len(self.failed)} checks failed: {names}"
        return f"all {self.held} checks held, {self.limits} known {'limit' if self.limits == 1 else 'limits'}"

    def as_dict(self) -> dict[str, Any]:
        """JSON: ``{schema, ok, verdict, seconds, about: {NAME: value}, checks: [{target, name, layer, held_by, tried,
        came_back, outcome, ok, fix}]}``."""
        return {
            "schema": SCHEMA,
            "ok": self.ok,
            "verdict": self.verdict(),
            "seconds": round(self.seconds, 1),
            "about": self.about,
            "checks": [
                {**asdict(each), "held_by": LAYERS.get(each.layer, each.layer), "ok": each.ok} for each in self.findings
            ],
        }


def line(finding: Finding) -> str:
    """As a terminal shows it."""
    mark = {"held": "ok   ", "failed": "FAIL ", "limit": "limit"}[finding.outcome]
    text = f"  {mark} {finding.name.replace('_', ' ')}: {finding.tried} → {finding.came_back}"
    if finding.outcome == "failed":
        text += f"\n        layer: {LAYERS.get(finding.layer, finding.layer)}\n        fix:   {finding.fix}"
    return text


def by_target(findings: list[Finding]) -> dict[str, list[Finding]]:
    """In the order in which each target came first."""
    found: dict[str, list[Finding]] = {}
    for each in findings:
        found.setdefault(each.target, []).append(each)
    return found
