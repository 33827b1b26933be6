"""Durable state: the usage ledger and the registry of sandboxes."""
