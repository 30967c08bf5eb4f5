"""Generate jobs of a named application.

example: hocket workload list
         hocket workload planning --jobs 500 --rate 0.8 --seed 1 -o jobs.jsonl
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable

from hocket.errors import InputError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME|MIX|list", help="an application or a mix, or `list` to see them")
    parser.add_argument("--jobs", type=int, default=100, metavar="N", help="how many (%(default)s)")
    parser.add_argument("--rate", type=float, default=1.0, metavar="R", help="jobs a second on average (%(default)s)")
    parser.add_argument("--arrivals", default="poisson", metavar="A", help="poisson, azure or servegen (%(default)s)")
    parser.add_argument(
        "--models", default="two", metavar="M", help="models asked for: one, two or three (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same jobs (%(default)s)")
    parser.add_argument("-o", "--output", default="-", metavar="FILE", help="a jobs.jsonl; - is standard output")
    parser.add_argument("--json", action="store_true", help="with `list`: as JSON")


def run(args: argparse.Namespace) -> int:
    from hocket.sim.workloads import APPLICATIONS, MIXED, MIXES, MODELS, generate
    from hocket.sim.workloads.arrivals import ARRIVALS
    from hocket.trace import encode_job, write_jobs

    if args.name == "list":
        about = {name: (add.__doc__ or "").strip() for name, add in APPLICATIONS.items()}
        about |= {name: f"A mix: {', '.join(apps)}; equally likely." for name, apps in MIXES.items()}
        about[MIXED] += " Four tenants of very different size, five classes of urgency."
        _print_list(about, args.json)
        return 0
    _check_known("an application or a mix", args.name, [*APPLICATIONS, *MIXES])
    _check_known("--arrivals", args.arrivals, ARRIVALS)
    _check_known("--models", args.models, MODELS)
    if args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}: use 1 or more")
    if not 0 < args.rate < math.inf:
        raise InputError(f"--rate {args.rate}: use jobs a second, above 0")
    jobs = generate(args.name, args.jobs, args.rate, args.seed, models=args.models, arrivals=args.arrivals)
    if args.output == "-":
        sys.stdout.buffer.writelines(encode_job(job) + b"\n" for job in jobs)
    else:
        write_jobs(args.output, jobs)
    return 0


def _check_known(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise InputError(f"{what}: {name!r} is none; known: {', '.join(known)}")


def _print_list(about: dict[str, str], as_json: bool) -> None:
    import json

    if as_json:
        print(json.dumps(about, indent=1))
        return
    width = max(map(len, about))
    for name, text in about.items():
        print(f"{name:{width}}  {text}")
