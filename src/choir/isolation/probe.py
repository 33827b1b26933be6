"""What the conformance suite runs inside a sandbox: tries each way out and prints what came back, as JSON.

A program, run as ``python -I -S probe.py FACTS``; ``FACTS`` is what the host knows (``choir.isolation.self_check``).
Standard library only, no import of Choir. Nothing it tries does harm where it succeeds: files that ought not to be
writable are opened, never written.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import pty
import resource
import socket
import stat
import sys
from collections.abc import Callable
from typing import Any

Facts = dict[str, Any]
Verdict = tuple[bool, str]

_libc = ctypes.CDLL(None, use_errno=True)
_CALLS = {
    "x86_64": {"getpid": 39, "mount": 165, "keyctl": 250, "bpf": 321, "setns": 308, "unshare": 272, "chmodat": 268},
    "aarch64": {"getpid": 172, "mount": 40, "keyctl": 219, "bpf": 280, "setns": 268, "unshare": 97, "chmodat": 53},
}[os.uname().machine]
_IO_URING_SETUP, _CLONE3, _OPENAT2 = 425, 435, 437
_NEWUSER = 0x10000000


def _call(number: int, *arguments: Any) -> str:
    """The errno's name, or "allowed"."""
    ctypes.set_errno(0)
    if _libc.syscall(number, *arguments) >= 0:
        return "allowed"
    return errno.errorcode[ctypes.get_errno()]


def _reach(family: int, address: Any) -> Verdict:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        try:
            sock.connect(address)
        except OSError as error:
            return True, error.strerror or "timed out"
        return False, "connected"


def _processes(name: str) -> list[tuple[str, str]]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                found.append((pid, file.read().decode(errors="replace")))
        except OSError:
            continue
    return found


def _status(field: str) -> str:
    with open("/proc/self/status") as lines:
        return next((line.split()[1] for line in lines if line.startswith(field + ":")), "missing")


def _canary(facts: Facts, name: str) -> Verdict:
    canary = facts["canary"][::-1]  # handed over backwards, so as not to find itself
    texts = _processes(name)
    hits = [pid for pid, text in texts if canary in text]
    return not hits, f"{len(texts)} read, " + (f"canary in {', '.join(hits)}" if hits else "canary in none")


def canary_in_environ(facts: Facts) -> Verdict:
    return _canary(facts, "environ")


def canary_in_argv(facts: Facts) -> Verdict:
    return _canary(facts, "cmdline")


def launcher_environ(facts: Facts) -> Verdict:
    try:
        with open("/proc/1/environ", "rb") as file:
            size = len(file.read())
    except PermissionError:  # Landlock: no look at those who have not given up as much
        return True, "permission denied"
    return size == 0, f"{size} bytes"


def own_environ(facts: Facts) -> Verdict:
    unexpected = sorted(set(os.environ) - set(facts["variables"]))
    return not unexpected, f"{len(os.environ)} variables, unexpected: {', '.join(unexpected) or 'none'}"


def namespaces(facts: Facts) -> Verdict:
    shared = [name for name, inode in facts["namespaces"].items() if os.stat(f"/proc/self/ns/{name}").st_ino == inode]
    return not shared, f"shared with the host: {', '.join(shared) or 'none'} of {len(facts['namespaces'])}"


def interfaces(facts: Facts) -> Verdict:
    names = [name for _, name in socket.if_nameindex()]
    return names == ["lo"], ", ".join(names)


def name_lookup(facts: Facts) -> Verdict:
    try:
        found = socket.getaddrinfo("api.openai.com", 443)
    except OSError as error:
        return True, error.strerror or "failed"
    return False, f"{len(found)} addresses"


def ipv4(facts: Facts) -> Verdict:
    return _reach(socket.AF_INET, ("1.1.1.1", 443))


def link_local(facts: Facts) -> Verdict:
    return _reach(socket.AF_INET, ("169.254.169.254", 80))


def ipv6(facts: Facts) -> Verdict:
    return _reach(socket.AF_INET6, ("2606:4700:4700::1111", 443))


def dns_server(facts: Facts) -> Verdict:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        try:
            sock.sendto(b"\0" * 12, ("8.8.8.8", 53))
        except OSError as error:
            return True, error.strerror or "failed"
    return False, "sent"


def host_loopback(facts: Facts) -> Verdict:
    return _reach(socket.AF_INET, ("127.0.0.1", facts["tcp_port"]))


def host_sockets(facts: Facts) -> Verdict:
    reached = [path for path in facts["sockets"] if not _reach(socket.AF_UNIX, path)[0]]
    return not reached, f"{len(facts['sockets'])} tried, connected: {', '.join(reached) or 'none'}"


def abstract_socket(facts: Facts) -> Verdict:
    return _reach(socket.AF_UNIX, "\0" + facts["abstract"])


def gateway(facts: Facts) -> Verdict:
    refused, said = _reach(socket.AF_INET, ("127.0.0.1", facts["gateway_port"]))
    return not refused, said


def host_files(facts: Facts) -> Verdict:
    seen = [path for path in facts["files"] if os.path.exists(path)]
    return not seen, f"{len(facts['files'])} tried, there: {', '.join(seen) or 'none'}"


def system_read_only(facts: Facts) -> Verdict:
    open_to = [path for path in ("/", "/usr", "/etc", "/dev", "/proc/sys") if os.path.exists(path)]
    open_to = [path for path in open_to if not os.statvfs(path).f_flag & os.ST_RDONLY]
    return not open_to, f"writable: {', '.join(open_to) or 'none'}"


def code_read_only(facts: Facts) -> Verdict:
    folder = os.path.dirname(os.path.abspath(__file__))
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY), "read-only" if not os.access(folder, os.W_OK) else "writable"


def kernel_settings(facts: Facts) -> Verdict:
    opened = []
    for name in ("kernel/core_pattern", "kernel/modprobe", "vm/overcommit_memory", "kernel/hostname"):
        try:
            os.close(os.open(f"/proc/sys/{name}", os.O_WRONLY))
            opened.append(name)
        except OSError:
            continue
    return not opened, f"opened for writing: {', '.join(opened) or 'none'}"


def kernel_files(facts: Facts) -> Verdict:
    told = []
    for name in ("kcore", "keys", "kallsyms", "timer_list", "kmsg", "config.gz", "sysrq-trigger"):
        try:
            descriptor = os.open(f"/proc/{name}", os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        with open(descriptor, "rb", buffering=0) as file:
            try:
                if file.read(1):
                    told.append(name)
            except OSError:
                continue
    if os.path.exists("/sys/kernel"):
        told.append("/sys")
    return not told, f"readable: {', '.join(told) or 'none'}"


def user_namespace(facts: Facts) -> Verdict:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if _call(_CALLS["unshare"], _NEWUSER) == "allowed" else 1)
    allowed = os.waitpid(pid, 0)[1] == 0
    return not allowed, "made one" if allowed else "refused"


def capabilities(facts: Facts) -> Verdict:
    sets = {name: _status(name) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    held = [f"{name}={value}" for name, value in sets.items() if int(value, 16)]
    return not held, ", ".join(held) or "all five sets empty"


def new_privileges(facts: Facts) -> Verdict:
    value = _status("NoNewPrivs")
    return value == "1", f"NoNewPrivs: {value}"


def seccomp_active(facts: Facts) -> Verdict:
    value = _status("Seccomp")
    return value == "2", f"Seccomp: {value}"


def seccomp_calls(facts: Facts) -> Verdict:
    answers = {
        "mount": _call(_CALLS["mount"], None, None, None, 0, None),
        "setns": _call(_CALLS["setns"], -1, 0),
        "keyctl": _call(_CALLS["keyctl"], 0, -3, 0),
        "bpf": _call(_CALLS["bpf"], 0, None, 0),
        "io_uring_setup": _call(_IO_URING_SETUP, 0, None),
        "clone3": _call(_CLONE3, None, 0),
        "openat2": _call(_OPENAT2, -100, None, None, 0),
    }
    expected = {"io_uring_setup": "ENOSYS", "clone3": "ENOSYS", "openat2": "ENOSYS"}
    wrong = [f"{name}: {said}" for name, said in answers.items() if said != expected.get(name, "EPERM")]
    return not wrong, ", ".join(wrong) or f"{len(answers)} calls refused"


def foreign_abi(facts: Facts) -> Verdict:
    said = _call(0x40000000 | _CALLS["getpid"])
    return said == "ENOSYS", said


def socket_families(facts: Facts) -> Verdict:
    made = []
    for name, family, kind in (("packet", 17, 3), ("vsock", 40, 1), ("alg", 38, 5), ("bluetooth", 31, 3)):
        try:
            socket.socket(family, kind).close()
            made.append(name)
        except OSError as error:
            if error.errno != errno.EPERM:
                made.append(f"{name}: {error.strerror}")
    return not made, ", ".join(made) or "refused"


def terminal_injection(facts: Facts) -> Verdict:
    """In a session of its own, whose controlling terminal is the sandbox's own: only a filter stands in the way."""
    pid, leader = pty.fork()
    if pid == 0:
        try:
            fcntl.ioctl(0, 0x5412, b"x")  # TIOCSTI
        except OSError as error:
            os._exit(0 if error.errno == errno.EPERM else 2)
        os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(leader)
    return code == 0, "refused" if code == 0 else "injected"


def set_user_id(facts: Facts) -> Verdict:
    path = os.path.join(os.environ["HOME"], f".probe-{os.getpid()}")
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        said = _call(_CALLS["chmodat"], -100, os.fsencode(path), 0o4755)
    finally:
        os.unlink(path)
    return said == "EPERM", said


def user(facts: Facts) -> Verdict:
    ids = (*os.getresuid(), *os.getresgid())
    return 0 not in ids, f"uid {ids[0]}, gid {ids[3]}, groups {os.getgroups()}"


def descriptors(facts: Facts) -> Verdict:
    before = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(name))
            before.add(int(name))
        except OSError:
            continue
    return before <= {0, 1, 2}, f"open: {', '.join(map(str, sorted(before)))}"


def landlock(facts: Facts) -> Verdict:
    """The mounts would let /run be written to, and anybody may make a device that is no device (mknod(2), 0:0)."""
    if not facts["landlock"]:
        return True, "not in this kernel, the mounts stand alone"
    said = []
    home = os.environ["HOME"]
    for path, kind in ((f"/run/probe-{os.getpid()}", stat.S_IFREG), (f"{home}/.probe-{os.getpid()}", stat.S_IFCHR)):
        try:
            os.mknod(path, kind | 0o600)
            os.unlink(path)
            said.append("made")
        except OSError as error:
            said.append(errno.errorcode[error.errno or 0])
    return said == ["EACCES", "EACCES"], f"ABI {facts['landlock']}: a file in /run {said[0]}, a null device {said[1]}"


def resource_limits(facts: Facts) -> Verdict:
    values = {
        "processes": resource.getrlimit(resource.RLIMIT_NPROC)[1],
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "file size": resource.getrlimit(resource.RLIMIT_FSIZE)[1],
        "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
    }
    most = {"processes": "max_processes", "files": "max_open_files", "file size": "max_file_bytes"}
    # -1 is no limit.
    over = [name for name, value in values.items() if not 0 <= value <= (facts[most[name]] if name in most else 0)]
    return not over, ", ".join(f"{name} {value}" for name, value in values.items())


CHECKS: tuple[Callable[[Facts], Verdict], ...] = (
    descriptors, canary_in_environ, canary_in_argv, launcher_environ, own_environ, namespaces, interfaces, name_lookup,
    ipv4, link_local, ipv6, dns_server, host_loopback, host_sockets, abstract_socket, gateway, host_files,
    system_read_only, code_read_only, kernel_settings, kernel_files, user_namespace, capabilities,
    new_privileges, seccomp_active, seccomp_calls, foreign_abi, socket_families, terminal_injection,
    set_user_id, user, resource_limits, landlock,
)  # fmt: skip


def main() -> None:
    facts: Facts = json.loads(sys.argv[1])
    for check in CHECKS:
        try:
            ok, said = check(facts)
        except Exception as error:  # a check that cannot be made has failed
            ok, said = False, f"{type(error).__name__}: {error}"
        print(json.dumps({"name": check.__name__, "ok": ok, "came_back": said}), flush=True)


if __name__ == "__main__":
    main()
