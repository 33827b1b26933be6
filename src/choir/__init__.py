"""Choir runs AI agents for many people on machines they own; no agent ever holds a key."""

__version__ = "0.1.0"
