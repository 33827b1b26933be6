"""The report as one HTML page: no script, nothing loaded, readable on paper."""

from __future__ import annotations

from html import escape

from choir.app.audit.finding import LAYERS, Finding
from choir.app.audit.report import Report, by_target

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5c6670; --line: #dfe3e8; --paper: #fff; --panel: #f6f7f9;
  --good: #1a7346; --bad: #b3261e; --note: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa4ae; --line: #33383e; --paper: #16181b;
  --panel: #1e2125; --good: #5fc98f; --bad: #ff8a80; --note: #e0b050; } }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; }
.verdict { font-size: 1.1rem; font-weight: 600; margin: 0 0 1.5rem; }
.held { color: var(--good); } .failed { color: var(--bad); } .limit { color: var(--note); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; background: var(--panel);
  border: 1px solid var(--line); border-radius: 8px; padding: .9rem 1.1rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
table { width: 100%; border-collapse: collapse; table-layout: fixed; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: .85rem; }
th, td { padding: .45rem .7rem .45rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
th:nth-child(1), td:nth-child(1) { width: 4rem; } th:nth-child(2), td:nth-child(2) { width: 11rem; }
td:nth-child(1) { font-weight: 600; }
.layer { color: var(--soft); font-size: .85rem; } .fix { margin-top: .3rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
footer { margin-top: 2.5rem; color: var(--soft); font-size: .85rem; }
@media (max-width: 40rem) { thead { display: none; } tr { display: block; border-bottom: 1px solid var(--line);
  padding: .4rem 0; } td, td:nth-child(n) { display: block; width: auto; border: 0; padding: .1rem 0; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } tr, dl { break-inside: avoid; } }
"""
_WORDS = {"held": "held", "failed": "FAILED", "limit": "limit"}


def page(report: Report) -> str:
    """The whole document."""
    tone = "held" if report.ok else "failed"
    about = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.about.items())
    first = f"<h2>What failed</h2>{_table(report.failed)}" if report.failed else ""
    tables = "".join(
        f"<h2>{escape(target[:1].upper() + target[1:])}</h2>{_table(findings)}"
        for target, findings in by_target(report.findings).items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Choir: {escape(report.verdict())}</title><style>{_STYLE}</style></head><body>
<h1>Is this deployment keyless?</h1>
<p class="verdict {tone}">{escape(report.verdict()[:1].upper() + report.verdict()[1:])}.</p>
<dl>{about}</dl>
{first}{tables}
<footer>Each row is one attack: what was tried, what came back, and the layer that has to hold. “limit” is not a
failure: it says where a layer ends. Made by <code>choir verify</code>, which attacks from a sandbox of its
own and reads of others' things only what is said here.</footer>
</body></html>
"""


def _table(findings: list[Finding]) -> str:
    head = "<thead><tr><th>outcome</th><th>check</th><th>what was tried</th><th>what came back</th></tr></thead>"
    return f"<table>{head}<tbody>{''.join(map(_row, findings))}</tbody></table>"


def _row(finding: Finding) -> str:
    fix = f'<div class="fix"><b>Fix:</b> {escape(finding.fix)}</div>' if finding.outcome == "failed" else ""
    name = escape(finding.name.replace("_", " "))
    layer = escape(LAYERS.get(finding.layer, finding.layer))
    return (
        f'<tr><td class="{finding.outcome}">{_WORDS[finding.outcome]}</td><td>{name}</td>'
        f'<td>{escape(finding.tried)}<div class="layer">{layer}</div></td>'
        f"<td>{escape(finding.came_back)}{fix}</td></tr>"
    )
