"""What the ``process`` backend runs first: waits to be told to proceed, then becomes the command or the desktop.

A program, run as ``python -I -S process_child.py PLAN REPORT``: descriptors of two pipes. On the first come two lines,
the plan as JSON and whether to proceed; on the second go ``{"phase": …}``, ``{"executing": true}`` or ``{"reason",
"message", "hint"}``, and it closes with the exec. Standard library only; of Choir only the
desktop, when it serves one.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from typing import Any

_REFUSED = 77
_UNAVAILABLE = 69


def main(plan_descriptor: int, report: int) -> None:
    for descriptor in (plan_descriptor, report):
        os.set_inheritable(descriptor, False)
    with open(plan_descriptor) as lines:
        plan: dict[str, Any] = json.loads(lines.readline())
        if lines.readline().strip() != "proceed":
            sys.exit(_REFUSED)  # whoever started us is gone
    for kind, value in ((resource.RLIMIT_NOFILE, plan["max_open_files"]), (resource.RLIMIT_CORE, 0),
                        (resource.RLIMIT_FSIZE, plan["max_file_bytes"])):  # fmt: skip
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    if plan["terminal"]:
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(plan["cwd"])
    if plan["desktop"] < 0:
        _become(plan, report)
    else:
        _serve(plan, report)


def _say(report: int, message: dict[str, Any]) -> None:
    os.write(report, json.dumps(message).encode() + b"\n")


def _become(plan: dict[str, Any], report: int) -> None:
    command, environment = plan["command"], plan["environment"]
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    _say(report, {"executing": True})
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 - no shell is the point; closes the report
    except FileNotFoundError:
        reason, said = "command_not_found", f"There is no command {command[0]}."
        hint = "Install it on this machine, or give its path."
    except OSError as error:
        reason, said = "command_not_executable", f"{command[0]} cannot be run: {error.strerror}."
        hint = "Is it executable, and the interpreter in its first line there?"
    _say(report, {"reason": reason, "message": said, "hint": hint})
    sys.exit(_UNAVAILABLE)


def _serve(plan: dict[str, Any], report: int) -> None:
    import importlib
    import site

    _say(report, {"phase": "desktop"})
    os.environ.clear()
    os.environ.update(plan["environment"])
    for folder in plan["sites"]:
        site.addsitedir(folder)
    sys.path.append(plan["source"])
    desktop = importlib.import_module(plan["desktop_module"])
    desktop.serve([socket.socket(fileno=plan["desktop"])], lambda: _say(report, {"phase": "ready"}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
