from __future__ import annotations

import contextlib
import http.server
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from choir import config as configuration
from choir.app.audit.ground import Ground
from choir.app.run import Gateway, gateway_for
from choir.control_client import GatewayControl
from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.contract import SandboxSpec
from choir.isolation.plan import Plan
from choir.paths import State

Open = Callable[..., contextlib.AbstractAsyncContextManager[Ground]]


class Weakened(BubblewrapBackend):
    def __init__(self, weaken: Callable[[Plan], Plan]) -> None:
        super().__init__()
        self._weaken = weaken

    def plan(self, spec: SandboxSpec, terminal: str = "") -> Plan:
        return self._weaken(super().plan(spec, terminal))


def told(plan: Plan, **changes: Any) -> Plan:
    return plan._replace(first_process={**plan.first_process, **changes})


@pytest.fixture
def state() -> Iterator[State]:
    # Not tmp_path: a unix socket's path has 107 bytes, and the sandbox's uid must be able to reach it.
    root = Path(tempfile.mkdtemp(prefix="choir-"))
    yield State(root / "s").prepare()
    shutil.rmtree(root)


class Models(http.server.BaseHTTPRequestHandler):
    """Answers everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - http.server's name
        return


@pytest.fixture
def models() -> Iterator[str]:
    """The origin of a provider."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Models) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def open_ground(state: State, models: str) -> Open:
    """The ground on a gateway of its own with one provider, or (``gateway=False``) on none; ``weaken`` changes every
    sandbox's plan."""
    path = state.root / "choir.toml"
    key = state.root / "provider.key"
    key.write_text("not-a-real-one")
    key.chmod(0o600)
    path.write_text(
        f'[providers.here]\nlike = "openai"\nbase_url = "{models}"\nkey = "file:{key}"\n'
        "[providers.local]\nenabled = false\n"
    )

    @contextlib.asynccontextmanager
    async def opened(weaken: Callable[[Plan], Plan] = lambda plan: plan, gateway: bool = True) -> AsyncIterator[Ground]:
        config = configuration.load(path)
        none = Gateway(GatewayControl(state.gateway_socket), [config.providers["here"]], own=True)
        async with gateway_for(config, state) if gateway else contextlib.nullcontext(none) as gateway_:
            with Ground.open(config, state, Weakened(weaken), gateway_) as ground:
                yield ground

    return opened
