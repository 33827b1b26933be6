"""``choir sandbox`` as a person types it, against the real hypervisor."""

from __future__ import annotations

import asyncio
import json
import sys
import tarfile
from pathlib import Path

from choir.paths import State

from .test_main import Whole, run

CHOIR = Path(sys.executable).parent / "choir"


async def choir(here: Whole, *arguments: str) -> tuple[int, bytes, str]:
    process = await asyncio.create_subprocess_exec(
        *(CHOIR, "sandbox", *arguments, "--state", here.state.root),
        env={"HOME": str(here.state.root), "PATH": "/usr/bin:/bin"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out, err.decode()


def test_from_snapshot_to_export(state: State) -> None:
    async def test(here: Whole) -> None:
        code, _, err = await choir(here, "restore")
        assert code != 0
        assert "no sandbox" in err or "no snapshot" in err
        code, out, _ = await choir(here, "start", "--json")
        assert code == 0
        sandbox = json.loads(out)["sandbox"]
        notes = state.homes / sandbox["home"] / "notes"
        notes.write_text("first")
        code, out, _ = await choir(here, "snapshot", "--json")
        taken = json.loads(out)["snapshot"]
        notes.write_text("second")
        code, out, _ = await choir(here, "snapshots")
        assert taken["name"] in out.decode()
        code, out, err = await choir(here, "restore")
        assert (code, notes.read_text()) == (0, "first"), err
        assert taken["name"] in out.decode()
        assert len(json.loads((await choir(here, "snapshots", "--json"))[1])) == 2
        code, out, err = await choir(here, "restore", "ada/dev", "--from", "live", "--snapshot", taken["name"])
        assert code == 0, err
        target = state.root / "out.tar"
        code, _, err = await choir(here, "export", "--snapshot", taken["name"], "-o", str(target))
        assert code == 0, err
        assert target.stat().st_mode & 0o777 == 0o600
        with tarfile.open(target) as archive:
            member = archive.extractfile("notes")
            assert member is not None
            assert member.read() == b"first"
        code, out, err = await choir(here, "export")  # a new one, on standard output
        assert (code, err) == (0, "")
        (state.root / "piped.tar").write_bytes(out)
        assert tarfile.is_tarfile(state.root / "piped.tar")
        code, _, err = await choir(here, "export", "--snapshot", "nothing", "-o", str(target))
        assert code != 0
        assert "nothing" in err

    run(state, test)


def test_restart_and_swap(state: State) -> None:
    async def test(here: Whole) -> None:
        before = json.loads((await choir(here, "start", "--json"))[1])["sandbox"]
        after = json.loads((await choir(here, "restart", "--json"))[1])["sandbox"]
        assert after["state"] == "ready"
        assert after["id"] != before["id"]
        assert json.loads((await choir(here, "start", "ada/dev", "--json"))[1])["sandbox"]["role"] == "dev"
        code, out, err = await choir(here, "swap")
        assert code == 0, err
        assert "What was dev is live now" in out.decode()
        listed = {each["role"]: each for each in json.loads((await choir(here, "list", "--json"))[1])}
        assert listed["dev"]["home"] == before["home"]
        assert {each["state"] for each in listed.values()} == {"ready"}

    run(state, test)
