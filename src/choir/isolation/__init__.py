"""Backends that isolate one sandbox from everything else."""
