"""``choir``: the command line. Plain words, ``--json`` where there is something to read, exit codes for scripts.

argparse, since ``choir run`` is on the clock: typer and cyclopts take 80-140 ms to import on a slow machine, this 10.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from choir import __version__
from choir.errors import EXIT_USAGE, ChoirError
from choir.paths import State, default_state

Command = Callable[[argparse.Namespace], int]


def state_of(arguments: argparse.Namespace) -> State:
    return State(arguments.state.absolute()) if arguments.state else default_state()


def up(arguments: argparse.Namespace) -> int:
    from choir.app.up import up

    up(arguments.config, state_of(arguments), arguments.port)


def run(arguments: argparse.Namespace) -> int:
    import asyncio

    from choir.app.run import RunOptions, run

    command = tuple(arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command)
    if not command and arguments.agent:
        command = (arguments.agent,)
    if not command:
        raise ChoirError("no_command", "Nothing to run.", "Say what, e.g. choir run -- python agent.py")
    options = RunOptions(
        command=command,
        agent=arguments.agent,
        model=arguments.model,
        strict=arguments.strict,
        explain=arguments.explain,
    )
    return asyncio.run(run(arguments.config, state_of(arguments), options))


def usage(arguments: argparse.Namespace) -> int:
    from choir.cli.usage import usage

    return usage(state_of(arguments), arguments)


def verify(arguments: argparse.Namespace) -> int:
    import asyncio

    from choir.app.verify import verify

    return asyncio.run(verify(arguments.config, state_of(arguments), as_json=arguments.json))


def sandbox(arguments: argparse.Namespace) -> int:
    from choir.cli.sandbox import sandbox

    return sandbox(state_of(arguments), arguments)


def login(arguments: argparse.Namespace) -> int:
    from choir.cli.sandbox import login

    return login(state_of(arguments), arguments)


def config(arguments: argparse.Namespace) -> int:
    from choir.cli.config import config

    return config(arguments)


def model(arguments: argparse.Namespace) -> int:
    from choir.local_model import weights

    print(f"The local model's weights are at {weights.pull()}")
    return 0


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, metavar="FILE", help="choir.toml to use (default: ~/.config/choir)")
    common.add_argument("--state", type=Path, metavar="DIR", help="state folder (default: ~/.local/state/choir)")
    readable = argparse.ArgumentParser(add_help=False)
    readable.add_argument("--json", action="store_true", help="print JSON")

    top = argparse.ArgumentParser(prog="choir", description="Run AI agents that hold no key.")
    top.add_argument("--version", action="version", version=f"choir {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, act: Command, about: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made = commands.add_parser(name, parents=[common, *parents], help=about, description=about)
        made.set_defaults(act=act, json=False)
        return made

    one = add("up", up, "Start everything: gateway, hypervisor, desktops.")
    one.add_argument("--port", type=int, help="port of the desktop (default 7000)")

    one = add("run", run, "Run a command in this folder, isolated, without a key in reach.")
    one.usage = "choir run [options] -- COMMAND ..."
    one.add_argument("--agent", metavar="NAME", help="configure this agent CLI (claude, codex, pi, ...)")
    one.add_argument("--model", help="model for the agent")
    one.add_argument("--strict", action="store_true", help="refuse a folder with key files instead of masking them")
    one.add_argument("--explain", action="store_true", help="print the isolation plan and run nothing")
    one.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")

    one = add("usage", usage, "Who called what, when, how long, how many tokens.", readable)
    one.add_argument("--user", help="only this person's calls")
    one.add_argument("--sandbox", help="only this sandbox's calls")
    one.add_argument("--limit", type=int, default=20, help="how many calls (default 20)")

    add("verify", verify, "Prove that this deployment is keyless: attack it from inside a sandbox.", readable)

    one = add("sandbox", sandbox, "List, start, stop, swap sandboxes; read their logs; keep their homes.", readable)
    one.add_argument(
        "action",
        choices=[
            *("list", "start", "stop", "restart", "logs"),
            *("swap", "snapshot", "snapshots", "restore", "export"),
        ],
    )
    one.add_argument("name", nargs="?", help="a sandbox's name or id, or user/role; your own by default")
    one.add_argument("--snapshot", metavar="NAME", help="restore, export: which one (default: the newest; export: now)")
    one.add_argument("--from", dest="source", choices=["live", "dev"], help="restore: a snapshot of this role")
    one.add_argument("--output", "-o", metavar="FILE", help="export: the tar file to write (default: standard output)")

    add("login", login, "Another link to sign in with; it opens once.", readable)

    one = add("config", config, "Check the configuration.", readable)
    one.add_argument("action", choices=["check"])

    one = add("model", model, "Fetch the local model's weights, for an installation by pip.")
    one.add_argument("action", choices=["pull"])
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``choir`` with ``argv``; the exit code."""
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as error:
        return EXIT_USAGE if error.code else 0
    try:
        act: Command = arguments.act
        return act(arguments)
    except ChoirError as error:
        if arguments.json:
            print(json.dumps({"error": error.as_dict()}))
        print(f"choir: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"       {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141


if __name__ == "__main__":
    sys.exit(main())
