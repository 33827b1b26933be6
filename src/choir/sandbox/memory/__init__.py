"""The memory of a sandbox: what was said and done, found again by its words."""
