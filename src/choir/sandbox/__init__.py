"""What runs inside a sandbox: the first process, the desktop, the agent loop."""
