"""The `hocket` command. Each subcommand is a module of this package, imported only when it is called.

A command module has `configure(parser)` and `run(args) -> int`. The exit code is 0, 1 (the answer is no) or 2 (bad
input: one line on standard error).
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from keyword import iskeyword
from types import ModuleType
from typing import NoReturn

from hocket import __version__
from hocket.errors import InputError

COMMANDS = {
    "serve": "run the gateway",
    "simulate": "run jobs through policies in virtual time",
    "workload": "generate jobs of a named application",
    "up": "run a plan of CPU cores on this machine",
    "down": "end what `up` began",
    "learn": "learn each application from its recorded jobs",
    "profile": "look at what was learned, and at what was believed of a job",
    "plan": "plan engines: how wide, how many, which share a device",
    "replay": "drive recorded jobs against a live gateway",
    "engine": "pull weights, run or profile an engine",
    "jobs": "list, show and export the jobs of the history",
    "import": "put the jobs of a trace into the history",
    "shadow": "say what another policy would have done with the jobs of the last hour",
    "tenants": "say who has what of the engines, and who waits for whom",
    "urgency": "learn from labelled texts how urgent a request is; measure and explain it",
    "keys": "make, list and revoke API keys",
    "config": "check a settings file",
    "demo": "three applications on two embedded engines, under two policies",
}
"name -> one line of help; the module is hocket.cli.<name>, with an underscore behind a word of Python's"


class Parser(argparse.ArgumentParser):
    """As argparse's, but bad usage is one line, like all other bad input."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    args = sys.argv[1:] if argv is None else list(argv)
    name = args[0] if args else ""
    if name in COMMANDS:
        return _run(name, args[1:])
    parser = Parser(
        prog="hocket",
        description="A scheduler for compound LLM applications.",
        epilog="example: hocket serve --config hocket.yaml   (hocket COMMAND --help tells more)",
    )
    parser.add_argument("--version", action="version", version=f"hocket {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command, text in COMMANDS.items():
        commands.add_parser(command, help=text, add_help=False)
    parser.parse_args(args)
    parser.print_help()
    return 0


def module_of(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"hocket.cli.{name}_" if iskeyword(name) else f"hocket.cli.{name}")


def _run(name: str, args: list[str]) -> int:
    module = module_of(name)
    parser = Parser(
        prog=f"hocket {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.configure(parser)
    try:
        return int(module.run(parser.parse_args(args)))
    except InputError as error:
        print(f"hocket {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
