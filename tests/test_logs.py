from __future__ import annotations

import json
import logging
import os
import re
import secrets
import string
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from choir import logs, tokens


def generated() -> dict[str, str]:
    """A secret of each kind, random, so that none stands in this repository."""
    letters = string.ascii_letters + string.digits

    def some(count: int, alphabet: str = letters) -> str:
        return "".join(secrets.choice(alphabet) for _ in range(count))

    return {
        "anthropic": f"sk-ant-api03-{some(60)}",
        "openai": f"sk-proj-{some(40)}",
        "google": f"AIza{some(35)}",
        "aws": "AKIA" + some(16, string.ascii_uppercase + string.digits),
        "github": f"ghp_{some(36)}",
        "slack": f"xoxb-{some(30)}",
        "bearer": f"Bearer {some(32)}",
        "url": f"postgres://ada:{some(20)}@db/x",
        "jwt": f"eyJ{some(20)}.eyJ{some(30)}.{some(40)}",
        "token": tokens.sign(os.urandom(32), "01sandbox"),
    }


SECRETS = generated()


def found_in(text: str) -> list[str]:
    """The kinds of which the secret part is in ``text``."""
    return [
        kind for kind, secret in SECRETS.items() if re.split(r"[ /:@.]", secret)[-1 if kind != "url" else -3] in text
    ]


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("name", [*logs.FIELDS, "user", "why", "line", "body", "headers", "authorization"])
def test_no_field_lets_a_secret_through(name: str, kind: str) -> None:
    secret = SECRETS[kind]
    for value in (secret, f"before {secret} after", {"deep": [secret]}, secret.encode().decode(), ValueError(secret)):
        text = logs.line("gateway", "info", "event", {name: value})
        assert found_in(text) == []
        assert json.loads(text)["event"] == "event"
    assert found_in(logs.line("gateway", "info", secret)) == []


def test_the_fields_of_a_line() -> None:
    entry = json.loads(
        logs.line("hypervisor", "info", "signed_in", {"user": "ada", "way": "link", "pid": 7, "reason": None, "x": "y"})
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("ts"))
    assert entry == {
        "level": "info",
        "service": "hypervisor",
        "event": "signed_in",
        "user_id": "ada",
        "way": "link",
        "pid": 7,
        "left_out": 1,
    }


def test_nobody_can_pretend_to_be_another_service() -> None:
    entry = json.loads(logs.line("sandbox", "info", "a", {"service": "gateway", "level": "error", "ts": "then"}))
    assert (entry["service"], entry["level"], entry["left_out"]) == ("sandbox", "info", 3)


@given(st.dictionaries(st.sampled_from(logs.FIELDS), st.one_of(st.text(), st.integers(), st.none(), st.binary())))
def test_it_is_one_line_whatever_it_holds(fields: dict[str, Any]) -> None:
    text = logs.line("gateway", "info", "event", fields)
    assert "\n" not in text
    assert set(json.loads(text)) <= {*logs.FIELDS, "left_out"}


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize("kind", SECRETS)
def test_of_an_exception_only_kind_and_place(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    error = raised(ValueError(SECRETS[kind]))
    assert re.fullmatch(r"ValueError at test_logs\.py:\d+", logs.place_of(error))
    render = logs.renderer("hypervisor")
    text = render(None, "exception", {"event": "failed", "exc_info": error, "sandbox_id": "01a"})
    assert found_in(text) == []
    assert json.loads(text)["error"].startswith("ValueError at ")
    assert json.loads(text)["level"] == "error"


def test_structlog_and_libraries_write_the_same_lines(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        logs.take_standard_logging("sandbox", {"sandbox_id": "01a"})
        logging.getLogger("aiohttp").warning("cannot read %s", SECRETS["openai"])
        logging.getLogger("choir.sandbox.actor").warning("%s failed", "the memory")
        logging.getLogger("asyncio").error("oh", exc_info=raised(RuntimeError(SECRETS["jwt"])))
        logging.getLogger("quiet").info("nothing")
    finally:
        root.handlers[:], root.level = before, level
    logger = structlog.wrap_logger(
        structlog.PrintLogger(), processors=[logs.renderer("hypervisor")], wrapper_class=structlog.BoundLogger
    )
    logger.warning("sandbox", sandbox_id="01a", state="failed", headers=SECRETS["bearer"])
    said = capfd.readouterr()
    entries = [json.loads(each) for each in said.err.splitlines() + said.out.splitlines()]
    assert found_in(said.err + said.out) == []
    assert [(each["service"], each["sandbox_id"]) for each in entries] == [
        ("sandbox", "01a"),
        ("sandbox", "01a"),
        ("sandbox", "01a"),
        ("hypervisor", "01a"),
    ]
    assert entries[0]["message"] == "cannot read %s"
    assert entries[1]["message"] == "the memory failed"
    assert entries[3]["left_out"] == 1
