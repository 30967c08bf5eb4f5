"""What an application's jobs have taught up to some moment: the records that are believed in, and the network."""

from __future__ import annotations

from collections.abc import Callable

from hocket.beliefs.posterior import Bound
from hocket.beliefs.record import Record
from hocket.beliefs.samples import Samples
from hocket.core.latency import Latency


class Lesson:
    """Records, which become matrices when somebody asks, and the Bayesian network of the profile they go back to."""

    __slots__ = ("_before", "_samples", "network", "pace", "records")

    def __init__(
        self,
        records: tuple[Record, ...],
        pace: Callable[[str, str], Latency],
        network: Bound | None = None,
        before: Lesson | None = None,
    ) -> None:
        """`before`: the lesson at the same pace that this one goes on from; what it has worked out is used again."""
        self.records = records
        self.pace = pace
        self.network = network
        self._samples: Samples | None = None
        # not the lesson itself: a chain of lessons that nobody reads would grow without end
        self._before: Samples | None = None if before is None else before.worked_out

    @property
    def worked_out(self) -> Samples | None:
        """The matrices at hand: its own, or those of the lesson before."""
        return self._samples or self._before

    @property
    def samples(self) -> Samples:
        """The records as matrices."""
        if self._samples is None:
            self._samples, self._before = Samples(self.records, self.pace, self._before), None
        return self._samples

    def prepare(self, record: Record) -> None:
        """Work out a record that the next lesson will have, if this one is read: that one is then made in no time."""
        if self._samples is not None:
            self._samples.prepare(record)
