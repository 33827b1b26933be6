"""The first process of a sandbox: opens the gateway's listener, checks that it is keyless, becomes the command.

Runs as ``python -I -S`` with Choir's read-only code, in ``/``, with an empty environment: nothing that an earlier
sandbox left in the home or workspace can run before the listener is out and the check is done. Its channel leads to the
keeper (``choir.isolation.keeper``). It sends ``{"phase": …}``, ``{"executing": true}`` or ``{"reason", "message",
"hint"}``, and waits for ``{"op": "proceed"}``. Standard library only, and little of it: every sandbox waits for these
imports.

One that is held for somebody who may come imports what a desktop needs instead, says ``{"held": true}`` and waits for
its plan. Until then it has no listener, no environment and no token, and looks at nothing in the home.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # ``signal`` without the enums
import _socket
import os
import resource
import sys

from choir import keyfiles, keyless, plain_json
from choir.channel import Channel, ChannelClosed
from choir.errors import EXIT_REFUSED, ChoirError, StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from choir.sandbox.doorman import Doorman

_DESKTOP_SOCKET = "/run/desktop.sock"
_PAGE = os.path.join(os.path.dirname(__file__), "static", "desktop.html")
_TIOCSCTTY = 0x540E


def main(descriptor: int) -> NoReturn:
    """Never returns: execs the command, or serves the desktop and exits."""
    os.set_inheritable(descriptor, False)
    channel = Channel(_socket.socket(fileno=descriptor))
    try:
        _run(channel)
    except ChoirError as error:
        channel.send(error.as_dict())
        sys.exit(error.exit_code)
    except ChannelClosed:  # the keeper is gone, and with it the reason to be
        sys.exit(EXIT_REFUSED)
    sys.exit(0)


def _run(channel: Channel) -> None:
    _close_all_but({0, 1, 2, channel.fileno()})
    message, plan, stdio = _told(channel)
    if "hold" in plan:
        for descriptor in stdio:
            os.close(descriptor)
        _get_ready(plan["hold"])
        channel.send({"held": True})
        message, plan, stdio = _told(channel)
        plan["sites"] = []
    channel.send({"phase": "namespace"})
    listener = _tcp_listener(plan["listener"])
    desktop = _unix_listener(_DESKTOP_SOCKET) if plan["desktop"] else None
    _check(plan, {0, 1, 2, channel.fileno(), listener.fileno(), *stdio, *([desktop.fileno()] if desktop else [])})
    channel.send({"phase": "keyless"})
    _hand_out(channel, listener, desktop)
    if plan["landlock"] is not None:
        import ctypes  # noqa: F401 - Landlock's; here it costs nothing, since others are at work
    if channel.receive()[0].get("op") != "proceed":
        raise ChannelClosed
    _limit(plan)
    for number, given in enumerate(stdio):
        os.dup2(given, number)
        os.close(given)
    if message["terminal"]:
        _take_terminal()
    if plan["landlock"] is not None:
        from choir.isolation.landlock import restrict

        restrict(**plan["landlock"])
    if desktop is None:
        _become(channel, plan)
    else:
        _serve_desktop(channel, plan, desktop)


def _told(channel: Channel) -> tuple[dict[str, Any], dict[str, Any], list[int]]:
    """(message, plan, descriptors for 0, 1 and 2)"""
    message, descriptors = channel.receive()
    with open(descriptors[0], "rb") as file:
        file.seek(0)
        return message, plain_json.loads(file.read()), descriptors[1:]


def _get_ready(sites: list[str]) -> None:
    """Import whatever the desktop will need; all of it is read-only code."""
    import gc

    _add_sites(sites)
    from choir.isolation import landlock
    from choir.sandbox import desktop, doorman  # noqa: F401

    landlock.abi()  # loads what it calls the kernel with
    desktop.get_ready()
    gc.collect()
    gc.freeze()  # nothing of it will ever be garbage: no need to look at it again


def _add_sites(folders: list[str]) -> None:
    import site

    for folder in folders:
        site.addsitedir(folder)


def _close_all_but(kept: set[int]) -> None:
    """The launcher's own: its arguments and data, in memory files that the keeper made. Whatever else is open is left
    for the check to find."""
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number in kept:
            continue
        try:
            if os.readlink(f"/proc/self/fd/{number}").startswith("/memfd:choir-"):
                os.close(number)
        except OSError:
            continue


def _tcp_listener(address: list[Any]) -> _socket.socket:
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    sock.bind((address[0], address[1]))
    sock.listen(1024)
    return sock


def _unix_listener(path: str) -> _socket.socket:
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    sock.bind(path)
    sock.listen(128)
    return sock


def _check(plan: dict[str, Any], descriptors: set[int]) -> None:
    if plan["guards"]:
        from choir.isolation import guards

        guards.check(plan["guards"])
    keyless.check_environment(plan["environment"])
    keyfiles.check_home(plan["home"])
    keyless.check_processes()
    keyless.check_descriptors(descriptors)


def _hand_out(channel: Channel, listener: _socket.socket, desktop: _socket.socket | None) -> None:
    """Pass the listener, the desktop's socket as a place to connect to, and a handle of this process; keep no copy."""
    handles = [listener.fileno()]
    if desktop is not None:
        handles.append(os.open(_DESKTOP_SOCKET, os.O_PATH | os.O_CLOEXEC))
        os.unlink(_DESKTOP_SOCKET)  # the handle is enough, and nobody inside shall connect to it
    handles.append(os.pidfd_open(os.getpid()))
    channel.send({"phase": "listener"}, handles)
    for handle in handles[1:]:
        os.close(handle)
    listener.close()


def _limit(plan: dict[str, Any]) -> None:
    """Set here because the limits belong to this user namespace; before it existed they would have counted outside."""
    for kind, value in (
        (resource.RLIMIT_NPROC, plan["max_processes"]),
        (resource.RLIMIT_NOFILE, plan["max_open_files"]),
        (resource.RLIMIT_FSIZE, plan["max_file_bytes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def _take_terminal() -> None:
    """Make descriptor 0 the controlling terminal of a session of our own (tty_ioctl(4))."""
    import fcntl
    from contextlib import suppress

    with suppress(PermissionError):  # the launcher made us a session leader already
        os.setsid()
    with suppress(OSError):  # somebody else's; the command runs without job control
        fcntl.ioctl(0, _TIOCSCTTY, 0)


def _find(command: str, path: str) -> str:
    if "/" in command:
        candidates = [command]
    else:
        candidates = [os.path.join(folder, command) for folder in path.split(":") if folder]
    present = [candidate for candidate in candidates if os.path.isfile(candidate)]
    for candidate in present:
        if os.access(candidate, os.X_OK):
            return candidate
    if present:
        raise StartError(
            "command_not_executable", f"{present[0]} is not executable.", f"Make it so: chmod +x {present[0]}"
        )
    raise StartError(
        "command_not_found",
        f"There is no command {command} in the sandbox.",
        "Install it on this machine, or give its path; the sandbox sees /usr, this folder and what is configured.",
    )


def _become(channel: Channel, plan: dict[str, Any]) -> None:
    environment: dict[str, str] = plan["environment"]
    command: list[str] = plan["command"]
    os.chdir(plan["cwd"])
    program = _find(command[0], environment["PATH"])
    channel.send({"executing": True})
    for ignored_by_python in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(ignored_by_python, _signal.SIG_DFL)  # a command would inherit it
    try:
        # Every descriptor but 0-2 is close-on-exec; the channel's closing is how the keeper sees the exec.
        os.execve(program, command, environment)  # noqa: S606 - no shell is the point
    except OSError as error:
        raise StartError(
            "command_not_executable",
            f"{program} cannot be run: {error.strerror}.",
            "Is the interpreter in its first line there, and is it built for this machine?",
        ) from error


def _serve_desktop(channel: Channel, plan: dict[str, Any], desktop: _socket.socket) -> None:
    channel.send({"phase": "desktop"})
    os.environ.update(plan["environment"])
    os.chdir(plan["cwd"])
    listeners = [desktop, _tcp_listener(plan["desktop"])]
    for number in (_signal.SIGTERM, _signal.SIGINT):  # until the desktop handles them; nothing is to be kept yet
        _signal.signal(number, lambda number, frame: os._exit(0))
    doorman = _doorman(listeners)
    if doorman is not None:
        channel.send({"phase": "ready"})
    import socket

    _add_sites(plan["sites"])
    from choir.sandbox.desktop import serve

    serve(
        [socket.socket(fileno=sock.detach()) for sock in listeners],
        lambda: None if doorman else channel.send({"phase": "ready"}),
        doorman.leave if doorman else list,
    )


def _doorman(listeners: list[_socket.socket]) -> Doorman | None:
    """One at work, when there is a page to answer with."""
    from choir.sandbox.doorman import Doorman

    try:
        with open(_PAGE, "rb") as file:
            doorman = Doorman(listeners, file.read())
    except FileNotFoundError:  # not built: the desktop says so
        return None
    doorman.start()
    return doorman
