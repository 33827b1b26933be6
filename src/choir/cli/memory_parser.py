"""The arguments of ``choir memory``, apart from what it does: every ``choir`` that is parsed imports this."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def configure(parser: argparse.ArgumentParser, count: Callable[[str], int], *parents: argparse.ArgumentParser) -> None:
    """Give ``parser`` its actions.

    Args:
        count: the type of a number of things.
    """
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def add(name: str, about: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, parents=list(parents), help=about, description=about)
        made.set_defaults(action=name, parser=made)
        whose = made.add_mutually_exclusive_group()
        whose.add_argument("--sandbox", metavar="NAME", help="whose: a sandbox's name, or user/role; default: your own")
        whose.add_argument("--run", metavar="FOLDER", help="the memory of `choir run` in this folder")
        return made

    one = add("search", "Find what is remembered, the best first.")
    one.add_argument("query", nargs="+", metavar="WORD", help="words to look for")
    one.add_argument("-k", type=count, default=10, metavar="N", help="how many (default %(default)s)")
    one.add_argument("--collection", help="only this one: user_inputs, version_snapshots, run_ or doc_trajectories")

    one = add("explain", "Say why an item ranks where it does.")
    one.add_argument("item", metavar="ID", help="as search shows it")
    one.add_argument("query", nargs="+", metavar="WORD", help="the words that were looked for")

    one = add("forget", "Forget for good: nothing of it stays in the file or the index.")
    what = one.add_mutually_exclusive_group(required=True)
    what.add_argument("--id", nargs="+", metavar="ID", help="these items")
    what.add_argument("--source", help="all from this source")
    what.add_argument("--before", metavar="TIME", help="all from before 2026-11-24, or 30d ago")

    one = add("export", "Write everything as lines of JSON.")
    one.add_argument("--output", "-o", metavar="FILE", help="where to (default: standard output)")

    one = add("import", "Remember what was exported.")
    one.add_argument("file", help="lines of JSON; - is standard input")

    add("stats", "How much is remembered.")
