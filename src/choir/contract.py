"""What passes between Choir's processes: a sandbox's environment, usage records, the gateway's control messages.

Control messages are JSON objects over ``choir.channel``. To the gateway, each with ``op`` and answered by
``{"ok": true, ...}`` or ``{"ok": false, "reason", "message"}`` in order:

========  =====================================================================  ==================================
op        fields                                                                 answer
========  =====================================================================  ==================================
attach    sandbox_id, user_id, role, lease_s; descriptor: the HTTP listener      {}
renew     sandbox_ids (list), lease_s, warm (how many stand ready; optional)     unknown (list of ids to attach again)
detach    sandbox_id                                                             {}
authority sandbox_id                                                             certificate (PEM; see ``CA_FILE``)
status                                                                           pid, config, ledger, providers,
                                                                                 sandboxes
reload                                                                           providers, changes, change_count
subscribe                                                                        {}, then events (see below)
========  =====================================================================  ==================================

Unasked, the gateway sends every connected client ``{"event": "wanted", "service": "local"}`` when a call needs a
process that is not running (``start_on_use``); whoever supervises that service starts it.

After ``subscribe`` a client is also sent every usage record as ``{"event": "usage", "record": {...}}``; one that does
not keep up misses some. A client whose socket is full otherwise, and every client when the gateway's worker is forked
again, finds its connection closed: it connects again and attaches its sandboxes again. ``lease_s`` is in seconds. The
descriptor is a TCP socket listening on 127.0.0.1 of the sandbox; a refused one is closed. ``status`` lists at most 200
sandboxes, ``sandbox_count`` is their number; ``config`` is the path of choir.toml or null; ``ledger`` is ``{"waiting",
"failing", "journal_failing", "full"}``: how many records wait for it, and why. ``reload`` with a wrong configuration
answers with its reason and changes nothing; ``changes`` are the first 200 of ``choir.gateway.changes.Change``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Role = Literal["live", "dev", "run", "probe"]


class UsageRecord(msgspec.Struct, frozen=True):
    """One per call, always. Nothing from a body, a query string or a header can get in but the model's name.

    Unknown is None, never 0. ``model`` is cut to 128 printable ASCII characters.
    """

    ts: str
    """UTC start of the call, RFC 3339 with milliseconds."""
    request_id: str
    sandbox_id: str
    user_id: str
    provider: str
    model: str | None
    route: str
    """The pattern of the provider's table that matched, or "" for a refused path."""
    status: int
    """What the caller was answered; 0 when it was gone before an answer."""
    outcome: str
    """ok, refused:<reason>, upstream:<reason>, client_gone or cut."""
    latency_ms: float
    ttft_ms: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: float | None = None
    count: int = 1
    """Calls it stands for. More than one only for a flood of refusals: what a sandbox is refused beyond 600 a minute is
    counted by outcome; such a record's ``bytes_out`` is their sum, its ``latency_ms`` 0, and ``request_id`` its own."""


class ProviderStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway tells others about a provider: never the key, only whether there is one."""

    name: str
    enabled: bool
    reason: str = ""
    """Why it is not enabled, e.g. "no key in OPENAI_API_KEY"."""
