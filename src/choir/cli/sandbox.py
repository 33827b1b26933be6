"""``choir sandbox list|start|stop|logs`` and ``choir login``: questions to the running hypervisor."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from choir.channel import Channel, ChannelClosed, Message, connect
from choir.cli.usage import table
from choir.errors import ChoirError, StartError
from choir.paths import State

HEADINGS = ("name", "user", "role", "state", "for", "reason")


def sandbox(state: State, arguments: argparse.Namespace) -> int:
    with Hypervisor(state) as hypervisor:
        if arguments.action == "list":
            answer: Any = hypervisor.sandboxes()
            text = table(HEADINGS, [row(item) for item in answer]) if answer else "No sandboxes yet."
        else:
            answer = hypervisor.ask(arguments.action, **select(arguments.name))
            text = (
                answer["log"].rstrip("\n") if arguments.action == "logs" else table(HEADINGS, [row(answer["sandbox"])])
            )
    print(json.dumps(answer) if arguments.json else text)
    return 0


def login(state: State, arguments: argparse.Namespace) -> int:
    with Hypervisor(state) as hypervisor:
        answer = hypervisor.ask("login_link")
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
        item["state"] + (f" ({item['phase']})" if item["state"] == "starting" and item["phase"] else ""),
        f"{max(0.0, time.time() - item['since']):,.0f} s",
        item["message"] or "-",
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
            raise ChoirError(str(answer.get("reason")), str(answer.get("message")), str(answer.get("hint", "")))
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
