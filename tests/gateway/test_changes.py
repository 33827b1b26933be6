from __future__ import annotations

from choir.config import Config, Limits, Price, Provider, SandboxEntry, Timeouts, UserEntry, UserLimits
from choir.gateway.changes import changes, sentence

OLD = Config(
    path=None,
    providers={
        "ours": Provider(name="ours", base_url="http://a", keys=("env:A",)),
        "gone": Provider(name="gone", base_url="http://g"),
    },
    limits=Limits(requests_per_minute=600),
    prices={"ours/*": Price(input=1.0), "old/*": Price()},
    users={"ann": UserEntry(models=("ours/*",))},
)


def lines(new: Config, rekeyed: dict[str, set[str]] | None = None) -> list[str]:
    return [sentence(change) for change in changes(OLD, new, rekeyed or {})]


def test_nothing() -> None:
    assert lines(OLD) == []


def test_every_kind() -> None:
    new = Config(
        path=None,
        providers={
            "ours": Provider(
                name="ours", base_url="http://a", keys=("env:A", "file:/b"), allow_stored=True, named=True
            ),
            "new": Provider(name="new", base_url="http://n"),
        },
        limits=Limits(requests_per_minute=60, usd_per_day=1.5),
        timeouts=Timeouts(idle=7.0),
        prices={"ours/*": Price(input=2.0), "new/*": Price()},
        users={"ann": UserEntry(limits=UserLimits(usd_per_day="none")), "b.o.b": UserEntry()},
        sandbox=SandboxEntry(max_processes=9),
    )
    assert lines(new, {"ours": {"env:A"}}) == [
        "[providers.gone]: removed (http://g)",
        "[providers.new]: added (http://n)",
        "[providers.ours] keys: env:A → env:A, file:/b",
        "[providers.ours] allow_stored: false → true",
        "[providers.ours] env:A: a key → another key",
        "[limits] requests_per_minute: 600 → 60",
        "[limits] usd_per_day: not set → 1.5",
        "[timeouts] idle: 300.0 → 7.0",
        "[users.ann] models: ours/* → not set",
        "[users.ann.limits] usd_per_day: not set → none",
        '[users."b.o.b"]: added (set)',
        '[prices."new/*"]: added (set)',
        '[prices."old/*"]: removed (set)',
        '[prices."ours/*"] input: 1.0 → 2.0',
        "[sandbox] max_processes: 512 → 9  (at the next start of Choir)",
    ]
