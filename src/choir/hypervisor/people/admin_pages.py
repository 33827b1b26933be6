"""The admin page, rendered here: it works without a script."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from choir.hypervisor.pages import page
from choir.hypervisor.people.charts import bars
from choir.storage.people import AuditEntry
from choir.storage.report import Sum

PERIODS = (1, 7, 30, 90)
"""Days that usage can be looked at."""


@dataclass(frozen=True)
class SandboxRow:
    """One sandbox as an admin sees it. ``memory`` in bytes; ``processor`` in seconds since it started."""

    label: str
    user: str
    role: str
    state: str
    reason: str
    since: float
    idle_seconds: float | None
    memory: int | None
    processor: float | None
    has_home: bool
    """There are files in its home."""


def admin(
    *,
    me: str,
    people: Sequence[dict[str, Any]],
    sandboxes: Sequence[SandboxRow],
    days: Sequence[str],
    by_day: Sequence[Sum],
    by_user: Sequence[Sum],
    by_model: Sequence[Sum],
    audit: Sequence[AuditEntry],
    link: str = "",
    problem: str = "",
) -> str:
    """
    Args:
        days: that usage is of, as YYYY-MM-DD.
        link: an invitation that was just made, shown once.
    """
    alert = f'<div class="reason" role="alert"><p>{escape(problem)}</p></div>' if problem else ""
    made = (
        f'<div class="note" role="status"><p>Give this link to them. It is good for a week and works once.</p>'
        f'<pre class="secret">{escape(link)}</pre></div>'
        if link
        else ""
    )
    calls = {one.name: one.calls for one in by_day}
    chart = bars([(day, calls.get(day, 0)) for day in days], "Calls by day (UTC)", "calls") if calls else ""
    return page(
        "Admin",
        f"""<h1>Admin</h1>
{alert}{made}
<h2>People</h2>
{_table("People", ("Name", "Role", "State", "Passkeys", "Signed in", ""), [_person(each, me) for each in people])}
<form method="post" action="/admin/invite" class="fields">
<label>Name <input name="name" pattern="[a-z][a-z0-9._-]*" maxlength="32" required></label>
<label>As <select name="role"><option>member</option><option>admin</option></select></label>
<button>Invite</button></form>
<h2>Sandboxes</h2>
{_table("Sandboxes", ("Sandbox", "State", "Idle", "Memory", "Processor", ""), [_sandbox(each) for each in sandboxes])}
<h2>Usage</h2>
<p>{" · ".join(_period(each, len(days)) for each in PERIODS)} · <a href="/admin/usage.csv?days={len(days)}">CSV</a></p>
{chart}
{_table("Usage by person", _USAGE, [_usage(one) for one in by_user], "No calls yet.")}
{_table("Usage by model", ("Model", *_USAGE[1:]), [_usage(one) for one in by_model], "")}
{_by_day(by_day)}
<h2>Audit log</h2>
{_table("Audit log", ("When (UTC)", "Who", "What", "Whom", ""), [_entry(each) for each in audit], "Nothing yet.")}""",
        signed_in=True,
        wide=True,
    )


_USAGE = ("Person", "Calls", "Failed", "Tokens in", "Tokens out", "Cost")


def _table(name: str, headings: Sequence[str], rows: Sequence[Sequence[str]], none: str = "None.") -> str:
    """Cells are HTML. Wider than the page it scrolls by itself, by keys too; on a phone each row is a card.

    The roles are the elements' own, which some browsers forget once a style sheet has made them blocks.
    """
    if not rows:
        return f"<p>{none}</p>" if none else ""
    head = "".join(f'<th scope="col" role="columnheader">{each}</th>' for each in headings)
    body = "".join(
        f'<tr role="row">{"".join(_cell(*each) for each in zip(headings, row, strict=True))}</tr>' for row in rows
    )
    table = (
        f'<table role="table"><thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table>'
    )
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">{table}</div>'


def _cell(heading: str, cell: str) -> str:
    return f'<td role="cell" data-of="{heading}">{cell}</td>'


def _person(one: dict[str, Any], me: str) -> Sequence[str]:
    name = str(one["name"])
    limits = _link(f"/admin/people/limits?name={escape(name)}", "Limits", f"Limits: {name}")
    if one["state"] == "active":
        act, words = ("demote", "Make a member") if one["admin"] else ("promote", "Make an admin")
        buttons = _button(f"/admin/people/{act}", "name", name, words, f"{words}: {name}")
        buttons += limits
        if name != me:
            buttons += _link(f"/admin/people/remove?name={escape(name)}", "Remove", f"Remove {name}")
    else:
        buttons = limits + _button("/admin/people/withdraw", "name", name, "Withdraw", f"Withdraw: {name}")
    role = "admin" if one["admin"] else "member"
    return escape(name), role, str(one["state"]), str(one["passkeys"]), str(one["sessions"]), buttons


def _sandbox(one: SandboxRow) -> Sequence[str]:
    who = f"{one.user}/{one.role}"
    buttons = ""
    runs = one.state in ("starting", "ready")
    if runs:
        buttons = _button("/admin/sandboxes/stop", "label", one.label, "Stop", f"Stop {who}")
    if one.state != "stopping" and (one.has_home or one.state != "absent"):
        words = "Restart" if runs else "Start"
        buttons += _button("/admin/sandboxes/restart", "label", one.label, words, f"{words} {who}")
    if one.role == "dev" and one.has_home:
        buttons += _button("/admin/sandboxes/swap", "label", one.label, "Make live", f"Make live: {who}")
    state = escape(one.state) + (f"<br><small>{escape(one.reason)}</small>" if one.reason else "")
    idle = "–" if one.idle_seconds is None else span(one.idle_seconds)
    memory = "–" if one.memory is None else f"{one.memory / 2**20:,.0f} MB"
    processor = "–" if one.processor is None else f"{one.processor:,.1f} s"
    return escape(who), state, idle, memory, processor, buttons


def _usage(one: Sum) -> Sequence[str]:
    cost = f"${one.cost_usd:,.2f}" + (f" + {one.unpriced:,} unpriced" if one.unpriced else "")
    numbers = (one.calls, one.failed, one.input_tokens, one.output_tokens)
    return escape(one.name), *(f"{number:,}" for number in numbers), cost


def _by_day(days: Sequence[Sum]) -> str:
    if not days:
        return ""
    table = _table("Usage by day", ("Day", *_USAGE[1:]), [_usage(one) for one in days])
    return f"<details><summary>By day</summary>{table}</details>"


def _entry(one: AuditEntry) -> Sequence[str]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(one.at))
    what = escape(one.act.replace("_", " "))
    return when, escape(one.actor), what, escape(one.target), f"<small>{escape(one.detail)}</small>"


def _period(days: int, chosen: int) -> str:
    words = "today" if days == 1 else f"{days} days"
    return f"<b>{words}</b>" if days == chosen else f'<a href="/admin?days={days}">{words}</a>'


def removal(name: str, folder: Path, warning: str) -> str:
    """Asks whether a person is to be removed.

    Args:
        folder: where their homes go.
        warning: what else there is to know, or "".
    """
    back = f'<div class="reason"><p>{escape(warning)}</p></div>' if warning else ""
    return page(
        f"Remove {name}",
        f"""<h1>Remove {escape(name)}?</h1>
<p class="lead">They are signed out everywhere, and their passkeys, tokens, limits and sandboxes end.</p>
<p>Their files are not deleted: each home is set aside in <code>{escape(str(folder))}</code> on the machine that runs
Choir, and a later {escape(name)} gets nothing of them.</p>
{back}
<div class="actions"><form method="post" action="/admin/people/remove">
<input type="hidden" name="name" value="{escape(name)}"><button class="danger">Remove {escape(name)}</button></form>
<a class="button" href="/admin">Keep them</a></div>""",
        signed_in=True,
    )


def _link(where: str, words: str, label: str) -> str:
    return f'<a class="button quiet" href="{where}" aria-label="{escape(label)}">{words}</a>'


def _button(action: str, name: str, value: str, words: str, label: str) -> str:
    return (
        f'<form method="post" action="{action}"><input type="hidden" name="{name}" value="{escape(value)}">'
        f'<button class="quiet" aria-label="{escape(label)}">{words}</button></form>'
    )


def span(seconds: float) -> str:
    """Roughly how long."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
