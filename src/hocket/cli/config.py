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
    return 0 if settings.profiles is None else _check_profiles(settings.profiles)


def _check_profiles(folder: str) -> int:
    """Which applications are known; 1 where the gateway would refuse a profile."""
    from hocket.profiles import read_usable_profiles

    found, problems = read_usable_profiles(folder)
    print(f"  profiles {folder}: {', '.join(found) or 'none'}")
    for problem in problems:
        print(f"profile refused: {problem}", file=sys.stderr)
    return 1 if problems else 0
