from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from choir import control_client as module
from choir.channel import Channel, ChannelClosed, Message, listen
from choir.control_client import GatewayControl
from choir.errors import ChoirError


class Gateway:
    """Speaks the control protocol on a real socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[tuple[Message, int]] = []
        self.channels: list[Channel] = []
        self.answer: Callable[[Message], Message | None] = lambda message: {"ok": True}
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.sock = listen(str(self.path))
        self.sock.setblocking(False)
        self.task = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.sock.close()
        for channel in self.channels:
            channel.close()
        self.channels.clear()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                sock, _ = await loop.sock_accept(self.sock)
                self.channels.append(Channel(sock))
                group.create_task(self._converse(self.channels[-1]))

    async def _converse(self, channel: Channel) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ChannelClosed):
            while True:
                message, descriptors = await channel.receive_async(loop)
                for descriptor in descriptors:
                    os.close(descriptor)
                self.asked.append((message, len(descriptors)))
                answer = self.answer(message)
                if answer is not None:
                    channel.send(answer)

    def tell(self, event: Message) -> None:
        for channel in self.channels:
            channel.send(event)


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="choir-t-") as folder:
        yield Path(folder) / "gateway.sock"


def run(path: Path, test: Callable[[Gateway, GatewayControl], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        gateway, control = Gateway(path), GatewayControl(path)
        gateway.start()
        try:
            await test(gateway, control)
        finally:
            await control.close()
            await gateway.stop()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_questions_and_answers(path: Path) -> None:
    async def test(gateway: Gateway, control: GatewayControl) -> None:
        with socket.socket() as listener:
            await control.attach("b1", "ada", "live", listener, lease_s=9.0)
        gateway.answer = lambda message: {"ok": True, "unknown": ["b2"], "pid": 7}
        assert await control.renew(["b1", "b2"], 9.0) == ["b2"]
        await control.detach("b1")
        assert (await control.status())["pid"] == 7
        assert gateway.asked == [
            ({"op": "attach", "sandbox_id": "b1", "user_id": "ada", "role": "live", "lease_s": 9.0}, 1),
            ({"op": "renew", "sandbox_ids": ["b1", "b2"], "lease_s": 9.0}, 0),
            ({"op": "detach", "sandbox_id": "b1"}, 0),
            ({"op": "status"}, 0),
        ]
        assert len(gateway.channels) == 1

    run(path, test)


def test_a_refusal_is_raised(path: Path) -> None:
    async def test(gateway: Gateway, control: GatewayControl) -> None:
        gateway.answer = lambda message: {"ok": False, "reason": "not_a_listener", "message": "No."}
        with pytest.raises(ChoirError, match=r"No\.") as caught:
            await control.status()
        assert caught.value.reason == "not_a_listener"

    run(path, test)


def test_many_askers_get_their_own_answers(path: Path) -> None:
    async def test(gateway: Gateway, control: GatewayControl) -> None:
        gateway.answer = lambda message: {"ok": True, "unknown": message["sandbox_ids"]}
        answers = await asyncio.gather(*(control.renew([str(number)]) for number in range(100)))
        assert answers == [[str(number)] for number in range(100)]

    run(path, test)


def test_nobody_there(path: Path) -> None:
    async def main() -> None:
        control = GatewayControl(path)
        with pytest.raises(ChoirError) as caught:
            await control.status()
        assert caught.value.reason == "gateway_unreachable"
        await control.close()

    asyncio.run(main())


def test_a_connection_that_was_lost_is_made_again(path: Path) -> None:
    async def test(gateway: Gateway, control: GatewayControl) -> None:
        seen: asyncio.Queue[Message] = asyncio.Queue()

        async def follow() -> None:
            async for event in control.events():
                await seen.put(event)

        following = asyncio.create_task(follow())
        assert await seen.get() == {"event": "connected"}
        await control.status()
        gateway.tell({"event": "wanted", "service": "local"})
        assert await seen.get() == {"event": "wanted", "service": "local"}
        await gateway.stop()
        gateway.start()
        assert await seen.get() == {"event": "connected"}
        await control.status()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    run(path, test)


def test_a_second_listener_learns_that_it_is_connected(path: Path) -> None:
    async def test(gateway: Gateway, control: GatewayControl) -> None:
        await control.status()
        async for event in control.events():
            assert event == {"event": "connected"}
            break

    run(path, test)


def test_a_question_under_way_when_it_is_lost_fails(path: Path) -> None:
    async def test(gateway: Gateway, control: GatewayControl) -> None:
        gateway.answer = lambda message: None
        asking = asyncio.create_task(control.status())
        while not gateway.asked:
            await asyncio.sleep(0)
        gateway.channels[0].close()
        with pytest.raises(ChoirError) as caught:
            await asking
        assert caught.value.reason == "gateway_unreachable"

    run(path, test)


def test_a_late_answer_is_not_taken_for_the_next(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.02)

    async def test(gateway: Gateway, control: GatewayControl) -> None:
        gateway.answer = lambda message: None
        with pytest.raises(ChoirError) as caught:
            await control.renew(["late"])
        assert caught.value.reason == "gateway_silent"
        monkeypatch.undo()
        with contextlib.suppress(ChannelClosed):
            gateway.channels[0].send({"ok": True, "unknown": ["late"]})
        gateway.answer = lambda message: {"ok": True, "unknown": ["now"]}
        assert await control.renew(["now"]) == ["now"]

    run(path, test)
