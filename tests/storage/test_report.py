from __future__ import annotations

import csv
import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.storage.ledger import Share
from choir.storage.report import By, add_up, shares_csv, sums_csv


def share(day: str, user: str, model: str | None, calls: int, cost: float | None = None, failed: int = 0) -> Share:
    return Share(
        day=day,
        user_id=user,
        provider="openai",
        model=model,
        calls=calls,
        failed=failed,
        input_tokens=10 * calls,
        output_tokens=None,
        cached_tokens=0,
        cost_usd=cost,
        unpriced=0 if cost is not None else calls - failed,
    )


SHARES = [
    share("2026-11-24", "ben", "gpt", 1, 0.5),
    share("2026-11-23", "ada", "gpt", 4, 1.5, failed=1),
    share("2026-11-23", "ada", None, 2),
]


@pytest.mark.parametrize(
    ("by", "names", "calls"),
    [
        ("user", ["ada", "ben"], [6, 1]),
        ("day", ["2026-11-24", "2026-11-23"], [1, 6]),
        ("model", ["openai/gpt", "openai/-"], [5, 2]),
    ],
)
def test_sums(by: By, names: list[str], calls: list[int]) -> None:
    sums = add_up(SHARES, by)
    assert [one.name for one in sums] == names
    assert [one.calls for one in sums] == calls


def test_what_is_not_known_is_said() -> None:
    ada = add_up(SHARES, "user")[0]
    assert (ada.cost_usd, ada.unpriced, ada.failed, ada.input_tokens, ada.output_tokens) == (1.5, 2, 1, 60, 0)


def test_calls_refused_before_a_provider_was_known() -> None:
    refused = msgspec.structs.replace(share("2026-11-24", "ben", None, 2), provider="")
    (one,) = add_up([refused], "model")
    assert one.name == "(refused)"
    assert sums_csv([one], "model").splitlines()[1].startswith("(refused),2,")
    assert shares_csv([refused]).splitlines()[1].startswith("2026-11-24,ben,,,2,")


def test_csv() -> None:
    assert sums_csv(add_up(SHARES, "user"), "user").splitlines()[:2] == [
        "user,calls,failed,input_tokens,output_tokens,cached_tokens,cost_usd",
        "ada,6,1,60,0,0,1.5",
    ]
    rows = list(csv.DictReader(io.StringIO(shares_csv(SHARES))))
    assert (rows[2]["model"], rows[2]["cost_usd"], rows[2]["output_tokens"]) == ("", "", "")


@given(st.text(max_size=30))
def test_a_models_name_is_never_a_formula(model: str) -> None:
    (row,) = csv.reader(io.StringIO(shares_csv([share("d", "u", model or None, 1)]).partition("\r\n")[2], newline=""))
    assert row[3][:1] not in ("=", "+", "-", "@", "\t")
    assert row[3].removeprefix("'") == model.removeprefix("'")
