"""Putting Choir on a server: units and accounts, as text and as files."""
