"""Measures a live engine and fits the engine model of the simulator to it.

Three experiments, repeated in rounds for as long as the time allows, so that a passing disturbance meets one round and
the median forgets it:

- a lone call: its time to first token is a prefill of p tokens, the gaps between its tokens are steps with b = 1;
- b calls at once, with short and with long prompts: the gaps while all of them decode are steps with (b, K). A larger
  burst sends the long prompts of a smaller one again, so an engine with a prefix cache need not compute them again;
- checks that are not fitted: the prompts of such a burst together, and a prompt that enters while others decode.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median, median_low
from typing import Literal, NamedTuple

import msgspec

from hocket.core.latency import Latency
from hocket.engines.fit import Misfit, Prefill, Step, fit, prefill_misfit, step_misfit
from hocket.engines.probe import Probe, Timeline, most_at_once, step_s, together
from hocket.errors import InputError

SHORT = 16
"tokens of a short prompt"
PROMPTS = (SHORT, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
ALWAYS = 256
"tokens: prompts up to this are measured however long it takes, for the fit needs them"
STEPS = 24
"tokens that a call generates"
MOST_ROUNDS = 9
LONE_SHARE = 0.1
"of the time: what the prefill of one lone prompt may take"
BURST_SHARE = 0.25
"of the time: what the prefill of the long prompts of all bursts may take"
MIXED = (4, 256)
"the check of mixed iterations: so many calls decode, a prompt of so many tokens enters"

Report = Callable[[float, str], None]
"called with the seconds gone and what is measured now"


class Check(msgspec.Struct, frozen=True):
    """What the constants predict of something that they were not fitted to."""

    what: str
    predicted_s: float
    measured_s: float


class Profile(msgspec.Struct, frozen=True):
    """What was found out about one replica of an engine."""

    model: str
    max_concurrency: int
    kv_tokens: int | None
    prefix_cache: bool | Literal["slots"]
    "whether a prompt that was sent again was not computed again; slots: llama.cpp's way"
    latency: Latency
    prefills: list[Prefill]
    steps: list[Step]
    prefill_error: Misfit
    decode_error: Misfit
    noise: float
    "how far apart the rounds were: median of |round - median| / median, over all repeated points"
    checks: list[Check]
    rounds: int
    seconds: float

    def rows(self) -> Iterator[tuple[str, float, float]]:
        """(what, measured seconds, predicted seconds) of all points and checks."""
        for p, seconds in self.prefills:
            yield f"prefill, {p} tokens", seconds, self.latency.iteration(self.latency.prefill(p), 1, 0, 0)
        for b, k, seconds in self.steps:
            yield f"step, {b} running, {k} KV tokens", seconds, self.latency.iteration(0.0, 0, b, k)
        for check in self.checks:
            yield f"check: {check.what}", check.measured_s, check.predicted_s

    def errors(self) -> str:
        """The fit errors and the noise, for people."""
        (p, worst_p), (d, worst_d) = self.prefill_error, self.decode_error
        noise = f"rounds differ by {self.noise:.1%}" if self.rounds > 1 else "one round only, so its noise is not known"
        return f"prefill {p:.1%} ({worst_p:.1%}), decode {d:.1%} ({worst_d:.1%}); {noise}"

    def engine_yaml(self, name: str) -> str:
        """`engines.yaml` for the simulator, with this one engine."""
        latency = msgspec.structs.asdict(self.latency)
        constants = ", ".join(f"{key}: {yaml_number(value)}" for key, value in latency.items())
        lines = [
            f"# {self.model}, measured by `hocket engine profile` in {self.seconds:.0f} s and {self.rounds} round(s).",
            f"# fit error, mean (most): {self.errors()}",
            "engines:",
            f"  - name: {json.dumps(name)}",
            f"    models: [{json.dumps(self.model)}]",
            "    replicas: 1",
            f"    max_concurrency: {self.max_concurrency}",
            f"    latency: {{{constants}}}",
            "    decode: step",
            f"    prefix_cache: {json.dumps(self.prefix_cache)}",
        ]
        if self.kv_tokens is not None:
            lines.insert(-3, f"    kv_tokens: {self.kv_tokens}")
        return "\n".join(lines) + "\n"


class Burst(NamedTuple):
    """What b calls sent at once showed."""

    step: Step
    prompts: list[int]
    last_first_s: float
    "from sending to the last first token"


async def profile(probe: Probe, seconds: float, max_concurrency: int | None, report: Report) -> Profile:
    """Profile the engine behind `probe` in about `seconds`. Raises InputError where it cannot be."""
    limits = await probe.limits()
    campaign = _Campaign(probe, seconds, max_concurrency or limits.max_concurrency or 8, limits.context, report)
    await campaign.measure()
    latency = fit(campaign.prefill_points(), campaign.step_points())
    checks = [*campaign.burst_checks(latency), await campaign.mixed_check(latency)]
    return Profile(
        model=probe.model,
        max_concurrency=campaign.concurrency,
        kv_tokens=limits.kv_tokens,
        prefix_cache="slots" if campaign.prefix_cache and limits.max_concurrency else campaign.prefix_cache,
        latency=latency,
        prefills=campaign.prefill_points(),
        steps=campaign.step_points(),
        prefill_error=prefill_misfit(latency, campaign.prefill_points()),
        decode_error=step_misfit(latency, campaign.step_points()),
        noise=campaign.noise(),
        checks=[check for check in checks if check is not None],
        rounds=campaign.rounds,
        seconds=round(time.perf_counter() - campaign.started, 1),
    )


class _Campaign:
    """The measurements of one profile, keyed by (calls, wanted prompt tokens)."""

    def __init__(self, probe: Probe, seconds: float, concurrency: int, context: int | None, report: Report) -> None:
        self.concurrency = concurrency
        self.rounds = 0
        self.prefix_cache = False
        self.started = time.perf_counter()
        self._probe = probe
        self._seconds = seconds
        self._report = report
        self._longest_prompt = (context or 2 * PROMPTS[-1]) - 4 * STEPS - SHORT
        self._long = 0
        self._long_prompts: list[str] = []
        self._prefills: dict[int, list[Prefill]] = defaultdict(list)
        self._bursts: dict[tuple[int, int], list[Burst]] = defaultdict(list)

    async def measure(self) -> None:
        """As many rounds as there is time for, one at least."""
        while True:
            begun = time.perf_counter()
            # Every other round runs backwards: it begins with the long prompts that the engine still has in its cache.
            parts = (self._lone_calls, self._short_bursts, self._long_bursts)
            for part in parts if self.rounds % 2 == 0 else reversed(parts):
                await part()
            self.rounds += 1
            now = time.perf_counter()
            next_s = (now - begun) * (0.6 if self.rounds == 1 else 1.0)
            if now - self.started + next_s > self._seconds or self.rounds == MOST_ROUNDS:
                return

    async def _lone_calls(self) -> None:
        for size in PROMPTS:
            if not await self._lone(size):
                return

    async def _short_bursts(self) -> None:
        for calls in self._batches():
            await self._burst(SHORT, [self._probe.prompt(SHORT) for _ in range(calls)])

    async def _long_bursts(self) -> None:
        if not self._long_prompts and self.concurrency > 1:
            affordable = int(BURST_SHARE * self._seconds / self._seconds_per_token() / self.concurrency)
            self._long = max(min(affordable, max(self._prefills)), 2 * SHORT)
            self._long_prompts = [self._probe.prompt(self._long) for _ in range(self.concurrency)]
        for calls in self._batches():
            await self._burst(self._long, self._long_prompts[:calls])

    def prefill_points(self) -> list[Prefill]:
        """One a size: the low median of the rounds, for what disturbs a measurement makes it longer."""
        return [Prefill(round(_middle(p, 0)), _middle(p, 1)) for p in self._prefills.values()]

    def step_points(self) -> list[Step]:
        """One for each number of calls and length of prompts, in the same way."""
        groups = [[burst.step for burst in bursts] for bursts in self._bursts.values()]
        return [Step(steps[0].running, round(_middle(steps, 1)), _middle(steps, 2)) for steps in groups]

    def noise(self) -> float:
        """See Profile.noise."""
        groups = [[p.seconds for p in group] for group in self._prefills.values()]
        groups += [[burst.step.seconds for burst in group] for group in self._bursts.values()]
        apart = [abs(s - median(group)) / median(group) for group in groups if len(group) > 1 for s in group]
        return median(apart) if apart else 0.0

    def burst_checks(self, latency: Latency) -> list[Check]:
        """Whether prompts that come together take what the formula adds up."""
        checks = []
        for (calls, _), bursts in self._bursts.items():
            burst = bursts[0]  # in later ones the engine has the prompts in its cache
            if calls > 1 and sum(burst.prompts) > 4 * SHORT * calls:
                predicted = latency.q0 + sum(latency.prefill(p) for p in burst.prompts)
                what = f"{calls} prompts at once, {sum(burst.prompts)} tokens to compute, until all have a first token"
                checks.append(Check(what, predicted, burst.last_first_s))
        return checks

    async def mixed_check(self, latency: Latency) -> Check | None:
        """Whether a prompt that enters while others decode takes what the formula says."""
        calls, size = min(MIXED[0], self.concurrency - 1), MIXED[1]
        if calls < 1 or not self._affordable(size):
            return None
        self._tell("a prompt among decoding calls")
        step = latency.iteration(0.0, 0, calls, calls * 2 * SHORT)
        tokens = max(2 * STEPS, round(0.3 / step))
        prompts = [self._probe.prompt(SHORT) for _ in range(calls)]
        running = [asyncio.create_task(self._probe.call(prompt, tokens)) for prompt in prompts]
        await asyncio.sleep(calls * (latency.q0 + latency.prefill(SHORT)) + STEPS / 2 * step)
        late = await self._probe.call(self._probe.prompt(size), 1)
        others = await asyncio.gather(*running)
        start, end = together(others)
        if not start < late.sent < late.tokens[0] < end:
            return None
        stalls = []
        for other in others:  # the iterations that the prompt was part of, less what they would have taken without it
            usual = step_s(other.gaps(start, late.sent))
            touched = [b - a for a, b in pairwise(other.tokens) if b > late.sent and a < late.tokens[0]]
            stalls.append(sum(gap - usual for gap in touched if gap > 1.5 * usual))
        floor = max(latency.q0, latency.d0) - latency.d0
        what = f"what a prompt of {late.prompt_tokens} tokens adds to {calls} decoding calls"
        return Check(what, floor + latency.prefill(late.prompt_tokens), median(stalls))

    async def _lone(self, size: int) -> bool:
        """A lone call. False where it would not fit or take too long."""
        if size > self._longest_prompt or not self._affordable(size):
            return False
        self._tell(f"1 call, {size} tokens")
        try:
            timeline = await self._probe.call(self._probe.prompt(size), STEPS)
        except InputError:
            if size <= ALWAYS:
                raise
            return False  # beyond the context of an engine that does not tell it
        self._prefills[size].append(Prefill(timeline.prompt_tokens, timeline.first_token_s))
        self._bursts[1, size].append(self._seen([timeline]))
        return True

    async def _burst(self, size: int, prompts: list[str]) -> None:
        calls = len(prompts)
        if calls > self.concurrency:
            return
        self._tell(f"{calls} calls, {size} tokens each")
        timelines: list[Timeline] = []
        for tokens in (STEPS, 4 * STEPS):  # calls that are admitted one after the other overlap only if they are long
            timelines = await asyncio.gather(*[self._probe.call(prompt, tokens) for prompt in prompts])
            start, end = together(timelines)
            if sum(len(t.gaps(start, end)) for t in timelines) >= 8 * calls:
                self._bursts[calls, size].append(self._seen(timelines))
                return
        if most_at_once(timelines) < calls:
            self.concurrency = max(1, most_at_once(timelines))

    def _seen(self, timelines: list[Timeline]) -> Burst:
        self.prefix_cache |= any(t.prompt_tokens <= t.context // 2 for t in timelines)
        start, end = together(timelines)
        gaps = [gap for t in timelines for gap in t.gaps(start, end)]
        middle = (start + end) / 2
        kv_tokens = sum(t.context + sum(at <= middle for at in t.tokens) for t in timelines)
        sent = min(t.sent for t in timelines)
        return Burst(Step(len(timelines), kv_tokens, step_s(gaps)), [t.prompt_tokens for t in timelines], start - sent)

    def _batches(self) -> list[int]:
        """2, 4, 8 ... and the concurrency itself."""
        powers = [2**k for k in range(1, 20) if 2**k < self.concurrency]
        return [*powers, self.concurrency] if self.concurrency > 1 else []

    def _affordable(self, tokens: int) -> bool:
        return tokens <= ALWAYS or tokens * self._seconds_per_token() <= LONE_SHARE * self._seconds

    def _seconds_per_token(self) -> float:
        longest = self._prefills[max(self._prefills)][0]
        return longest.seconds / longest.prompt_tokens

    def _tell(self, what: str) -> None:
        self._report(time.perf_counter() - self.started, what)


def _middle(points: list[Prefill] | list[Step], index: int) -> float:
    return median_low([point[index] for point in points])


def yaml_number(value: float) -> str:
    """Four digits, in a form that YAML 1.1 takes for a number: 3e-07 would be a text there, 3.0e-07 is none."""
    digits, exponent, power = f"{value:.4g}".partition("e")
    return digits if not exponent else f"{digits if '.' in digits else digits + '.0'}e{power}"
