"""The judge on a real engine: llama.cpp tells log-probabilities as OpenAI does, and keeps the prompt's beginning.

The weights are too small to judge well (calibrated, their answer hardly depends on the text), so this is about the way
there and back, not about the class.
"""

from __future__ import annotations

import pytest

from hocket.core import events as ev
from hocket.gateway.answers import sizes_of
from hocket.gateway.judge import probabilities
from hocket.settings import EngineSettings
from hocket.settings.urgency import ClassSettings, JudgeSettings, ReaderSettings
from tests.gateway.conftest import Running, Start, soon
from tests.gateway.urgency_world import metric, reads, says, urgency


def judgements(world: Running) -> float:
    return sum(
        metric(world, f'hocket_judgements_total{{outcome="{outcome}"') for outcome in ("moved", "kept", "unclear")
    )


TEXTS = ("he collapsed and does not breathe", "may I move my check-up to May?")
DYING = [
    "crushing chest pain, grey and sweating",
    "she does not wake up and her lips are blue",
    "he bleeds and is faint",
]
TRIAGE = ReaderSettings(
    "triage",
    classes={
        0: ClassSettings("The patient may die within minutes without help.", DYING),
        1: ClassSettings(
            "The patient needs a doctor now.", ["high fever and a stiff neck", "weakness in the left arm"]
        ),
        3: ClassSettings("It can wait for hours.", ["sore throat for two days", "I twisted my ankle and can walk"]),
        4: ClassSettings("Paperwork.", ["can I move my check-up to May", "please send the invoice once more"]),
    },
)


async def test_it_is_answered(small_engine: str, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    reads(monkeypatch)
    heard: list[bytes] = []

    def hears(answer: bytes) -> object:
        heard.append(answer)
        return sizes_of(answer)

    monkeypatch.setattr("hocket.gateway.judge.sizes_of", hears)
    judged = urgency(TRIAGE, judge=JudgeSettings("small", timeout_s=60))
    world = await start(engines=[EngineSettings("small", "llamacpp", replicas=[small_engine])], urgency=judged)
    for text in TEXTS:
        async with world.post(says(text, max_tokens=4)) as response:
            assert (response.status, response.headers["x-hocket-urgency-source"]) in {(200, "tenant"), (200, "judge")}
            await response.read()
    await soon(lambda: judgements(world) == len(TEXTS), 60.0)
    events = [record.event for record in world.records()]
    ended = {event.call: event for event in events if isinstance(event, ev.CallFinished)}
    arrived = [event for event in events if isinstance(event, ev.CallArrived) and event.stage == "judge-triage"]
    assert len(heard) == len(arrived) >= len(TEXTS) + 1, "about no text, and about each"
    assert [ended[event.call].output_tokens for event in arrived] == [1] * len(arrived)
    assert all(probabilities(answer, TRIAGE.classes) for answer in heard), (
        "examples teach even this model what a label is"
    )
    assert b'"cache_n":0,' not in heard[-1], "the question's beginning was there already"
