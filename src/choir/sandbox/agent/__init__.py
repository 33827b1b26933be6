"""The agent loop: a person's prompt, a model, its tools; every run is events in the event store."""
