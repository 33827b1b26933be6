"""The seccomp filter of a sandbox: a classic BPF program from the reviewed list ``data/seccomp.toml``.

A filter sees the call's number, the architecture and the six arguments (``struct seccomp_data``, seccomp(2)), nothing
behind a pointer. Whatever is refused answers with an errno; nothing kills, so programs can fall back.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
from binascii import a2b_base64, b2a_base64
from typing import NamedTuple

from choir.errors import IsolationError
from choir.kept import kept
from choir.places import data_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_* of linux/audit.h."""

# linux/bpf_common.h, linux/filter.h
_LOAD = 0x20  # A = the 32-bit word of seccomp_data at k
_EQUAL = 0x15
_AT_LEAST = 0x35
_BITS = 0x45  # A & k
_RETURN = 0x06

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000

_NUMBER = 0
_ARCHITECTURE = 4
_X32 = 0x40000000

_NAMESPACES = 0x7E020080  # every CLONE_NEW*: time, mount, cgroup, uts, ipc, user, pid, net
_CLONE_NAMESPACES = 0x7E020000  # clone's lowest byte is a signal number, which CLONE_NEWTIME lies in
_SETID_BITS = 0o6000
_CREATE = 0o100 | 0o20000000  # O_CREAT, O_TMPFILE's own bit (both architectures)
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_NETLINK = 16
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX


class Filter(NamedTuple):
    """A program for ``bwrap --seccomp`` and what it holds."""

    program: bytes
    rules: int
    """How many system calls it refuses, wholly or by argument."""


def _op(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, k)


def _argument(index: int) -> int:
    """Offset of an argument's low word; both architectures are little-endian."""
    return 16 + 8 * index


def _refuse(name: str) -> bytes:
    return _op(_RETURN, _ERRNO | getattr(errno, name))


def _refuse_bits(index: int, bits: int) -> list[bytes]:
    return [_op(_LOAD, _argument(index)), _op(_BITS, bits, 0, 1), _refuse("EPERM")]


def _refuse_values(index: int, values: tuple[int, ...]) -> list[bytes]:
    ops = [_op(_LOAD, _argument(index))]
    for value in values:
        ops += [_op(_EQUAL, value, 0, 1), _refuse("EPERM")]
    return ops


def _refuse_families() -> list[bytes]:
    """Only local and IP sockets, and of netlink only routing (protocol 0), which asks for interfaces."""
    ops = [_op(_LOAD, _argument(0))]
    for family in _FAMILIES:
        ops += [_op(_EQUAL, family, 0, 1), _op(_RETURN, _ALLOW)]
    ops += [_op(_EQUAL, _NETLINK, 1, 0), _refuse("EPERM")]
    return [*ops, _op(_LOAD, _argument(2)), _op(_EQUAL, 0, 1, 0), _refuse("EPERM")]


def _refuse_setid_creation(flags: int, mode: int) -> list[bytes]:
    """The mode argument is garbage unless the call may create a file."""
    check = _refuse_bits(mode, _SETID_BITS)
    return [_op(_LOAD, _argument(flags)), _op(_BITS, _CREATE, 0, len(check)), *check]


def _argument_rules() -> dict[str, list[bytes]]:
    """What is refused of each call. Set-id bits: the workspace is mapped to its owner, so such a file would be the
    owner's set-id program outside."""
    return {
        "clone": _refuse_bits(0, _CLONE_NAMESPACES),
        "unshare": _refuse_bits(0, _NAMESPACES),
        "ioctl": _refuse_values(1, _TERMINAL_INJECTION),
        "socket": _refuse_families(),
        "socketpair": _refuse_families(),
        "chmod": _refuse_bits(1, _SETID_BITS),
        "fchmod": _refuse_bits(1, _SETID_BITS),
        "fchmodat": _refuse_bits(2, _SETID_BITS),
        "fchmodat2": _refuse_bits(2, _SETID_BITS),
        "open": _refuse_setid_creation(1, 2),
        "openat": _refuse_setid_creation(2, 3),
        "creat": _refuse_bits(1, _SETID_BITS),
        "mknod": _refuse_bits(1, _SETID_BITS),
        "mknodat": _refuse_bits(2, _SETID_BITS),
    }


@functools.cache
def build(machine: str = "") -> Filter:
    """The filter for ``machine``, by default this one.

    Raises:
        IsolationError: ``seccomp_unsupported``: no reviewed numbers for this architecture.
    """
    machine = machine or os.uname().machine
    if machine not in ARCHITECTURES:
        raise IsolationError(
            "seccomp_unsupported",
            f"There is no system call table for {machine}.",
            f"Choir's sandboxes run on {' and '.join(ARCHITECTURES)}.",
        )
    sources = (data_file("seccomp.toml"), os.path.abspath(__file__))
    found = kept(f"seccomp-{machine}", sources, lambda: _assemble(sources[0], machine))
    return Filter(a2b_base64(found["program"]), found["rules"])


def _assemble(table_file: str, machine: str) -> dict[str, Any]:
    import tomllib

    column = list(ARCHITECTURES).index(machine)
    with open(table_file, "rb") as file:
        table = tomllib.load(file)
    ops = [
        _op(_LOAD, _ARCHITECTURE),
        _op(_EQUAL, ARCHITECTURES[machine], 1, 0),
        _refuse("ENOSYS"),
        _op(_LOAD, _NUMBER),
        _op(_AT_LEAST, _X32, 0, 1),
        _refuse("ENOSYS"),
    ]
    rules = 0
    for group in table["refused"]:
        for _name, *numbers in group["calls"]:
            if numbers[column] >= 0:
                ops += [_op(_EQUAL, numbers[column], 0, 1), _refuse(group["errno"])]
                rules += 1
    checks = _argument_rules()
    for name, numbers in table["arguments"].items():
        if numbers[column] >= 0:
            # The check loads an argument over the number, so it ends with a verdict of its own.
            check = [*checks.pop(name), _op(_RETURN, _ALLOW)]
            ops += [_op(_EQUAL, numbers[column], 0, len(check)), *check]
            rules += 1
    ops.append(_op(_RETURN, _ALLOW))
    return {"program": b2a_base64(b"".join(ops), newline=False).decode(), "rules": rules}
