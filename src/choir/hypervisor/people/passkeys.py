"""Passkeys (https://www.w3.org/TR/webauthn-3/): discoverable and user-verifying, so they are the whole sign-in.

``webauthn`` does the cryptography. It takes a quarter of a second to import, so only who uses a passkey waits for it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from choir.errors import StartError
from choir.hypervisor.people.words import label
from choir.storage.people import Passkey, People

CEREMONY_SECONDS = 300.0
_MAX_CEREMONIES = 1000
_MAX_PER_USER = 20
_UNTIL = struct.Struct(">d")
_HEAD = 16 + _UNTIL.size


class PasskeyError(StartError):
    """What the browser sent does not prove anything. The message says nothing about why to whom it does not concern."""

    def __init__(self, why: str) -> None:
        super().__init__("passkey_refused", "This passkey was not accepted.", "Try again, or use a recovery code.")
        self.why = why
        """For the log."""


class Passkeys:
    """Ceremonies of one deployment; a challenge is good for one answer. Blocking: call it in a thread.

    Args:
        public_url: its host is the relying party's id, its origin the only one accepted.
    """

    def __init__(self, people: People, public_url: str, now: Callable[[], float] = time.time) -> None:
        self._people = people
        self._origin = public_url
        self._host = urlsplit(public_url).hostname or "localhost"
        self._now = now
        self._challenges: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        """To whose registration it belongs, and until when."""
        self._key = secrets.token_bytes(32)
        self._answered: dict[bytes, float] = {}
        """Challenges that signed somebody in, and until when they would be good."""

    def begin_registration(self, user: str) -> str:
        """Options for ``navigator.credentials.create``, as JSON.

        Raises:
            StartError: ``too_many_passkeys``.
        """
        import webauthn
        from webauthn.helpers import structs

        known = self._people.passkeys(user)
        if len(known) >= _MAX_PER_USER:
            raise StartError("too_many_passkeys", f"There are {len(known)} passkeys already.", "Remove one first.")
        options = webauthn.generate_registration_options(
            rp_id=self._host,
            rp_name="Choir",
            user_name=user,
            user_display_name=user,
            # The same for all of a user's passkeys, and telling nothing to who reads the authenticator.
            user_id=hashlib.sha256(f"choir user {user} {self._host}".encode()).digest(),
            exclude_credentials=[structs.PublicKeyCredentialDescriptor(id=_bytes(each.id)) for each in known],
            authenticator_selection=structs.AuthenticatorSelectionCriteria(
                resident_key=structs.ResidentKeyRequirement.REQUIRED,
                user_verification=structs.UserVerificationRequirement.REQUIRED,
            ),
        )
        self._remember(options.challenge, user)
        return webauthn.options_to_json(options)

    def finish_registration(self, user: str, credential: dict[str, Any], name: str) -> Passkey:
        """Keep what the browser made.

        Raises:
            PasskeyError, StartError: ``passkey_exists``.
        """
        import webauthn
        from webauthn.helpers.exceptions import WebAuthnException

        challenge = self._take(credential, user)
        try:
            verified = webauthn.verify_registration_response(
                credential=credential,
                expected_challenge=challenge,
                expected_rp_id=self._host,
                expected_origin=self._origin,
                require_user_verification=True,
            )
        except (WebAuthnException, ValueError, TypeError, KeyError) as error:
            raise PasskeyError(type(error).__name__) from error
        passkey = Passkey(
            id=_text(verified.credential_id),
            user=user,
            public_key=verified.credential_public_key,
            sign_count=verified.sign_count,
            name=label(name, "Passkey"),
            created=self._now(),
            used=None,
        )
        self._people.add_passkey(passkey)
        return passkey

    def begin_sign_in(self) -> str:
        """Options for ``navigator.credentials.get``, as JSON; the authenticator knows who it is."""
        import webauthn
        from webauthn.helpers import structs

        # Not kept but signed: strangers may ask for any number, and crowd nobody's out.
        head = secrets.token_bytes(16) + _UNTIL.pack(self._now() + CEREMONY_SECONDS)
        options = webauthn.generate_authentication_options(
            rp_id=self._host,
            challenge=head + self._mac(head),
            user_verification=structs.UserVerificationRequirement.REQUIRED,
        )
        return webauthn.options_to_json(options)

    def finish_sign_in(self, credential: dict[str, Any]) -> str:
        """Whose passkey it is.

        Raises:
            PasskeyError
        """
        import webauthn
        from webauthn.helpers.exceptions import WebAuthnException

        challenge, until = self._signed(credential)
        known = self._people.passkey(str(credential.get("id")))
        if known is None or self._people.user(known.user) is None:
            raise PasskeyError("unknown credential")
        try:
            verified = webauthn.verify_authentication_response(
                credential=credential,
                expected_challenge=challenge,
                expected_rp_id=self._host,
                expected_origin=self._origin,
                credential_public_key=known.public_key,
                credential_current_sign_count=known.sign_count,
                require_user_verification=True,
            )
        except (WebAuthnException, ValueError, TypeError, KeyError) as error:
            raise PasskeyError(type(error).__name__) from error
        if self._answered.setdefault(challenge, until) is not until:
            raise PasskeyError("replayed")
        self._people.passkey_used(known.id, verified.new_sign_count, self._now())
        return known.user

    def _remember(self, challenge: bytes, user: str) -> None:
        now = self._now()
        self._challenges[challenge] = (user, now + CEREMONY_SECONDS)
        while self._challenges:
            oldest = next(iter(self._challenges))
            if self._challenges[oldest][1] > now and len(self._challenges) <= _MAX_CEREMONIES:
                break
            del self._challenges[oldest]

    def _take(self, credential: dict[str, Any], user: str) -> bytes:
        """The challenge that ``credential`` answers, once."""
        challenge = _challenge(credential)
        whose, until = self._challenges.pop(challenge, (None, 0.0))
        if whose != user or until <= self._now():
            raise PasskeyError("unknown challenge")
        return challenge

    def _mac(self, head: bytes) -> bytes:
        return hmac.digest(self._key, head, "sha256")

    def _signed(self, credential: dict[str, Any]) -> tuple[bytes, float]:
        """The sign-in's challenge that ``credential`` answers, and until when it is good."""
        challenge, now = _challenge(credential), self._now()
        head, mac = challenge[:_HEAD], challenge[_HEAD:]
        if len(head) < _HEAD or not hmac.compare_digest(mac, self._mac(head)):
            raise PasskeyError("unknown challenge")
        (until,) = _UNTIL.unpack(head[-_UNTIL.size :])
        for each in [each for each, end in list(self._answered.items()) if end <= now]:
            self._answered.pop(each, None)
        if until <= now or challenge in self._answered:
            raise PasskeyError("unknown challenge")
        return challenge, until


def _challenge(credential: dict[str, Any]) -> bytes:
    try:
        client_data = json.loads(_bytes(credential["response"]["clientDataJSON"]))
        return _bytes(client_data["challenge"])
    except (KeyError, TypeError, ValueError) as error:
        raise PasskeyError("malformed") from error


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
