"""The whole audit, one finding after another, in an order that a reader can follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from socket import gethostname

from choir.app import canary
from choir.app.audit import gateway as gateway_attacks
from choir.app.audit import host, inside, web
from choir.app.audit.finding import Finding, held
from choir.app.audit.ground import Ground
from choir.app.run import Gateway
from choir.app.version import facts
from choir.config import Config
from choir.errors import ChoirError
from choir.isolation import self_check
from choir.isolation.contract import Backend
from choir.paths import State

_TARGETS = {
    "keys": "provider keys",
    "namespaces": "the host",
    "network": "the network",
    "files": "the host",
    "rights": "the host",
    "limits": "the machine",
    "landlock": "the host",
    "seccomp": "the host's kernel",
}
"""What a layer of the conformance suite stands before."""


async def about(config: Config, state: State, gateway: Gateway) -> dict[str, str]:
    """What is verified, where, when and with which versions."""
    which = "a gateway started for this" if gateway.own else "the running deployment"
    return {
        "verified": f"{which} in {state.root}",
        "host": gethostname(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "configuration": str(config.path) if config.path else "none: the defaults",
        "providers": ", ".join(provider.name for provider in gateway.providers) or "none",
        **{name: value for name, value in (await facts()).items() if name != "isolation"},
    }


async def audit(config: Config, state: State, backend: Backend, gateway: Gateway) -> AsyncIterator[Finding]:
    """Every finding; the launcher that does not run ends it, since nothing can be tried then."""
    try:
        layers, error = await backend.probe(), None
    except ChoirError as caught:
        layers, error = f"{caught.message} {caught.hint}", caught
    isolated = error is None and backend.name != "process"
    fix = 'backend = "bubblewrap" in the [sandbox] section of choir.toml, and what `choir doctor` says.'
    yield Finding("the host", "isolation", "launcher", "run the launcher", layers, held(isolated), fix)
    if error is not None:
        return
    pid = int((await gateway.control.status())["pid"])
    for finding in await asyncio.to_thread(lambda: list(host.findings(config, state, gateway, pid))):
        yield finding
    with Ground.open(config, state, backend, gateway) as ground:
        home = ground.home()
        results = await self_check.run(backend, lambda command, more: ground.spec(*command, home=home))
        for result in results:
            yield Finding(
                _TARGETS.get(result.layer, "the host"),
                result.name,
                result.layer,
                result.tried,
                result.came_back,
                held(result.ok),
                result.fix,
            )
        async for finding in inside.attacks(ground):
            yield finding
        yield inside.LIMIT
        for finding in await gateway_attacks.findings(ground):
            yield finding
    for finding in await asyncio.to_thread(web.findings, config, state.hypervisor_socket, not gateway.own):
        yield finding
    for outcome in await canary.run():
        yield Finding(
            "provider keys",
            outcome.name,
            "canary",
            outcome.tried,
            outcome.came_back,
            held(outcome.ok),
            "The gateway let something through that its table does not name; report this.",
        )
