"""A plan is drawn as SVG that any reader takes: well-formed, without scripts, blocks as wide as their shares."""

from __future__ import annotations

import re
from collections import defaultdict
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hocket.planner.inputs import Cluster
from hocket.planner.picture import WIDTH, picture
from tests.planner.test_plan import engine, plan, replica
from tests.planner.worlds import cluster

PATHS = {"k8s-default": {"rag": {"small": 2.0, "big": 6.0, "tools": 1.0}}, "plan": {"rag": {"small": 1.0, "big": 3.0}}}
ENGINES = [
    engine("small", replica("n0/gpu0", share=0.25), replica("n0/gpu1", share=0.5)),
    engine("judge", replica("n0/gpu0", share=0.75), model="small", roles=("judge",)),
    engine("big", replica("n0/gpu2", "n0/gpu3")),
]


def drawn(text: str) -> tuple[list[ET.Element], list[str]]:
    """Blocks, and all that is written."""
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "title", "desc", "style", "rect", "text"}, "nothing that runs or loads"
    blocks = [element for element in root.iter("{http://www.w3.org/2000/svg}rect") if element.get("class") == "block"]
    return blocks, [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_blocks_are_as_wide_as_shares_and_coloured_by_model() -> None:
    blocks, texts = drawn(picture(plan(*ENGINES), cluster(4), PATHS))
    lanes, devices = blocks[:5], blocks[5:]
    assert len(devices) == 5
    whole = float(devices[-1].get("width", ""))
    assert [float(one.get("width", "")) / whole for one in devices] == pytest.approx([0.25, 0.75, 0.5, 1, 1], abs=1e-3)
    fills = [one.get("fill") for one in devices]
    assert fills[0] == fills[1] == fills[2] != fills[3] == fills[4]
    seconds = [float(one.get("width", "")) for one in lanes]
    assert [value / seconds[3] for value in seconds] == pytest.approx([2, 6, 1, 1, 3], abs=1e-2)
    for told in ("k8s-default", "plan", "9 s", "4 s", "small 1", "big, tp 2", "judge", "rag", "n0/gpu3"):
        assert told in texts
    told = [one[0].text or "" for one in devices]
    assert told[-1] == "big, replica 0 of big: tensor parallelism 2 on n0/gpu2, n0/gpu3; share 1, window 8"


def test_it_can_be_read_in_light_and_dark() -> None:
    text = picture(plan(*ENGINES), cluster(4), PATHS)
    assert "@media (prefers-color-scheme: dark)" in text
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_a_large_cluster_stays_on_the_page() -> None:
    nodes = [{"name": f"node{i}", "devices": 8, "kind": "h100", "memory_gib": 80} for i in range(32)]
    many = engine("small", *(replica(f"node{i // 8}/gpu{i % 8}") for i in range(256)))
    blocks, texts = drawn(picture(plan(many), msgspec.convert({"nodes": nodes}, Cluster), {}))
    assert len(blocks) == 256 and "node31/gpu7" in texts
    assert all(0 <= float(one.get("x", "")) + float(one.get("width", "")) <= WIDTH for one in blocks)


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=80), st.text(min_size=1, max_size=80))
def test_any_name_is_text(app: str, name: str) -> None:
    """Names of applications come from clients: no markup, no characters that XML cannot hold."""
    text = picture(plan(engine(name, replica("n0/gpu0"))), cluster(1), {"plan": {app: {name: 1.0, "tools": 0.5}}})
    drawn(text)
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", text)


def test_labels_are_cut_to_their_block() -> None:
    shares = defaultdict(list)
    engines = [
        engine("a-long-name-of-an-engine-" * 3, replica("n0/gpu0", share=0.125)),
        engine("b", replica("n0/gpu1")),
    ]
    for block in drawn(picture(plan(*engines), cluster(2), {}))[0]:
        shares[block.get("y")].append(block)
    _, texts = drawn(picture(plan(*engines), cluster(2), {}))
    (cut,) = [text for text in texts if text.endswith("…")]
    assert cut.startswith("a-long") and len(cut) * 6.6 <= float(
        shares[min(shares, key=lambda y: float(y or 0))][0].get("width", "")
    )
