from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import pytest

from choir.app.local import LocalModel
from choir.paths import State
from choir.service import Service


def test_stopping_while_it_starts_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    spawned: list[Service] = []

    async def scenario(state: State) -> None:
        model = LocalModel(state)
        real = Service.spawn

        def spawn(*arguments: object, **options: object) -> Service:
            spawned.append(real(*arguments, **options))  # type: ignore[arg-type]
            return spawned[-1]

        monkeypatch.setattr(Service, "spawn", spawn)
        model.want()
        while not spawned:
            await asyncio.sleep(0)
        await model.stop()

    with tempfile.TemporaryDirectory(prefix="choir-") as folder:
        asyncio.run(scenario(State(Path(folder) / "s").prepare()))
    (service,) = spawned
    assert service.channel.fileno() == -1
    assert not os.path.exists(f"/proc/{service.pid}")
