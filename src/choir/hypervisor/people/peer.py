"""Which local account is at the other end of a TCP connection over loopback: ``/proc/net/tcp`` (proc(5)) tells."""

from __future__ import annotations

import ipaddress
import socket
import struct

_ESTABLISHED = "01"


def uid_of(peer: tuple[str, int], own: tuple[str, int]) -> int | None:
    """The uid that owns the socket at ``peer``, connected to ``own``; None when it is not a socket of this machine.

    Only what runs in this network namespace is seen, so a sandbox never is.
    """
    try:
        address = ipaddress.ip_address(peer[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    if not (mapped or address).is_loopback:
        return None
    wanted = {(endpoint(*peer), endpoint(*own))}
    if address.version == 4:  # a dual-stack client's socket stands in tcp6
        wanted.add((endpoint(f"::ffff:{peer[0]}", peer[1]), endpoint(f"::ffff:{own[0]}", own[1])))
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                lines = file.read().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if (fields[1], fields[2]) in wanted and fields[3] == _ESTABLISHED:
                return int(fields[7])
    return None


def endpoint(host: str, port: int) -> str:
    """ADDRESS:PORT as the table writes it: 32-bit words in the machine's byte order, in hexadecimal."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    packed = socket.inet_pton(family, host)
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return f"{''.join(f'{word:08X}' for word in words)}:{port:04X}"
