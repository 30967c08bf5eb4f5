"""A head that was trained with features, behind the gateway: from the file to the class; and files that are none."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from hocket.errors import InputError
from hocket.gateway.reading import load, reader_of
from hocket.semantics.encoder import encoder
from hocket.semantics.head import write_head
from hocket.semantics.train import Labelled, train
from hocket.settings.urgency import ReaderSettings, UrgencySettings
from tests.gateway.conftest import Start
from tests.gateway.urgency_world import CLASSES, metric, says, told
from tests.scripted_engine import ScriptedEngine

BEGINNINGS = ("patient says", "triage note:", "walked in,", "by ambulance,", "brought by family,", "called about")
COMPLAINTS = ("pain in the chest", "short of breath", "a headache", "pain in the belly", "a cough", "feels dizzy")
TEXTS = [f"{beginning} {complaint}" for beginning in BEGINNINGS for complaint in COMPLAINTS]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The words tell nothing here, the heart rate everything: who reads it right has found the feature."""
    rates = [(160.0, 0), (110.0, 2), (70.0, 3)]
    texts, urgency, given = [], [], []
    for k, text in enumerate(TEXTS * 3):
        rate, label = rates[k // len(TEXTS)]
        texts.append(text)
        urgency.append(label)
        given.append({"hr": rate + k % 7})
    file = tmp_path_factory.mktemp("heads") / "triage.head"
    write_head(file, train(Labelled(texts, urgency, given), encoder("static"), ["hr"]))
    return str(file)


def reader(head: str, **more: Any) -> ReaderSettings:
    return ReaderSettings("triage", head=head, moves_at_most=2, **more)


async def test_features_reach_the_head_from_wherever_they_stand(
    engine: ScriptedEngine, start: Start, head: str
) -> None:
    text = "patient says a headache"
    mapped = reader(head, apps=["mapped"], features={"hr": "vitals.rate"})
    plain = structs.replace(mapped, name="plain", apps=["plain"], features={})
    world = await start(engine, urgency=UrgencySettings(default=1, readers=[plain, mapped]))
    app, other = {"x-hocket-app": "plain"}, {"x-hocket-app": "mapped"}
    assert await told(world, says(json.dumps({"note": text, "hr": 163})), headers=app) == ("0", "words")
    assert await told(world, says(text, hr=163), headers=app) == ("0", "words")
    assert await told(world, says(text, hr=72), headers=app) == ("3", "words")
    assert await told(world, says(text, vitals={"rate": 163}), headers=other) == ("0", "words")
    assert await told(world, says(text, vitals={"rate": "72"}), headers=other) == ("3", "words")
    assert (await told(world, says(text, vitals="none"), headers=other))[0] in {"0", "1", "2", "3"}
    assert metric(world, 'hocket_readings_total{outcome="failed"') == 0


def broken(head: str, tmp_path: Path, change: Callable[[bytes], bytes]) -> str:
    file = tmp_path / "broken.head"
    file.write_bytes(change(Path(head).read_bytes()))
    return str(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body[: len(body) // 2],
        lambda body: b"",
        lambda body: b"\x80\x04binary\xff" * 99,
        lambda body: body.replace(b'"classes":[0', b'"classes":[1'),
        lambda body: body.replace(b'"version":1', b'"version":9'),
        lambda body: b'{"format": "something else"}',
    ],
    ids=["cut", "empty", "binary", "changed", "newer", "other"],
)
def test_a_broken_file_is_told_with_a_remedy(head: str, tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    bad = reader(broken(head, tmp_path, change), apps=["desk"])
    with pytest.raises(InputError, match=r"readers\[0\] \('triage'\): .*broken.head.*hocket urgency train.*serve"):
        load(UrgencySettings(readers=[bad]))
    domains = load(UrgencySettings(readers=[bad, ReaderSettings("r", classes=CLASSES)], if_unreadable="serve"))
    assert [domain.name for domain in domains] == ["r"]


def test_what_does_not_go_with_the_head_is_told(head: str) -> None:
    with pytest.raises(InputError, match="was trained on the encoder static, not minilm; train it anew with --encoder"):
        reader_of(reader(head, encoder="minilm"))
    with pytest.raises(InputError, match=r"without the feature 'age' \(with: hr\)"):
        reader_of(reader(head, features={"age": "patient.age"}))


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "onnxruntime":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"onnxruntime.*hocket\[words\]"):
        reader_of(ReaderSettings("r", classes=CLASSES, encoder="minilm"))
