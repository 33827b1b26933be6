"""The hypervisor's own pages, rendered here: they work without a script, on a phone, in light and dark."""

from __future__ import annotations

from html import escape

from choir.hypervisor.lifecycle import Failure, Status
from choir.isolation.contract import Phase

REFRESH_SECONDS = 2

PHASES: dict[Phase, str] = {
    "keeper": "Start the process",
    "namespace": "Cut it off from this machine and the network",
    "keyless": "Check that no key is inside",
    "listener": "Connect the provider gateway",
    "desktop": "Start the desktop",
    "ready": "Ready",
}

_MARK = (
    '<svg class="mark" viewBox="0 0 32 32" fill="none" stroke="currentColor" stroke-width="3" stroke-linecap="round" '
    'aria-hidden="true"><path d="M6 20v-5M13 24V10M20 21V7M27 18v-4"/></svg>'
)


_SIGN_OUT = (
    '<nav><a class="quiet" href="/account">Account</a>'
    '<form method="post" action="/logout"><button class="quiet">Sign out</button></form></nav>'
)


def page(
    title: str,
    body: str,
    *,
    static: str = "/static",
    home: str = "/",
    head: str = "",
    signed_in: bool = False,
    wide: bool = False,
) -> str:
    """A whole document around ``body`` (HTML)."""
    sign_out = _SIGN_OUT if signed_in else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} · Choir</title>
<link rel="icon" type="image/svg+xml" href="{static}/mark.svg">
<link rel="stylesheet" href="{static}/choir.css">
{head}</head>
<body>
<header>{_MARK}<a href="{escape(home)}">Choir</a>{sign_out}</header>
<main{' class="wide"' if wide else ""}><div class="card">
{body}
</div></main>
<footer></footer>
</body>
</html>
"""


def sandbox_page(role: str, status: Status) -> str:
    """One sandbox in whatever state it is, with what can be done about it."""
    base = f"/desk/{role}"
    if status.state in ("starting", "stopping"):
        return _moving(base, status)
    if status.state == "failed":
        return _failed(base, role, status)
    title, text, buttons = {
        "ready": (
            "Your desktop is running",
            "It goes on when you close this page.",
            f'<a class="button primary" href="{base}/enter">Open the desktop</a>'
            f"{_button(base, 'restart', 'Restart')}{_button(base, 'stop', 'Stop')}",
        ),
        "stopped": (
            "Your sandbox is stopped",
            f"{status.note} Your files and conversations are kept.".strip(),
            _button(base, "start", "Start again", primary=True),
        ),
    }.get(status.state, ("Your desktop", "It has not been started yet.", _button(base, "start", "Start", primary=True)))
    return page(
        title,
        f'<h1>{title}</h1><p class="lead">{escape(text)}</p><div class="actions">{buttons}</div>{_other_role(role)}',
        signed_in=True,
    )


def _other_role(role: str) -> str:
    """The way between live and dev, and what makes the one the other."""
    if role == "live":
        return '<p class="aside">To try something out, <a href="/desk/dev">there is a second sandbox, dev</a>.</p>'
    return f"""<p class="aside">This is <b>dev</b>, for trying things out. <a href="/desk/live">To live</a>.</p>
<p class="aside">Making it live exchanges the two: what is live now becomes dev, and doing it again takes it back.
Both are stopped for it.</p>
<div class="actions">{_button("", "swap", "Make this the live one")}</div>"""


def _moving(base: str, status: Status) -> str:
    stopping = status.state == "stopping"
    title = "Stopping your sandbox" if stopping else "Starting your desktop"
    lead = "Whatever still runs in it is asked to end." if stopping else "A place of your own, with no key in it."
    head = (
        f'<noscript><meta http-equiv="refresh" content="{REFRESH_SECONDS}; url={base}/enter"></noscript>\n'
        '<script type="module" src="/static/progress.js"></script>\n'
    )
    return page(
        title,
        f"""<h1>{title}</h1>
<p class="lead">{lead}</p>
{_phases(base, status)}
<p class="unseen" role="status"></p>
<p class="lead" id="waiting" hidden>Waiting for Choir to answer…</p>
<div class="actions">{"" if stopping else _button(base, "stop", "Cancel")}</div>""",
        head=head,
        signed_in=True,
    )


def _phases(base: str, status: Status) -> str:
    at = {reached.phase: reached.at for reached in status.phases}
    pending = {"starting": "now", "failed": "broken"}.get(status.state, "")
    rows = []
    for phase, words in PHASES.items():
        if phase in at:
            kind, when = "done", f"{at[phase]:.2f} s"
        else:
            kind, when, pending = pending, "", ""  # only the first that was not reached
        rows.append(
            f'<li data-phase="{phase}" class="{kind}"><span class="dot"></span><span class="name">{words}</span>'
            f"<time>{when}</time></li>"
        )
    data = f'data-events="{base}/events" data-enter="{base}/enter" data-page="{base}"'
    return f'<ol class="phases" {data}>{"".join(rows)}</ol>'


def _failed(base: str, role: str, status: Status) -> str:
    failure = status.failure or Failure(reason="unknown", message="The sandbox is not there.")
    was_ready = any(reached.phase == "ready" for reached in status.phases)
    title = "Your sandbox ended" if was_ready else "Your sandbox did not start"
    buttons = _button(base, "start", "Start again", primary=not failure.file)
    lead = head = ""
    if failure.file:
        words = f"Set {failure.file} aside and start again"
        buttons = _button(base, "set-aside", words, primary=True) + buttons
    if status.retry_at:
        lead = '<p class="lead" role="status">It is started again in a moment.</p>'
        head = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">\n'
        buttons += _button(base, "stop", "Leave it stopped")
    return page(
        title,
        f"""<h1>{title}</h1>
{lead}
{reason_block(failure)}
{"" if was_ready or not status.phases else _phases(base, status)}
<div class="actions">{buttons}</div>
{_other_role(role)}""",
        head=head,
        signed_in=True,
    )


def reason_block(failure: Failure) -> str:
    """What happened, what to do about it, and the details."""
    facts = [("Reason", f"<code>{escape(failure.reason)}</code>")]
    if failure.signal is not None:
        facts.append(("Ended by", f"signal {failure.signal}"))
    elif failure.code is not None:
        facts.append(("Exit code", str(failure.code)))
    log = (
        f"<details open><summary>The end of its log</summary><pre>{escape(failure.log_tail)}</pre></details>"
        if failure.log_tail.strip()
        else ""
    )
    hint = f"<p>{escape(failure.hint)}</p>" if failure.hint else ""
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    return f"""<div class="reason" role="alert"><p>{escape(failure.message)}</p>{hint}</div>
<dl class="facts">{listed}</dl>
{log}"""


def away(message: str, hint: str, control_url: str) -> str:
    """On a sandbox's own origin, when the sandbox is not there to answer."""
    return page(
        "Your sandbox is not there",
        f"""<h1>Your sandbox is not there</h1>
<div class="reason" role="alert"><p>{escape(message)}</p>{f"<p>{escape(hint)}</p>" if hint else ""}</div>
<div class="actions"><a class="button primary" href="{escape(control_url)}">See what can be done</a></div>""",
        static="/.choir/static",
        home=control_url,
    )


def refused(title: str, message: str, static: str = "/static", way_in: str = "") -> str:
    """A request that is not carried out; ``way_in`` is where to sign in, if that is what is missing."""
    button = f'<div class="actions"><a class="button primary" href="{way_in}">Sign in</a></div>' if way_in else ""
    return page(title, f'<h1>{escape(title)}</h1><p class="lead">{escape(message)}</p>{button}', static=static)


def _button(base: str, action: str, words: str, primary: bool = False) -> str:
    kind = ' class="primary"' if primary else ""
    return f'<form method="post" action="{base}/{action}"><button{kind}>{escape(words)}</button></form>'
