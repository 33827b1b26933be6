"""Towards the provider over TLS: whose certificate is trusted, and that the key goes nowhere else."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from choir.config import Provider, Timeouts
from choir.gateway.tls import client_context
from choir.gateway.upstream import Upstream

from .conftest import StartGateway
from .harness import ANSWER, Double, provider


def test_the_key_is_in_the_head_and_nowhere_to_be_printed() -> None:
    fields = {"name": "p", "base_url": "https://api.example:8443/v1/", "carrier": "x-api-key: {key}"}
    upstream = Upstream(Provider(**fields), {"env:K": "sk-canary"}, "/run", Timeouts())  # type: ignore[arg-type]
    assert upstream.head(b"POST", b"/m?a=b", b"A: b\r\n", b"Content-Length: 0\r\n") == (
        b"POST /v1/m?a=b HTTP/1.1\r\nHost: api.example:8443\r\nx-api-key: sk-canary\r\n"
        b"A: b\r\nContent-Length: 0\r\n\r\n"
    )
    assert "sk-canary" not in repr(upstream)
    assert "sk-canary" not in str(upstream)


def test_tls_is_verified() -> None:
    context = client_context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


class TlsFront:
    """TLS in front of the double: decrypts, relays one connection at a time."""

    def __init__(self, folder: Path, double: Double, names: str) -> None:
        folder.mkdir()
        self.certificate = folder / "cert.pem"
        key = folder / "key.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-days", "2", "-subj", "/CN=double", "-addext", f"subjectAltName={names}"),
                *("-keyout", str(key), "-out", str(self.certificate)),
            ],
            check=True,
            capture_output=True,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self._double = double
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.handshakes = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            try:
                raw.settimeout(10)
                with self._context.wrap_socket(raw, server_side=True) as tls:
                    self.handshakes += 1
                    with socket.create_connection(("127.0.0.1", self._double.port)) as plain:
                        plain.sendall(tls.recv(65536))
                        while data := plain.recv(65536):
                            tls.sendall(data)
                            break
            except OSError:
                continue
            finally:
                raw.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def fronts(tmp_path: Path, double: Double) -> Iterator[dict[str, TlsFront]]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is needed to make certificates")
    fronts = {
        "good": TlsFront(tmp_path / "good", double, "IP:127.0.0.1"),
        "other-name": TlsFront(tmp_path / "other", double, "DNS:other.example"),
        "unknown": TlsFront(tmp_path / "unknown", double, "IP:127.0.0.1"),
    }
    yield fronts
    for front in fronts.values():
        front.close()


def test_tls(tmp_path: Path, double: Double, fronts: dict[str, TlsFront], start_gateway: StartGateway) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(fronts["good"].certificate.read_bytes() + fronts["other-name"].certificate.read_bytes())
    config = "".join(provider(name, front.port).replace("http://", "https://") for name, front in fronts.items())
    sandbox = start_gateway(config, SSL_CERT_FILE=str(trusted), PATH=os.defpath).sandbox()
    answer = sandbox.call(provider="good", headers="Connection: close\r\n")
    assert (answer.status, answer.body) == (200, ANSWER)
    for name in ("other-name", "unknown"):
        answer = sandbox.call(provider=name)
        assert (answer.status, answer.error["reason"]) == (502, "tls_untrusted"), name
        assert fronts[name].handshakes == 0
    assert len(double.requests) == 1, "no key went to a host that was not verified"
