"""The attacks of ``choir verify`` and their report. Safe on a production host: everything is tried from, and on, what
the audit itself made; of others' things it only reads."""
