"""A plan as a picture: devices as bars with their engines as blocks, the critical paths before and after above them.

SVG of its own, without scripts: it is looked at in browsers and in documents, in light and in dark.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from math import ceil
from xml.etree import ElementTree as ET

from hocket.planner.inputs import Cluster
from hocket.planner.plan import EnginePlan, Plan, ReplicaPlan

Paths = Mapping[str, Mapping[str, Mapping[str, float]]]
"planner -> application -> engine (or `tools`) -> seconds of the critical path"

WIDTH, MARGIN = 1000, 24
BAR, GAP = 24, 4
"height of a bar, and what is between two"
LABEL = 150
"width of what stands left of a lane or a bar"
COLOURS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#9a6700", "#1b7c83", "#cf222e", "#57606a", "#4d2d00")
"of models, in turn: white text can be read on each"
TOOLS = "#8c959f"
CHARACTER = 6.6
"width of a letter of a label, about"
FONT = "ui-sans-serif, system-ui, Segoe UI, Helvetica, Arial, sans-serif"
STYLE = """
  .card { fill: #ffffff; stroke: #d0d7de; }
  .bar { fill: #f6f8fa; stroke: #afb8c1; stroke-dasharray: 3 3; }
  .block { stroke: #ffffff; }
  text { fill: #1f2328; font-size: 13px; }
  .small { font-size: 12px; fill: #57606a; }
  .title { font-size: 16px; font-weight: 600; }
  .in { fill: #ffffff; font-size: 12px; font-weight: 600; }
  @media (prefers-color-scheme: dark) {
    .card { fill: #0d1117; stroke: #30363d; }
    .bar { fill: #161b22; stroke: #484f58; }
    .block { stroke: #0d1117; }
    text { fill: #e6edf3; } .small { fill: #8b949e; } .in { fill: #ffffff; }
  }
"""


def picture(plan: Plan, cluster: Cluster, paths: Paths) -> str:
    """The text of plan.svg."""
    drawing = _Drawing(plan)
    y = drawing.lanes(paths, 36)
    y = drawing.devices(cluster, y + 18)
    return drawing.done(drawing.legend(y + 14))


class _Drawing:
    """The picture as far as it is drawn. Coordinates are pixels, y is the top of what comes next."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        models = list(dict.fromkeys(engine.model for engine in plan.engines))
        self.models = {model: COLOURS[i % len(COLOURS)] for i, model in enumerate(models)}
        self.colours = {engine.name: self.models[engine.model] for engine in plan.engines} | {"tools": TOOLS}
        self.root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "font-family": FONT})
        self._add("title", "A plan of engines")
        self._add("desc", _described(plan))
        self._add("style", STYLE)
        self.card = self._add("rect", rx="10", x="1", y="1", **{"class": "card"})

    def lanes(self, paths: Paths, y: float) -> float:
        """For each application and planner a lane, as long as the critical path is."""
        self._text(MARGIN, y, "critical path, mean seconds of a job", "title")
        longest = max((sum(own.values()) for apps in paths.values() for own in apps.values()), default=0.0)
        scale = (WIDTH - 2 * MARGIN - LABEL - 60) / max(longest, 1e-9)
        y += 14
        for app in dict.fromkeys(app for apps in paths.values() for app in apps):
            self._text(MARGIN, y + 14, app)
            y += 22
            for planner, apps in paths.items():
                self._text(MARGIN, y + 16, planner, "small")
                x = float(MARGIN + LABEL)
                for engine, seconds in apps.get(app, {}).items():
                    told = f"{engine}: {seconds:.3g} s"
                    self._block(x, y, seconds * scale, self.colours.get(engine, TOOLS), engine, told)
                    x += seconds * scale
                self._text(x + 6, y + 16, f"{sum(apps.get(app, {}).values()):.3g} s", "small")
                y += BAR + GAP
            y += 6
        return y

    def devices(self, cluster: Cluster, y: float) -> float:
        """For each device a bar, with a block for each replica that has a share of it."""
        count = len(cluster.devices)
        self._text(MARGIN, y, f"{count} device{'s' * (count > 1)}, shared by law {self.plan.law}", "title")
        here: dict[str, list[tuple[EnginePlan, int, ReplicaPlan]]] = defaultdict(list)
        for engine in self.plan.engines:
            for k, replica in enumerate(engine.replicas):
                for device in replica.devices:
                    here[device].append((engine, k, replica))
        columns = 1 if count <= 8 else 2 if count <= 32 else 4
        rows, wide = ceil(count / columns), (WIDTH - 2 * MARGIN) / columns
        label = min(LABEL, wide / 3)
        for number, device in enumerate(cluster.devices):
            left, top = MARGIN + wide * (number // rows), y + 14 + (number % rows) * (BAR + GAP)
            room = wide - label - 12
            self._text(left, top + 16, _fitted(device, label), "small")
            self._add("rect", x=_n(left + label), y=_n(top), width=_n(room), height=_n(BAR), rx="3", **{"class": "bar"})
            x = left + label
            for engine, k, replica in here[device]:
                name = engine.name + (f" {k}" if len(engine.replicas) > 1 else "")
                name += f", tp {replica.tensor_parallel}" if replica.tensor_parallel > 1 else ""
                share = replica.share * room
                self._block(x, top, share, self.colours[engine.name], name, _replica(engine, k, replica))
                x += share
        return y + 14 + rows * (BAR + GAP)

    def legend(self, y: float) -> float:
        """Which colour is which model."""
        x = float(MARGIN)
        for name, colour in (self.models | {"tools": TOOLS}).items():
            needs = 30 + CHARACTER * len(name)
            if x + needs > WIDTH - MARGIN and x > MARGIN:
                x, y = float(MARGIN), y + 20
            self._add("rect", x=_n(x), y=_n(y), width="12", height="12", rx="2", fill=colour)
            self._text(x + 18, y + 11, name, "small")
            x += needs
        return y + 12

    def done(self, y: float) -> str:
        """The text, `y` pixels high."""
        height = y + MARGIN
        self.root.set("viewBox", f"0 0 {WIDTH} {_n(height)}")
        self.card.set("width", _n(WIDTH - 2))
        self.card.set("height", _n(height - 2))
        ET.indent(self.root, "")
        return ET.tostring(self.root, encoding="unicode") + "\n"

    # ---------------------------------------------------------------- parts

    def _add(self, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
        element = ET.SubElement(self.root, tag, attributes)
        element.text = None if text is None else _clean(text)
        return element

    def _text(self, x: float, y: float, text: str, kind: str = "") -> None:
        self._add("text", text, x=_n(x), y=_n(y), **({"class": kind} if kind else {}))

    def _block(self, x: float, y: float, width: float, colour: str, label: str, told: str) -> None:
        """A block with its label, as far as that fits; `told` where the pointer rests on it."""
        if width < 0.5:
            return
        where = {"x": _n(x), "y": _n(y), "width": _n(width), "height": _n(BAR), "rx": "3", "fill": colour}
        block = self._add("rect", **where, **{"class": "block"})
        ET.SubElement(block, "title").text = _clean(told)
        fitted = _fitted(label, width - 10)
        if fitted:
            self._text(x + 6, y + 16, fitted, "in")


def _replica(engine: EnginePlan, k: int, replica: ReplicaPlan) -> str:
    told = f"{engine.name}, replica {k} of {engine.model}: tensor parallelism {replica.tensor_parallel} on "
    return f"{told}{', '.join(replica.devices)}; share {replica.share:g}, window {replica.max_concurrency}"


def _described(plan: Plan) -> str:
    """For those who do not see it."""
    return ". ".join(_replica(engine, k, one) for engine in plan.engines for k, one in enumerate(engine.replicas))


def _fitted(text: str, width: float) -> str:
    """What of a text fits so many pixels."""
    most = int(width / CHARACTER)
    return text if len(text) <= most else f"{text[: most - 1]}…" if most > 2 else ""


def _clean(text: str) -> str:
    """Without characters that XML cannot hold: names come from clients."""
    return re.sub("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", text)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
