"""Signing in: passkeys, invitations, recovery codes, an identity provider, API tokens; and the pages for them."""
