"""An asyncio loop whose time is virtual: it never waits, it jumps to the next timer when nothing else is left to do."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

FAR = 1e9
"seconds: a timer beyond this is not meant to fire"


class VirtualLoop(asyncio.SelectorEventLoop):
    """`quiet` is called before each jump: if it makes something ready, that comes first, at the same moment."""

    def __init__(self) -> None:
        super().__init__(selectors.DefaultSelector())
        self.now = 0.0
        self.quiet: Callable[[], None] = lambda: None
        self._clock_resolution = 1e-13
        self._selector.select = self._jump  # type: ignore[method-assign]

    def time(self) -> float:
        return self.now

    def _jump(self, timeout: float | None = None) -> list[Any]:
        if timeout == 0:
            return []
        self.quiet()
        if not self._ready:
            if not self._scheduled or self._scheduled[0]._when > FAR:
                raise RuntimeError("deadlock: nothing is ready and no timer is near")
            self.now = max(self.now, self._scheduled[0]._when)
        return []


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run `main(loop)` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        return runner.run(main(loop))
