"""Learn how urgent texts are from labelled ones, see how well that works, and why a text reads as it does.

example: hocket urgency train tickets.csv --text body --label severity -o tickets.head
         hocket urgency eval later.csv --text body --label severity --head tickets.head
         hocket urgency explain "the payment page is down" --head tickets.head
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hocket.errors import InputError

if TYPE_CHECKING:
    from hocket.semantics.encoder import Encoder
    from hocket.semantics.head import Predicted, Trained
    from hocket.semantics.reader import Reading
    from hocket.semantics.train import Labelled

LEVELS_HELP = "labels of another scale, most urgent first: 3,2,1,0 (else 0 is the most urgent, up to 4)"
_NEAREST = 5


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    train = actions.add_parser("train", help="learn a head from a CSV file of labelled texts")
    _of_table(train)
    train.add_argument("-o", "--output", required=True, metavar="HEAD", help="the file to write")
    train.add_argument(
        "--encoder", choices=("static", "minilm"), default="static", help="what texts are turned into (%(default)s)"
    )
    train.add_argument(
        "--keep-examples", action="store_true", help="store the texts too, so that explain can show them"
    )
    measure = actions.add_parser("eval", help="measure a head on other labelled texts")
    _of_table(measure)
    measure.add_argument("--head", required=True, metavar="HEAD", help="a file that train wrote")
    measure.add_argument("--plot", metavar="FILE", help="draw how far the probabilities can be believed, as PNG")
    measure.add_argument("--json", action="store_true", help="print all measures as JSON")
    explain = actions.add_parser("explain", help="say how a text reads, and why")
    explain.add_argument("text", help="what a user would write")
    explain.add_argument("--head", required=True, metavar="HEAD", help="a file that train wrote")
    explain.add_argument(
        "--field", action="append", default=[], metavar="NAME=VALUE", help="a feature that the head was trained with"
    )
    explain.add_argument("--json", action="store_true", help="print it as JSON")


def _of_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="F.csv", help="one row a text, with a line of column names")
    parser.add_argument("--text", required=True, metavar="COL", help="the column of the texts")
    parser.add_argument("--label", required=True, metavar="COL", help="the column of the labels, integers")
    parser.add_argument("--features", default="", metavar="A,B", help="columns that say more: numbers, or a few words")
    parser.add_argument("--levels", metavar="3,2,1,0", help=LEVELS_HELP)


def run(args: argparse.Namespace) -> int:
    import os

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the matrices are thin: more threads only wait for each other
    return {"train": _train, "eval": _eval, "explain": _explain}[args.action](args)


# ---------------------------------------------------------------- train


def _train(args: argparse.Namespace) -> int:
    encoder = _encoder(args.encoder)
    from hocket.semantics.head import write_head
    from hocket.semantics.train import train

    data = _table(args, _features(args))
    head = train(data, encoder, _features(args), keep_examples=args.keep_examples)
    write_head(args.output, head)
    print(f"{args.output}: {len(data)} texts, classes {', '.join(map(str, head.classes))}, encoder {encoder.name}")
    print("measured on the same texts, each held out once:")
    _print_measures(head.held_out)
    return 0


def _encoder(name: str) -> Encoder:
    try:
        from hocket.semantics.encoder import encoder
    except ImportError as error:
        remedy = "install it: pip install 'hocket[words]'"
        raise InputError(f"reading words needs a package that is not there ({error.name}); {remedy}") from None
    return encoder(name)


def _features(args: argparse.Namespace) -> list[str]:
    return [name for name in args.features.split(",") if name]


def _table(args: argparse.Namespace, features: Sequence[str]) -> Labelled:
    from hocket.semantics.table import MOST_URGENCY, read_table

    levels = None
    if args.levels is not None:
        try:
            levels = [int(level) for level in args.levels.split(",")]
        except ValueError:
            raise InputError(f"--levels {args.levels}: write integers with commas between, as 3,2,1,0") from None
        if len(set(levels)) != len(levels) or not 2 <= len(levels) <= MOST_URGENCY + 1:
            raise InputError(f"--levels {args.levels}: name 2 to {MOST_URGENCY + 1} different labels")
    return read_table(args.file, args.text, args.label, features, levels)


# ---------------------------------------------------------------- eval


def _eval(args: argparse.Namespace) -> int:
    from hocket.semantics import measures
    from hocket.semantics.reader import STRANGE

    model = _model(args.head)
    features = _features(args)
    for name in set(features) - set(model.declared):
        known = ", ".join(model.declared) or "none"
        raise InputError(f"--features {name}: {args.head} was not trained with it; its features: {known}")
    data = _table(args, features)
    found = model.predict(data.texts, data.given)
    result = measures.by_urgency(model.classes, data.urgency, found.shares, found.number)
    result["abstained"] = float((found.in_domain < STRANGE).mean())
    result["encoder"] = model.encoder.name
    if args.plot:
        _plot(args.plot, model, data, found)
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    _print_measures(result)
    print(f"  of another domain, by its words  {result['abstained']:.1%} of the texts")
    _print_confusion(result["confusion"])
    return 0


def _model(file: str) -> Trained:
    from hocket.semantics.head import Trained, read_head

    head = read_head(file)
    return Trained(head, _encoder(head.encoder))


def _print_measures(result: dict[str, Any]) -> None:
    def said(value: float | None) -> str:
        return "  -  " if value is None else f"{value:.3f}"

    print(f"  n {result['n']}   quadratic kappa {said(result['kappa_quadratic'])}   ece {said(result['ece'])}")
    for border, value in result["auroc_at_most"].items():
        recall = result["recall_at_precision_0.5"][border]
        slope = result["calibration_slope"][border]
        print(
            f"  class {border} or more urgent: auroc {said(value)}   recall at precision 0.5 {said(recall)}   "
            f"calibration slope {said(slope)}"
        )


def _print_confusion(confusion: dict[str, dict[str, int]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from hocket.cli.jobs import console_for

    table = Table(title="rows: labels; columns: what was read", title_justify="left")
    table.add_column("class", justify="right")
    for urgency in confusion:
        table.add_column(urgency, justify="right")
    for urgency, row in confusion.items():
        table.add_row(urgency, *map(str, row.values()))
    console_for(Console).print(table)


def _plot(path: str, model: Trained, data: Labelled, found: Predicted) -> None:
    """For each border, how often texts were at most of a class against how likely that was said to be."""
    import numpy as np

    from hocket.semantics import measures

    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--plot needs matplotlib; install it: pip install 'hocket[plot]'") from None
    figure = Figure(figsize=(6, 6), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    panel.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    at_most = np.cumsum(found.shares, axis=1)
    for k, urgency in enumerate(model.classes[:-1]):
        points = measures.bins(data.urgency <= urgency, at_most[:, k])
        panel.plot(
            [p["probability"] for p in points], [p["hits"] for p in points], marker="o", label=f"class <= {urgency}"
        )
    panel.set_xlabel("probability that was said")
    panel.set_ylabel("share of texts that were")
    panel.legend(frameon=False)
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check the folder") from None


# ---------------------------------------------------------------- explain


def _explain(args: argparse.Namespace) -> int:
    from hocket.semantics.reader import Reader
    from hocket.semantics.shouting import calm
    from hocket.semantics.text import REASONS, of_text

    model = _model(args.head)
    words = of_text(args.text).text
    reading = Reader(model).read(args.text, _fields(args.field, model.declared))
    told: dict[str, Any] = {
        "urgency": reading.urgency,
        "probabilities": {str(k): reading.probabilities[k] for k in model.classes if reading.probabilities},
        "in_domain": reading.in_domain,
        "reason": reading.reason,
        "says": REASONS[reading.reason],
        "read_as": calm(words),
        "nearest": _nearest(model, words, reading),
    }
    if args.json:
        print(json.dumps(told, indent=1))
        return 0
    print(f"urgency    {'none: the declared class stands' if reading.urgency is None else reading.urgency}")
    print(f"reason     {reading.reason}: {told['says']}")
    print(f"read as    {told['read_as'][:300]!r}")
    for urgency in model.classes if reading.probabilities else ():
        share = reading.probabilities[urgency]
        print(f"  class {urgency}  {share:6.1%}  {'#' * round(40 * share)}")
    print(f"in domain  {reading.in_domain:.2f}: the share of the domain's texts that are at least as strange")
    if model.head.examples:
        for one in told["nearest"]:
            print(f"  {one['similarity']:.2f}  class {one['urgency']}  {one['text'][:100]!r}")
    else:
        print("nearest    not stored; train with --keep-examples to see which texts it is like")
    return 0


def _fields(given: Sequence[str], declared: Sequence[str]) -> dict[str, float | str]:
    fields: dict[str, float | str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or name not in declared:
            known = ", ".join(declared) or "none"
            raise InputError(f"--field {one}: write NAME=VALUE, of a feature of the head; it has {known}")
        fields[name] = value
    return fields


def _nearest(model: Trained, text: str, reading: Reading) -> list[dict[str, Any]]:
    """The stored examples whose vectors are nearest."""
    from hocket.semantics.shouting import calm

    examples = model.head.examples
    if not examples or not reading.probabilities:
        return []
    vector = model.encoder.encode([calm(text)])[0]
    near = sorted(((float(one.vector @ vector), one) for one in examples), key=lambda pair: -pair[0])
    return [{"similarity": s, "urgency": one.urgency, "text": one.text} for s, one in near[:_NEAREST]]
