"""The command ``cl-bench``: each sub-command is a module of ``cl_bench.commands``, imported when it is used."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from cl_bench import __version__
from cl_bench.errors import nearest

COMMANDS = {
    "run": "test the paper's claims of a method: pre-train, evaluate, judge",
    "plan": "show what a run would compute, how long that takes and with what power",
    "report": "write table and report again from what a store holds, training nothing",
    "compare": "compare the kept figures of two runs, claim by claim",
    "measure": "alignment, uniformity and performance of encoders of your own, pre-training none",
    "methods": "list the methods there are",
    "predictors": "list the predictors of performance there are",
    "data": "prepare, verify or look at the data of a profile",
    "new-method": "write a file to start a matching strategy from",
}
"""Each sub-command and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sub-command that the command line names.

    Args:
        arguments: What follows ``cl-bench``; the process's own arguments if None.

    Returns:
        The exit status: 0 for success, 1 where a claim or a check failed, 4 for a mistake in the command line, 130
        where it was interrupted, 141 where nobody reads its output any more (as in ``cl-bench plan | head``).
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    if not typed or typed[0] in ("-h", "--help"):
        print(_help())
        return 0 if typed else 4
    if typed[0] == "--version":
        print(f"cl-bench {__version__}")
        return 0
    name, *rest = typed
    if name not in COMMANDS:
        print(
            f"cl-bench: no command {name!r}{nearest(name, [*COMMANDS])}; commands: {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return 4
    try:
        status = _run(name, rest)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"cl-bench {name}: interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        from cl_bench.console import unread

        status = unread()
    return status


def _run(name: str, rest: Sequence[str]) -> int:
    """Run a sub-command with its arguments and return the exit status."""
    module = import_module(f"cl_bench.commands.{name.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"cl-bench {name}", description=COMMANDS[name].capitalize() + ".", allow_abbrev=False
    )
    module.add_arguments(parser)
    try:
        given, others = parser.parse_known_args(rest)
    except SystemExit as stopped:
        return 4 if stopped.code else 0
    if getattr(module, "PASSES_ON", False):
        given.others = others  # pytest's options, for the commands that run pytest
    elif others:
        print(f"cl-bench {name}: {_unknown(parser, others[0])}; cl-bench {name} --help lists them", file=sys.stderr)
        return 4
    status: int = module.run(given)
    return status


def _unknown(parser: argparse.ArgumentParser, word: str) -> str:
    """Say that a parser does not know a word of the command line, with the nearest option that it knows."""
    if not word.startswith("-"):
        return f"takes no argument {word!r} here"
    option = word.partition("=")[0]
    known = [known for action in parser._actions for known in action.option_strings]
    return f"no option {option!r}{nearest(option, known)}"


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: cl-bench COMMAND [OPTIONS]",
            "",
            "pytest for contrastive representations: do better aligned and more uniform features still go with better",
            "downstream performance?",
            "",
            *lines,
            "",
            "cl-bench COMMAND --help describes one command; cl-bench --version prints the version",
        ]
    )
