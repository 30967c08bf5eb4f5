"""Put the jobs of a trace into the history.

example: hocket import jobs.jsonl
         hocket import jobs.jsonl --history other.db
"""

from __future__ import annotations

import argparse

from hocket.errors import InputError


def configure(parser: argparse.ArgumentParser) -> None:
    from hocket.cli.jobs import add_source

    parser.add_argument("jobs", metavar="JOBS.jsonl", help="a trace: one job a line")
    add_source(parser)


def run(args: argparse.Namespace) -> int:
    from hocket.cli.jobs import store_of
    from hocket.history.imports import import_trace
    from hocket.history.store import StoreError

    store = store_of(args, reading=False)
    try:
        count, texts = import_trace(store, args.jobs)
    except StoreError as error:
        raise InputError(f"{error}; nothing was imported") from None
    print(f"{count} jobs of {args.jobs} are in {store.name}")
    if texts:
        print(f"the text of {texts} of them was left out: a history holds none")
    return 0
