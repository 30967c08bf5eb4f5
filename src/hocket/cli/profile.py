"""Look at what was learned of an application, or at what was believed of a job while it ran.

example: hocket profile show research --profiles profiles --png research.png
         hocket profile explain job-3f2a91-17 --journal journal.jsonl
         hocket profile explain j17 --trace jobs.jsonl --profiles profiles
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocket.errors import InputError

if TYPE_CHECKING:
    from hocket.beliefs.profile import Edge, Node, Profile

PROFILES = "profiles"


def configure(parser: argparse.ArgumentParser) -> None:
    from hocket.cli.jobs import add_source

    actions = parser.add_subparsers(dest="action", required=True, metavar="show|explain")

    show = actions.add_parser("show", help="the graph, the sizes of its stages, how they go together")
    show.add_argument("app", metavar="APP", help="the application")
    show.add_argument("--profiles", default=PROFILES, metavar="DIR", help="where its profile is (%(default)s)")
    show.add_argument("--png", metavar="FILE", help="draw the correlations")
    show.add_argument("--svg", metavar="FILE", help="draw the correlations")
    show.add_argument("--json", action="store_true", help="as JSON")

    explain = actions.add_parser("explain", help="what was believed of a job, and when, and what came of it")
    explain.add_argument("job", metavar="JOB", help="its id, as its client knows it")
    explain.add_argument("--journal", metavar="FILE", help="a gateway's journal: its beliefs, replayed")
    explain.add_argument("--trace", metavar="FILE", help="a jobs.jsonl (the gateway's history)")
    add_source(explain)
    explain.add_argument("--tenant", metavar="NAME", help="with a history: of this tenant")
    explain.add_argument("--profiles", default=PROFILES, metavar="DIR", help="what is believed, but by a journal")
    explain.add_argument("--engines", metavar="FILE", help="engines.yaml: how fast they are, but in a journal")
    explain.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    from hocket.cli import explain

    actions: dict[str, Callable[[argparse.Namespace], int]] = {"show": _show, "explain": explain.run}
    return actions[args.action](args)


def profile_of(app: str, folder: str) -> Profile:
    """The profile of an application. Raises InputError, which names those that there are."""
    from hocket.beliefs.profile import decode_profile
    from hocket.profiles import file_name, read_profile, read_usable_profiles

    file = Path(folder) / file_name(app)
    if file.exists():
        profile = read_profile(file)
        if profile.app == app:
            return profile
    known, problems = read_usable_profiles(folder)
    if app in known:  # in a file of another name: somebody has renamed or copied it
        return decode_profile(known[app])
    if not Path(folder).is_dir():
        raise InputError(problems[0])
    raise InputError(f"{folder}: no profile of {app!r}; there is {', '.join(sorted(known)) or 'none'}")


# -------------------------------------------------------------------- show


def _show(args: argparse.Namespace) -> int:
    from hocket.beliefs.summary import correlations

    profile = profile_of(args.app, args.profiles)
    stages = [node.name for node in profile.nodes if node.kind != "dynamic"]
    names, matrix = correlations(profile.records, stages)
    for option, kind in ((args.png, "png"), (args.svg, "svg")):
        if option:
            from hocket.cli.heatmap import write_heatmap

            write_heatmap(names, matrix.tolist(), option, kind, f"{profile.app}: sizes of stages, rank correlation")
    if args.json:
        _print_json(profile, stages, names, matrix.tolist())
        return 0
    print(f"{profile.app}: learned from {profile.jobs} jobs, of which the profile keeps {len(profile.records)}")
    _print_graph(profile)
    _print_sizes(profile, stages)
    _print_correlations(names, matrix.tolist())
    _print_uncertainty(profile)
    return 0


def _print_graph(profile: Profile) -> None:
    table = _table("stages", ["stage", "kind", "models"], ["in jobs", "rounds", "tasks"], ["after"])
    for node in profile.nodes:
        if node.kind == "dynamic":
            chosen = zip(node.candidates, node.shares, strict=True)
            held = ", ".join(f"{name} {share:.0%}" for name, share in chosen)
            table.add_row(
                f"└ {node.name}", "dynamic", "", f"{node.present:.0%}", "", f"{node.tasks:.3g}", f"holds {held}"
            )
            continue
        table.add_row(
            *(node.name, node.kind, ", ".join(node.models), f"{node.present:.0%}"),
            *(_rounds(node), _tasks(node), ", ".join(_before(node, profile.edges))),
        )
    _print(table)


def _rounds(node: Node) -> str:
    """How many rounds of a loop a job has on average, and at most."""
    return f"{sum(node.rounds) / (node.present or 1):.3g}, ≤ {len(node.rounds)}" if len(node.rounds) > 1 else ""


def _tasks(node: Node) -> str:
    """How wide a round is."""
    widths = sorted(node.fan_out)
    return f"{widths[0]}-{widths[-1]}" if len(widths) > 1 else f"{widths[0]}" if widths else ""


def _before(node: Node, edges: list[Edge]) -> list[str]:
    found = []
    for edge in edges:
        if edge.after == node.name:
            share = "" if edge.share >= 0.995 else f" {edge.share:.0%}"
            found.append(f"{edge.before}{share}{' (again)' if edge.again else ''}")
    return found


def _print_sizes(profile: Profile, stages: list[str]) -> None:
    from hocket.beliefs.summary import QUANTILES, sizes

    table = _table("sizes", ["stage", ""], ["steps", "mean", *(f"p{round(100 * q)}" for q in QUANTILES)], [])
    for found in sizes(profile.records, stages):
        values = (f"{value:.4g}" for value in (found.mean, *found.quantiles))
        table.add_row(found.stage, found.fact, str(found.steps), *values)
    _print(table)


def _print_correlations(names: list[str], matrix: list[list[float]]) -> None:
    from hocket.cli.heatmap import as_text

    print("how the sizes of stages go together (rank correlation; 0 where a job lacks the stage)")
    print(as_text(names, matrix) if len(names) > 1 else "no two of them vary")
    print()


def _print_uncertainty(profile: Profile) -> None:
    from hocket.beliefs.information import reducing, stage_entropies
    from hocket.beliefs.summary import network_entropy

    if profile.network is None:
        print("which stages reduce uncertainty: not known; the profile has no Bayesian network (the extra `bayes`)")
        return
    bits = stage_entropies(profile.network)
    print(f"of a new job {network_entropy(profile.network):.3g} bits are not known")
    for name, structure in _structures(profile).items():
        print(f"{name}: {structure:.3g} bits of which stages there are, and which of them wait for which")
    table = _table("stages that reduce uncertainty", ["stage"], ["own bits", "bits it tells"], ["about"])
    for found in reducing(profile.network):
        informs = ", ".join(found.informs)
        table.add_row(found.variable, f"{bits[found.variable]:.2f}", f"{found.bits:.2f}", informs)
    _print(table)


def _structures(profile: Profile) -> dict[str, float]:
    """The structural uncertainty of each dynamic stage, in bits."""
    from hocket.beliefs.information import structure_entropy

    present = {node.name: node.present for node in profile.nodes}
    dynamic = [node for node in profile.nodes if node.kind == "dynamic"]
    return {node.name: structure_entropy(node, profile.edges, present) for node in dynamic}


def _print_json(profile: Profile, stages: list[str], names: list[str], matrix: list[list[float]]) -> None:
    import json

    import msgspec

    from hocket.beliefs.information import reducing, stage_entropies
    from hocket.beliefs.summary import network_entropy, sizes

    network = profile.network
    value: dict[str, Any] = {
        "app": profile.app,
        "jobs": profile.jobs,
        "records": len(profile.records),
        "nodes": msgspec.to_builtins(profile.nodes),
        "edges": [{n: getattr(edge, n) for n in edge.__struct_fields__} for edge in profile.edges],
        "sizes": [found._asdict() for found in sizes(profile.records, stages)],
        "correlations": {"names": names, "matrix": matrix},
        "entropy_bits": None if network is None else network_entropy(network),
        "structure_entropy_bits": _structures(profile),
        "stage_entropy_bits": None if network is None else stage_entropies(network),
        "reducing": None if network is None else [found._asdict() for found in reducing(network)],
    }
    json.dump(value, sys.stdout, indent=1)
    print()


# -------------------------------------------------------------------- printing


def _table(title: str, left: list[str], right: list[str], last: list[str]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for names, justify in ((left, "left"), (right, "right"), (last, "left")):
        for name in names:
            table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def _print(table: Any) -> None:
    from rich.console import Console

    from hocket.cli.jobs import console_for

    console_for(Console).print(table)
