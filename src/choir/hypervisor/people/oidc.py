"""Signing in with the house's identity provider: OpenID Connect Core 1.0, authorization code flow with PKCE (RFC 7636).

Only the ID token is used; the access token is dropped. ``joserfc`` verifies.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlencode

import aiohttp

from choir.config import OidcEntry
from choir.errors import StartError
from choir.hypervisor.sessions import digest

CALLBACK = "/login/oidc/callback"
FLOW_SECONDS = 600.0
_METADATA_SECONDS = 3600.0
_MAX_FLOWS = 20_000
"""About 10 MB. Enough that strangers with a thousand addresses do not crowd out whoever takes a minute."""
_ANSWER_BYTES = 1024 * 1024
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_TIMEOUT = aiohttp.ClientTimeout(total=10)


class OidcError(StartError):
    """``oidc_refused`` or ``oidc_unreachable``; ``why`` is for the log."""

    def __init__(self, reason: str, message: str, why: str) -> None:
        super().__init__(reason, message, "Try again; if it stays so, tell the admin, who finds why in Choir's log.")
        self.why = why


@dataclass(frozen=True)
class Identity:
    """What the provider says of a person. ``email`` is "" unless it was verified."""

    issuer: str
    subject: str
    email: str
    name: str


@dataclass(frozen=True)
class _Flow:
    nonce: str
    verifier: str
    browser: str
    """Hash of the cookie of the browser that began it."""
    until: float


class IdentityProvider:
    """One configured provider.

    Args:
        secret: of the client, "" for a public client.
        public_url: the hypervisor's, to come back to.
    """

    def __init__(self, entry: OidcEntry, secret: str, public_url: str, now: Callable[[], float] = time.time) -> None:
        self._entry = entry
        self._secret = secret
        self._redirect = public_url + CALLBACK
        self._now = now
        self._flows: OrderedDict[str, _Flow] = OrderedDict()
        self._metadata: dict[str, Any] = {}
        self._keys: dict[str, Any] = {}
        self._fetched = 0.0

    async def begin(self) -> tuple[str, str]:
        """Where to send the browser, and the value of a cookie that binds the answer to it.

        Raises:
            OidcError: ``oidc_unreachable``.
        """
        metadata = await self._discover()
        state, cookie = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        verifier, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
        now = self._now()
        self._flows[state] = _Flow(nonce, verifier, digest(cookie), now + FLOW_SECONDS)
        while len(self._flows) > _MAX_FLOWS or next(iter(self._flows.values())).until <= now:
            self._flows.popitem(last=False)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self._entry.client_id,
                "redirect_uri": self._redirect,
                "scope": "openid email profile",
                "state": state,
                "nonce": nonce,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )
        where = str(metadata["authorization_endpoint"])
        return f"{where}{'&' if '?' in where else '?'}{query}", cookie

    async def finish(self, state: str, code: str, cookie: str) -> Identity:
        """Who came back.

        Raises:
            OidcError
        """
        flow = self._flows.pop(state, None)
        if flow is None or flow.until <= self._now() or flow.browser != digest(cookie):
            raise OidcError("oidc_refused", "This sign-in was begun elsewhere, or too long ago.", "unknown state")
        metadata = await self._discover()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect,
            "client_id": self._entry.client_id,
            "code_verifier": flow.verifier,
        }
        if self._secret:
            form["client_secret"] = self._secret
        answer = await self._fetch("POST", str(metadata["token_endpoint"]), form)
        claims = await self._verify(str(answer.get("id_token", "")), flow.nonce)
        verified = claims.get("email_verified") in (True, "true")
        return Identity(
            issuer=str(claims["iss"]),
            subject=str(claims["sub"]),
            email=str(claims.get("email", "")).lower() if verified else "",
            name=str(claims.get("preferred_username") or claims.get("email") or claims.get("name") or ""),
        )

    async def _verify(self, token: str, nonce: str) -> dict[str, Any]:
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        registry = jwt.JWTClaimsRegistry(
            now=int(self._now()),
            leeway=60,
            iss={"essential": True, "value": self._entry.issuer},
            aud={"essential": True, "value": self._entry.client_id},
            sub={"essential": True},
            exp={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        for fresh in (False, True):  # a key that is not known yet: the provider may have rotated
            if fresh or not self._keys:
                self._keys = await self._fetch("GET", str((await self._discover())["jwks_uri"]))
            try:
                claims = jwt.decode(token, KeySet.import_key_set(self._keys), algorithms=_ALGORITHMS).claims  # type: ignore[arg-type]
                registry.validate(claims)
            except (JoseError, ValueError, KeyError, TypeError) as error:
                if fresh:
                    raise OidcError(
                        "oidc_refused", "The identity provider's answer was not accepted.", type(error).__name__
                    ) from error
            else:
                break
        audience = claims["aud"]
        if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != self._entry.client_id:
            raise OidcError("oidc_refused", "The identity provider's answer was not accepted.", "azp")
        return claims

    async def _discover(self) -> dict[str, Any]:
        if not self._metadata or self._now() - self._fetched > _METADATA_SECONDS:
            url = self._entry.issuer.rstrip("/") + "/.well-known/openid-configuration"
            metadata = await self._fetch("GET", url)
            if metadata.get("issuer") != self._entry.issuer:  # OpenID Connect Discovery 1.0, section 4.3
                raise OidcError("oidc_unreachable", "The identity provider is not the configured one.", "issuer")
            if not all(metadata.get(name) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")):
                raise OidcError("oidc_unreachable", "The identity provider is set up incompletely.", "metadata")
            self._metadata, self._keys, self._fetched = metadata, {}, self._now()
        return self._metadata

    async def _fetch(self, method: str, url: str, form: dict[str, str] | None = None) -> dict[str, Any]:
        failed = "The identity provider does not answer as it should."
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as client,
                client.request(method, url, data=form, allow_redirects=False) as response,
            ):
                body = await response.content.read(_ANSWER_BYTES)
                if response.status != 200:
                    raise OidcError("oidc_unreachable", failed, f"status {response.status}")
                answer = await response.json(content_type=None) if not body else _json(body)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise OidcError("oidc_unreachable", failed, type(error).__name__) from error
        return answer


def _json(body: bytes) -> dict[str, Any]:
    import json

    answer = json.loads(body)
    if not isinstance(answer, dict):
        raise ValueError("not an object")
    return answer


def may_join(entry: OidcEntry, identity: Identity) -> bool:
    """Whether a person who was never here may come in: by a verified address that a pattern covers. Pure."""
    return bool(identity.email) and any(fnmatchcase(identity.email, pattern.lower()) for pattern in entry.allow)


def is_admin(entry: OidcEntry, identity: Identity) -> bool:
    """Whether the configuration makes this person an admin. Pure."""
    return bool(identity.email) and identity.email in {address.lower() for address in entry.admins}


def user_name(identity: Identity, taken: set[str]) -> str:
    """A free user name near what the provider calls the person. Pure."""
    stem = re.sub(r"[^a-z0-9._-]+", "-", identity.name.split("@")[0].lower()).strip("-._")[:24]
    if not stem or not stem[0].isalpha():
        stem = f"user-{stem}".rstrip("-")
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name
