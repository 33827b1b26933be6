from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir import digest


@given(st.binary(max_size=300))
def test_sha256(data: bytes) -> None:
    assert digest.sha256_hex(data) == hashlib.sha256(data).hexdigest()


@given(st.binary(max_size=64), st.binary(max_size=300))
def test_hmac(key: bytes, data: bytes) -> None:
    assert digest.hmac_sha256(key, data) == hmac.digest(key, data, "sha256")


def test_a_longer_key_is_refused() -> None:
    with pytest.raises(ValueError, match="64"):
        digest.hmac_sha256(bytes(65), b"")
