"""The search for a window, on engines that are nothing but a curve: tokens per second by calls held."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import pytest

from hocket.core.meter import Meter
from hocket.core.windows import LONGEST_HOLD_S, MOST, PROMPT_WEIGHT, WindowSearch

STEP_S = 0.05
Curve = Callable[[int], float]


def steep(calls: int) -> float:
    return 20.0 * min(calls, 32)


def narrow(calls: int) -> float:
    return 20.0 * min(calls, 8)


def flat(calls: int) -> float:
    return 200.0 * calls / (calls + 0.03)


def cliff(calls: int) -> float:
    return 25.0 * calls if calls <= 20 else 150.0


def smooth(calls: int) -> float:
    return 500.0 * calls / (calls + 10.0)


@dataclass(eq=False)
class Call:
    size: float
    since: float
    made: float = 0.0
    told: float = 0.0


@dataclass
class Engine:
    """An engine that shares `curve(calls)` tokens per second evenly, under a search; `waiting` calls never end."""

    curve: Curve
    stream: bool = True
    seed: int = 1
    mean: float = 20.0
    start: int = 8
    most_waiting: int = 10**9
    jitter: float = 0.0
    fixed: int = 0
    now: float = 0.0
    calls: list[Call] = field(default_factory=list)
    homes: list[tuple[float, int]] = field(default_factory=list)
    sizes: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.search = WindowSearch.start(0.0, self.start)

    def run(self, seconds: float) -> float:
        """Go on for so long; returns tokens per second."""
        end, made = self.now + seconds, 0.0
        while self.now < end:
            self._fill()
            made += self._step()
        return made / seconds

    def pause(self, seconds: float) -> None:
        """What is in the replica ends; then for so long nothing comes."""
        while self.calls:
            self._step()
        self.now += seconds

    def _step(self) -> float:
        speed = math.exp(self.rng.gauss(0.0, self.jitter)) if self.jitter else 1.0
        share = self.curve(len(self.calls)) * speed / len(self.calls)
        first = min(self.calls, key=lambda call: call.size - call.made)
        step_s = min(STEP_S, (first.size - first.made) / share)
        self.now += step_s
        made = share * step_s * len(self.calls)
        for call in self.calls:
            call.made += share * step_s
            if self.stream and self.now - call.since >= 0.25:
                self._tell(call, ended=False)
        if first.size - first.made < 1e-9:
            self._tell(first, ended=True)
            self.calls.remove(first)
        return made

    def _fill(self) -> None:
        while len(self.calls) < min(self.fixed or self.search.size, self.most_waiting):
            self.calls.append(Call(self.rng.uniform(0.5, 1.5) * self.mean, self.now))

    def _tell(self, call: Call, *, ended: bool) -> None:
        self.search.report(self.now, call.since, call.made - call.told, ended, len(self.calls))
        call.since, call.told = self.now, call.made
        if not self.homes or self.homes[-1][1] != self.search.home:
            self.homes.append((self.now, self.search.home))
        if not self.sizes or self.sizes[-1][1] != self.search.size:
            self.sizes.append((self.now, self.search.size))


@cache
def best(curve: Curve) -> float:
    """The throughput of the best fixed window, measured in the same way."""
    return max(Engine(curve, fixed=window).run(60.0) for window in (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 64, 128, 256))


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("curve", "least", "most"),
    [(steep, 28, 45), (narrow, 7, 16), (flat, 1, 16), (cliff, 18, 20), (smooth, 64, 512)],
    ids=["steep", "narrow", "flat", "cliff", "smooth"],
)
def test_within_a_minute_it_is_as_good_as_the_best_window(
    curve: Curve, least: int, most: int, seed: int, stream: bool
) -> None:
    """The promise, and the smallest such window: nothing is gained by more calls in the engine."""
    engine = Engine(curve, stream=stream, seed=seed)
    engine.run(60.0)
    assert engine.run(60.0) >= 0.95 * best(curve)
    assert least <= engine.search.home <= most, engine.homes


@pytest.mark.parametrize("start", [1, 3, 16, 20])
def test_wherever_it_starts(start: int) -> None:
    engine = Engine(cliff, start=start)
    engine.run(60.0)
    assert 18 <= engine.search.home <= 20


def test_beyond_a_cliff_it_finds_back() -> None:
    """All windows in sight are equally bad there, so that takes longer."""
    engine = Engine(cliff, start=64)
    engine.run(240.0)
    assert 18 <= engine.search.home <= 20


@pytest.mark.parametrize("curve", [steep, flat, cliff], ids=["steep", "flat", "cliff"])
def test_what_was_found_is_kept(curve: Curve) -> None:
    """No oscillation: ten minutes after it was found, home is within one step, and the window is there nearly always;
    after the first trials around it, it leaves home at most once in two minutes, for one step down or up.
    """
    engine = Engine(curve, seed=4)
    engine.run(120.0)
    found = engine.search.home
    engine.sizes.clear()
    away = 0.0
    for _ in range(6000):
        engine.run(0.1)
        assert max(engine.search.home, found) <= math.ceil(math.sqrt(2.0) * min(engine.search.home, found))
        assert engine.search.size <= math.ceil(math.sqrt(2.0) * engine.search.home)
        away += 0.1 * (engine.search.size != engine.search.home)
    assert away < 0.1 * 600.0
    leaves = [at for at, size in engine.sizes if size != found and at > 300.0]
    trials = [at for before, at in zip([-math.inf, *leaves], leaves, strict=False) if at - before > 30.0]
    assert len(trials) <= math.ceil(420.0 / LONGEST_HOLD_S) + 1, engine.sizes


def test_a_noisy_engine_takes_longer_and_does_not_drift() -> None:
    """Speed that changes by a third from one moment to the next."""
    engine = Engine(steep, jitter=0.3, seed=2)
    engine.run(120.0)
    rates = [engine.run(60.0) for _ in range(10)]
    assert sum(rates) / len(rates) >= 0.95 * best(steep)
    assert engine.search.home <= 64


def test_it_follows_an_engine_that_becomes_narrower() -> None:
    """The limit falls to a quarter: the throughput shows it at once, and a minute later the window is half the way."""
    engine = Engine(steep, seed=3)
    engine.run(120.0)
    engine.curve = narrow
    engine.run(60.0)
    assert engine.search.home <= 16
    engine.run(60.0)
    assert engine.search.home <= 11
    assert engine.run(60.0) >= 0.95 * best(narrow)


def test_it_follows_an_engine_that_becomes_wider() -> None:
    """That shows only when a larger window is tried: after the longest hold for each direction, at the latest."""
    engine = Engine(narrow, seed=3)
    engine.run(120.0)
    engine.curve = steep
    engine.run(2 * LONGEST_HOLD_S + 60.0)
    assert engine.run(60.0) >= 0.95 * best(steep)


def test_half_the_speed_is_the_same_window() -> None:
    engine = Engine(steep, seed=3)
    engine.run(120.0)
    engine.curve = lambda calls: steep(calls) / 2.0
    engine.run(90.0)
    assert engine.run(60.0) >= 0.95 * best(steep) / 2.0
    assert 28 <= engine.search.home <= 45


def test_an_engine_with_little_to_do_teaches_nothing() -> None:
    """Six calls at a time say nothing about a window of eight; nor may it grow without bound while they last."""
    engine = Engine(steep, most_waiting=6)
    engine.run(300.0)
    assert engine.search.home == engine.search.size == 8
    engine.most_waiting = 12
    engine.run(300.0)
    assert engine.search.home <= 16
    engine.most_waiting = 10**9
    engine.run(150.0)
    assert engine.search.home >= 30


@pytest.mark.parametrize("seed", range(6))
def test_a_load_that_comes_and_goes_is_no_slower_engine(seed: int) -> None:
    """Seconds without a call count for nothing: home stays where it is."""
    engine = Engine(steep, seed=seed)
    engine.run(90.0)
    engine.homes.clear()
    for turn in range(40):
        engine.run(6.0 + 0.13 * turn + 0.01 * seed)
        engine.pause(8.0)
    assert len(engine.homes) <= 1, engine.homes


def test_short_and_long_calls_in_turn_do_not_fool_it() -> None:
    """Ten seconds of chats, ten of essays: the throughput by finished calls swings by twenty, the window does not."""
    engine = Engine(steep, seed=5)
    for turn in range(12):
        engine.mean = 60.0 if turn % 2 else 5.0
        engine.run(10.0)
    engine.homes.clear()
    for turn in range(12):
        engine.mean = 60.0 if turn % 2 else 5.0
        engine.run(10.0)
    assert all(28 <= home <= 64 for _, home in engine.homes), engine.homes


# ---------------------------------------------------------------- what the replica says itself


def test_a_replica_that_keeps_calls_waiting_gets_fewer() -> None:
    search = WindowSearch.start(0.0, 64)
    search.observed(1.0, running=32, waiting=32, inflight=64)
    assert search.size == 64, "a burst may wait for one iteration"
    search.observed(2.0, running=32, waiting=32, inflight=64)
    assert search.size == search.home == 34, "those that run, and two in reserve"


def test_two_calls_in_reserve_are_no_queue() -> None:
    search = WindowSearch.start(0.0, 34)
    for at in range(10):
        search.observed(float(at), running=32, waiting=2, inflight=34)
    assert search.size == search.home == 34


def test_two_bursts_apart_are_no_queue() -> None:
    search = WindowSearch.start(0.0, 64)
    for at in range(10):
        search.observed(float(at), running=60, waiting=4 * (at % 2), inflight=64)
    assert search.size == 64


def test_above_what_it_uses_nothing_is_tried_for_a_while() -> None:
    engine = Engine(steep)
    engine.run(3.0)
    for _ in range(10):
        engine.run(5.0)
        engine.search.observed(engine.now, running=min(len(engine.calls), 32), waiting=0, inflight=len(engine.calls))
        if len(engine.calls) > 32:
            engine.search.observed(engine.now, 32, len(engine.calls) - 32, len(engine.calls))
            engine.search.observed(engine.now, 32, len(engine.calls) - 32, len(engine.calls))
            break
    else:
        pytest.fail("it never tried more than 32")
    assert engine.search.size == engine.search.home == 34, "its slots are full at home: what lacks is the reserve"
    engine.sizes.clear()
    engine.run(60.0)
    assert all(size <= 34 for _, size in engine.sizes)


# ---------------------------------------------------------------- the meter


def test_a_whole_answer_counts_where_it_was_made() -> None:
    """One call of 100 tokens over ten seconds, of which four were counted: 40 tokens, known when it ends."""
    meter = Meter(1)
    meter.begin(0.0, 1, settled=True)
    for _ in range(8):
        assert not meter.report(0.0, 0.0, 0.0, ended=True, inflight=2)
    assert not meter.report(4.0, 4.0, 0.0, ended=False, inflight=1)
    assert meter.phase == "ripening"
    assert meter.report(10.0, 0.0, 100.0, ended=True, inflight=1)
    assert not meter.starved
    assert meter.rate == pytest.approx(10.0)


def test_a_prompt_weighs_less_than_an_answer_and_once() -> None:
    search = WindowSearch.start(0.0, 8)
    assert search.made("c", prompt_tokens=100, tokens=1, ended=False) == 1 + 100 * PROMPT_WEIGHT
    assert search.made("c", prompt_tokens=100, tokens=30, ended=False) == 29
    assert search.made("c", prompt_tokens=100, tokens=28, ended=False) == 0, "the engine's own count was lower"
    search.made("c", prompt_tokens=100, tokens=0, ended=True)
    assert not search.told
    assert search.made("c", prompt_tokens=100, tokens=1, ended=False) > 1, "sent again, its prompt is prefilled again"


def test_the_window_has_an_end() -> None:
    search = WindowSearch.start(0.0, MOST - 1)
    search._next_trial(0.0)
    assert search.trial == MOST
