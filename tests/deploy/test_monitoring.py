"""The alert rules and the dashboard speak of metrics and labels that the gateway really has."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from choir.gateway.dialects import Counts
from choir.gateway.metrics import _HELP, Metrics

ROOT = Path(__file__).parents[2]
RULES = yaml.safe_load((ROOT / "monitoring/choir.rules.yml").read_text())["groups"][0]["rules"]


@pytest.fixture(scope="module")
def real() -> tuple[set[str], set[str], set[str]]:
    """Names, labels and values of labels in the gateway's own exposition."""
    metrics, counts = Metrics(), Counts()
    counts.input = counts.output = counts.cached = 1
    for outcome, status in (("ok", 200), ("refused:rate_limited", 429), ("upstream:http_500", 500)):
        metrics.call("openai", status, outcome, 0.1, 0.05, 1, 2, counts, 5)
    of_upstreams = [name for name in _HELP if name.startswith(("choir_circuit", "choir_keys", "choir_retries"))]
    gauges = {name: 0 for name, (kind, _) in _HELP.items() if kind == "gauge" and name not in of_upstreams}
    text = metrics.render(gauges, {name: {"openai": 0} for name in of_upstreams}).decode()
    names = set(re.findall(r"^(choir_\w+)", text, re.MULTILINE))
    return names, set(re.findall(r'[{,](\w+)="', text)), set(re.findall(r'="([^"]*)"', text))


def dashboard() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, ROOT / "monitoring/grafana.py"], capture_output=True, text=True, check=True, timeout=60
    )
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def expressions() -> list[str]:
    targets = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return [rule["expr"] for rule in RULES] + targets


@pytest.mark.parametrize("expression", expressions())
def test_every_name_is_real(expression: str, real: tuple[set[str], set[str], set[str]]) -> None:
    names, labels, values = real
    assert set(re.findall(r"choir_\w+", expression)) <= names
    selectors = re.findall(r"(\w+)(?:=|!=|=~)\"([^\"]*)\"", expression)
    grouped = [each.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for each in group.split(",")]
    assert {name for name, _ in selectors} | set(grouped) <= labels
    assert {value for _, value in selectors} <= values
    assert expression.count("(") == expression.count(")")


def test_every_alert_says_what_to_do() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["annotations"]["action"]
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_dashboard_shows_every_gauge_and_counter(real: tuple[set[str], set[str], set[str]]) -> None:
    shown = set(re.findall(r"choir_\w+", json.dumps(dashboard())))
    assert {name for name in _HELP if name not in shown and f"{name}_bucket" not in shown} == set()


def test_panels_do_not_overlap() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard()["panels"]]
    assert len(set(places)) == len(places)
