"""The pages for signing in and for one's account. They work without a script, but for passkeys, which are one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape

from choir.hypervisor.pages import page
from choir.hypervisor.people.api_tokens import SCOPES
from choir.storage.people import COMMAND_LINE, ApiToken, Invitation, Passkey, User
from choir.storage.registry import SessionRow

_SCRIPT = '<script type="module" src="/static/passkey.js"></script>\n'
_UNABLE = '<p class="aside" id="passkey-note" role="status" hidden></p>'

WAYS = {
    "link": "a link of the command line",
    "invitation": "an invitation",
    "passkey": "a passkey",
    "recovery_code": "a recovery code",
    "oidc": "the identity provider",
    "local": "this machine's own account",
}


def sign_in(provider: str = "", problem: str = "") -> str:
    """For whoever has no session.

    Args:
        provider: name of the identity provider, "" when there is none.
        problem: a sentence on why the last attempt failed.
    """
    alert = f'<div class="reason" role="alert"><p>{escape(problem)}</p></div>' if problem else ""
    other = f'<a class="button" href="/login/oidc">Sign in with {escape(provider)}</a>' if provider else ""
    return page(
        "Sign in",
        f"""<h1>Sign in</h1>
<p class="lead">You are not signed in on this browser.</p>
{alert}
<div class="actions"><button class="primary" id="passkey-sign-in">Sign in with a passkey</button>{other}</div>
{_UNABLE}
<details><summary>Use a recovery code</summary>
<form method="post" action="/login/code" class="fields">
<label>Recovery code <input name="code" autocomplete="off" autocapitalize="none" spellcheck="false" required></label>
<button>Sign in</button></form></details>
<p class="aside">No passkey yet? Ask your admin for an invitation. On the machine that runs Choir,
<code>choir login</code> prints a link that opens once.</p>""",
        head=_SCRIPT,
    )


def link(user: str, secret: str, present: str = "") -> str:
    """What a one-time link shows. Looking at it does not use it up.

    Args:
        present: who is signed in on this browser, "" for nobody.
    """
    return page(
        "Sign in",
        f"""<h1>Sign in</h1>
<p class="lead">This link signs this browser in as <b>{escape(user)}</b>, once.</p>
{_instead_of(present)}
<form method="post" action="/login"><input type="hidden" name="once" value="{escape(secret)}">
<div class="actions"><button class="primary">Sign in as {escape(user)}</button></div></form>""",
    )


def signed_in(user: str) -> str:
    """On the way to the desktop."""
    return page(
        "Signed in",
        f"""<h1>Signed in</h1>
<p class="lead">Hello {escape(user)}.</p>
<div class="actions"><a class="button primary" href="/">To your desktop</a></div>""",
        signed_in=True,
    )


def _instead_of(present: str) -> str:
    if not present:
        return ""
    return (
        f'<div class="reason"><p>You are signed in as <b>{escape(present)}</b> on this browser. '
        f"Going on signs {escape(present)} out here.</p></div>"
    )


def invitation(invited: Invitation, secret: str, present: str = "") -> str:
    """What an invitation link shows. Looking at it does not use it up.

    Args:
        present: who is signed in on this browser, "" for nobody.
    """
    by = f"{escape(invited.invited_by)} made a place" if invited.invited_by != COMMAND_LINE else "There is a place"
    return page(
        "Join",
        f"""<h1>You are invited</h1>
<p class="lead">{by} for you here. Your name in it is
<b>{escape(invited.user)}</b>.</p>
{_instead_of(present)}
<form method="post" action="/join"><input type="hidden" name="once" value="{escape(secret)}">
<div class="actions"><button class="primary">Join</button></div></form>""",
    )


def link_dead(title: str = "This link no longer works") -> str:
    return page(
        title,
        f"""<h1>{escape(title)}</h1>
<p class="lead">It was used before, or it is too old.</p>
<p>Ask your admin for another. On the machine that runs Choir, <code>choir login</code> prints one.</p>
<div class="actions"><a class="button primary" href="/login">Sign in another way</a></div>""",
    )


def account(
    *,
    user: User,
    session: SessionRow,
    passkeys: Sequence[Passkey],
    codes: int,
    sessions: Sequence[SessionRow],
    tokens: Sequence[ApiToken],
    welcome: bool = False,
    problem: str = "",
) -> str:
    """Everything by which one can sign in, and where one is signed in."""
    alert = f'<div class="reason" role="alert"><p>{escape(problem)}</p></div>' if problem else ""
    lead = (
        "Welcome. Add a passkey now: the link you came by opens only once."
        if welcome
        else "How you sign in, and where you are signed in."
    )
    admin = '<a class="button" href="/admin">Admin</a>' if user.admin else ""
    return page(
        "Your account",
        f"""<h1>{escape(user.name)}</h1>
<p class="lead">{lead}</p>
{alert}
<div class="actions"><a class="button primary" href="/">To your desktop</a>{admin}</div>
<h2>Passkeys</h2>
{_rows([_passkey(each) for each in passkeys], "None yet. Without one you need a link each time.")}
<div class="actions"><button id="passkey-add">Add a passkey</button></div>
{_UNABLE}
<h2>Recovery codes</h2>
<p>{f"{codes} left." if codes else "None. They let you in when your passkey is lost."} New ones replace the old.</p>
<form method="post" action="/account/codes"><div class="actions"><button>Make new codes</button></div></form>
<h2>Signed in</h2>
{_rows([_session(each, each.hash == session.hash) for each in sessions], "")}
<h2>API tokens</h2>
<p>For scripts: <code>Authorization: Bearer …</code> at <code>/api</code>. They never open a sandbox's desktop.</p>
{_rows([_token(each) for each in tokens], "None.")}
<form method="post" action="/account/tokens" class="fields">
<label>Name <input name="name" maxlength="60" required></label>
<label>May <select name="scope">{_scopes(user.admin)}</select></label>
<label>Days <input name="days" type="number" min="1" max="366" value="30" required></label>
<button>Make a token</button></form>""",
        head=_SCRIPT,
        signed_in=True,
    )


def shown_once(title: str, lead: str, secrets: Sequence[str]) -> str:
    """Secrets that nobody can show again."""
    lines = "\n".join(escape(each) for each in secrets)
    return page(
        title,
        f"""<h1>{escape(title)}</h1>
<p class="lead">{escape(lead)}</p>
<pre class="secret">{lines}</pre>
<div class="actions"><a class="button primary" href="/account">I have kept them</a></div>""",
        signed_in=True,
    )


def _rows(rows: Sequence[str], none: str) -> str:
    return f'<ul class="rows">{"".join(rows)}</ul>' if rows else f"<p>{none}</p>"


def _row(title: str, facts: str, form: str) -> str:
    return f"<li><span><b>{escape(title)}</b><br><small>{escape(facts)}</small></span>{form}</li>"


def _passkey(passkey: Passkey) -> str:
    used = f"last used {day(passkey.used)}" if passkey.used else "not used yet"
    return _row(
        passkey.name,
        f"added {day(passkey.created)}, {used}",
        _remove("/account/passkeys/remove", passkey.id, "Remove", passkey.name),
    )


def _session(session: SessionRow, this: bool) -> str:
    way = WAYS.get(session.way, "")
    last = "this browser" if this else f"last used {day(session.used)}" if session.used else ""
    facts = ", ".join(filter(None, (f"since {day(session.created)}", f"by {way}" if way else "", last)))
    return _row(
        session.browser or "A browser",
        facts,
        _remove("/account/sessions/end", session.hash, "Sign out", session.browser or "a browser"),
    )


def _token(token: ApiToken) -> str:
    used = f", last used {day(token.used)}" if token.used else ""
    return _row(
        token.name,
        f"{token.scope}, until {day(token.expires)}{used}",
        _remove("/account/tokens/remove", token.id, "Revoke", token.name),
    )


def _remove(action: str, target: str, words: str, what: str) -> str:
    return (
        f'<form method="post" action="{action}"><input type="hidden" name="id" value="{escape(target)}">'
        f'<button class="quiet" aria-label="{escape(f"{words}: {what}")}">{words}</button></form>'
    )


def _scopes(admin: bool) -> str:
    return "".join(f"<option>{scope}</option>" for scope in SCOPES if admin or scope != "admin")


def day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))
