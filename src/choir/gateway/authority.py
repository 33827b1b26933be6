"""The TLS side of a sandbox's listener: a certificate authority of its own, worked out, never stored.

Some clients send a token over https only. The listener's certificate is signed by an authority that exists for one
sandbox: its private key is derived (HMAC-SHA512) from the gateway's token key and the sandbox's id, so that it is the
same after a restart and nothing is on disk; the sandbox is given the authority's certificate alone. The authority can
vouch for ``localhost`` and 127.0.0.1 only (name constraints, RFC 5280 4.2.1.10).

``cryptography`` is imported when the first certificate is made: it takes longer than everything else together.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import ssl
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the group of P-256 (SEC 2, 2.4.2): a private key is a number from 1 to this less 1."""
_LABEL = b"choir tls authority "
"""Nothing that the token key signs (``choir.tokens``) begins like this."""
_HOST = "localhost"
_ADDRESS = IPv4Address("127.0.0.1")
_FROM, _UNTIL = datetime(2024, 1, 1, tzinfo=UTC), datetime(2049, 12, 31, tzinfo=UTC)


def preload() -> None:
    """Make the imports, so that the first certificate does not wait for them."""
    import cryptography.x509  # noqa: F401


def certificate(token_key: bytes, sandbox_id: str) -> str:
    """The authority's certificate of a sandbox, PEM. Holds nothing secret."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return _authority(_private_key(token_key, sandbox_id)).public_bytes(Encoding.PEM).decode()


def server_context(token_key: bytes, sandbox_id: str) -> ssl.SSLContext:
    """What the sandbox's listener speaks TLS with: 1.2 or newer, HTTP/1.1, a certificate for localhost."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    signed = _leaf(key.public_key(), _private_key(token_key, sandbox_id))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # The module ssl reads files only; this one has no name and is never on a disk.
    descriptor = os.memfd_create("choir-tls", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        os.write(descriptor, signed.public_bytes(Encoding.PEM))
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context


def _private_key(token_key: bytes, sandbox_id: str) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    # 512 bits, so that the remainder is as good as even (FIPS 186-5, A.2.1).
    number = int.from_bytes(hmac.digest(token_key, _LABEL + sandbox_id.encode(), hashlib.sha512), "big")
    return ec.derive_private_key(number % (_ORDER - 1) + 1, ec.SECP256R1())


def _name(text: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(subject: str, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name("Choir sandbox"))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    allowed: list[x509.GeneralName] = [x509.DNSName(_HOST), x509.IPAddress(IPv4Network(f"{_ADDRESS}/32"))]
    return (
        _builder("Choir sandbox", key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted_subtrees=allowed, excluded_subtrees=None), critical=True)
        .sign(key, SHA256())
    )


def _leaf(public: ec.EllipticCurvePublicKey, issuer: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import ExtendedKeyUsageOID

    names = x509.SubjectAlternativeName([x509.DNSName(_HOST), x509.IPAddress(_ADDRESS)])
    return (
        _builder(_HOST, public)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(names, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
        .sign(issuer, SHA256())
    )
