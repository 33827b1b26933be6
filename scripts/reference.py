"""Write docs/reference/: the command line and choir.toml, from the code that takes them.

`python scripts/reference.py` writes; with `--check` it only says whether what is there is still right.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import itertools
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from choir import config
from choir.cli import main

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
MADE = "<!-- Made by scripts/reference.py; change the code instead. -->\n"
_EXIT_CODES = """
Exit codes: 0 well, 1 failed, 64 wrong use, 69 not available, 77 refused for a credential, 78 wrong configuration, 130
interrupted. `choir run` ends with its command's own.
"""


def command_line() -> str:
    """Every command with its options."""
    top = main.parser()
    (commands,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    parts = [MADE, "# The command line\n", _EXIT_CODES]
    for name, parser in commands.choices.items():
        parts.append(f"\n## choir {name}\n\n{parser.description}\n")
        parts.append(f"\n```\n{usage(parser)}\n```\n")
        options = [action for action in parser._actions if action.dest != "help"]
        rows = [f"| {_names(action)} | {_help(action, parser)} |" for action in options]
        parts.append("\n| | |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "".join(parts)


def usage(parser: argparse.ArgumentParser) -> str:
    """In one line, however wide the terminal is."""
    text = parser.format_usage().removeprefix("usage: ")
    return " ".join(text.split())


def _names(action: argparse.Action) -> str:
    if not action.option_strings:
        choices = "`, `".join(map(str, action.choices)) if action.choices else action.metavar or action.dest
        return f"`{choices}`"
    value = f" {action.metavar or action.dest.upper()}" if action.nargs != 0 else ""
    if action.choices:
        value = " " + "\\|".join(map(str, action.choices))
    return f"`{', '.join(action.option_strings)}{value}`"


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    if not action.help:
        return ""
    return (action.help % {**vars(action), "prog": parser.prog}).replace("|", "\\|")


def configuration() -> str:
    """Every table and key of choir.toml, with its type, default and meaning."""
    parts = [MADE, "# choir.toml, key by key\n\nHow to use them: [configuration](../configuration.md).\n"]
    parts += _tables(config.File, "")
    return "".join(parts)


def _tables(struct: Any, prefix: str) -> Iterator[str]:
    for field in msgspec.structs.fields(struct):
        inner, name = _struct_in(field.type), f"{prefix}{field.name}"
        if inner is None:
            continue
        title = f"[{name}]" if inner is field.type else f"[{name}.NAME]"
        rows = [
            f"| `{key.name}` | {_type(key.type)} | {_default(key)} | {_described(inner, key.name)} |"
            for key in msgspec.structs.fields(inner)
            if _struct_in(key.type) is None
        ]
        about = _words(inspect.getdoc(inner) or "")
        table = "| key | type | default | |\n|---|---|---|---|\n" + "\n".join(rows)
        yield f"\n## {title}\n\n{about}\n\n{table}\n"
        yield from _tables(inner, f"{title[1:-1]}.")


def _struct_in(kind: Any) -> Any:
    """The table type that a field is, or is a table of."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    if get_origin(kind) is dict:
        return _struct_in(get_args(kind)[1])
    return None


def _type(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    names = {bool: "true/false", int: "whole number", float: "number", str: "text"}
    if kind in names:
        return names[kind]
    if origin is tuple or origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"table of {_type(arguments[1])}"
    if str(origin).endswith("Annotated'>") or hasattr(kind, "__metadata__"):
        return _type(arguments[0])
    if str(origin) == "typing.Literal":
        return " or ".join(f"`{each}`" for each in arguments)
    return " or ".join(_type(each) for each in arguments if each is not type(None)) or str(kind)


def _default(field: Any) -> str:
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory
    if value is msgspec.NODEFAULT:
        return "must be given"
    if callable(value):
        value = value()
    if value is None or value in ((), {}, ""):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _described(struct: Any, name: str) -> str:
    """The string under a field in the source, PEP 258's attribute docstring."""
    for owner in struct.__mro__:
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        except (OSError, TypeError):
            continue
        body = tree.body[0].body  # type: ignore[attr-defined]
        for here, after in itertools.pairwise(body):
            named = isinstance(here, ast.AnnAssign) and isinstance(here.target, ast.Name) and here.target.id == name
            if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                return _words(str(after.value.value))
    return ""


def _words(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def pages() -> dict[str, str]:
    """By file name."""
    get_type_hints(config.File)  # fails at once on a type that cannot be told
    return {"command-line.md": command_line(), "configuration.md": configuration()}


def run(check: bool) -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    stale = [name for name, text in pages().items() if not _same(FOLDER / name, text)]
    if check:
        for name in stale:
            print(f"docs/reference/{name} is not what the code says: python scripts/reference.py", file=sys.stderr)
        return 1 if stale else 0
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
    return 0


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(run("--check" in sys.argv[1:]))
