"""``choir``: the command line. Plain words, ``--json`` where there is something to read, exit codes for scripts.

``choir run`` is on the clock: nothing is imported here before it is needed, and a running ``choir up`` is asked before
argparse is.
"""

from __future__ import annotations

import sys

from choir.errors import EXIT_USAGE, ChoirError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from choir.paths import State

    Command = Callable[[argparse.Namespace], int]


def state_of(arguments: argparse.Namespace) -> State:
    from choir.paths import State, default_state

    return State(arguments.state.absolute()) if arguments.state else default_state()


def up(arguments: argparse.Namespace) -> int:
    from choir.app.up import up

    up(arguments.config, state_of(arguments), arguments.port, arguments.part)


def run(arguments: argparse.Namespace) -> int:
    import asyncio

    from choir.app.caller import RunOptions
    from choir.app.run import run

    command = tuple(arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command)
    if not command and arguments.agent:
        command = (arguments.agent,)
    if not command:
        raise UsageError("no_command", "Nothing to run.", "Say what, e.g. choir run -- python agent.py")
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

    return asyncio.run(
        verify(arguments.config, state_of(arguments), arguments.json, html=arguments.html, watch=arguments.watch)
    )


def sandbox(arguments: argparse.Namespace) -> int:
    from choir.cli.sandbox import sandbox

    return sandbox(state_of(arguments), arguments)


def login(arguments: argparse.Namespace) -> int:
    from choir.cli.sandbox import login

    return login(state_of(arguments), arguments)


def config(arguments: argparse.Namespace) -> int:
    from choir.cli.config import config

    return config(state_of(arguments), arguments)


def install(arguments: argparse.Namespace) -> int:
    from choir.cli.install import install

    return install(arguments)


def backup(arguments: argparse.Namespace) -> int:
    from choir.cli.backup import backup

    return backup(state_of(arguments), arguments)


def restore(arguments: argparse.Namespace) -> int:
    from choir.cli.backup import restore

    return restore(state_of(arguments), arguments)


def doctor(arguments: argparse.Namespace) -> int:
    from choir.cli.doctor import doctor

    return doctor(state_of(arguments), arguments)


def version(arguments: argparse.Namespace) -> int:
    from choir.cli.version import version

    return version(arguments)


def secrets(arguments: argparse.Namespace) -> int:
    from choir.cli.secrets import secrets

    return secrets(arguments)


def user(arguments: argparse.Namespace) -> int:
    from choir.cli.user import user

    return user(state_of(arguments), arguments)


def memory(arguments: argparse.Namespace) -> int:
    from choir.cli.memory import memory

    return memory(state_of(arguments), arguments)


def logs(arguments: argparse.Namespace) -> int:
    from choir.cli.logs import logs

    return logs(arguments)


def upgrade(arguments: argparse.Namespace) -> int:
    from choir.cli.upgrade import upgrade

    return upgrade(arguments)


def rollback(arguments: argparse.Namespace) -> int:
    from choir.cli.upgrade import rollback

    return rollback(arguments)


def model(arguments: argparse.Namespace) -> int:
    from choir.local_model import weights

    print(f"The local model's weights are at {weights.pull()}")
    return 0


def number(least: int, most: int = sys.maxsize) -> Callable[[str], int]:
    """A type of argparse: a whole number from ``least`` to ``most``."""
    import argparse

    def number(text: str) -> int:
        found = int(text)
        if not least <= found <= most:
            raise argparse.ArgumentTypeError(
                f"{text} is not {least} or more" + (f", up to {most}" if most < sys.maxsize else "")
            )
        return found

    return number


def parser() -> argparse.ArgumentParser:
    import argparse
    from pathlib import Path

    from choir import __version__
    from choir.cli import memory_parser

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
        made.set_defaults(act=act, parser=made, json=False)
        return made

    one = add("up", up, "Start everything: gateway, hypervisor, desktops.")
    one.add_argument("--port", type=number(0, 65535), help="port of the desktop (default 7000; 0: any)")
    one.add_argument(
        "part",
        nargs="?",
        default="all",
        choices=["all", "gateway", "hypervisor", "model"],
        help="only this part, as a service of its own (default: all)",
    )

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
    one.add_argument("--limit", type=number(1), default=20, help="how many calls (default 20)")
    one.add_argument("--by", choices=["user", "model", "day"], help="add up, instead of listing calls")
    one.add_argument("--days", type=number(1), default=30, help="--by, --csv: of the last so many days (default 30)")
    one.add_argument("--csv", action="store_true", help="print CSV: with --by its sums, without all of them")

    one = add("verify", verify, "Prove that this deployment is keyless: attack it from inside a sandbox.", readable)
    one.add_argument("--html", type=Path, metavar="FILE", help="write the report as a page, too")
    one.add_argument("--watch", type=float, metavar="SECONDS", help="again and again, until a round fails")

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

    one = add("memory", memory, "Search, explain, forget, export, import what a sandbox remembers.")
    memory_parser.configure(one, number(1), common, readable)

    one = add("login", login, "Another link to sign in with; it opens once.", readable)
    one.add_argument("user", nargs="?", help="whose (default: the first admin's)")

    one = add("user", user, "Who may use this deployment: invite, limit, sign out, remove, make an admin.", readable)
    actions = ["list", "invite", "remove", "promote", "demote", "limit", "sessions", "revoke"]
    one.add_argument("action", choices=actions)
    one.add_argument("name", nargs="?", help="the user's; for revoke a session's id")
    limits = "limit: FIELD=VALUE, e.g. usd_per_day=5 models='openai/* local/*'; FIELD= as configured; none: all of them"
    one.add_argument("limits", nargs="*", metavar="LIMIT", help=limits)
    one.add_argument("--admin", action="store_true", help="invite: as an admin")

    one = add("backup", backup, "Keep people, usage and homes in one file; nothing is stopped for it.", readable)
    one.add_argument("--output", "-o", metavar="FILE", help="default: choir-TIME.tar in this folder")

    one = add("restore", restore, "Put a backup back; what is there now is kept aside.", readable)
    one.add_argument("file", metavar="FILE")

    one = add(
        "doctor", doctor, "What is wrong with the disk, the files and the processes, and how to mend it.", readable
    )
    one.add_argument("--repair", action="store_true", help="save what can be read of a damaged database")

    one = add("version", version, "Which Choir this is.", readable)
    one.add_argument("--full", action="store_true", help="with everything that a bug report needs")

    one = add("secrets", secrets, "Which providers have a usable key; never the key.", readable)
    one.add_argument("action", choices=["check"])
    one.add_argument("--env-file", type=Path, metavar="FILE", help="the file of keys (default: the one in force)")

    one = add("config", config, "Check the configuration, or put it in force where Choir runs.", readable)
    one.add_argument("action", choices=["check", "apply"])

    one = add("install", install, "Write the services of a server: units, accounts, where keys go.")
    one.add_argument("kind", choices=["systemd", "keys"])
    one.add_argument("--dry-run", action="store_true", help="show every file and write none")
    one.add_argument(
        "--listen", default="127.0.0.1:7000", metavar="ADDRESS", help="public address (default %(default)s)"
    )

    one = add("logs", logs, "What hypervisor, gateway and sandboxes wrote, joined by ids.", readable)
    one.add_argument("id", nargs="?", metavar="ID", help="of a request or a sandbox, or its last characters")
    one.add_argument("--user", metavar="NAME", help="only what is this person's")
    one.add_argument("--since", metavar="WHEN", help="10m, 2h, 3d, 2026-11-24T12:30:00Z (default 24h; with ID: all)")
    one.add_argument("--level", default="info", choices=["debug", "info", "warning", "error"], help="this or worse")
    one.add_argument("--follow", "-f", action="store_true", help="go on with what is written from now on")

    one = add("upgrade", upgrade, "Bring another version into force beside this one, or go back by itself.", readable)
    one.add_argument("wheel", nargs="?", type=Path, metavar="WHEEL", help="none: end one that was broken off")
    one.add_argument("--find-links", type=Path, metavar="DIR", help="without a network: where every wheel it needs is")
    one.add_argument("--dry-run", action="store_true", help="check, show the plan, and change nothing")

    one = add("rollback", rollback, "Go back to the version before the last upgrade.", readable)
    one.add_argument("--restore-data", action="store_true", help="put back the data of before where it must be")
    one.add_argument("--dry-run", action="store_true", help="show the plan and change nothing")

    one = add("model", model, "Fetch the local model's weights, for an installation by pip.")
    one.add_argument("action", choices=["pull"])
    return top


def quick_run(words: Sequence[str]) -> int | None:
    """``choir run`` in plain words; the exit code, or None when it takes more than that.

    Raises:
        ChoirError: it was refused.
    """
    asked: dict[str, Any] = {"agent": None, "model": None, "strict": False, "state": None}
    rest = list(words[1:])
    while rest and rest[0].startswith("-") and rest[0] != "--":
        name = rest.pop(0).removeprefix("--")
        if name == "strict":
            asked[name] = True
        elif name in asked and rest and not rest[0].startswith("-"):
            asked[name] = rest.pop(0)
        else:
            return None
    command = rest[1:] if rest[:1] == ["--"] else rest
    if not command and asked["agent"]:
        command = [asked["agent"]]
    if words[:1] != ["run"] or not command:
        return None
    import os

    from choir.cli import client
    from choir.places import default_root

    state = asked.pop("state")
    root = os.path.abspath(state) if state else default_root(os.environ)
    return client.run(root, {"command": command, **asked})


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``choir`` with ``argv``; the exit code."""
    words = sys.argv[1:] if argv is None else argv
    as_json = False
    try:
        code = quick_run(words)
        if code is not None:
            return code
        try:
            arguments, surplus = parser().parse_known_args(words)
            if surplus:  # said with the usage of the command, not with that of `choir`
                arguments.parser.error(f"unknown: {' '.join(surplus)}")
        except SystemExit as error:
            return EXIT_USAGE if error.code else 0
        as_json = arguments.json
        act: Command = arguments.act
        return act(arguments)
    except ChoirError as error:
        from choir.app.notice import notice_error

        if as_json:
            import json

            print(json.dumps({"error": error.as_dict()}))
        notice_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141


def console() -> NoReturn:
    """The installed script: ``main``, and no tidying up of an interpreter that is not used again."""
    import os

    code = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads any more
            code = code or 141
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
