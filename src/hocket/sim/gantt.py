"""Pictures of how jobs went: a Gantt chart as text or PNG, and a trace for chrome://tracing or Perfetto."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hocket.errors import InputError
from hocket.sim.driver import Span

MARKS = {"queued": "·", "sent": "-", "prefill": "▒", "decode": "█", "tool": "░"}
"phase -> its mark in a text chart"
COLOURS = {"queued": "#d9d9d9", "sent": "#b0b0b0", "prefill": "#f2a65a", "decode": "#3d7ea6", "tool": "#8fb996"}
MOST_INCHES = 400
"height of a PNG: more than matplotlib can draw is of no use to anyone"
LEGEND = "queued in hocket · | sent, waiting in its replica - | prefill ▒ | decode █ | tool ░"


Part = tuple[str, float, float]
"phase, from, to"


def phases(span: Span) -> Iterator[Part]:
    """(phase, from, to) of a stage, in order; those that took no time are left out. A displaced call queues again."""
    if span.kind == "tool":
        parts = [("tool", span.arrived, span.ended)]
    else:
        marks = [span.arrived, span.dispatched, span.started, span.first_token, span.ended]
        times = [span.ended if mark is None else mark for mark in marks]
        parts = [(name, times[i], times[i + 1]) for i, name in enumerate(("queued", "sent", "prefill", "decode"))]
        for away in span.away:
            parts = [piece for part in parts for piece in _cut(part, *away)]
    return ((name, start, end) for name, start, end in parts if end > start)


def _cut(part: Part, off: float, on: float) -> list[Part]:
    """A phase, of which the call was displaced from `off` to `on`."""
    name, start, end = part
    if on <= start or off >= end:
        return [part]
    return [(name, start, off), ("queued", max(start, off), min(end, on)), (name, on, end)]


def in_order(spans: Sequence[Span]) -> list[Span]:
    """Job by job as they began, their stages as they arrived."""
    begins: dict[str, float] = {}
    for span in spans:
        begins[span.job] = min(span.arrived, begins.get(span.job, math.inf))
    return sorted(spans, key=lambda span: (begins[span.job], span.job, span.arrived, span.ended, span.stage))


def as_text(spans: Sequence[Span], width: int = 100) -> str:
    """A line a stage. `width` is that of the whole, in characters."""
    if not spans:
        return "nothing ran"
    rows = in_order(spans)
    labels = [f"{span.job} {span.name}" for span in rows]
    margin = min(max(len(label) for label in labels), 40)
    first, last = min(span.arrived for span in rows), max(span.ended for span in rows)
    cells = max(width - margin - 2, 20)
    scale = cells / max(last - first, 1e-9)
    lines = [f"{'':{margin}} {f'{first:.3g} s':<{cells - 12}}{f'{last:.3g} s':>12}"]
    for label, span in zip(labels, rows, strict=True):
        bar = [" "] * cells
        for name, start, end in phases(span):
            left = min(int((start - first) * scale), cells - 1)
            right = max(math.ceil((end - first) * scale), left + 1)
            bar[left:right] = MARKS[name] * (min(right, cells) - left)
        lines.append(f"{label[:margin]:{margin}} {''.join(bar)}".rstrip())
    return "\n".join([*lines, LEGEND])


def write_png(charts: Mapping[str, Sequence[Span]], path: str | Path) -> None:
    """One panel a policy. Needs matplotlib (the extra `plot`)."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError:
        raise InputError("--gantt-png needs matplotlib; install it: pip install 'hocket[plot]'") from None
    most = max((len(spans) for spans in charts.values()), default=1)
    height = min(len(charts) * (1.2 + 0.22 * most), MOST_INCHES)
    figure = Figure(figsize=(10, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(charts), 1, sharex=True, squeeze=False)
    for (policy, spans), panel in zip(charts.items(), panels[:, 0], strict=True):
        rows = in_order(spans)
        for place, span in enumerate(rows):
            for name, start, end in phases(span):
                panel.barh(place, end - start, left=start, color=COLOURS[name], height=0.8)
        # names come from clients: a dollar in them is no formula
        panel.set_yticks(range(len(rows)), [f"{span.job} {span.name}" for span in rows], fontsize=7, parse_math=False)
        panel.invert_yaxis()
        panel.set_title(policy, loc="left", fontsize=9)
    panels[-1, 0].set_xlabel("seconds")
    patches = [Patch(color=colour, label=name) for name, colour in COLOURS.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=8, frameon=False)
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check the directory") from None


def chrome_trace(charts: Mapping[str, Sequence[Span]]) -> dict[str, Any]:
    """Chrome's trace format: a process a job (and policy), a thread a stage, a slice a phase; microseconds."""
    events: list[dict[str, Any]] = []
    pids: dict[tuple[str, str], int] = {}
    for policy, spans in charts.items():
        for tid, span in enumerate(in_order(spans)):
            key = (policy, span.job)
            if key not in pids:
                pids[key] = len(pids) + 1
                title = span.job if len(charts) == 1 else f"{span.job} ({policy})"
                events.append({"ph": "M", "name": "process_name", "pid": pids[key], "args": {"name": title}})
            where = {"pid": pids[key], "tid": tid}
            thread = {"name": f"{span.name} ({span.stage})"}
            events.append({"ph": "M", "name": "thread_name", **where, "args": thread})
            args = {"stage": span.name, "place": span.place}
            for name, start, end in phases(span):
                times = {"ts": round(start * 1e6, 3), "dur": round((end - start) * 1e6, 3)}
                events.append({"ph": "X", "name": name, "cat": span.kind, **where, **times, "args": args})
    return {"traceEvents": events, "displayTimeUnit": "ms"}
