"""``choir sandbox`` and ``choir login``: questions to the running hypervisor."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from choir.channel import Channel, ChannelClosed, Message, connect
from choir.cli.usage import table
from choir.errors import EXIT_FAILED, EXIT_UNAVAILABLE, ChoirError, StartError, UsageError
from choir.paths import State

Shown = tuple[Any, str | None]
"""An answer as data, and in words."""

HEADINGS = ("name", "user", "role", "state", "for", "reason")


def sandbox(state: State, arguments: argparse.Namespace) -> int:
    with Hypervisor(state) as hypervisor:
        action = ACTIONS.get(arguments.action, _change)
        answer, text = action(hypervisor, arguments)
    if text is None:  # the answer itself went to standard output
        return 0
    print(json.dumps(answer) if arguments.json else text)
    if arguments.action in ("start", "restart") and answer["sandbox"]["state"] == "failed":
        if answer["sandbox"]["hint"]:
            print(f"       {answer['sandbox']['hint']}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    return 0


def _list(hypervisor: Hypervisor, _arguments: argparse.Namespace) -> Shown:
    found = hypervisor.sandboxes()
    return found, table(HEADINGS, [row(item) for item in found]) if found else "No sandboxes yet."


def _logs(hypervisor: Hypervisor, arguments: argparse.Namespace) -> Shown:
    answer = hypervisor.ask("logs", **select(arguments.name))
    return answer, answer["log"].rstrip("\n") or "It has written nothing."


def _change(hypervisor: Hypervisor, arguments: argparse.Namespace) -> Shown:
    """start, stop, restart"""
    answer = hypervisor.ask(arguments.action, **select(arguments.name))
    return answer, table(HEADINGS, [row(answer["sandbox"])])


def _swap(hypervisor: Hypervisor, arguments: argparse.Namespace) -> Shown:
    answer = hypervisor.ask("swap", **select(arguments.name))
    words = "What was dev is live now, and what was live is dev. The same again takes it back."
    return answer, f"{table(HEADINGS, [row(each) for each in answer['sandboxes']])}\n{words}"


def _snapshot(hypervisor: Hypervisor, arguments: argparse.Namespace) -> Shown:
    answer = hypervisor.ask("snapshot", **select(arguments.name))
    return answer, f"Snapshot {described(answer['snapshot'])}"


def _snapshots(hypervisor: Hypervisor, arguments: argparse.Namespace) -> Shown:
    found = hypervisor.ask("snapshots", **select(arguments.name))["snapshots"]
    rows: list[tuple[str, ...]] = [(each["name"], size(each["bytes"]), each["path"]) for each in found]
    return found, table(("name", "size", "file"), rows) if rows else "No snapshots yet."


def _restore(hypervisor: Hypervisor, arguments: argparse.Namespace) -> Shown:
    name = arguments.snapshot or _newest(hypervisor, arguments)
    answer = hypervisor.ask("restore", snapshot=name, **{"from": arguments.source}, **select(arguments.name))
    before = answer["snapshot"]["name"]
    text = f"The home is as it was in {name}; how it was before is snapshot {before}."
    return answer, f"{table(HEADINGS, [row(answer['sandbox'])])}\n{text}"


def _newest(hypervisor: Hypervisor, arguments: argparse.Namespace) -> str:
    wanted = select(arguments.name)
    if arguments.source:
        user = hypervisor.ask("logs", **wanted)["sandbox"]["user"]
        wanted = {"user": user, "role": arguments.source}
    found = hypervisor.ask("snapshots", **wanted)["snapshots"]
    if not found:
        raise ChoirError("unknown_snapshot", "There is no snapshot yet.", "`choir sandbox snapshot` takes one.")
    return str(found[0]["name"])


def _export(hypervisor: Hypervisor, arguments: argparse.Namespace) -> Shown:
    """A snapshot's tar file, copied. It is read here, so a slow reader holds nobody up."""
    if arguments.output is None and (sys.stdout.isatty() or arguments.json):
        raise UsageError("no_output", "A tar file is not for the terminal.", "Say where to: -o FILE, or redirect it.")
    chosen = select(arguments.name)
    if arguments.snapshot is None:
        snapshot = hypervisor.ask("snapshot", **chosen)["snapshot"]
    else:
        found = hypervisor.ask("snapshots", **chosen)["snapshots"]
        snapshot = next((each for each in found if each["name"] == arguments.snapshot), None)
        if snapshot is None:
            raise ChoirError("unknown_snapshot", f"There is no snapshot `{arguments.snapshot}`.")
    try:
        with open(snapshot["path"], "rb") as tar:
            if arguments.output is None:
                shutil.copyfileobj(tar, sys.stdout.buffer, 1 << 20)
                return snapshot, None
            private = os.open(arguments.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(private, "wb") as file:
                shutil.copyfileobj(tar, file, 1 << 20)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ChoirError("export_failed", f"Cannot write {arguments.output or 'standard output'}: {error}.") from error
    return snapshot, f"Wrote {arguments.output}: {described(snapshot)}"


ACTIONS: dict[str, Callable[[Hypervisor, argparse.Namespace], Shown]] = {
    "list": _list,
    "logs": _logs,
    "swap": _swap,
    "snapshot": _snapshot,
    "snapshots": _snapshots,
    "restore": _restore,
    "export": _export,
}


def described(snapshot: Message) -> str:
    left = f", without {snapshot['left_out']} sockets, pipes or unreadable files" if snapshot["left_out"] else ""
    return f"{snapshot['name']} of {snapshot['label']}: {size(snapshot['bytes'])}{left}"


def size(number: float) -> str:
    """Bytes in words."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def login(state: State, arguments: argparse.Namespace) -> int:
    with Hypervisor(state) as hypervisor:
        answer = hypervisor.ask("login_link", user=arguments.user)
    print(json.dumps(answer) if arguments.json else answer["url"])
    return 0


def select(name: str | None) -> dict[str, str]:
    """How a person names a sandbox: ``user/role``, an id, its label, or nothing for the own one."""
    if name is None:
        return {}
    user, slash, role = name.partition("/")
    return {"user": user, "role": role} if slash else {"id": name}


def row(item: Message) -> tuple[str, ...]:
    return (
        item["label"],
        item["user"],
        item["role"],
        item["state"]
        + (f" ({item['phase']})" if item["state"] == "starting" and item["phase"] else "")
        + (", one stands ready" if item["warm"] else ""),
        f"{max(0.0, time.time() - item['since']):,.0f} s",
        item["message"] or item["note"] or "-",
    )


class Hypervisor:
    """One conversation with the running hypervisor.

    Raises:
        StartError: ``not_running``, here and when it goes away.
    """

    def __init__(self, state: State) -> None:
        try:
            self._channel: Channel = connect(str(state.hypervisor_socket))
        except ChannelClosed:
            raise StartError(
                "not_running", f"No `choir up` runs with {state.root}.", "Start it, or name its --state DIR."
            ) from None

    def __enter__(self) -> Hypervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def ask(self, op: str, **fields: Any) -> Message:
        """One question's answer.

        Raises:
            ChoirError: the hypervisor's own reason.
        """
        try:
            self._channel.send({"op": op, **fields})
            answer, _ = self._channel.receive()
        except ChannelClosed:
            raise StartError("not_running", "The hypervisor went away.", "Look at what `choir up` says.") from None
        if not answer.pop("ok", False):
            error = ChoirError(str(answer.get("reason")), str(answer.get("message")), str(answer.get("hint", "")))
            error.exit_code = int(answer.get("exit_code", EXIT_FAILED))
            raise error
        return answer

    def sandboxes(self) -> list[Message]:
        """All of them, page by page."""
        found: list[Message] = []
        after = ""
        while True:
            answer = self.ask("list", after=after)
            found += answer["sandboxes"]
            if not answer["next"]:
                return found
            after = answer["next"]
