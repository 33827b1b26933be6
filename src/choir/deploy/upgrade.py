"""``choir upgrade`` and ``choir rollback``: the order of the steps, and what a failure or a kill at each of them means.

Until the link is switched, nothing in force has changed: a failure ends with that. From the switch on an upgrade ends
with the new version proven or the old one back. The journal says the step before it is taken, so that the next
``choir upgrade`` goes on where a killed one was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from choir.deploy.journal import BEFORE_SWITCH, Deployment, Entry, Journal, Schema, Step
from choir.deploy.wheel import Wheel
from choir.errors import ChoirError
from choir.hypervisor import putback
from choir.installation import Installation
from choir.paths import State

Told = Callable[[str, str], None]
"""A step, and what came of it; "" at its beginning."""


class Means(Protocol):
    """``choir.deploy.machine.Machine``; raises what that does."""

    @property
    def deployment(self) -> Deployment: ...

    def make(self, wheel: Wheel) -> None: ...

    def rehearse(self, version: str, deeply: bool = True) -> Schema: ...

    def backup(self) -> Path | None: ...

    def restart(self, version: str) -> None: ...

    def runs(self) -> bool: ...

    def failing(self) -> frozenset[str]: ...

    def tidy(self, keep: set[str], versions: set[str], backup: str | None) -> list[str]: ...


class Upgrade:
    """The changes of one installation. Use it in a block of ``journal.held``."""

    def __init__(self, installation: Installation, journal: Journal, means: Means, own: Schema, told: Told) -> None:
        """
        Args:
            own: what this process's version reads and writes.
        """
        self._installation = installation
        self._journal = journal
        self._means = means
        self._own = own
        self._told = told
        self._state = State(Path(means.deployment.state))

    # ------------------------------------------------------------------ forward

    def upgrade(self, wheel: Wheel) -> Entry:
        """Bring ``wheel`` into force; what was done.

        Raises:
            ChoirError: with the old version in force: ``upgrade_reverted`` when the new one was for a while, else why
                it never was. ``revert_incomplete``: the link is back, but not everything runs again.
        """
        old = self._installation.in_force()
        self._told("verify", "")
        failing = self._means.failing()
        self._told("verify", f"{old}: {_judged(failing)}")
        entry = Entry(
            kind="upgrade",
            old=old,
            new=wheel.version,
            step="install",
            began=time.time(),
            deployment=self._means.deployment,
            schema=self._own,
            written=self._own,
            failing=tuple(sorted(failing)),
        )
        try:
            self._journal.begin(entry)
            self._told("install", "")
            self._means.make(wheel)
            self._told("install", str(self._installation.environment(wheel.version)))
            entry = self._step(entry, "rehearse")
            self._told("rehearse", "")
            written = self._means.rehearse(wheel.version)
            self._told("rehearse", _formats(self._own, written))
            entry = self._step(entry, "backup", written=written)
            self._told("backup", "")
            backup = self._means.backup()
            self._told("backup", str(backup) if backup else "nothing to keep yet")
        except ChoirError:
            self._journal.end(self._journal.record.last)
            self._tidy({wheel.version})
            raise
        return self._go_on(self._step(entry, "switch", backup=str(backup) if backup else None))

    def _go_on(self, entry: Entry) -> Entry:
        """From the switch on."""
        try:
            self._installation.switch(entry.new)
            self._told("switch", f"{self._installation.link} → versions/{entry.new}")
            entry = self._step(entry, "restart")
            self._restart(entry.new)
            entry = self._step(entry, "verify")
            self._told("verify", "")
            worse = self._means.failing() - set(entry.failing)
        except ChoirError as error:
            return self._back(entry, error.message)
        if worse:
            return self._back(entry, _judged(worse))
        self._told("verify", f"{entry.new}: {_held(entry)}")
        before = self._journal.record.last
        self._journal.end(entry)
        self._tidy({before.old} if before else set(), before.backup if before else None)
        return entry

    def _back(self, entry: Entry, why: str) -> Entry:
        entry = self._step(entry, "back", why=why)
        self._told("back", why)
        words = f"{entry.new} did not hold: {why.rstrip('.')}"
        try:
            self._installation.switch(entry.old)
            self._told("switch", f"{self._installation.link} → versions/{entry.old}")
            kept = self._put_back(entry)
            ran = self._means.runs()
            self._restart(entry.old)
            worse = self._means.failing() - set(entry.failing)
        except ChoirError as error:
            raise ChoirError(
                "revert_incomplete",
                f"{words}. {entry.old} is the version in force again, but: {error.message}",
                f"{error.hint} Then run `choir upgrade`: it goes on from here.".strip(),
            ) from error
        if worse:
            raise ChoirError(
                "revert_incomplete",
                f"{words}. {entry.old} is in force again, but {_judged(worse)}.",
                "See: choir doctor, choir logs. Then run `choir upgrade`: it goes on from here.",
            )
        self._journal.end(self._journal.record.last)
        ended = f"`choir up` has ended: start it again, {self._installation.command} up."
        hint = "" if ran or not entry.deployment.up else ended
        raise ChoirError("upgrade_reverted", f"{words}. {entry.old} is in force again.{kept}", hint)

    # ------------------------------------------------------------------ backward

    def rollback(self, give_up: bool) -> Entry:
        """Go back to the version before the last upgrade; what was done.

        Args:
            give_up: put back the data of before, where the older version cannot read what is there.

        Raises:
            ChoirError: ``nothing_to_roll_back``, ``data_newer``, ``no_copy``: nothing was changed;
                ``rollback_unverified``: the older version is in force, and does not hold.
        """
        entry = self.plan_rollback()
        losses = self.losses(entry)
        if losses and not give_up:
            raise ChoirError(
                "data_newer",
                f"{entry.old} cannot read all of what {entry.new} wrote. {' '.join(losses)}",
                "choir rollback --restore-data goes back all the same; nothing is deleted.",
            )
        for loss in losses:
            self._told("data", loss)
        return self._roll_back(self._journal.begin(entry))

    def plan_rollback(self) -> Entry:
        """
        Raises:
            ChoirError: ``nothing_to_roll_back``, ``version_unusable``.
        """
        last = self._journal.record.last
        current = self._installation.in_force()
        if last is None or last.new != current:
            raise ChoirError("nothing_to_roll_back", f"There is no upgrade to {current} to take back.")
        schema = self._means.rehearse(last.old, deeply=False)
        deployment = self._means.deployment
        return msgspec.structs.replace(last, kind="rollback", step="switch", schema=schema, deployment=deployment)

    def losses(self, entry: Entry) -> list[str]:
        """What an older version cannot read, in sentences; [] when the data stays as it is.

        Raises:
            ChoirError: ``no_copy``: the registry cannot be put back either.
        """
        out = []
        if putback.version(self._state.registry) > entry.schema.registry:
            lost = putback.lost(self._state.registry, self._copy(entry))
            out.append(f"The registry of before {entry.new} is put back; without it go: {lost}. They are kept aside.")
        if entry.written.memory > entry.schema.memory:
            backup = f"; for homes as before: choir restore {entry.backup}" if entry.backup else ""
            out.append(
                f"Memories written since stay in their files, unread until {entry.new} or newer is back{backup}."
            )
        return out

    def _roll_back(self, entry: Entry) -> Entry:
        self._installation.switch(entry.old)
        self._told("switch", f"{self._installation.link} → versions/{entry.old}")
        kept = self._put_back(entry)
        if kept:
            self._told("data", kept.strip())
        entry = self._step(entry, "restart")
        self._restart(entry.old)
        entry = self._step(entry, "verify")
        self._told("verify", "")
        worse = self._means.failing() - set(entry.failing)
        self._journal.end(None)
        if worse:
            raise ChoirError(
                "rollback_unverified",
                f"{entry.old} is in force, but {_judged(worse)}.",
                "See: choir doctor, choir logs.",
            )
        self._told("verify", f"{entry.old}: {_held(entry)}")
        return entry

    # ------------------------------------------------------------------ after a kill

    def resume(self) -> Entry | None:
        """End what a killed run left: None when nothing had changed, or there is nothing.

        Raises:
            ChoirError: as ``upgrade`` and ``rollback``.
        """
        entry = self._journal.record.under_way
        if entry is None:
            return None
        if entry.step in BEFORE_SWITCH:
            self._journal.end(self._journal.record.last)
            self._tidy({entry.new})
            self._told("resume", f"the upgrade to {entry.new} was broken off before it changed anything")
            return None
        self._told("resume", f"the {entry.kind} from {entry.old} to {entry.new}, at `{entry.step}`")
        if entry.kind == "rollback":
            return self._roll_back(entry)
        return self._back(entry, entry.why) if entry.step == "back" else self._go_on(entry)

    # ------------------------------------------------------------------ steps of both

    def _step(self, entry: Entry, step: Step, **more: Any) -> Entry:
        return self._journal.begin(msgspec.structs.replace(entry, step=step, **more))

    def _restart(self, version: str) -> None:
        if self._means.runs():
            self._told("restart", "")
            self._means.restart(version)
            self._told("restart", version)

    def _tidy(self, versions: set[str], backup: str | None = None) -> None:
        """Remove ``versions`` and all that no upgrade or rollback needs any more, but nothing in force."""
        last = self._journal.record.last
        keep = {self._installation.in_force(), *((last.old, last.new) if last else ())}
        if last is not None and last.backup == backup:
            backup = None
        gone = self._means.tidy(keep, versions, backup)
        if gone:
            self._told("tidy", f"removed {', '.join(gone)}")

    def _put_back(self, entry: Entry) -> str:
        """Have the start of the older version find a registry that it can read; what was done, in a sentence.

        The link is switched already: whatever starts from now on is the older version, and a start takes it over.
        """
        if putback.version(self._state.registry) <= entry.schema.registry:
            return ""
        putback.hold(self._state, self._copy(entry))
        if not self._means.runs():
            putback.at_once(self._state)
        return (
            f" Its registry of before is put back; what {entry.new} wrote is kept as replaced-* in {self._state.root}."
        )

    def _copy(self, entry: Entry) -> Path:
        backup = Path(entry.backup) if entry.backup else None
        copy = putback.copy_of_before(self._state, entry.schema.registry, entry.began, backup)
        if copy is None:
            raise ChoirError(
                "no_copy",
                f"The registry was migrated, and no copy of before is left ({self._state.registry}.v*, the backup).",
                "Put a backup back with the version that made it: choir restore FILE.",
            )
        return copy


def _judged(failing: frozenset[str]) -> str:
    return f"failed: {', '.join(sorted(failing))}" if failing else "verify and doctor hold"


def _held(entry: Entry) -> str:
    if entry.failing:
        return f"nothing failed that did not before ({', '.join(entry.failing)})"
    return _judged(frozenset())


def _formats(old: Schema, new: Schema) -> str:
    changed = [
        f"{name} {before} → {after}"
        for name, before, after in (("registry", old.registry, new.registry), ("memory", old.memory, new.memory))
        if before != after
    ]
    return f"configuration and copies of the databases were taken; {', '.join(changed) or 'their formats are the same'}"
