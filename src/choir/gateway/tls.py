"""TLS towards the providers."""

from __future__ import annotations

import os
import ssl

_CA_FILES = (
    *("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"),
    *("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem"),
)


def client_context() -> ssl.SSLContext:
    """TLS 1.2 or newer, verified against the system's CAs (``SSL_CERT_FILE`` where it is set), HTTP/1.1 only."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is None:  # a Python that was built for another distribution
        for path in _CA_FILES:
            if os.path.exists(path):
                context.load_verify_locations(path)
                break
    return context
