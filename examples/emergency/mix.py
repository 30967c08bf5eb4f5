"""A day at the hospital in half a minute: who asks for what, when, and how urgent it really is.

Four applications share one engine. The triage desk's callers say in their own words how urgent it is; the others know
what they are. All are more than the engine can do while they come, so somebody waits: the question is who.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

CALLERS: dict[int, tuple[str, ...]] = {
    0: (
        "My father has a terrible pressure on his chest and cold sweat, it goes into his arm.",
        "My baby is not breathing, she is turning blue!",
        "He fell from the ladder, there is blood everywhere and he does not answer.",
        "My wife's face and tongue are swelling after peanuts, she can hardly breathe.",
        "He is unconscious on the kitchen floor, I cannot wake him up.",
    ),
    1: (
        "My daughter has 40 degrees of fever, a stiff neck and the light hurts her.",
        "For an hour my speech was slurred and my right hand was numb.",
        "I have strong pain in my belly since last night and I keep vomiting.",
        "I am pregnant in the eighth month and the baby moves less than usual.",
    ),
    3: (
        "I have had a cough and a runny nose for three days.",
        "My knee hurts a little when I climb stairs.",
        "A mosquito bite on my leg is red and itches.",
        "I have a slight headache after a long day at the screen.",
    ),
}
"what is said at the triage desk, by how urgent it is. None of it is among the examples of hocket.yaml"
SHARES = {0: 0.3, 1: 0.3, 3: 0.4}

NOTE = (
    "Patient seen at {hour} h. Blood pressure {high} over {low}, pulse {pulse}. Reports that the pain is better than "
    "yesterday. Wound clean and dry. Walks to the bathroom alone. Continue the present medication, mobilise, check "
    "again tomorrow morning."
)


@dataclass(frozen=True, slots=True)
class Call:
    """One request: a prompt, and how many tokens its answer has."""

    stage: str
    prompt: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Job:
    """One run of an application: its calls, one after the other."""

    name: str
    app: str
    at: float
    "seconds after the beginning"
    urgency: int
    "what it really is"
    says: int | None
    "what it declares; None: its words must tell"
    calls: tuple[Call, ...]


def day(seconds: float, seed: int = 1, scale: float = 1.0) -> list[Job]:
    """All jobs that come within `seconds`, `scale` times as many as one engine on one CPU thread keeps up with."""
    rng = random.Random(seed)
    jobs = [*_research(seconds * scale, rng), *_notes(seconds, scale, rng)]
    jobs += [*_appointments(seconds, scale, rng), *_triage(seconds, scale, rng)]
    return sorted(jobs, key=lambda job: (job.at, job.name))


def _times(seconds: float, gap_s: float, rng: random.Random) -> list[float]:
    """When they come, on average `gap_s` apart, by chance."""
    times, at = [], rng.expovariate(1 / gap_s)
    while at < seconds:
        times.append(round(at, 3))
        at += rng.expovariate(1 / gap_s)
    return times


def _triage(seconds: float, scale: float, rng: random.Random) -> list[Job]:
    jobs = []
    for number, at in enumerate(_times(seconds, 2.0 / scale, rng)):
        urgency = rng.choices(list(SHARES), list(SHARES.values()))[0]
        calls = (Call("advise", rng.choice(CALLERS[urgency]), 40),)
        jobs.append(Job(f"triage-{number}", "triage-desk", at, urgency, None, calls))
    return jobs


def _appointments(seconds: float, scale: float, rng: random.Random) -> list[Job]:
    jobs = []
    for number, at in enumerate(_times(seconds, 2.5 / scale, rng)):
        day_ = rng.choice(("Monday", "Tuesday", "Thursday"))
        calls = [Call("understand", f"Can I move my check-up to {day_} afternoon?", 16)]
        calls += [
            Call("confirm", f"Confirm an appointment on {day_} at {rng.randrange(13, 18)} h in one sentence.", 24)
        ]
        jobs.append(Job(f"appointment-{number}", "appointment-bot", at, 3, 3, tuple(calls)))
    return jobs


def _notes(seconds: float, scale: float, rng: random.Random) -> list[Job]:
    jobs = []
    for number, at in enumerate(_times(seconds, 4.0 / scale, rng)):
        numbers = {"hour": rng.randrange(24), "high": rng.randrange(110, 160), "low": rng.randrange(60, 95)}
        note = NOTE.format(pulse=rng.randrange(55, 100), **numbers)
        calls = (Call("read", f"List the findings: {note}", 48), Call("sum", f"Summarise in two sentences: {note}", 48))
        jobs.append(Job(f"note-{number}", "note-summariser", at, 2, 2, calls))
    return jobs


def _research(work: float, rng: random.Random) -> list[Job]:
    """The night's batch: all there from the beginning."""
    jobs = []
    for number in range(max(1, round(work / 4))):
        topic = rng.choice(
            ("falls of old patients", "length of stay after surgery", "wound infections", "readmissions")
        )
        prompt = f"Part {{}} of a report on {topic}: go through the cases of the quarter and discuss them at length."
        calls = tuple(Call("discuss", prompt.format(part), 80) for part in (1, 2))
        jobs.append(Job(f"research-{number}", "research", 0.0, 4, 4, calls))
    return jobs
