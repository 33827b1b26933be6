"""The provider gateway: the only process that ever holds a provider key."""
