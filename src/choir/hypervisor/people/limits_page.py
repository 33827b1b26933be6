"""One person's limits, as a form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from choir.hypervisor.pages import page
from choir.hypervisor.people.limits import Limit

_WORDS = {
    "providers": ("Providers", "Only these, e.g. openai local"),
    "models": ("Models", "Only these, e.g. openai/gpt-* local/*"),
    "usd_per_day": ("Dollars a day", "none: no limit"),
    "usd_per_month": ("Dollars a month", "none: no limit"),
    "tokens_per_minute": ("Tokens a minute", "none: no limit"),
    "requests_per_minute": ("Calls a minute", ""),
    "concurrent_requests": ("Calls at once", ""),
    "max_body_bytes": ("Bytes of a call", ""),
}


def limits(user: str, found: Sequence[Limit], typed: Mapping[str, str] | None = None, problem: str = "") -> str:
    """
    Args:
        typed: what was sent, when it was refused for ``problem``.
    """
    alert = f'<div class="reason" role="alert"><p>{escape(problem)}</p></div>' if problem else ""
    by_name = {each.name: each for each in found}
    fields = "".join(_field(by_name[name], (typed or {}).get(name)) for name in _WORDS)
    return page(
        f"Limits of {user}",
        f"""<h1>Limits of {escape(user)}</h1>
<p class="lead">For the next call on. An empty field is as configured, shown in grey.</p>
{alert}
<form method="post" action="/admin/people/limits"><input type="hidden" name="name" value="{escape(user)}">
<div class="fields two">{fields}</div>
<div class="actions"><button class="primary">Save</button><a class="button" href="/admin">Back</a></div></form>""",
        signed_in=True,
    )


def _field(limit: Limit, typed: str | None) -> str:
    label, hint = _WORDS[limit.name]
    if limit.fixed:
        return (
            f'<label>{label}<input value="{escape(limit.configured)}" disabled>'
            f"<small>Set in choir.toml, which wins.</small></label>"
        )
    value = limit.own if typed is None else typed
    small = f"<small>{hint}</small>" if hint else ""
    return (
        f'<label>{label}<input name="{limit.name}" value="{escape(value)}" placeholder="{escape(limit.configured)}" '
        f'maxlength="500" autocomplete="off" spellcheck="false">{small}</label>'
    )
