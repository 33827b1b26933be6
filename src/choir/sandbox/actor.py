"""Actors: one owner of some state, messages that it handles one at a time, a supervisor that starts it anew.

``Actor`` runs its handler on the event loop; ``ThreadActor`` in a thread of its own, for what blocks (SQLite, numpy).
An error of the handler reaches the caller that asked, and only it. One that is no ``ChoirError`` was not foreseen: it
also ends the actor's state, and the supervisor builds a new one after a pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from choir.errors import ChoirError

MAILBOX = 1024
_log = logging.getLogger(__name__)

Reply = TypeVar("Reply")
Reply_co = TypeVar("Reply_co", covariant=True)


class Message(Generic[Reply_co]):
    """Base of messages: ``class Add(Message[int])`` is answered by an int."""


class ActorError(ChoirError):
    """``mailbox_full``, ``actor_stopped`` or ``actor_failed``: the actor could not take or answer the message."""


class State(Protocol):
    """What an actor owns. Made, used and closed in the place where the actor runs."""

    def handle(self, message: Message[Any]) -> Any: ...
    def idle(self) -> bool:
        """Called when no message waits; True when there is more to do."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Restarts:
    """How a supervisor starts anew: after ``first`` seconds, twice as long each time up to ``longest``; it gives up
    after ``most`` failures within ``within`` seconds."""

    first: float = 0.05
    longest: float = 5.0
    most: int = 8
    within: float = 60.0


@dataclass
class Backoff:
    """The supervisor's decision, apart from its clock. Pure."""

    restarts: Restarts

    def __post_init__(self) -> None:
        self._failures: deque[float] = deque()

    def failed(self, at: float) -> float | None:
        """Seconds to wait, or None: give up."""
        self._failures.append(at)
        while self._failures[0] <= at - self.restarts.within:
            self._failures.popleft()
        count = len(self._failures)
        if count > self.restarts.most:
            return None
        return float(min(self.restarts.first * 2 ** (count - 1), self.restarts.longest))


@dataclass(slots=True)
class _Envelope:
    message: Message[Any]
    loop: asyncio.AbstractEventLoop
    reply: asyncio.Future[Any]

    def answer(self, value: Any = None, error: BaseException | None = None) -> None:
        """From any thread. The caller may be gone."""
        with contextlib.suppress(RuntimeError):  # its loop is closed
            self.loop.call_soon_threadsafe(self._settle, value, error)

    def _settle(self, value: Any, error: BaseException | None) -> None:
        if self.reply.done():
            return
        if error is None:
            self.reply.set_result(value)
        else:
            self.reply.set_exception(error)


class ThreadActor:
    """
    Args:
        name: for the log and the thread.
        build: makes the state, in the actor's thread; imports what is heavy.
        mailbox: messages that may wait. More are refused, not queued: the caller is to slow down.
    """

    def __init__(
        self, name: str, build: Callable[[], State], *, mailbox: int = MAILBOX, restarts: Restarts | None = None
    ) -> None:
        self.name = name
        self._build = build
        self._mailbox: queue.Queue[_Envelope | None] = queue.Queue(mailbox)
        self._backoff = Backoff(restarts or Restarts())
        self._lock = threading.Lock()
        self._failure: ChoirError | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.restarted = 0

    def start(self) -> None:
        self._thread.start()

    async def ask(self, message: Message[Reply]) -> Reply:
        """Send and wait for the answer. Giving up waiting does not undo the message.

        Raises:
            ActorError: ``mailbox_full``, ``actor_stopped`` or ``actor_failed``; and whatever the handler raised.
        """
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Reply] = loop.create_future()
        with self._lock:
            if self._failure is not None:
                raise self._failure.with_traceback(None)  # or it grows with each caller
            if self._stopping.is_set():
                raise self._stopped()
            try:
                self._mailbox.put_nowait(_Envelope(message, loop, reply))
            except queue.Full:
                raise ActorError(
                    "mailbox_full", f"The {self.name} has {self._mailbox.maxsize} messages waiting.", "Try again soon."
                ) from None
        return await reply

    async def stop(self) -> None:
        """Answer what waits, close the state, end the thread."""
        with self._lock:  # nothing is put into the mailbox after this
            self._stopping.set()
        with contextlib.suppress(queue.Full):  # then it is awake anyway
            self._mailbox.put_nowait(None)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
        self._refuse(self._stopped())

    def _run(self) -> None:
        while not self._finished():
            failure: BaseException | None = None
            try:
                state = self._build()
            except Exception as error:
                failure = error
            else:
                try:
                    failure = self._serve(state)
                finally:
                    self._close(state)
            if failure is None:
                continue
            pause = self._backoff.failed(monotonic())
            if pause is None:
                self._give_up(failure)
                return
            _log.warning("%s failed (%s) and is started anew in %.2g s", self.name, type(failure).__name__, pause)
            if isinstance(failure, ChoirError):  # a reason to tell now; the next message tries again
                self._refuse(self._not_running(failure))
            self.restarted += 1
            self._stopping.wait(pause)

    def _finished(self) -> bool:
        return self._stopping.is_set() and self._mailbox.empty()

    def _serve(self, state: State) -> BaseException | None:
        """Until told to stop, or the state is no longer to be trusted."""
        busy = True
        while not self._finished():
            try:
                envelope = self._mailbox.get(block=not busy)
            except queue.Empty:
                try:
                    busy = state.idle()
                except ChoirError as error:  # tried again after the next message, which is told if it matters to it
                    _log.warning("%s puts off its idle work: %s", self.name, error.message)
                    busy = False
                except Exception as error:
                    return error
                continue
            busy = True
            if envelope is None or envelope.reply.cancelled():
                continue
            try:
                answer = state.handle(envelope.message)
            except ChoirError as error:
                envelope.answer(error=error)
            except Exception as error:
                envelope.answer(error=error)
                return error
            else:
                envelope.answer(answer)
        return None

    def _close(self, state: State) -> None:
        try:
            state.close()
        except Exception as error:
            _log.warning("%s could not be closed (%s)", self.name, type(error).__name__)

    def _give_up(self, failure: BaseException) -> None:
        told = self._not_running(failure)
        _log.error("%s", told.message)
        with self._lock:
            self._failure = told
        self._refuse(told)

    def _refuse(self, error: ChoirError) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                envelope = self._mailbox.get_nowait()
                if envelope is not None:
                    envelope.answer(error=error)

    def _not_running(self, failure: BaseException) -> ActorError:
        if isinstance(failure, ChoirError):
            return ActorError("actor_failed", f"The {self.name} does not run: {failure.message}", failure.hint)
        return ActorError("actor_failed", f"The {self.name} failed again and again ({type(failure).__name__}).")

    def _stopped(self) -> ActorError:
        return ActorError("actor_stopped", f"The {self.name} has been stopped.")


class Actor:
    """As ``ThreadActor``, for a state whose ``handle`` is a coroutine and blocks nothing: it runs on the event loop."""

    def __init__(
        self,
        name: str,
        build: Callable[[], AsyncState],
        *,
        mailbox: int = MAILBOX,
        restarts: Restarts | None = None,
    ) -> None:
        self.name = name
        self._build = build
        self._mailbox: asyncio.Queue[_Envelope | None] = asyncio.Queue(mailbox)
        self._backoff = Backoff(restarts or Restarts())
        self._failure: ChoirError | None = None
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self.restarted = 0

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self.name)

    async def ask(self, message: Message[Reply]) -> Reply:
        """As ``ThreadActor.ask``."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # or it grows with each caller
        if self._stopping:
            raise ActorError("actor_stopped", f"The {self.name} has been stopped.")
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Reply] = loop.create_future()
        try:
            self._mailbox.put_nowait(_Envelope(message, loop, reply))
        except asyncio.QueueFull:
            raise ActorError(
                "mailbox_full", f"The {self.name} has {self._mailbox.maxsize} messages waiting.", "Try again soon."
            ) from None
        return await reply

    async def stop(self) -> None:
        """Answer what waits, close the state."""
        self._stopping = True
        with contextlib.suppress(asyncio.QueueFull):
            self._mailbox.put_nowait(None)
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while not (self._stopping and self._mailbox.empty()):
            failure = await self._live()
            if failure is None:
                continue
            pause = self._backoff.failed(monotonic())
            if pause is None:
                self._failure = ActorError(
                    "actor_failed", f"The {self.name} failed again and again ({type(failure).__name__})."
                )
                _log.error("%s", self._failure.message)
                break
            _log.warning("%s failed (%s) and is started anew in %.2g s", self.name, type(failure).__name__, pause)
            self.restarted += 1
            await asyncio.sleep(0 if self._stopping else pause)
        refusal = self._failure or ActorError("actor_stopped", f"The {self.name} has been stopped.")
        while not self._mailbox.empty():
            envelope = self._mailbox.get_nowait()
            if envelope is not None:
                envelope._settle(None, refusal)

    async def _live(self) -> BaseException | None:
        try:
            state = self._build()
        except Exception as error:
            return error
        try:
            while not (self._stopping and self._mailbox.empty()):
                envelope = await self._mailbox.get()
                if envelope is None or envelope.reply.cancelled():
                    continue
                try:
                    answer = await state.handle(envelope.message)
                except ChoirError as error:
                    envelope._settle(None, error)
                except asyncio.CancelledError:
                    envelope._settle(None, ActorError("actor_stopped", f"The {self.name} has been stopped."))
                    raise
                except Exception as error:
                    envelope._settle(None, error)
                    return error
                else:
                    envelope._settle(answer, None)
        finally:
            try:
                await state.close()
            except Exception as error:
                _log.warning("%s could not be closed (%s)", self.name, type(error).__name__)
        return None


class AsyncState(Protocol):
    """``State`` for an ``Actor``."""

    def handle(self, message: Message[Any]) -> Awaitable[Any]: ...
    async def close(self) -> None: ...
