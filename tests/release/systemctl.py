"""A stand-in for systemd where there is none: the units' own commands, started, stopped and waited for as it does.

``UNITS=folder python systemctl.py show|restart … UNIT``. The folder has the units' text; what runs is in sessions
of its own, its pid kept as UNIT.pid, its output as UNIT.log. It speaks sd_notify(3)'s protocol and hands over sockets
(sd_listen_fds(3)) and credentials. Nothing of what else a unit asks for.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

UNITS = Path(os.environ["UNITS"])
ACTIVATED = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[1], sys.argv[1:])
"""


def values(unit: str, name: str) -> list[str]:
    return re.findall(rf"(?m)^{name}=(.*)$", (UNITS / unit).read_text())


def pid_of(unit: str) -> int | None:
    try:
        pid = int((UNITS / f"{unit}.pid").read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else pid


def show(unit: str) -> None:
    if not (UNITS / unit).exists():
        print("LoadState=not-found")
        return
    (command,) = values(unit, "ExecStart")
    path = command.split()[0]
    print(f"LoadState=loaded\nActiveState={'active' if pid_of(unit) else 'inactive'}")
    print(f"ExecStart={{ path={path} ; argv[]={command} ; ignore_errors=no ; start_time=[n/a] ; pid=0 }}")
    print(f"Environment={' '.join(values(unit, 'Environment'))}")


def stop(unit: str) -> None:
    pid = pid_of(unit)
    if pid is not None:
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGTERM)  # KillMode=process, or mixed
        with open(pidfd, "rb"):
            signal.alarm(60)
            select.select([pidfd], [], [])
            signal.alarm(0)


def start(unit: str) -> int:
    """The exit code of systemctl: 0 when it says READY=1."""
    (command,) = values(unit, "ExecStart")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(UNITS)}
    environment |= dict(value.split("=", 1) for value in values(unit, "Environment"))
    folder = UNITS / f"{unit}.credentials"
    folder.mkdir(exist_ok=True)
    for name, path in (value.split(":", 1) for value in values(unit, "LoadCredential")):
        (folder / name).unlink(missing_ok=True)
        shutil.copy(path, folder / name)
        (folder / name).chmod(0o400)
    environment["CREDENTIALS_DIRECTORY"] = str(folder)
    words = command.split()
    sockets = []
    if unit == "choir.service":
        host, port = values("choir.socket", "ListenStream")[0].split(":")
        sockets.append(socket.create_server((host, int(port)), reuse_port=True))
        os.dup2(sockets[0].fileno(), 3)
        os.set_inheritable(3, True)
        environment["LISTEN_FDS"] = "1"
        words = [sys.executable, "-c", ACTIVATED, *words]
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    address = UNITS / f"{unit}.notify"
    address.unlink(missing_ok=True)
    notify.bind(str(address))
    environment["NOTIFY_SOCKET"] = str(address)
    with open(UNITS / f"{unit}.log", "ab") as log:
        process = subprocess.Popen(
            words, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            pass_fds=(3,) if sockets else (),
        )  # fmt: skip
    (UNITS / f"{unit}.pid").write_text(str(process.pid))
    notify.settimeout(0.2)
    while process.poll() is None:
        try:
            if b"READY=1" in notify.recv(1000):
                return 0
        except TimeoutError:
            continue
    print(f"Job for {unit} failed because the control process exited with error code.", file=sys.stderr)
    return 1


def main() -> int:
    unit = sys.argv[-1]
    if sys.argv[1] == "show":
        show(unit)
        return 0
    stop(unit)
    return start(unit) if sys.argv[1] in ("restart", "start") else 0


if __name__ == "__main__":
    sys.exit(main())
