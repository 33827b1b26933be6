from __future__ import annotations

import json
import secrets
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir import ids, logs
from choir.app.log_entries import Entry, Origin, Selection, entry, since
from choir.errors import ChoirError

GATEWAY, HYPERVISOR, ADAS = Origin("gateway"), Origin("hypervisor"), Origin("sandbox", "ada-live")
REQUEST, SANDBOX, OTHER = ids.new_id(), ids.new_id(), ids.new_id()


def call(**more: Any) -> str:
    known = {"ts": "2026-11-24T12:00:00.500Z", "request_id": REQUEST, "sandbox_id": SANDBOX, "user_id": "ada"}
    rest = {"route": "POST /v1/chat/completions", "status": 200, "outcome": "ok", "latency_ms": 1600.0}
    return json.dumps({**known, **rest, **more})


def test_a_line_of_choirs_own() -> None:
    text = logs.line("hypervisor", "warning", "sandbox", {"sandbox_id": SANDBOX, "state": "failed", "reason": "oom"})
    found = entry(text, HYPERVISOR)
    assert (found.level, found.service, found.event, found.text("reason")) == (
        "warning",
        "hypervisor",
        "sandbox",
        "oom",
    )
    assert found.line().endswith(f"hypervisor  warning  sandbox  sandbox_id={SANDBOX}  reason=oom  state=failed")
    assert found.as_dict()["sandbox_id"] == SANDBOX


def test_a_call_is_written_when_it_has_ended() -> None:
    found = entry(call(), GATEWAY)
    assert (found.at, found.level, found.event) == ("2026-11-24T12:00:02.100Z", "info", "call")
    assert "POST /v1/chat/completions" in found.line()
    assert entry(call(outcome="refused:token_forged"), GATEWAY).level == "warning"
    assert entry(call(ts="2026-99-99T12:00:00Z"), GATEWAY).event == "call"


def test_what_has_no_time_has_that_of_the_line_before() -> None:
    before = entry(logs.line("hypervisor", "info", "a", {"sandbox_id": SANDBOX}), HYPERVISOR)
    found = entry("Traceback (most recent call last):", HYPERVISOR, before)
    assert (found.at, found.event, found.fields["message"]) == (
        before.at,
        "output",
        "Traceback (most recent call last):",
    )
    assert entry("x", HYPERVISOR, None, "2026-11-24T12:00:00.000Z").at == "2026-11-24T12:00:00.000Z"


def test_a_sandbox_is_never_taken_for_another_service() -> None:
    for text in (logs.line("gateway", "error", "leak", {"sandbox_id": OTHER}), call()):
        found = entry(text, ADAS)
        assert (found.service, found.sandbox) == ("sandbox", "ada-live")
        assert found.event != "call"


def test_nothing_that_a_terminal_acts_on_and_no_secret_is_shown() -> None:
    secret = f"sk-ant-api03-{secrets.token_hex(30)}"
    forged = json.dumps({"ts": "2026-11-24T12:00:00Z", "event": f"\x1b[2J {secret}", "message": f"a\nb\u202e{secret}"})
    for text in (f"\x1b]0;title\x07 {secret}\r", forged):
        found = entry(text, ADAS)
        assert found.line().isprintable()
        assert secret not in found.line() + json.dumps(found.as_dict())


@given(st.text(), st.sampled_from([GATEWAY, ADAS]))
def test_any_text_is_an_entry(text: str, origin: Origin) -> None:
    found = entry(text, origin)
    assert found.line().isprintable()
    json.dumps(found.as_dict())


@given(
    st.dictionaries(
        st.sampled_from(["ts", "level", "event", "outcome", "request_id", "latency_ms", "sandbox_id"]),
        st.one_of(st.none(), st.integers(), st.text(), st.lists(st.text()), st.just("2026-11-24T12:00:00Z")),
    ),
    st.sampled_from([GATEWAY, ADAS]),
)
def test_any_object_is_an_entry(fields: dict[str, Any], origin: Origin) -> None:
    found = entry(json.dumps(fields), origin)
    assert found.line().isprintable()
    chosen = Selection(SANDBOX, "ada", "debug", {"ada-live": "ada"})
    chosen.learn(found)
    chosen.wants(found)


def some() -> list[Entry]:
    line = logs.line
    return [
        entry(line("hypervisor", "info", "sandbox", {"sandbox_id": SANDBOX, "state": "ready"}), HYPERVISOR),
        entry(line("hypervisor", "info", "sandbox", {"sandbox_id": OTHER, "state": "ready"}), HYPERVISOR),
        entry(line("sandbox", "error", "library", {"sandbox_id": SANDBOX}), ADAS),
        entry(call(), GATEWAY),
        entry(call(request_id=ids.new_id(), outcome="aborted"), GATEWAY),
        entry(call(request_id=ids.new_id(), sandbox_id=OTHER, user_id="ben"), GATEWAY),
        entry(line("sandbox", "error", "forged", {"sandbox_id": OTHER}), ADAS),
        entry(line("gateway", "warning", "note", {"message": "of everybody"}), GATEWAY),
    ]


@pytest.mark.parametrize(
    ("name", "user", "level", "wanted"),
    [
        ("", "", "info", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("", "", "warning", [2, 4, 6, 7]),
        ("", "", "error", [2, 6]),
        (REQUEST, "", "info", [0, 2, 3]),  # and not another request of the same sandbox
        (REQUEST[-8:], "", "info", [0, 2, 3]),
        (SANDBOX, "", "info", [0, 2, 3, 4]),
        (OTHER[-7:], "", "info", [1, 5]),  # what ada's sandbox says of ben's is not joined
        ("", "ada", "info", [0, 2, 3, 4, 6]),
        ("", "ben", "info", [1, 5]),
        (SANDBOX, "ben", "info", []),
        (ids.new_id(), "", "info", []),
    ],
)
def test_what_is_wanted(name: str, user: str, level: str, wanted: list[int]) -> None:
    chosen = Selection(name, user, level, {"ada-live": "ada"})
    for each in some():
        chosen.learn(each)
    assert [number for number, each in enumerate(some()) if chosen.wants(each)] == wanted


def test_an_id_that_could_be_many_is_refused() -> None:
    with pytest.raises(ChoirError) as caught:
        Selection("abcde", "", "info", {})
    assert caught.value.reason == "id_too_short"


@pytest.mark.parametrize(
    ("text", "ts"),
    [
        ("90s", "2026-11-24T11:58:30.000Z"),
        ("10m", "2026-11-24T11:50:00.000Z"),
        ("3d", "2026-11-21T12:00:00.000Z"),
        ("99999999999999999999d", "1970-01-01T00:00:00.000Z"),
        ("2026-11-24", "2026-11-24T00:00:00.000Z"),
        ("2026-11-24T13:00:00+02:00", "2026-11-24T11:00:00.000Z"),
    ],
)
def test_since(text: str, ts: str) -> None:
    assert since(text, 1795521600.0) == ts


@pytest.mark.parametrize("text", ["", "soon", "-1h", "1w"])
def test_a_since_that_is_no_time(text: str) -> None:
    with pytest.raises(ChoirError) as caught:
        since(text, 1795521600.0)
    assert caught.value.reason == "since_invalid"
