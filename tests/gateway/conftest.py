from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .harness import Double, Gateway, Sandbox, provider


@pytest.fixture(scope="session")
def double() -> Iterator[Double]:
    double = Double()
    yield double
    double.stop()


@pytest.fixture(autouse=True)
def _fresh(double: Double) -> None:
    double.requests.clear()
    double.lost.clear()
    double.release.clear()


@pytest.fixture(scope="session")
def gateway(double: Double, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway for tests that leave it as it was."""
    config = (
        provider("mock", double.port)
        + provider("claude", double.port, like="anthropic", prefix="")
        + provider("gemini", double.port, like="google", prefix="")
        + provider("bedrock", double.port, like="aws-bedrock", prefix="")
        + provider("few", double.port, 'models = ["m1", "m2"]')
        + provider("unasked", double.port, like="mistral", prefix="")
        + provider("generous", double.port, 'allow_tools = ["web_search"]', "allow_stored = true")
        + provider("keyless", double.port).replace("env:MOCK_KEY", "env:NOT_THERE")
        + "[limits]\nmax_body_bytes = 300000\nrequests_per_minute = 100000\n"
    )
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), config)
    yield gateway
    assert gateway.stop() == 0


@pytest.fixture
def sandbox(gateway: Gateway) -> Sandbox:
    return gateway.sandbox()


StartGateway = Callable[..., Gateway]


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[StartGateway]:
    """Start a gateway of the test's own; it is stopped afterwards."""
    started: list[Gateway] = []

    def start(config: str, services: dict[str, str] | None = None, folder: str = "own", **environment: str) -> Gateway:
        started.append(Gateway(tmp_path / folder, config, services, **environment))
        return started[-1]

    yield start
    for gateway in started:
        gateway.stop()
