"""Waiting by class, a bar for each policy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

Waits = Mapping[str, Mapping[int, tuple[float, float]]]
"policy -> class -> (mean wait, ...), seconds"
NAMES = {0: "emergency", 1: "urgent", 2: "notes", 3: "can wait", 4: "research"}
COLOURS = ("#9aa5b1", "#d9a441", "#7a5195", "#1f77b4")
LEAST_S = 0.05
"a shorter bar could not be seen"


def draw(panels: Mapping[str, Waits], path: Path) -> None:
    """A panel of each, waits on a logarithmic axis. Needs matplotlib (the extra `plot`)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, waits) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        classes = sorted({urgency for one in waits.values() for urgency in one})
        width = 0.8 / len(waits)
        for number, (policy, one) in enumerate(waits.items()):
            places = [place + width * (number - (len(waits) - 1) / 2) for place in range(len(classes))]
            heights = [max(one[urgency][0], LEAST_S) for urgency in classes]
            axes.bar(places, heights, width, label=policy, color=COLOURS[number % len(COLOURS)])
        axes.set_xticks(range(len(classes)), [f"{urgency}\n{NAMES[urgency]}" for urgency in classes])
        axes.set_yscale("log")
        axes.set_ylabel("mean wait, seconds")
        axes.set_title(title, fontsize=10)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(waits), frameon=False)
    figure.savefig(path)
