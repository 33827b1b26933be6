from __future__ import annotations

import asyncio
from typing import Any

from choir.hypervisor.usage_feed import BACKLOG, UsageFeed

from .fakes import FakeGateway


def record(number: int, sandbox_id: str = "a") -> dict[str, Any]:
    return {"event": "usage", "record": {"sandbox_id": sandbox_id, "request_id": str(number)}}


async def fed(gateway: FakeGateway) -> None:
    """Until everything said has been taken."""
    while any(not queue.empty() for queue in gateway.listeners):
        await asyncio.sleep(0)
    await asyncio.sleep(0)


def test_records_go_to_who_reads_that_sandbox() -> None:
    async def main() -> None:
        gateway = FakeGateway()
        feed = UsageFeed(gateway)
        feeding = asyncio.create_task(feed.run())
        with feed.reading("a") as one, feed.reading("a") as two, feed.reading("b") as other:
            while not gateway.log:
                await asyncio.sleep(0)
            gateway.say(record(1))
            gateway.say(record(2, "c"))
            assert (await one.get())["request_id"] == (await two.get())["request_id"] == "1"
            await fed(gateway)
            assert other.empty()
        gateway.say(record(3))
        await fed(gateway)
        assert one.empty()
        assert set(feed.last_call) == {"a", "c"}
        gateway.restart()
        await fed(gateway)
        assert gateway.log == [("subscribe", "")] * 2
        feeding.cancel()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_slow_reader_misses_the_oldest() -> None:
    async def main() -> None:
        gateway = FakeGateway()
        feed = UsageFeed(gateway)
        feeding = asyncio.create_task(feed.run())
        with feed.reading("a") as slow:
            while not gateway.log:
                await asyncio.sleep(0)
            for number in range(BACKLOG + 5):
                gateway.say(record(number))
            await fed(gateway)
            assert slow.qsize() == BACKLOG
            assert slow.get_nowait()["request_id"] == "5"
        feeding.cancel()

    asyncio.run(asyncio.wait_for(main(), 10))
