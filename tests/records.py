"""Usage records for tests."""

from __future__ import annotations

import msgspec

from choir.contract import UsageRecord

_CALL = UsageRecord(
    ts="2026-01-01T00:00:00.000Z",
    request_id="r",
    sandbox_id="s",
    user_id="u",
    provider="p",
    model=None,
    route="",
    status=200,
    outcome="ok",
    latency_ms=1.0,
)


def usage_record(**fields: object) -> UsageRecord:
    """Of a call that went well; of what it told only ``fields``."""
    return msgspec.structs.replace(_CALL, **fields)
