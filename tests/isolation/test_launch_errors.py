from __future__ import annotations

import pytest

from choir.isolation.launch_errors import explain_launch_failure


@pytest.mark.parametrize(
    ("output", "reason", "hint"),
    [
        (
            "bwrap: No permissions to create new namespace, likely because the kernel does not allow non-privileged "
            "user namespaces. See <https://example.org>",
            "user_namespaces_unavailable",
            "kernel.unprivileged_userns_clone=1",
        ),
        ("bwrap: setting up uid map: Permission denied", "user_namespaces_unavailable", "kernel.apparmor_restrict"),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", "user_namespaces_unavailable", "AppArmor"),
        (
            "bwrap: Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded (ENOSPC)",
            "user_namespaces_unavailable",
            "user.max_user_namespaces",
        ),
        ("bwrap: Can't mkdir /work/project: No space left on device", "no_space", "disk"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "proc_unavailable", "systempaths"),
        ("bwrap: prctl(PR_SET_SECCOMP): Invalid argument; seccomp", "seccomp_unavailable", "CONFIG_SECCOMP_FILTER"),
        ("bwrap: execvp /opt/python: Permission denied", "first_process_missing", "readable"),
        ("bwrap: Can't find source path /gone: No such file or directory", "mount_failed", "exists"),
        ("warning\nbwrap: something new", "launcher_failed", ""),
        ("", "launcher_failed", ""),
    ],
)
def test_what_the_launcher_said_becomes_a_reason_and_a_fix(output: str, reason: str, hint: str) -> None:
    found = explain_launch_failure(output, "exit code 1")
    assert found["reason"] == reason
    assert hint in found["hint"]
    said = output.splitlines()[-1].removeprefix("bwrap: ") if output else "exit code 1"
    assert said in found["message"]
    assert "bwrap:" not in found["message"]
