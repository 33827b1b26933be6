# What people do here. Each line is a script or a tool of .venv, and works without just.

_default:
    @just --list

# Install everything for development, and the commit hooks.
setup:
    ./scripts/setup

# Run Choir: just up [options of "choir up"].
up *arguments:
    ./scripts/up {{ arguments }}

# All that CI checks: just test [pytest's arguments].
test *arguments:
    ./scripts/test {{ arguments }}

# Lint, types and layers, with the fixes that can be made.
lint:
    .venv/bin/ruff format .
    .venv/bin/ruff check --fix .
    grep -lE '^#(!.*| shellcheck shell=)bash' scripts/* .ci/run | xargs .venv/bin/shellcheck
    .venv/bin/mypy
    .venv/bin/lint-imports

# Real agent CLIs; downloads hundreds of MB.
test-agents *arguments:
    ./scripts/test-agents {{ arguments }}

# Kill loops and soaks.
test-long *arguments:
    ./scripts/test-long {{ arguments }}

# Figures beside a reference: just bench gateway, just bench sandbox.
bench what *arguments:
    .venv/bin/python bench/{{ what }}/run.py {{ arguments }}

# The documents as a site; every link is checked.
docs:
    .venv/bin/python scripts/reference.py
    ./scripts/docs

# Work out the lock files anew: just lock [--upgrade].
lock *arguments:
    ./scripts/lock {{ arguments }}
