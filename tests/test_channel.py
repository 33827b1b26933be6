from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from choir import channel
from choir.channel import Channel, ChannelClosed


def test_message_and_descriptors_arrive_together() -> None:
    ours, theirs = Channel.pair()
    read, write = os.pipe()
    ours.send({"op": "attach", "n": 1}, [write])
    ours.send({"op": "second"})
    os.close(write)
    message, (received,) = theirs.receive()
    assert message == {"op": "attach", "n": 1}
    os.write(received, b"through")
    assert os.read(read, 10) == b"through"
    assert not os.get_inheritable(received)
    assert theirs.receive() == ({"op": "second"}, [])
    for fd in (read, received):
        os.close(fd)
    ours.close()
    with pytest.raises(ChannelClosed):
        theirs.receive()
    with pytest.raises(ChannelClosed):
        theirs.send({})
    theirs.close()


@pytest.mark.parametrize("garbage", [b"no json", b"[1]", b'"text"', b"\xff", b"x" * (channel.MAX_MESSAGE + 1)])
def test_garbage_closes_and_leaks_no_descriptor(garbage: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read, write = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(ours, [garbage], [write])
    with pytest.raises(ChannelClosed):
        Channel(theirs).receive()
    assert len(os.listdir("/proc/self/fd")) == before
    for item in (ours, theirs):
        item.close()
    os.close(read)
    os.close(write)


def test_too_long_a_message_is_refused_before_it_is_sent() -> None:
    ours, theirs = Channel.pair()
    with pytest.raises(ValueError, match="more than"):
        ours.send({"x": "y" * channel.MAX_MESSAGE})
    ours.close()
    theirs.close()


def test_listen_connect_and_who_is_there(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(ChannelClosed):
        channel.connect(str(path))
    with channel.listen(str(path)) as server:
        assert path.stat().st_mode & 0o777 == 0o600
        client = channel.connect(str(path))
        accepted, _ = server.accept()
        with accepted:
            assert channel.peer_credentials(accepted) == (os.getpid(), os.getuid(), os.getgid())
        client.close()
    with pytest.raises(ChannelClosed):
        channel.connect(str(path))
    channel.listen(str(path)).close()  # a dead socket is replaced


def test_async_receive() -> None:
    async def scenario() -> None:
        ours, theirs = Channel.pair()
        loop = asyncio.get_running_loop()
        waiting = asyncio.create_task(theirs.receive_async(loop))
        await asyncio.sleep(0)
        ours.send({"a": 1})
        assert (await waiting)[0] == {"a": 1}
        ours.close()
        with pytest.raises(ChannelClosed):
            await theirs.receive_async(loop)
        theirs.close()

    asyncio.run(scenario())
