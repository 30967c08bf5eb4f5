"""Tokens per second of one replica at one window: what `hocket.core.windows` compares.

Throughput tells something about a window only while calls wait to fill it, and only once what a new window set going
is over. Calls that stream say every quarter of a second what they have made; others say it at their end.
"""

from __future__ import annotations

from msgspec import Struct

ARM_S = 1.0
"the shortest measurement"
LONGEST_S = 30.0
"the longest measurement, and the longest wait for a new window to show"
FEWEST = 8
"calls that must end in a measurement, also where the window is smaller"
PLENTY = 16
"calls that should have ended by now, where it is told by their number whether they do"
FILL_S = 2.0
"how long the queue may take to fill a larger window"


class Meter(Struct):
    """Tokens per second of a replica while it holds `size` calls.

    A measurement has three phases. It settles, until the replica holds just `size` calls and as many have ended, so
    that what a larger window started all at once is over. It counts, until as many calls have ended again. It ripens,
    until what its calls made meanwhile is known: a call that does not stream says so only at its end, and its tokens
    belong to all the time since it was sent, not to that moment.
    """

    size: int
    phase: str = "settling"
    "settling | counting | ripening | over"
    since: float = 0.0
    "when the phase began; from `counting` on, when counting began"
    until: float = 0.0
    "when counting ended"
    at: float = 0.0
    "of the latest report"
    left: int = 0
    "calls that the latest report left in the replica"
    reached: bool = False
    "whether the replica has held just `size` calls"
    ends: int = 0
    "calls that ended in this phase"
    tokens: float = 0.0
    "that were made while counting, prompts weighed in"
    held_s: float = 0.0
    "slot-seconds: the calls in the replica, integrated"
    known_s: float = 0.0
    "of these, how many have been reported on"
    pace: float = 0.0
    "calls per second that are to be beaten; 0: none is known"
    goal: float = 0.0
    "tokens per second that are"
    heard: float = 0.0
    "tokens that were reported in this phase, whenever they were made"
    starved: bool = False
    "it is over because too few calls waited to keep the window full: nothing was learned"
    hopeless: bool = False
    "it is over because calls ended at less than half that pace"
    rate: float = 0.0
    "tokens per second; once it is over"

    def begin(self, now: float, size: int, pace: float = 0.0, goal: float = 0.0, settled: bool = False) -> None:
        """Measure at `size` from now on. `settled`: it was the size before as well."""
        self.size, self.since, self.pace, self.goal = size, now, pace, goal
        self.ends, self.heard = 0, 0.0
        self.phase, self.reached, self.starved, self.hopeless = "settling", False, False, False
        if settled:
            self.reached = True
            self._count(now)

    def report(self, now: float, since: float, tokens: float, ended: bool, inflight: int) -> bool:
        """A call, one of `inflight`, made `tokens` since `since`, and has `ended`. Whether the measurement is over."""
        # of the time since the latest report, until this call came there were no more than that one had left
        idle, left = max(min(since, now) - self.at, 0.0), min(self.left, inflight)
        passed, self.at, self.left = now - self.at, now, inflight - ended
        self.ends += ended
        self.heard += tokens
        if self._is_hopeless(now):
            return self._over(hopeless=True)
        if self.phase == "settling":
            return self._settle(now, inflight, ended)
        begun = max(since, self.since)
        if self.phase == "counting":
            self.held_s += inflight * (passed - idle) + left * idle
            self._add(now, since, begun, now, tokens)
            length = now - self.since
            if length < ARM_S or (self.ends < max(self.size, FEWEST) and length < LONGEST_S):
                return False
            self.until, self.phase = now, "ripening"
            if self.held_s < 0.9 * self.size * length:
                return self._over(starved=True)
        elif since < self.until:
            self._add(now, since, begun, self.until, tokens)
        length = self.until - self.since
        if self.known_s < 0.99 * self.held_s and now - self.until < 2.0 * length:
            return False
        self.rate = max(self.tokens, 1e-9) / length
        return self._over()

    def _is_hopeless(self, now: float) -> bool:
        """Whether calls and tokens come at less than half the pace to be beaten: a replica that thrashes is left soon.

        Not at once: what a larger window starts all at once has to be prefilled first.
        """
        if not self.pace or not self.reached or self.phase == "ripening":
            return False
        passed = now - self.since
        expected = self.pace * passed
        few = passed >= ARM_S and expected >= max(PLENTY, 0.5 * self.size) and self.ends < 0.5 * expected
        return few and self.heard < 0.5 * self.goal * passed

    def _settle(self, now: float, inflight: int, ended: bool) -> bool:
        if not self.reached:
            # a larger window is full at once where calls wait; a smaller one when enough calls have ended
            if inflight >= self.size >= inflight - ended:
                self.reached, self.since, self.ends, self.heard = True, now, 0, 0.0
            elif inflight < self.size and now - self.since > FILL_S:
                return self._over(starved=True)
        elif self.ends >= self.size or now - self.since > LONGEST_S:
            self._count(now)
        return False

    def _count(self, now: float) -> None:
        self.phase, self.since, self.at, self.ends = "counting", now, now, 0
        self.tokens = self.held_s = self.known_s = self.heard = 0.0

    def _add(self, now: float, since: float, begun: float, until: float, tokens: float) -> None:
        """Of what a call made between `since` and `now`, evenly, the part between `begun` and `until`."""
        self.known_s += until - begun
        self.tokens += tokens * (until - begun) / (now - since) if now > since else tokens

    def _over(self, *, starved: bool = False, hopeless: bool = False) -> bool:
        self.phase, self.starved, self.hopeless = "over", starved, hopeless
        return True
