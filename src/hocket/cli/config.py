"""Check a settings file, or print its JSON schema for an editor.

example: hocket config check hocket.yaml
         hocket config schema > hocket.schema.json
"""

from __future__ import annotations

import argparse
import json
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="say whether a settings file is right, and what it means")
    check.add_argument("file", help="path to hocket.yaml")
    check.add_argument("--json", action="store_true", help="print the settings with all defaults filled in")
    actions.add_parser("schema", help="print the JSON schema of the file")


def run(args: argparse.Namespace) -> int:
    import msgspec

    from hocket.settings import Settings, load_settings

    if args.action == "schema":
        json.dump(msgspec.json.schema(Settings), sys.stdout, indent=2)
        print()
        return 0
    settings = load_settings(args.file)
    if args.json:
        json.dump(msgspec.to_builtins(settings), sys.stdout, indent=2)
        print()
        return 0
    print(f"{args.file}: ok")
    print(f"  listen   {settings.listen}")
    print(f"  mode     {settings.mode}")
    print(f"  policy   {' > '.join(settings.orderings)}")
    for engine in settings.engines:
        count = engine.replicas if isinstance(engine.replicas, int) else len(engine.replicas)
        print(
            f"  engine   {engine.name} ({engine.kind}): {', '.join(engine.served)}; "
            f"{count} replica(s) x {engine.max_concurrency} calls"
        )
    tenants = ", ".join(f"{t.name} (weight {t.weight:g}, most urgent {t.most_urgent})" for t in settings.tenants)
    print(f"  tenants  {tenants or 'none: open, loopback only'}")
    return 0
