"""Print the Grafana dashboard (JSON) for the gateway's metrics: `python monitoring/grafana.py >dashboard.json`.

Import it in Grafana (Dashboards, New, Import) and choose the Prometheus data source.
"""

from __future__ import annotations

import json
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDTH, HEIGHT = 12, 8


def panel(number: int, title: str, unit: str, *queries: tuple[str, str]) -> dict[str, Any]:
    """A line chart; each query is PromQL and a legend."""
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"x": number % 2 * WIDTH, "y": number // 2 * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend, "datasource": SOURCE}
            for index, (expression, legend) in enumerate(queries)
        ],
    }


def quantile(share: float, metric: str) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket[$__rate_interval])))"


def rate(metric: str, by: str, selector: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{selector}[$__rate_interval]))"


def dashboard() -> dict[str, Any]:
    panels = [
        ("Calls by provider", "reqps", (rate("choir_calls_total", "provider"), "{{provider}}")),
        ("Calls by outcome", "reqps", (rate("choir_calls_total", "outcome"), "{{outcome}}")),
        (
            "Whole calls",
            "s",
            (quantile(0.5, "choir_call_seconds"), "median"),
            (quantile(0.99, "choir_call_seconds"), "99 %"),
        ),
        (
            "First byte",
            "s",
            (quantile(0.5, "choir_first_byte_seconds"), "median"),
            (quantile(0.99, "choir_first_byte_seconds"), "99 %"),
        ),
        ("Tokens", "short", (rate("choir_tokens_total", "kind"), "{{kind}}")),
        ("Cost per hour", "currencyUSD", ("sum by (provider) (rate(choir_cost_usd_total[1h])) * 3600", "{{provider}}")),
        ("Bytes", "Bps", (rate("choir_bytes_total", "direction"), "{{direction}}")),
        (
            "Now",
            "short",
            ("choir_open_calls", "open calls"),
            ("choir_sandboxes", "sandboxes"),
            ("choir_sandboxes_warm", "standing ready"),
            ("choir_connections", "connections"),
        ),
        ("Circuits open", "short", ("choir_circuit_open", "{{provider}}")),
        ("Keys turned away", "short", ("choir_keys_resting", "{{provider}}")),
        (
            "Retries and openings",
            "reqps",
            (rate("choir_retries_total", "provider"), "retries, {{provider}}"),
            (rate("choir_circuit_opened_total", "provider"), "openings, {{provider}}"),
        ),
        (
            "Records",
            "short",
            ("choir_records_waiting", "waiting"),
            ("choir_ledger_failing", "ledger failing"),
            ("choir_journal_failing", "journal failing"),
        ),
    ]
    return {
        "title": "Choir gateway",
        "uid": "choir-gateway",
        "schemaVersion": 39,
        "tags": ["choir"],
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Data source"}]
        },
        "panels": [panel(number, title, unit, *queries) for number, (title, unit, *queries) in enumerate(panels)],
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
