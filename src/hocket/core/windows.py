"""How wide a replica's window is, where the operator said `max_concurrency: auto`.

The aim is the smallest window at which throughput stops growing: the w that makes

    ln(tokens per second) - PRICE·ln(w)

largest. That is Kleinrock's power with a high price on throughput: where a window that is 1 % larger brings less than
0.015 % more tokens, it is not worth it, because calls that wait here can still be put in another order and calls that
wait in the engine cannot. Latency is no guide (as it is for TCP Vegas, BBR or gradient limiters): in a batching engine
each call is slower with every further one, from the first on, while the throughput still grows.

`hocket.core.meter` measures the throughput at one window; `WindowSearch` decides what to measure next. Both are plain
data and know no clock. docs/concepts/windows.md explains them with pictures.
"""

from __future__ import annotations

from math import exp, log, sqrt

from msgspec import Struct

from hocket.core.meter import Meter

PRICE = 0.015
"what one more in ln(window) must bring in ln(throughput)"
MOST = 4096
"the largest window"
ROUNDS = 3
"measurements of one window before a comparison ends undecided"
SURE = 2.0
"standard errors that make a difference certain"
NOISE = 0.04
"standard deviation of ln(throughput) between two measurements, before any is known"
LEAST_NOISE = 0.01
"the same, at least: calls that began together end together, which repeats itself and is no noise"
HOLD_S = 30.0
"how long a window that was found is kept before the next trial"
LONGEST_HOLD_S = 120.0
"the same, after trials that changed nothing: each hold is twice as long as the one before"
CHANGED = 0.15
"a shift of ln(throughput), twice in a row, after which the engine is another one"
WORTH = 0.03
"gain in ln(throughput) for which a narrower search is worth its time"
QUEUES = 2
"observations in a row of a replica that itself keeps more calls waiting than RESERVE, after which they are believed"
RESERVE = 2
"""calls that a replica may keep waiting: a slot that frees is filled at once, and not only when its call's end has been
heard of here and the next call has arrived there; two, for two may end in one iteration (llama.cpp with 8 slots makes
0.94, 0.96 and 1.01 times the tokens a second of window 16 with windows of 8, 9 and 10)"""
PROMPT_WEIGHT = 0.1
"output tokens that a prompt token counts for: an engine prefills about ten in the time of one more decoded"


class WindowSearch(Struct):
    """Finds the window of one replica, and follows it.

    It compares `home`, the best window so far, with one `trial` at a time. First it doubles (or halves) home as long as
    that is better; then it bisects between home and the nearest windows that were worse, `low` and `high`; then it
    holds home, and tries a neighbour now and then. A comparison ends when its outcome is certain, measured by the
    noise between equal measurements, or after ROUNDS; when nothing is certain, the smaller window wins.
    """

    size: int
    "the window now: home, or a trial"
    home: int
    meter: Meter
    trial: int = 0
    "0: none"
    at_home: list[float] = []
    "ln(tokens per second) there, latest last"
    at_trial: list[float] = []
    low: int = 0
    "the nearest smaller window that was worse; 0: none is known"
    high: int = 0
    slope: float = 1.0
    "how ln(throughput) grew with ln(window) up to home"
    rising: bool = True
    "the direction of the latest trial"
    variance: float = NOISE**2
    "of ln(tokens per second) between measurements at one window"
    ends_per_s: float = 0.0
    "calls, at home"
    held_until: float = -1.0
    "home is kept until then; -1: it is being searched for"
    hold_s: float = HOLD_S
    probing: bool = False
    "whether the trial is one out of a hold: it must be certain to change anything"
    odd: int = 0
    "measurements in a row, out of a hold, that show another engine"
    queueing: int = 0
    "observations in a row of calls that wait inside the replica"
    cap: int = MOST
    "no trial above it: the replica kept calls waiting there"
    cap_until: float = 0.0
    seen: dict[str, tuple[float, float]] = {}
    "undecided probes above and below this home: the sum of their gains, weighed by certainty, and of the weights"
    told: dict[str, int] = {}
    "tokens so far of each call in the replica that has told any"

    @classmethod
    def start(cls, now: float, window: int) -> WindowSearch:
        """A search that begins at `window`."""
        meter = Meter(window)
        meter.begin(now, window)
        return cls(window, window, meter)

    # ---------------------------------------------------------------- facts

    def made(self, call: str, prompt_tokens: int, tokens: int, ended: bool) -> float:
        """What a call, which has made `tokens` so far, has added since it was last asked about; its prompt counts once.

        A call that `ended` is forgotten, and adds nothing: it told of its tokens before.
        """
        if ended:
            self.told.pop(call, None)
            return 0.0
        before = self.told.get(call)
        self.told[call] = tokens
        return tokens + PROMPT_WEIGHT * prompt_tokens if before is None else max(tokens - before, 0)

    def report(self, now: float, since: float, tokens: float, ended: bool, inflight: int) -> None:
        """A call of the replica, one of `inflight`, made `tokens` (weighed) since `since`. `size` may have changed."""
        if not self.meter.report(now, since, tokens, ended, inflight):
            return
        if self.meter.starved:
            self._starved(now)
        elif self.meter.hopeless:
            self.hold_s = LONGEST_HOLD_S if self.probing else self.hold_s
            self._decide(now, better=False)
        else:
            self._measured(now, log(self.meter.rate))

    def observed(self, now: float, running: int, waiting: int, inflight: int) -> None:
        """What the replica says of itself. One that keeps calls waiting has more than it can use."""
        if waiting <= RESERVE or not 0 < running < inflight:
            self.queueing = 0
            return
        self.queueing += 1
        enough = running + RESERVE
        if self.queueing >= QUEUES and self.size > enough:
            self.cap, self.cap_until = enough, now + LONGEST_HOLD_S
            # a home of just as many as run has filled every slot there is: what it lacks is the reserve, which is worth
            # less than what measurements can tell
            if self.home >= running and self.home != enough:
                self.home, self.low, self.high = enough, 0, 0
                self.at_home = []
            self._drop_trial()
            self._go(now, self.home)

    # ---------------------------------------------------------------- decisions

    def _starved(self, now: float) -> None:
        """Too few calls wait: a larger window would stay empty. What is known stays, and is looked at later."""
        if self.trial:
            self._drop_trial()
            self._hold(now)
        self._go(now, self.home)

    def _measured(self, now: float, x: float) -> None:
        if self.trial and self.size == self.trial:
            self._learn_noise(self.at_trial, x)
            self.at_trial.append(x)
        else:
            if self.held_until >= 0.0 and self._is_odd(x):
                self._go(now, self.home)
                return
            self._learn_noise(self.at_home, x)
            self.ends_per_s = self.meter.ends / (self.meter.until - self.meter.since)
            self.at_home = [*self.at_home[-3:], x]
        if self.trial:
            self._compare(now)
        elif now >= self.held_until:
            self._next_trial(now)
        else:
            self._go(now, self.home)

    def _is_odd(self, x: float) -> bool:
        """Whether throughput at home is no longer what it was. The second time in a row, the search begins anew."""
        shift = x - _mean(self.at_home) if self.at_home else 0.0
        if abs(shift) <= max(CHANGED, 4.0 * sqrt(self.variance)):
            self.odd = 0
            return False
        self.odd += 1
        if self.odd < 2:
            return True
        self.odd, self.at_home, self.held_until, self.hold_s = 0, [], -1.0, HOLD_S
        self.low = self.high = 0
        self.seen = {}
        self.slope, self.rising = 1.0, shift > 0.0
        return False

    def _compare(self, now: float) -> None:
        home, trial = self.at_home, self.at_trial
        if home and trial:
            gain = _mean(trial) - _mean(home) - PRICE * log(self.trial / self.home)
            error = sqrt(self.variance * (1.0 / len(home) + 1.0 / len(trial)))
            if self.probing:
                gain, error = self._with_earlier(gain, error, keep=len(trial) >= ROUNDS)
            if abs(gain) > SURE * error:
                if self.probing and gain < -CHANGED:
                    self.hold_s = LONGEST_HOLD_S  # home is a peak: looking around is dear
                self._decide(now, better=gain > 0.0)
                return
            if gain < 0.0 and self.trial > self.home and not self.probing:
                self._decide(now, better=False)
                return
            if len(trial) >= ROUNDS:
                self._decide(now, better=self._prefers(gain, error))
                return
        # out of a hold the two take turns, so that a drift of the engine cancels out
        turn = self.probing and self.size == self.trial
        self._go(now, self.home if turn else self.trial)

    def _with_earlier(self, gain: float, error: float, *, keep: bool) -> tuple[float, float]:
        """Gain and its error, together with what earlier probes in this direction saw around the same home."""
        weight = 1.0 / (error * error)
        side = "above" if self.rising else "below"
        total, weights = self.seen.get(side, (0.0, 0.0))
        total, weights = total + gain * weight, weights + weight
        if keep:
            self.seen[side] = (total, weights)
        return total / weights, 1.0 / sqrt(weights)

    def _prefers(self, gain: float, error: float) -> bool:
        """Whether an uncertain trial is taken: a smaller window if it seems as good, a larger one if it seems better.

        Out of a hold none is, or home would drift with the noise.
        """
        return not self.probing and gain > (-0.25 * error if self.trial < self.home else error)

    def _decide(self, now: float, *, better: bool) -> None:
        old, new = self.home, self.trial
        if better:
            grown = _mean(self.at_trial) - _mean(self.at_home)
            if self.probing:
                self.low = self.high = 0
            if new > old:
                self.low, self.slope = old, max(grown / log(new / old), 0.0)
            else:
                self.high = old
            self.home, self.at_home, self.hold_s = new, self.at_trial[-3:], HOLD_S
            self.seen = {}
        elif new > old:
            self.high = new
        else:
            lost = _mean(self.at_home) - _mean(self.at_trial) if self.at_home and self.at_trial else 1.0
            self.low, self.slope = new, max(lost / log(old / new), 0.0)
        was_probing, self.probing = self.probing, False
        self._drop_trial()
        if better:
            self._next_trial(now)
            return
        self.rising = not self.rising
        if was_probing:
            self._hold(now)
        # after a failure home is measured once more, before the next trial is compared with it
        self._go(now, self.home)

    def _next_trial(self, now: float) -> None:
        if self.held_until >= 0.0:
            self.probing, self.held_until = True, -1.0
        above, below = self._above(now), self._below()
        first, second = (above, below) if self.rising else (below, above)
        self.trial = first or second
        if self.trial:
            self.rising = self.trial > self.home
        else:
            self._hold(now)
        self._go(now, self.trial or self.home)

    def _above(self, now: float) -> int:
        """The next larger window to try; 0 if none is worth it."""
        cap = self.cap if now < self.cap_until else MOST
        if self.probing:
            found = max(self.home + 1, round(self.home * sqrt(2.0)))
        elif not self.high:
            found = 2 * self.home
        elif (self.slope - PRICE) * log(self.high / self.home) > WORTH:
            # throughput is concave as a rule: beyond home it grows no faster than up to it
            found = round(sqrt(self.home * self.high))
        else:
            return 0
        found = min(found, cap)
        return found if self.home < found and (not self.high or self.probing or found < self.high) else 0

    def _below(self) -> int:
        """The next smaller window to try; 0 if none is worth it."""
        if self.probing:
            return min(self.home - 1, round(self.home / sqrt(2.0)))
        if not self.low:
            return self.home // 2
        found = round(sqrt(self.low * self.home))
        return found if self.low < found < self.home and self.home > 1.5 * self.low else 0

    def _hold(self, now: float) -> None:
        self.held_until = now + self.hold_s
        self.hold_s = min(2.0 * self.hold_s, LONGEST_HOLD_S)
        self.odd, self.probing = 0, False

    def _drop_trial(self) -> None:
        self.trial, self.at_trial = 0, []

    def _go(self, now: float, size: int) -> None:
        """Measure at `size` next."""
        settled = size == self.size and self.meter.reached
        if size != self.home and self.at_home:
            # at first only the calls end that were there before, each with its share of the whole
            share = min(1.0, self.home / size)
            self.meter.begin(now, size, share * self.ends_per_s, share * exp(_mean(self.at_home)), settled)
        else:
            self.meter.begin(now, size, settled=settled)
        self.size = size

    def _learn_noise(self, samples: list[float], x: float) -> None:
        if samples:
            n = len(samples)
            off = max(-0.2, min(0.2, x - _mean(samples)))
            self.variance += 0.15 * (off * off * n / (n + 1) - self.variance)
            self.variance = max(self.variance, LEAST_NOISE**2)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
