"""A matrix of correlations as blocks of text, or as a PNG or SVG."""

from __future__ import annotations

from collections.abc import Sequence

from hocket.errors import InputError

BLOCKS = " ░▒▓█"
"by strength: below 0.1, 0.3, 0.5, 0.8, and above"
BORDERS = (0.1, 0.3, 0.5, 0.8)
LEGEND = "░ above 0.1  ▒ 0.3  ▓ 0.5  █ 0.8; a minus: the larger the one, the smaller the other"
MOST_INCHES = 40


def as_text(names: Sequence[str], matrix: Sequence[Sequence[float]]) -> str:
    """The lower triangle, two characters a cell; columns go by the numbers of the rows."""
    margin = max(len(name) for name in names)
    lines = []
    for number, (name, row) in enumerate(zip(names, matrix, strict=True), 1):
        cells = "".join(f"{_cell(value):>3}" for value in row[: number - 1])
        lines.append(f"{number:3} {name:{margin}} {cells}{number:3}")
    return "\n".join([*lines, LEGEND])


def _cell(value: float) -> str:
    block = BLOCKS[sum(abs(value) >= border for border in BORDERS)]
    return f"{'-' if value < 0 and block != ' ' else ' '}{block}"


def write_heatmap(names: Sequence[str], matrix: Sequence[Sequence[float]], path: str, kind: str, title: str) -> None:
    """Write it as `kind`: png or svg. Needs matplotlib (the extra `plot`)."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(f"--{kind} needs matplotlib; install it: pip install 'hocket[plot]'") from None
    side = min(2.5 + 0.45 * len(names), MOST_INCHES)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    if names:
        image = panel.imshow(matrix, cmap="RdBu_r", vmin=-1.0, vmax=1.0)
        figure.colorbar(image, ax=panel, shrink=0.8)
        for y, row in enumerate(matrix):
            for x, value in enumerate(row):
                colour = "white" if abs(value) > 0.6 else "black"
                panel.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=6, color=colour)
    # names come from clients: a dollar in them is no formula
    panel.set_xticks(range(len(names)), names, rotation=90, fontsize=7, parse_math=False)
    panel.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
    panel.set_title(title, loc="left", fontsize=9, parse_math=False)
    try:
        figure.savefig(path, format=kind, dpi=120)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check the directory") from None
