"""Why the launcher could not make a sandbox: from what it printed to a reason and the fix."""

from __future__ import annotations

_NAMESPACES_HINT = (
    "Allow unprivileged user namespaces: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu 24.04 and "
    "later; or an AppArmor profile with `userns,` for the launcher), `sysctl -w kernel.unprivileged_userns_clone=1` "
    "(Debian), `sysctl -w user.max_user_namespaces=15000` (RHEL); in a container, its seccomp profile must allow "
    "clone(CLONE_NEWUSER)."
)

_KNOWN = (
    (
        ("No permissions to create", "creating new namespace failed", "setting up uid map", "setting up gid map",
         "Unexpected capabilities", "max_*_namespaces", "Failed RTM_NEWADDR", "Creating new namespace"),
        "user_namespaces_unavailable",
        "This machine does not allow the namespaces that isolate a sandbox",
        _NAMESPACES_HINT,
    ),
    (
        ("No space left on device", "Disk quota exceeded"),
        "no_space",
        "There is no disk space left for the sandbox",
        "Free some space on the disk of the workspace and the state folder.",
    ),
    (
        ("seccomp",),
        "seccomp_unavailable",
        "The kernel refused the seccomp filter",
        "The kernel needs CONFIG_SECCOMP_FILTER.",
    ),
    (
        ("Can't mount proc",),
        "proc_unavailable",
        "The kernel refused a private /proc",
        "In a container, run it with an unmasked /proc (docker: --security-opt systempaths=unconfined).",
    ),
    (
        ("bwrap: execvp", "error while loading shared libraries"),
        "first_process_missing",
        "The sandbox cannot run Choir's Python",
        "Python and Choir must be readable by every user: check the modes of their folders.",
    ),
    (
        ("Can't find source path", "Can't bind mount", "Can't create file", "Can't mkdir"),
        "mount_failed",
        "A folder cannot be shown in the sandbox",
        "Check that it exists and that the sandbox's user may read it.",
    ),
)  # fmt: skip


def explain_launch_failure(output: str, how: str) -> dict[str, str]:
    """``reason``, ``message`` and ``hint`` for a launcher that ended before the sandbox's first process spoke.

    Args:
        output: the end of what the launcher printed.
        how: "exit code 1" or "signal 9".
    """
    said = output.strip().splitlines()[-1].removeprefix("bwrap: ") if output.strip() else how
    for texts, reason, message, hint in _KNOWN:
        if any(text in output for text in texts):
            return {"reason": reason, "message": f"{message} ({said}).", "hint": hint}
    return {
        "reason": "launcher_failed",
        "message": f"The launcher ended before the sandbox began ({said}).",
        "hint": "",
    }
