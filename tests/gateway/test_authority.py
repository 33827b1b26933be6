"""The authority of a sandbox's TLS listener, as clients judge it."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from choir import tokens
from choir.gateway import authority

KEY = tokens.new_key()


def handshake(server: ssl.SSLContext, trusted: str, host: str) -> None:
    """A whole TLS handshake in memory, strictly verified (RFC 5280) as Python 3.13 does by default.

    Raises:
        ssl.SSLError: the client does not accept it.
    """
    client = ssl.create_default_context(cadata=trusted)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up, server_hostname=host), server.wrap_bio(up, down, server_side=True)]
    for _ in range(8):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not ends


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_client_that_trusts_it_and_nothing_else_is_content(host: str) -> None:
    handshake(authority.server_context(KEY, "s1"), authority.certificate(KEY, "s1"), host)


@pytest.mark.parametrize("host", ["localhost.example.org", "127.0.0.2", "api.openai.com"])
def test_it_vouches_for_no_other_host(host: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(authority.server_context(KEY, "s1"), authority.certificate(KEY, "s1"), host)


def test_it_could_not_even_sign_for_another_host() -> None:
    """Whoever had its private key: the name constraints hold."""
    private = authority._private_key(KEY, "s1")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = authority._builder("api.openai.com", key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("api.openai.com")]), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key())
    forged = builder.add_extension(identifier, critical=False).sign(private, hashes.SHA256())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load(context, key, forged)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        handshake(context, authority.certificate(KEY, "s1"), "api.openai.com")


def load(context: ssl.SSLContext, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    import tempfile

    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    with tempfile.NamedTemporaryFile() as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.write(certificate.public_bytes(Encoding.PEM))
        file.flush()
        context.load_cert_chain(file.name)


@pytest.mark.parametrize(("key", "sandbox_id"), [(KEY, "s2"), (tokens.new_key(), "s1")])
def test_of_one_sandbox_and_one_deployment_only(key: bytes, sandbox_id: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(authority.server_context(KEY, "s1"), authority.certificate(key, sandbox_id), "localhost")


def test_the_same_after_a_restart() -> None:
    """A sandbox keeps the certificate it was started with; a gateway that comes back works its key out anew."""
    before = authority.certificate(KEY, "s1")
    handshake(authority.server_context(KEY, "s1"), before, "localhost")
    keys = [
        x509.load_pem_x509_certificate(text.encode()).public_key()
        for text in (before, authority.certificate(KEY, "s1"))
    ]
    assert keys[0] == keys[1]


def test_what_a_sandbox_gets_holds_no_private_key() -> None:
    text = authority.certificate(KEY, "s1")
    assert text.count("-----BEGIN ") == text.count("-----BEGIN CERTIFICATE-----") == 1
    found = x509.load_pem_x509_certificate(text.encode())
    assert found.not_valid_before_utc < datetime.now(UTC) < found.not_valid_after_utc


def test_nothing_is_left_on_disk_or_open(tmp_path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    authority.server_context(KEY, "s1")
    assert len(set(Path("/proc/self/fd").iterdir())) <= len(before)
    assert list(tmp_path.iterdir()) == []
