"""``choir user``: who may use this deployment. Questions to the running hypervisor."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from choir.cli.sandbox import Hypervisor
from choir.cli.usage import table
from choir.errors import UsageError
from choir.paths import State
from choir.user_limits import FIELDS

HEADINGS = ("name", "role", "state", "passkeys", "signed in", "since")


def user(state: State, arguments: argparse.Namespace) -> int:
    if arguments.action not in ("list", "sessions") and not arguments.name:
        what = "ID" if arguments.action == "revoke" else "NAME"
        raise UsageError("no_name", "Whom?", f"Say who: choir user {arguments.action} {what}")
    if arguments.limits and arguments.action != "limit":
        raise UsageError("too_many_words", f"`{arguments.limits[0]}` is one word too many.", "See: choir user --help")
    with Hypervisor(state) as hypervisor:
        answer, text = _ACTIONS[arguments.action](hypervisor, arguments)
    print(json.dumps(answer) if arguments.json else text)
    return 0


def _list(hypervisor: Hypervisor, _arguments: argparse.Namespace) -> tuple[Any, str]:
    found: list[dict[str, Any]] = []
    after = None
    while True:
        page = hypervisor.ask("users", after=after)
        found += page["users"]
        after = page["next"]
        if after is None:
            return found, table(HEADINGS, [_row(each) for each in found])


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    since = time.strftime("%Y-%m-%d", time.localtime(one["since"])) if one["since"] else ""
    role = "admin" if one["admin"] else "member"
    return one["name"], role, one["state"], str(one["passkeys"]), str(one["sessions"]), since


def _invite(hypervisor: Hypervisor, arguments: argparse.Namespace) -> tuple[Any, str]:
    answer = hypervisor.ask("invite", user=arguments.name, admin=arguments.admin)
    return answer, f"Give this to {arguments.name}; it is good for a week and makes the account:\n  {answer['url']}"


def _remove(hypervisor: Hypervisor, arguments: argparse.Namespace) -> tuple[Any, str]:
    answer = hypervisor.ask("remove_user", user=arguments.name)
    if answer["invitation"]:
        return answer, f"The invitation of {arguments.name} is withdrawn: its link opens nothing any more."
    kept = "".join(f"\n  {path}" for path in answer["homes"])
    files = f"Their files are kept in{kept}" if kept else "They left no files."
    warning = f"\n{answer['warning']}" if answer["warning"] else ""
    return answer, f"{arguments.name} is removed: signed out everywhere, sandboxes stopped. {files}{warning}"


def _role(hypervisor: Hypervisor, arguments: argparse.Namespace) -> tuple[Any, str]:
    admin = arguments.action == "promote"
    answer = hypervisor.ask("set_admin", user=arguments.name, admin=admin)
    return answer, f"{arguments.name} is {'an admin' if admin else 'a member'} now."


def _limit(hypervisor: Hypervisor, arguments: argparse.Namespace) -> tuple[Any, str]:
    """Without a limit it only shows them."""
    if not arguments.limits:
        found = hypervisor.ask("limits", user=arguments.name)["limits"]
    else:
        pairs = [word.partition("=") for word in arguments.limits]
        wrong = next((name for name, sign, _ in pairs if not sign), None)
        if arguments.limits == ["none"]:
            given = dict.fromkeys(FIELDS, "")
        elif wrong is not None:
            raise UsageError(
                "limit_invalid",
                f"`{wrong}` is no limit.",
                "Say FIELD=VALUE, e.g. usd_per_day=5; FIELD= for what is configured; or none for all of them.",
            )
        else:
            given = {name: text for name, _, text in pairs}
        found = hypervisor.ask("limit", user=arguments.name, limits=given)["limits"]
    return found, table(("limit", "in force", "from"), [_limit_row(each) for each in found])


def _limit_row(one: dict[str, Any]) -> tuple[str, ...]:
    if one["fixed"]:
        where = "choir.toml, [users]" + (f" (an admin set {one['own']})" if one["own"] else "")
    else:
        where = "an admin" if one["own"] else "choir.toml"
    return one["name"], one["configured"] if one["fixed"] else one["own"] or one["configured"], where


def _sessions(hypervisor: Hypervisor, arguments: argparse.Namespace) -> tuple[Any, str]:
    found: list[dict[str, Any]] = []
    after = None
    while True:
        page = hypervisor.ask("sessions", user=arguments.name, after=after)
        found += page["sessions"]
        after = page["next"]
        if after is None:
            break
    rows: list[tuple[str, ...]] = [
        (each["id"][:12], each["user"], each["browser"], each["way"], _when(each["created"]), _when(each["used"]))
        for each in found
    ]
    return found, table(("id", "user", "browser", "by", "since", "last used"), rows) if rows else "Nobody is signed in."


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) if at else ""


def _revoke(hypervisor: Hypervisor, arguments: argparse.Namespace) -> tuple[Any, str]:
    answer = hypervisor.ask("revoke", session=arguments.name)
    return answer, f"{answer['user']} is signed out there, and what was open is closed."


_ACTIONS = {
    "limit": _limit,
    "sessions": _sessions,
    "revoke": _revoke,
    "list": _list,
    "invite": _invite,
    "remove": _remove,
    "promote": _role,
    "demote": _role,
}
