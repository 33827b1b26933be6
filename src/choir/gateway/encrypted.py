"""Files of keys that are encrypted on the disk: age (https://age-encryption.org) and sops. Decrypted into memory only,
by the programs themselves; who holds the private key is told to them by a path."""

from __future__ import annotations

import os
from pathlib import Path

from choir.errors import ConfigError

SECONDS = 20.0
_MAX_BYTES = 1024 * 1024


def is_encrypted(path: Path) -> bool:
    """By its name: ``*.age``, ``*.sops.env`` or ``*.sops``."""
    return path.name.endswith((".age", ".sops.env", ".sops"))


def decrypt(path: Path) -> str:
    """The text of the file; "" when there is none.

    The private key is in the file that ``$CHOIR_AGE_KEY_FILE`` names, else in the credential ``age.key`` of the unit.

    Raises:
        ConfigError: ``age_key_missing``, ``decrypt_tool_missing``, ``decrypt_failed``. What the program says is not
            repeated: it has seen the secrets.
    """
    if not path.exists():
        return ""
    import subprocess

    key = _private_key(path)
    if path.name.endswith(".age"):
        command = ["age", "--decrypt", "--identity", str(key), str(path)]
    else:
        command = ["sops", "--decrypt", "--input-type", "dotenv", "--output-type", "dotenv", str(path)]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "SOPS_AGE_KEY_FILE": str(key), "HOME": "/nonexistent"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
    except FileNotFoundError:
        raise ConfigError(
            "decrypt_tool_missing", f"{path} needs the program `{command[0]}`.", f"Install {command[0]}."
        ) from None
    except subprocess.TimeoutExpired:
        raise ConfigError("decrypt_failed", f"{command[0]} did not decrypt {path} within {SECONDS:g} s.") from None
    if done.returncode or len(done.stdout) > _MAX_BYTES:
        raise ConfigError(
            "decrypt_failed", f"{command[0]} could not decrypt {path}.", f"Is {key} the private key it was made for?"
        )
    try:
        return done.stdout.decode()
    except UnicodeDecodeError:
        raise ConfigError("decrypt_failed", f"{path} does not hold text.") from None


def _private_key(path: Path) -> Path:
    named = os.environ.get("CHOIR_AGE_KEY_FILE")
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    key = Path(named) if named else Path(folder, "age.key") if folder else None
    if key is None or not key.is_file():
        raise ConfigError(
            "age_key_missing",
            f"{path} is encrypted and its private key is not there.",
            "Name it with CHOIR_AGE_KEY_FILE, or LoadCredential=age.key:… in the gateway's unit.",
        )
    info = key.stat()
    if not folder and (info.st_mode & 0o077 or info.st_uid not in (0, os.geteuid())):
        raise ConfigError("key_file_exposed", f"{key} is a private key and open to others.", f"chmod 600 {key}")
    return key
