"""A seeded generator for policies that flip coins: its whole state is one number, so a snapshot can hold it."""

from __future__ import annotations

_MASK = 2**64 - 1


class Rng:
    """SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). Same seed, same draws, on every machine."""

    __slots__ = ("state",)

    def __init__(self, seed: int) -> None:
        self.state = seed & _MASK

    def random(self) -> float:
        """Uniform in [0, 1), 53 bits."""
        self.state = z = (self.state + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((z ^ (z >> 31)) >> 11) * 2.0**-53

    def below(self, n: int) -> int:
        """Uniform in 0 ... n - 1."""
        return int(self.random() * n)
