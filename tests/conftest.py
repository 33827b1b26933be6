from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, not whether it is right.
settings.register_profile("choir", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("choir")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
