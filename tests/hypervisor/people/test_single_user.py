"""Single-user mode: the account that runs Choir is in, another account of the machine is not."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from choir.config import HypervisorEntry
from choir.paths import State
from tests.hypervisor.fakes import USER, Deployment, FakeBackend, deployed

NOBODY = 65534
ASK = r"""
exec 3<>/dev/tcp/127.0.0.1/$1
printf "GET / HTTP/1.1\r\nHost: localhost:$1\r\nConnection: close\r\n\r\n" >&3
cat <&3
"""
"""For bash, which other accounts can run wherever Python is installed for one."""


def run(test: Any, tmp_path: Path, single_user: bool = True) -> None:
    async def main() -> None:
        entry = HypervisorEntry(single_user=single_user)
        state = State(tmp_path / "state").prepare()
        async with deployed(state, FakeBackend(), configured={"hypervisor": entry}) as here:
            await test(here)

    asyncio.run(asyncio.wait_for(main(), 60))


async def another_process(here: Deployment, uid: int) -> str:
    """What a process of that account is answered: status, and whether with a cookie and with the sign-in page."""
    command = ["/bin/bash", "-c", ASK, "ask", str(here.port)]
    how: dict[str, Any] = {} if uid == os.geteuid() else {"user": uid, "group": uid, "extra_groups": []}
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=30, cwd="/", check=True, **how
    )
    status = done.stdout.split()[1]
    return f"{status} {'set-cookie:' in done.stdout.lower()} {'Sign in' in done.stdout}"


def test_the_own_account_is_in_at_once(tmp_path: Path) -> None:
    async def test(here: Deployment) -> None:
        async with here.ask("GET", "/account?welcome=1") as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/account")
            cookie = answer.headers["Set-Cookie"].partition("=")[2].partition(";")[0]
        async with here.ask("GET", "/account", cookie=cookie) as answer:
            assert answer.status == 200
            assert f"<h1>{USER}</h1>" in await answer.text()
        assert await another_process(here, os.geteuid()) == "303 True False"
        (row, *_) = here.sessions.listed()
        assert (row.user, row.way) == (USER, "local")

    run(test, tmp_path)


def test_the_first_link_asks_nothing_either(tmp_path: Path) -> None:
    async def test(here: Deployment) -> None:
        async with here.ask("GET", here.login.new_link(USER, "")) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")
            assert "Set-Cookie" in answer.headers
        here.people.add_user("ben", False, 1.0)
        async with here.ask("GET", here.login.new_link("ben", "")) as answer:
            assert answer.status == 200
            assert "Sign in as ben" in await answer.text()

    run(test, tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another account")
def test_another_account_signs_in(tmp_path: Path) -> None:
    async def test(here: Deployment) -> None:
        assert await another_process(here, NOBODY) == "401 False True"
        assert here.sessions.listed() == []

    run(test, tmp_path)


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "Via"])
def test_nobody_behind_a_proxy_is_in(tmp_path: Path, name: str) -> None:
    async def test(here: Deployment) -> None:
        async with here.ask("GET", "/", headers={name: "127.0.0.1"}) as answer:
            assert answer.status == 401
            assert "Set-Cookie" not in answer.headers

    run(test, tmp_path)


def test_otherwise_everybody_signs_in(tmp_path: Path) -> None:
    async def test(here: Deployment) -> None:
        assert await another_process(here, os.geteuid()) == "401 False True"

    run(test, tmp_path, single_user=False)


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_nothing_is_done_without_a_session(tmp_path: Path, method: str) -> None:
    """Only a page is opened without ceremony: whoever acts has the cookie, and so the right Origin."""

    async def test(here: Deployment) -> None:
        async with here.ask(method, "/desk/live/start", headers={"Origin": here.url}) as answer:
            assert answer.status in (401, 405)
        assert here.sandbox.status.state == "absent"

    run(test, tmp_path)
