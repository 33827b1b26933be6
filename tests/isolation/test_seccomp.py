"""The filter is interpreted here, on made-up calls; the kernel's own verdict is in test_self_check."""

from __future__ import annotations

import errno
import struct
import tomllib
from importlib.resources import files

import pytest

from choir.errors import IsolationError
from choir.isolation.seccomp import ARCHITECTURES, build

ALLOW = "allow"
TABLE = tomllib.loads(files("choir").joinpath("data/seccomp.toml").read_text())


def verdict(machine: str, number: int, *arguments: int, architecture: int | None = None) -> str:
    """Interpret the program as the kernel would (linux/filter.h)."""
    audit = ARCHITECTURES[machine] if architecture is None else architecture
    data = struct.pack("=iIQ6Q", number, audit, 0, *(arguments + (0,) * (6 - len(arguments))))
    ops = list(struct.iter_unpack("=HBBI", build(machine).program))
    accumulator = position = 0
    while True:
        code, yes, no, k = ops[position]
        position += 1
        match code:
            case 0x20:
                accumulator = struct.unpack_from("=I", data, k)[0]
            case 0x15:
                position += yes if accumulator == k else no
            case 0x35:
                position += yes if accumulator >= k else no
            case 0x45:
                position += yes if accumulator & k else no
            case 0x06:
                return ALLOW if k == 0x7FFF0000 else errno.errorcode[k & 0xFFFF]
            case _:
                raise AssertionError(f"unexpected instruction {code:#x}")


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_every_listed_call_is_refused(machine: str) -> None:
    column = list(ARCHITECTURES).index(machine)
    for group in TABLE["refused"]:
        assert group["why"]
        for name, *numbers in group["calls"]:
            if numbers[column] >= 0:
                assert verdict(machine, numbers[column]) == group["errno"], name


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_everyday_calls_are_allowed(machine: str) -> None:
    listed = {call[1 + list(ARCHITECTURES).index(machine)] for group in TABLE["refused"] for call in group["calls"]}
    for number in set(range(300)) - listed - {numbers[0] for numbers in TABLE["arguments"].values()}:
        if machine == "x86_64":
            assert verdict(machine, number, *[0xFFFFFFFF] * 6) == ALLOW, number


CALLS = {name: numbers[0] for name, numbers in TABLE["arguments"].items()}


@pytest.mark.parametrize(
    ("call", "arguments", "expected"),
    [
        ("clone", (0x01200011,), ALLOW),  # fork
        ("clone", (0x003D0F00,), ALLOW),  # pthread_create
        ("clone", (0x10000011,), "EPERM"),  # CLONE_NEWUSER
        ("clone", (0x40000011,), "EPERM"),  # CLONE_NEWNET
        ("unshare", (0x400,), ALLOW),  # CLONE_FILES
        ("unshare", (0x10000000,), "EPERM"),
        ("unshare", (0x80,), "EPERM"),  # CLONE_NEWTIME
        ("ioctl", (0, 0x5401), ALLOW),  # TCGETS
        ("ioctl", (0, 0x5414), ALLOW),  # TIOCSWINSZ
        ("ioctl", (0, 0x5412), "EPERM"),  # TIOCSTI
        ("ioctl", (0, 0x541C), "EPERM"),  # TIOCLINUX
        ("ioctl", (0, 0xFFFFFFFF00005412), "EPERM"),  # the kernel looks at the low word only
        ("socket", (1, 1, 0), ALLOW),
        ("socket", (2, 2, 0), ALLOW),
        ("socket", (10, 1, 6), ALLOW),
        ("socket", (16, 3, 0), ALLOW),  # NETLINK_ROUTE
        ("socket", (16, 3, 15), "EPERM"),  # NETLINK_KOBJECT_UEVENT
        ("socket", (17, 3, 0), "EPERM"),  # AF_PACKET
        ("socket", (40, 1, 0), "EPERM"),  # AF_VSOCK
        ("socketpair", (1, 1, 0), ALLOW),
        ("socketpair", (30, 1, 0), "EPERM"),  # AF_TIPC
        ("chmod", (0, 0o755), ALLOW),
        ("chmod", (0, 0o4755), "EPERM"),
        ("fchmod", (3, 0o2755), "EPERM"),
        ("fchmodat", (3, 0, 0o4755), "EPERM"),
        ("fchmodat2", (3, 0, 0o4755, 0), "EPERM"),
        ("fchmodat2", (3, 0, 0o1777, 0), ALLOW),
        ("open", (0, 0, 0o4755), ALLOW),  # without O_CREAT the mode is garbage
        ("open", (0, 0o101, 0o4755), "EPERM"),
        ("openat", (0, 0, 0o101, 0o644), ALLOW),
        ("openat", (0, 0, 0o101, 0o4755), "EPERM"),
        ("openat", (0, 0, 0o20200001, 0o4755), "EPERM"),  # O_TMPFILE
        ("creat", (0, 0o4755), "EPERM"),
        ("mknod", (0, 0o104755), "EPERM"),
        ("mknodat", (0, 0, 0o104755), "EPERM"),
    ],
)
def test_arguments(call: str, arguments: tuple[int, ...], expected: str) -> None:
    assert verdict("x86_64", CALLS[call], *arguments) == expected


def test_every_rule_on_arguments_is_in_the_table() -> None:
    from choir.isolation import seccomp

    assert set(seccomp._argument_rules()) == set(TABLE["arguments"])


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_foreign_architectures_and_x32(machine: str) -> None:
    assert verdict(machine, 39, architecture=0x40000003) == "ENOSYS"  # i386
    assert verdict(machine, 0x40000000 | 39) == "ENOSYS"


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(IsolationError) as caught:
        build("riscv64")
    assert caught.value.reason == "seccomp_unsupported"
