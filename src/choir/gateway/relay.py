"""One call: from an admitted request to its answer and its record.

States, in order: gathering (policy must read the body first), connecting, sending, streaming, tunnelling, done.
Whatever happens, ``finish`` runs exactly once: the slot is released and a record written, and the record is in the
journal before the last byte of the answer is sent.
"""

from __future__ import annotations

import time

from choir.gateway import accounts, body
from choir.gateway.answer import Answer, WholeAnswer
from choir.gateway.attempt import DONE, GATHERING, SENDING, STREAMING, TUNNELLING, Attempt
from choir.gateway.bounds import unbounded
from choir.gateway.conversation import Conversation, farewell
from choir.gateway.deadlines import Waiting, overdue
from choir.gateway.gathering import Gathering
from choir.gateway.inspection import inspect
from choir.gateway.policy import body_too_large, fallbacks_refusal, limited
from choir.gateway.refusals import Refusal, error_answer, error_body, refused, upstream_failed
from choir.gateway.request_head import uncompressed
from choir.gateway.response_head import ResponseHead
from choir.gateway.side_copy import SideCopy
from choir.gateway.tunnel import FAREWELL_SECONDS, Tunnel, switching
from choir.gateway.websocket import without_extensions

HELD = 1024 * 1024  # bytes of a body that is held until the answer, in case the provider turns the key away


class Call(Attempt):
    """A ``choir.gateway.upstream_connection.Waiter``."""

    # ------------------------------------------------------------------ the request, from the caller

    def start(self) -> None:
        self._gateway.calls.add(self)
        if self._admission.needs_body:
            self._state = GATHERING
            return
        head, length = self._head, self._length
        if self._model is None and length != 0 and b"json" in head.content_type and not head.content_encoding:
            self._copy = SideCopy()
        self._forward(without_extensions(head.kept) if head.websocket else head.kept, self._framing(length))

    def request_body(self, piece: bytes) -> None:
        if self._state == DONE:
            return
        size = len(piece)
        self._bytes_in += size
        self._spoke = time.perf_counter()
        limits = self._admission.limits
        if self._length is None and self._bytes_in > limits.max_body_bytes:
            self.fail(body_too_large(limits))
        elif self._state == GATHERING:
            if self._gathering is None:
                self._gathering = Gathering(self._sandbox.budget)
            refusal = self._gathering.add(piece)
            if refusal is not None:
                self.fail(refusal)
        else:
            self._pending.append(b"%x\r\n%b\r\n" % (size, piece) if self._length is None else piece)
            self._pending_bytes += size
            if self._copy is not None:
                self._copy.feed(piece)

    def request_whole(self, piece: bytes) -> None:
        """``request_body`` and ``request_complete``, for a body that came in one piece."""
        if self._state == GATHERING:
            self.request_done = True
            self._bytes_in = len(piece)
            self._decide(piece)
            return
        if piece:
            self.request_body(piece)
        self.request_complete()

    def request_complete(self) -> None:
        self.request_done = True
        if self._state == DONE:
            return
        if self._state == GATHERING:
            self._decide(self._gathering.take() if self._gathering is not None else b"")
            return
        if self._length is None:
            self._pending.append(b"0\r\n\r\n")
        if self._copy is not None:
            self._model = self._copy.finish()

    def request_broken(self, refusal: Refusal) -> None:
        """The rest of the request cannot be parsed."""
        self.fail(refusal)

    def client_pause(self, paused: bool) -> None:
        """The caller reads too slowly, or again: so does the gateway."""
        self._paused_by_client = paused
        self._spoke = time.perf_counter()
        if self._connection is not None:
            self._heard = self._spoke
            self._connection.pause(paused)

    def client_gone(self) -> None:
        self.finish("client_gone", None)

    # ------------------------------------------------------------------ policy that reads the body

    def _decide(self, text: bytes) -> None:
        """The body is whole: check what it asks for, and forward it."""
        head, admission = self._head, self._admission
        found = inspect(self.match, text, head.content_encoding, admission.limits.max_body_bytes, admission.bounded)
        self._model = body.printable(found.model)
        refusal = found.refusal
        if refusal is None and admission.rule is not None and not self.match.path_model:
            refusal = admission.rule.model_refusal(found.model)
            if refusal is None and found.fallbacks and admission.rule.reads_model:
                refusal = fallbacks_refusal()
        if refusal is not None:
            self.fail(refusal)
            return
        if admission.bounded:
            reserved = accounts.reserve(
                self._sandbox, self.match, self._model, found, admission.settings.prices, self._wall
            )
            if isinstance(reserved, Refusal):
                self.fail(reserved)
                return
            self._reservation = reserved
        self._usage_asked = found.usage_asked
        kept, framing = uncompressed(head.kept) if found.usage_asked else head.kept, self._framing(len(found.body))
        if len(self.upstream.secrets) > 1 and len(found.body) <= HELD:
            self._held = kept, framing, found.body
        self._forward(kept, framing, found.body)

    # ------------------------------------------------------------------ the answer, from the provider

    def response_head(self, head: ResponseHead) -> None:
        self._state = STREAMING
        self._status = status = head.status
        now = time.perf_counter()
        self._answer = Answer(self, head, self._usage_asked, now)
        standing = self.upstream.standing
        if status >= 500:
            standing.failed(self._sandbox.user_id, f"http_{status}", now)
        elif standing.troubled:
            standing.answered(self._key, status)
        if head.bad and status != 101:
            message = f"The provider {self.match.provider.name} frames its answer in an unknown way."
            self.fail(upstream_failed(502, "malformed", message))
        elif 300 <= status < 400 and status != 304:
            message = f"The provider {self.match.provider.name} answered with a redirect, which is never followed."
            self.fail(upstream_failed(502, "redirect", message))

    def response_body(self, piece: bytes) -> None:
        if self._state != DONE and self._answer is not None:
            self._answer.body(piece)

    def response_whole(self, head: ResponseHead, body: bytes) -> None:
        if self._state == DONE:
            return
        if head.is_event_stream:
            self.response_head(head)
            self.response_body(body)
            self.response_complete()
            return
        self._connection = None
        self._status = head.status
        standing = self.upstream.standing
        if standing.troubled:
            standing.answered(self._key, head.status)
        self._whole = answer = WholeAnswer(head, body)
        self.finish("ok", answer.text(self.request_id))

    def response_flush(self) -> None:
        if self._answer is not None:
            self._answer.flush()

    def response_complete(self) -> None:
        self._connection = None
        answer = self._answer
        if self._state == DONE:
            return
        if answer is None or answer.head.status == 101:
            message = f"The provider {self.match.provider.name} switched protocols unasked."
            self.fail(upstream_failed(502, "malformed", message))
        else:
            answer.complete()

    def switched(self, rest: bytes) -> None:
        """Both sides speak another protocol from here on."""
        connection, answer = self._connection, self._answer
        if connection is None or answer is None or answer.head.status != 101 or not self._head.websocket:
            if connection is not None:
                connection.close()
            self.upstream_lost("malformed")
            return
        self._state = TUNNELLING
        self._connection = None
        connection.call = None
        down = self.down
        down.write(switching(answer.head, self.request_id))
        admission, budget = self._admission, self._sandbox.budget
        talk = Conversation(self.match, admission.limits.max_body_bytes, admission.rule, self._event_refusal)
        self._tunnel = Tunnel(down.transport, connection.transport, talk, budget, self._tunnel_ended)
        down.pause_reading(False)
        self._tunnel.begin(rest, down.take_raw())

    def _event_refusal(self, asks: bool) -> Refusal | None:
        """Whether an event may be sent on the WebSocket: what it may use has no bound, and each response that is asked
        for is a request."""
        budget = self._sandbox.budget
        if limited(budget.limits):
            return unbounded(self.match)
        return budget.reserve(time.perf_counter(), slots=0) if asks else None

    def _tunnel_ended(self, by_caller: bool) -> None:
        down, tunnel = self.down, self._tunnel
        refusal = None if tunnel is None else tunnel.conversation.refusal
        outcome = "ok" if refusal is None else refusal.outcome
        if by_caller:
            self.finish(outcome, None)
            down.connection_lost(None)
            return
        down.take_back()
        if refusal is None:
            self.finish(outcome, None)
            down.close_sent()
        else:
            self.finish(outcome, farewell(refusal, self.request_id), keep=False)
            self._gateway.loop.call_later(FAREWELL_SECONDS, down.close_sent)

    # ------------------------------------------------------------------ the end

    def tick(self, now: float) -> None:
        """Give up on what takes too long."""
        answer, tunnel = self._answer, self._tunnel
        heard = self._heard
        for other in (answer, tunnel):
            if other is not None:
                heard = max(heard, other.heard)
        found = overdue(
            *(self._waiting_for(), now, self._spoke, heard, self.upstream.timeouts, self.match.provider.name),
            answer is not None and answer.between_events,
        )
        if found is None:
            return
        if found == "keep_alive":
            self._spoke = now
            if answer is not None:
                answer.keep_alive()
        elif found == "close":
            self.down.close()
        elif tunnel is not None:
            tunnel.close()
        else:
            self.fail(found)

    def _waiting_for(self) -> Waiting:
        if self._state == TUNNELLING:
            return "either"
        if self._paused_by_client:
            return "reader"
        if self._state == STREAMING:
            return "answer"
        if self._state == GATHERING or (
            self._state == SENDING and not self.request_done and not self._paused_by_upstream
        ):
            return "body"
        return "first_byte" if self._state == SENDING else "nothing"

    def cut(self, reason: str, message: str) -> None:
        """End the call from outside: the gateway stops, or the sandbox has no lease any more."""
        if self._tunnel is not None:
            self._tunnel.close()
        elif self._state != DONE:
            self.fail(refused(503, reason, message))

    def fail(self, refusal: Refusal) -> None:
        """Answer with an error, or break off an answer that has begun."""
        if self._state == DONE:
            return
        answer = self._answer
        if answer is None:
            if refusal.outcome.startswith("upstream:"):
                self.upstream.standing.failed(self._sandbox.user_id, refusal.reason, time.perf_counter())
        elif answer.begun:
            answer.broken(refusal)
            return
        family = self.match.family
        text = error_body(family, refusal, self.request_id)
        keep = self.request_done and not self._head.websocket
        self._status, self._bytes_out = refusal.status, len(text)
        self.finish(refusal.outcome, error_answer(refusal, family, self.request_id, text, keep), keep=keep)

    def finish(self, outcome: str, last: bytes | None, keep: bool = True, whole: bool = True) -> None:
        """The end, whatever came before.

        Args:
            last: what ends the answer; it is sent after the record. None when nobody waits for it.
            keep: whether the caller's connection may be used again.
            whole: False to close it at once, so that the end of the answer is missing.
        """
        if self._state == DONE:
            return
        self._state = DONE
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._sandbox.budget.release()
        self._gateway.calls.discard(self)
        if not self.recorded:
            self._record(outcome)
        if self._answer is None and self.upstream.standing.troubled:
            self.upstream.standing.left()
        self._answer = None
        if self._gathering is not None:
            self._gathering.take()
        if last is not None:
            self._gateway.endings.end(self.down, last, keep and self.request_done if whole else None)

    def record(self, outcome: str) -> None:
        """Write the record now; what ends the answer follows at once."""
        if not self.recorded:
            self._record(outcome)
            self._gateway.endings.flush()

    def _record(self, outcome: str) -> None:
        self.recorded = True
        match, answer, tunnel = self.match, self._whole or self._answer, self._tunnel
        counts = first_byte = None
        billed, bytes_out = self._sent, self._bytes_out
        if answer is not None:
            counts, first_byte = answer.counts(), answer.first_byte
            billed = billed and answer.head.status < 300
            bytes_out = bytes_out or answer.bytes_out
        if tunnel is not None:
            self._bytes_in, bytes_out = self._bytes_in + tunnel.bytes_up, tunnel.bytes_down
            counts, self._model = tunnel.conversation.finish(), self._model or body.printable(tunnel.conversation.model)
        sandbox, model, wall, prices = self._sandbox, self._model, self._wall, self._admission.settings.prices
        reservation, self._reservation = self._reservation, None
        cost = accounts.settle(sandbox, match, model, reservation, counts, outcome == "ok", billed, prices, wall)
        self._gateway.record(
            sandbox,
            wall,
            self._started,
            self.request_id,
            match.provider.name,
            model,
            match.pattern,
            self._status,
            outcome,
            self._bytes_in,
            bytes_out,
            first_byte,
            counts,
            cost,
        )
