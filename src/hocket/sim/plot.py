"""A picture of how policies compare: the share of jobs that is done within so many seconds of its arrival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hocket.errors import InputError


def write_cdfs(jct_s: Mapping[str, Sequence[float]], path: str | Path) -> None:
    """One curve a policy, of the JCT of its jobs. Needs matplotlib (the extra `plot`)."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--plot needs matplotlib; install it: pip install 'hocket[plot]'") from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for number, (policy, values) in enumerate(jct_s.items()):
        if values:
            panel.ecdf(values, label=policy, linestyle=("-", "--", ":", "-.")[number // 10 % 4])
    if any(value > 0 for values in jct_s.values() for value in values):
        panel.set_xscale("log")
    panel.set_xlabel("job completion time, seconds")
    panel.set_ylabel("share of jobs")
    panel.grid(alpha=0.3)
    panel.legend(frameon=False, fontsize=8)
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check the directory") from None
