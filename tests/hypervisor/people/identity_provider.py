"""A small real OpenID Connect provider, over HTTP, with real signatures."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import RSAKey


@dataclass
class Provider:
    """Lets everybody in as ``claims`` say. ``claims`` and ``key`` may be changed to misbehave."""

    key: RSAKey
    issuer: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    published: RSAKey | None = None
    token_status: int = 200
    seen: list[dict[str, str]] = field(default_factory=list)

    def authorize(self, url: str) -> tuple[str, str]:
        """What the person's visit to the authorization endpoint leads to: (state, code)."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        self.query = query
        return query["state"], "the-code"

    async def authorize_over_http(self, request: web.Request) -> web.Response:
        """Lets the person in at once and sends the browser back."""
        state, code = self.authorize(str(request.url))
        back = f"{self.query['redirect_uri']}?{urlencode({'state': state, 'code': code})}"
        return web.Response(status=303, headers={"Location": back})

    async def configuration(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
            }
        )

    async def keys(self, _request: web.Request) -> web.Response:
        key = self.published or self.key
        return web.json_response({"keys": [key.as_dict(private=False)]})

    async def token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.seen.append(form)
        verifier = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        assert verifier.decode() == self.query["code_challenge"]
        claims = {
            "iss": self.issuer,
            "sub": "subject-1",
            "aud": "choir",
            "exp": int(time.time()) + 60,
            "nonce": self.query["nonce"],
            "email": "Ada@Example.org",
            "email_verified": True,
            "preferred_username": "ada",
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        text = jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)
        return web.json_response({"id_token": text, "access_token": "unused"}, status=self.token_status)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Provider]:
    provider = Provider(RSAKey.generate_key(2048, {"kid": "one"}))
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", provider.configuration)
    app.router.add_get("/keys", provider.keys)
    app.router.add_get("/authorize", provider.authorize_over_http)
    app.router.add_post("/token", provider.token)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    provider.issuer = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield provider
    finally:
        await runner.cleanup()
