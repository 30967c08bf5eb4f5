"""Keeps the belief about every open job, and learns from the jobs that close. The core talks to this.

What an application's jobs teach is taken in by *lessons*: the records that are believed in, as matrices. A new one is
drawn when the records have grown by an eighth, so that learning costs little a job and a new application is useful
after ten. A job goes by the lesson that it began with, until twice as much is known. When jobs stop being like the
recorded ones, the old are forgotten, and all jobs go by what is left.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from hocket.beliefs.belief import JobBelief
from hocket.beliefs.lesson import Lesson
from hocket.beliefs.posterior import Bound
from hocket.beliefs.profile import MOST_RECORDS, Network, decode_profile
from hocket.beliefs.record import Record
from hocket.core.belief import World
from hocket.core.events import PastStep
from hocket.core.latency import Latency
from hocket.core.state import Call, Job
from hocket.trace import GAP, MOST_TOKENS

GROWTH = 8
"a new lesson is drawn when the records have grown by one in so many"
RECENT = 20
"closed jobs by which drift is judged, and that are kept when it is found"
STRANGE = 0.5
"mean misfit of recent jobs, at which the older records are forgotten"
OFF = 0.3
"distance from 1/2 of recent jobs' mean quantile in what was foretold of their size, at which they are"
DEFAULT_PACE = Latency(q0=0.01, q2=2e-4, d0=0.01, d1=5e-4, d2=1e-7)
"an engine without constants: a token of an answer costs as much as fifty of a prompt"
FIRST_SIZE_S = 4.0
"of a job, before any has closed"
LEAST_S = 1e-6
"of work: a job without any is not infinitely far off"
MOST_APPLICATIONS = 1000
"that are remembered without an open job: their names come from clients"


class Learned:
    """What is known of one application."""

    __slots__ = ("due", "errors", "jobs", "lesson", "quantiles", "records", "stories", "strange", "told")

    def __init__(self, lesson: Lesson) -> None:
        self.records: deque[Record] = deque(lesson.records, MOST_RECORDS)
        self.lesson = lesson
        self.due = _growth(len(lesson.records))
        "jobs until the next lesson"
        self.told = len(lesson.records)
        "records of the lesson by which open jobs were judged anew last"
        self.stories: dict[str, Story] = {}
        "its open jobs"
        self.strange: deque[float] = deque(maxlen=RECENT)
        self.quantiles: deque[float] = deque(maxlen=RECENT)
        self.jobs = 0
        "that were learned from since this began"
        self.errors: deque[float] = deque(maxlen=RECENT)
        "see Story.error; for the operator, nothing depends on it"


class Story(JobBelief):
    """The belief about an open job, and what the tracker must know to feed it."""

    __slots__ = ("behind", "calls", "job", "learned", "runs")

    def __init__(
        self, job: Job, learned: Learned, lesson: Lesson, features: dict[str, float], typical_s: float
    ) -> None:
        JobBelief.__init__(self, lesson, features, typical_s)
        self.job = job
        self.learned = learned
        self.calls: dict[str, int] = {}
        "open calls -> index of their step"
        self.runs: dict[str, tuple[int, float]] | None = None
        "open tool runs -> index of their step, and since when; None: it never had one"
        self.behind = False
        "whether a lesson tells much more than its own: it goes by that as soon as a call of it waits"
        job.belief = self

    def judge_by(self, lesson: Lesson) -> None:
        """See `JobBelief`."""
        self.behind = False
        JobBelief.judge_by(self, lesson)

    def quantile(self) -> float:
        """Where its size came to lie in what was foretold: 1/2 on average, if that was right."""
        assert self.foretold is not None
        sizes, weights = self.foretold
        return float(weights @ ((sizes < self.attained_s) + 0.5 * (sizes == self.attained_s)))

    def error(self) -> float:
        """How far off its size was from what was foretold, as a ratio: |ln|."""
        assert self.foretold is not None
        sizes, weights = self.foretold
        return abs(math.log(max(self.attained_s, LEAST_S) / max(float(weights @ sizes), LEAST_S)))


class Tracker:
    """`hocket.core.belief.Beliefs` by recorded jobs."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._apps: dict[str, Learned] = {}
        self._open = 0  # jobs
        self._size_s = FIRST_SIZE_S  # mean engine work of a job, of all applications
        self._sizes = 0  # jobs that it is the mean of
        self._typical_s = _typical(FIRST_SIZE_S)

    def served(self) -> None:
        """Engines may have another pace: every lesson is bound anew, and every open job's story told again."""
        lessons: dict[int, Any] = {}
        for app, learned in self._apps.items():
            learned.lesson = self._bound_anew(app, learned.lesson, lessons)
            for story in learned.stories.values():
                story.judge_by(self._bound_anew(app, story.lesson, lessons))

    # ---------------------------------------------------------------- jobs

    def opened(self, job: Job) -> None:
        learned, features = self._apps.get(job.app.name) or self._learned(job.app.name), job.features
        if not all(map(math.isfinite, features.values())):
            features = {name: value for name, value in features.items() if math.isfinite(value)}
        learned.stories[job.id] = Story(job, learned, learned.lesson, features, self._typical_s)
        self._open += 1

    def resumed(self, job: Job, steps: Sequence[PastStep]) -> None:
        story = job.belief
        assert isinstance(story, Story)
        # of one moment what began comes first: a step ends after it began, and no other has waited for that end
        facts = [(step.began_s, 0, n) for n, step in enumerate(steps)]
        facts += [(math.inf if step.ended_s is None else step.ended_s, 1, n) for n, step in enumerate(steps)]
        index: dict[int, int] = {}
        for _, over, n in sorted(facts):
            step = steps[n]
            if not over:
                index[n] = story.began(step.stage, step.model, step.prompt_tokens, None, None)
            elif step.ended_s is None:
                story.lost(index[n])
            else:
                sizes = _within_reason(step.prompt_tokens), _within_reason(step.output_tokens)
                story.finished(index[n], *sizes, step.ended_s - step.began_s if step.model is None else 0.0)

    def arrived(self, call: Call) -> None:
        story = call.job.belief
        assert isinstance(story, Story)
        if story.behind:
            story.judge_by(story.learned.lesson)
        sizes = call.prompt_tokens, call.max_tokens, call.hint_output_tokens
        story.calls[call.id] = story.began(call.stage, call.model, *sizes)

    def streamed(self, call: Call, tokens: int) -> None:
        """Nothing is made of it."""

    def finished(self, call: Call, prompt_tokens: int, output_tokens: int) -> None:
        story = call.job.belief
        assert isinstance(story, Story)
        index = story.calls.pop(call.id, None)
        if index is not None:
            story.finished(index, _within_reason(prompt_tokens), _within_reason(output_tokens))

    def lost(self, call: Call) -> None:
        story = call.job.belief
        assert isinstance(story, Story)
        index = story.calls.pop(call.id, None)
        if index is not None:
            story.lost(index)

    def tool_started(self, job: Job, run: str, name: str) -> None:
        if name == GAP:  # a replayed trace reports what a live job does not
            return
        story = job.belief
        assert isinstance(story, Story)
        if story.runs is None:
            story.runs = {}
        story.runs[run] = story.began(name, None, 0, None, None), self._world.now

    def tool_finished(self, job: Job, run: str) -> None:
        story = job.belief
        assert isinstance(story, Story)
        begun = None if story.runs is None else story.runs.pop(run, None)
        if begun is not None:
            story.finished(begun[0], 0, 0, self._world.now - begun[1])

    def closed(self, job: Job) -> Iterable[Job]:
        story, job.belief = job.belief, None
        assert isinstance(story, Story)
        learned = story.learned
        del learned.stories[job.id]
        self._open -= 1
        if job.aborted or story.calls or not story.answered:
            return ()  # cut short, or nothing came of it
        record = story.record
        learned.records.append(record)
        learned.lesson.prepare(record)
        learned.jobs += 1
        learned.due -= 1
        if story.read:
            self._size_s += (story.attained_s - self._size_s) / (self._sizes + 1)
            self._sizes = min(self._sizes + 1, MOST_RECORDS)
            self._typical_s = _typical(self._size_s)
        if story.foretold is not None and story.lesson.records:
            learned.errors.append(story.error())
            if len(story.lesson.records) >= RECENT:
                learned.strange.append(story.misfit)
                learned.quantiles.append(story.quantile())
        if _drifted(learned):
            learned.records = deque(list(learned.records)[-RECENT:], MOST_RECORDS)
            learned.strange.clear()
            learned.quantiles.clear()
            learned.told = 0
            return self._learn(learned, None)
        return self._learn(learned, learned.lesson.network) if learned.due <= 0 else ()

    @staticmethod
    def _learn(learned: Learned, network: Bound | None) -> Iterable[Job]:
        """Draw a lesson from the records. Open jobs go by it only where it tells much more than the one before."""
        before = learned.lesson
        learned.lesson = Lesson(tuple(learned.records), before.pace, network, before)
        learned.due = _growth(len(learned.records))
        if len(learned.records) < 2 * learned.told:
            return ()
        learned.told = len(learned.records)
        waiting = [story for story in learned.stories.values() if story.job.waiting]
        for story in learned.stories.values():
            story.behind = True  # most are about to end, or run: to tell their stories again would hold up all others
        for story in waiting:
            story.judge_by(learned.lesson)
        return [story.job for story in waiting]

    def replaced(self, app: str, profile: str) -> None:
        decoded = decode_profile(profile)
        learned = self._learned(app)
        network = self._bound(app, decoded.network)
        learned.lesson = Lesson(tuple(decoded.records[-MOST_RECORDS:]), self._pace(app), network)
        learned.records = deque(learned.lesson.records, MOST_RECORDS)
        learned.due = _growth(len(learned.records))
        learned.told = len(learned.records)
        learned.strange.clear()
        learned.quantiles.clear()

    def report(self) -> Iterable[tuple[str, int, list[float]]]:
        for app, learned in self._apps.items():
            yield app, learned.jobs, list(learned.errors)

    def _learned(self, app: str) -> Learned:
        learned = self._apps.get(app)
        if learned is None:
            if len(self._apps) > 2 * self._open + MOST_APPLICATIONS:
                idle = sorted((len(known.records), name) for name, known in self._apps.items() if not known.stories)
                for _, name in idle[: len(idle) // 2]:
                    del self._apps[name]
            learned = self._apps[app] = Learned(Lesson((), self._pace(app)))
        return learned

    def _pace(self, app: str) -> Callable[[str, str], Latency]:
        """(stage, model) -> constants of the engine that serves it now."""
        latency = {engine.name: engine.latency for engine in self._world.spec.engines}
        engine_for = self._world.engine_for

        def pace(stage: str, model: str) -> Latency:
            engine = engine_for(app, stage, model)
            return (None if engine is None else latency.get(engine)) or DEFAULT_PACE

        return pace

    def _bound(self, app: str, network: Network | None) -> Bound | None:
        """A network among the engines that serve it now."""
        if network is None:
            return None
        pace, engines = self._pace(app), self._world.engines

        def server(stage: str, model: str) -> tuple[str, Latency]:
            return self._world.engine_for(app, stage, model) or "", pace(stage, model)

        def batch(engine: str) -> int:
            return engines[engine].batch if engine in engines else 1

        return Bound(network, server, batch)

    # ---------------------------------------------------------------- the same again

    def _bound_anew(self, app: str, lesson: Lesson, known: dict[int, Any]) -> Lesson:
        found: Lesson | None = known.get(id(lesson))
        if found is None:
            network = lesson.network
            if network is not None and id(network) not in known:
                known[id(network)] = self._bound(app, network.network)
            found = known[id(lesson)] = Lesson(lesson.records, self._pace(app), known.get(id(network)))
        return found

    def save(self) -> Any:
        lessons: dict[Lesson, int] = {}
        networks: dict[Bound | None, int] = {None: 0}

        def number(lesson: Lesson) -> int:
            networks.setdefault(lesson.network, len(networks))
            return lessons.setdefault(lesson, len(lessons))

        apps = {
            name: {
                "records": msgspec.to_builtins(list(learned.records)),
                "lesson": number(learned.lesson),
                "due": learned.due,
                "told": learned.told,
                "strange": list(learned.strange),
                "quantiles": list(learned.quantiles),
            }
            for name, learned in self._apps.items()
        }
        stories = {
            job: {
                "app": name,
                "lesson": number(story.lesson),
                "features": story.features,
                "told": story.told,
                "read": story.read,
                "judged": story.foretold is not None,
                "typical_s": story.typical_s,
                "behind": story.behind,
                "calls": story.calls,
                "runs": story.runs,
            }
            for name, learned in self._apps.items()
            for job, story in learned.stories.items()
        }
        return {
            "networks": [None if bound is None else msgspec.to_builtins(bound.network) for bound in networks],
            "lessons": [[networks[lesson.network], msgspec.to_builtins(lesson.records)] for lesson in lessons],
            "apps": apps,
            "stories": stories,
            "sizes": [self._size_s, self._sizes],
        }

    def restore(self, saved: Any, jobs: dict[str, Job]) -> None:
        lessons: dict[int, Lesson] = {}
        networks: dict[int, Bound | None] = {}

        def lesson(app: str, number: int) -> Lesson:
            if number not in lessons:
                network, records = saved["lessons"][number]
                if network not in networks:
                    networks[network] = self._bound(app, msgspec.convert(saved["networks"][network], Network | None))
                kept = msgspec.convert(records, tuple[Record, ...])
                lessons[number] = Lesson(kept, self._pace(app), networks[network])
            return lessons[number]

        self._size_s, self._sizes = saved["sizes"]
        self._typical_s = _typical(self._size_s)
        for name, fields in saved["apps"].items():
            learned = self._apps[name] = Learned(lesson(name, fields["lesson"]))
            learned.records = deque(msgspec.convert(fields["records"], list[Record]), MOST_RECORDS)
            learned.due, learned.told = fields["due"], fields["told"]
            learned.strange.extend(fields["strange"])
            learned.quantiles.extend(fields["quantiles"])
        for job, fields in saved["stories"].items():
            learned = self._apps[fields["app"]]
            judged_by = lesson(fields["app"], fields["lesson"])
            story = Story(jobs[job], learned, judged_by, fields["features"], fields["typical_s"])
            story.retell(fields["told"], read=fields["read"], judged=fields["judged"])
            story.calls = fields["calls"]
            if fields["runs"] is not None:
                story.runs = {run: (index, since) for run, (index, since) in fields["runs"].items()}
            story.behind = fields["behind"]
            learned.stories[job] = story
            self._open += 1


def _growth(records: int) -> int:
    return max(1, records // GROWTH)


def _drifted(learned: Learned) -> bool:
    """Whether recent jobs are unlike the recorded ones: in their steps, or in their sizes."""
    if len(learned.strange) < RECENT:
        return False
    strange = sum(learned.strange) / RECENT >= STRANGE
    return strange or abs(sum(learned.quantiles) / RECENT - 0.5) >= OFF


def _typical(size_s: float) -> float:
    """The size of a typical job. A power of 4: it moves rarely, so that unknown jobs go by arrival."""
    return float(4.0 ** round(math.log(max(size_s, LEAST_S), 4)))


def _within_reason(tokens: int) -> int:
    return tokens if 0 <= tokens <= MOST_TOKENS else min(max(tokens, 0), MOST_TOKENS)
