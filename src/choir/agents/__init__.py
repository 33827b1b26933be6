"""Agent CLIs as people use them: configured to call the gateway, and found with what they need to run."""
