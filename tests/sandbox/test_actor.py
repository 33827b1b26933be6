from __future__ import annotations

import asyncio
import threading
import traceback
from dataclasses import dataclass, field
from typing import Any

import pytest

from choir.errors import ChoirError
from choir.sandbox.actor import Actor, ActorError, Backoff, Message, Restarts, ThreadActor

QUICK = Restarts(first=0.0, longest=0.0, most=3, within=60.0)


@dataclass(frozen=True)
class Say(Message[str]):
    text: str


@dataclass(frozen=True)
class Refuse(Message[str]):
    pass


@dataclass(frozen=True)
class Break(Message[str]):
    pass


@dataclass(frozen=True)
class Hold(Message[None]):
    held: threading.Event
    until: threading.Event


@dataclass
class Log:
    built: int = 0
    closed: int = 0
    said: list[str] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)


class Speaker:
    def __init__(self, log: Log) -> None:
        log.built += 1
        self._log = log

    def handle(self, message: Message[Any]) -> Any:
        self._log.threads.add(threading.get_ident())
        match message:
            case Say(text):
                self._log.said.append(text)
                return text
            case Refuse():
                raise ChoirError("refused", "Not this.")
            case Break():
                raise ZeroDivisionError
            case Hold(held, until):
                held.set()
                until.wait(20)
        return None

    def idle(self) -> bool:
        return False

    def close(self) -> None:
        self._log.closed += 1


class AsyncSpeaker:
    def __init__(self, log: Log) -> None:
        self._inner = Speaker(log)

    async def handle(self, message: Message[Any]) -> Any:
        await asyncio.sleep(0)
        return self._inner.handle(message)

    async def close(self) -> None:
        self._inner.close()


def make(kind: str, log: Log, restarts: Restarts = QUICK) -> ThreadActor | Actor:
    if kind == "thread":
        return ThreadActor("speaker", lambda: Speaker(log), restarts=restarts)
    return Actor("speaker", lambda: AsyncSpeaker(log), restarts=restarts)


both = pytest.mark.parametrize("kind", ["thread", "loop"])


@both
def test_answers_in_order(kind: str) -> None:
    async def scenario() -> None:
        log = Log()
        actor = make(kind, log)
        actor.start()
        texts = [str(each) for each in range(100)]
        assert await asyncio.gather(*(actor.ask(Say(each)) for each in texts)) == texts
        assert log.said == texts
        await actor.stop()
        assert (log.built, log.closed) == (1, 1)
        assert (threading.get_ident() in log.threads) == (kind == "loop")

    asyncio.run(scenario())


@both
def test_a_foreseen_error_reaches_the_caller_and_nothing_else(kind: str) -> None:
    async def scenario() -> None:
        log = Log()
        actor = make(kind, log)
        actor.start()
        with pytest.raises(ChoirError, match="Not this"):
            await actor.ask(Refuse())
        assert await actor.ask(Say("on")) == "on"
        await actor.stop()
        assert log.built == 1

    asyncio.run(scenario())


@both
def test_an_unforeseen_error_reaches_the_caller_and_makes_a_new_state(kind: str) -> None:
    async def scenario() -> None:
        log = Log()
        actor = make(kind, log)
        actor.start()
        broken, said = asyncio.ensure_future(actor.ask(Break())), asyncio.ensure_future(actor.ask(Say("on")))
        with pytest.raises(ZeroDivisionError):
            await broken
        assert await said == "on"  # what waited is not lost
        await actor.stop()
        assert (log.built, log.closed, actor.restarted) == (2, 2, 1)

    asyncio.run(scenario())


@both
def test_gives_up_and_says_so(kind: str) -> None:
    async def scenario() -> None:
        log = Log()
        actor = make(kind, log)
        actor.start()
        for _ in range(QUICK.most + 1):
            with pytest.raises(ZeroDivisionError):
                await actor.ask(Break())
        with pytest.raises(ActorError, match="again and again") as refused:
            await actor.ask(Say("still there?"))
        assert refused.value.reason == "actor_failed"
        await actor.stop()

    asyncio.run(scenario())


def test_a_state_that_cannot_be_built_tells_the_reason() -> None:
    def build() -> Speaker:
        raise ChoirError("no_space", "No space left.", "Free some.")

    async def scenario() -> None:
        actor = ThreadActor("speaker", build, restarts=QUICK)
        asked = asyncio.ensure_future(actor.ask(Say("x")))
        await asyncio.sleep(0)
        actor.start()
        with pytest.raises(ActorError, match="No space left") as refused:
            await asked
        assert refused.value.hint == "Free some."
        await actor.stop()

    asyncio.run(scenario())


def test_a_full_mailbox_refuses() -> None:
    async def scenario() -> None:
        held, until = threading.Event(), threading.Event()
        actor = ThreadActor("speaker", lambda: Speaker(Log()), mailbox=2)
        actor.start()
        holding = asyncio.ensure_future(actor.ask(Hold(held, until)))
        await asyncio.to_thread(held.wait, 20)
        waiting = [asyncio.ensure_future(actor.ask(Say(str(each)))) for each in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ActorError) as refused:
            await actor.ask(Say("one too many"))
        assert refused.value.reason == "mailbox_full"
        until.set()
        await holding
        assert await asyncio.gather(*waiting) == ["0", "1"]
        await actor.stop()

    asyncio.run(scenario())


def test_a_full_mailbox_on_the_loop_refuses_too() -> None:
    async def scenario() -> None:
        held, until = asyncio.Event(), asyncio.Event()

        class Holder(AsyncSpeaker):
            async def handle(self, message: Message[Any]) -> Any:
                held.set()
                await until.wait()
                return await super().handle(message)

        actor = Actor("speaker", lambda: Holder(Log()), mailbox=2)
        actor.start()
        holding = asyncio.ensure_future(actor.ask(Say("first")))
        await held.wait()
        waiting = [asyncio.ensure_future(actor.ask(Say(str(each)))) for each in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ActorError) as refused:
            await actor.ask(Say("one too many"))
        assert refused.value.reason == "mailbox_full"
        until.set()
        assert await asyncio.gather(holding, *waiting) == ["first", "0", "1"]
        await actor.stop()

    asyncio.run(scenario())


@both
def test_each_restart_waits_longer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        pauses: list[float] = []
        actor = make(kind, Log(), Restarts(first=1.0, longest=3.0, most=4, within=60.0))
        if isinstance(actor, ThreadActor):
            monkeypatch.setattr(actor._stopping, "wait", pauses.append)
        else:
            own = asyncio.sleep

            async def sleep(seconds: float) -> None:
                pauses.append(seconds)
                await own(0)

            monkeypatch.setattr("choir.sandbox.actor.asyncio.sleep", sleep)
        actor.start()
        for _ in range(4):
            with pytest.raises(ZeroDivisionError):
                await actor.ask(Break())
        assert await actor.ask(Say("on")) == "on"
        await actor.stop()
        assert [each for each in pauses if each] == [1.0, 2.0, 3.0, 3.0]

    asyncio.run(scenario())


@both
def test_stopping_answers_what_waits_and_refuses_what_comes(kind: str) -> None:
    async def scenario() -> None:
        log = Log()
        actor = make(kind, log)
        actor.start()
        waiting = [asyncio.ensure_future(actor.ask(Say(str(each)))) for each in range(20)]
        await asyncio.sleep(0)
        await actor.stop()
        assert [await each for each in waiting] == [str(each) for each in range(20)]
        with pytest.raises(ActorError) as refused:
            await actor.ask(Say("late"))
        assert refused.value.reason == "actor_stopped"

    asyncio.run(scenario())


def test_a_blocked_thread_actor_does_not_block_the_loop() -> None:
    async def scenario() -> None:
        held, until = threading.Event(), threading.Event()
        actor = ThreadActor("speaker", lambda: Speaker(Log()))
        actor.start()
        holding = asyncio.ensure_future(actor.ask(Hold(held, until)))
        await asyncio.to_thread(held.wait, 20)
        assert not holding.done()  # and here we are, on the loop
        until.set()
        await holding
        await actor.stop()

    asyncio.run(scenario())


def test_idle_work_is_done_when_nothing_waits() -> None:
    class Worker(Speaker):
        left = 3

        def idle(self) -> bool:
            self.left -= 1
            if self.left == 0:
                done.set()
            return self.left > 0

    async def scenario() -> None:
        actor = ThreadActor("worker", lambda: Worker(Log()))
        actor.start()
        assert await asyncio.to_thread(done.wait, 20)
        assert await actor.ask(Say("here")) == "here"
        await actor.stop()

    done = threading.Event()
    asyncio.run(scenario())


def test_backoff() -> None:
    backoff = Backoff(Restarts(first=1.0, longest=3.0, most=4, within=100.0))
    assert [backoff.failed(at) for at in (0.0, 1.0, 2.0, 3.0, 4.0)] == [1.0, 2.0, 3.0, 3.0, None]
    assert backoff.failed(200.0) == 1.0  # long ago is forgotten


def test_idle_work_that_cannot_be_done_now_is_no_failure() -> None:
    class Worker(Speaker):
        def idle(self) -> bool:
            tried.release()
            raise ChoirError("no_space", "No space left.")

    async def scenario() -> None:
        log = Log()
        actor = ThreadActor("worker", lambda: Worker(log), restarts=QUICK)
        actor.start()
        for _ in range(QUICK.most + 3):
            assert await asyncio.to_thread(tried.acquire, timeout=20)
            assert await actor.ask(Say("here")) == "here"
        await actor.stop()
        assert log.built == 1

    tried = threading.Semaphore(0)
    asyncio.run(scenario())


@both
def test_one_that_cannot_be_closed_is_started_anew(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Speaker) -> None:
        raise OSError("no")

    async def scenario() -> None:
        actor = make(kind, Log())
        actor.start()
        with pytest.raises(ZeroDivisionError):
            await actor.ask(Break())
        assert await asyncio.wait_for(actor.ask(Say("on")), 20) == "on"
        await actor.stop()

    monkeypatch.setattr(Speaker, "close", refuse)
    asyncio.run(scenario())


@both
def test_a_refusal_keeps_nothing_of_who_was_refused(kind: str) -> None:
    async def scenario() -> None:
        actor = make(kind, Log())
        actor.start()
        for _ in range(QUICK.most + 1):
            with pytest.raises(ZeroDivisionError):
                await actor.ask(Break())
        depths = []
        for _ in range(4):
            with pytest.raises(ActorError) as refused:
                await actor.ask(Say("x"))
            depths.append(sum(1 for _ in traceback.walk_tb(refused.value.__traceback__)))
        assert depths[1:] == depths[1:2] * 3
        await actor.stop()

    asyncio.run(scenario())
