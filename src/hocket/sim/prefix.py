"""What is left of a prompt to compute, where an engine keeps the KV memory of calls that have ended.

Engines do it in two ways. vLLM and SGLang keep blocks in one pool that every call of a replica finds: `PrefixCache`.
llama.cpp keeps in each of its slots what the slot's last call left, and a call finds that of the slot it gets:
`SlotCache`.
"""

from __future__ import annotations

import math
from collections import OrderedDict

Key = tuple[str, str]
'(job, stage id) of a call, or ("", id) of a common prefix: what a prefix is shared with'
Shared = tuple[Key, int]
"with what, and how many tokens"


class PrefixCache:
    """What finished calls left in a replica's KV memory: it stays until running calls need the room, oldest use first.

    A simplification: a prefix that two calls hold is counted twice, so a cache under pressure is a little too small.
    """

    def __init__(self) -> None:
        self._tokens: OrderedDict[Key, int] = OrderedDict()
        self._total = 0

    def keep(self, key: Key, tokens: int) -> None:
        """A call has left `tokens` here, unless as many are here already."""
        if self.get(key) < tokens:
            self._total += tokens - self._tokens.pop(key, 0)
            self._tokens[key] = tokens

    def get(self, key: Key) -> int:
        """Tokens that are left of that call. Counts as a use."""
        if key not in self._tokens:
            return 0
        self._tokens.move_to_end(key)
        return self._tokens[key]

    def take(self, key: Key) -> int:
        """Tokens that are left of a call that was displaced: it goes on, so they are its own again."""
        tokens = self._tokens.pop(key, 0)
        self._total -= tokens
        return tokens

    def trim(self, room: float) -> None:
        """Keep at most `room` tokens; the oldest loses its tail first."""
        while self._total > room:
            key, tokens = next(iter(self._tokens.items()))
            lost = min(tokens, math.ceil(self._total - room))
            self._total -= lost
            if lost < tokens:
                self._tokens[key] = tokens - lost
            else:
                del self._tokens[key]


class SlotCache:
    """One slot a call, as many as run at once. A call gets the free slot that holds most of its prompt; if none holds
    a tenth of it, the one that has rested longest.
    """

    LEAST_SHARE = 0.1
    "llama.cpp's --slot-prompt-similarity"

    def __init__(self, slots: int) -> None:
        #: of each free slot, longest at rest first: which calls' beginnings it holds, and how much of them
        self._free: list[dict[Key, int]] = [{} for _ in range(slots)]

    def take(self, prompt: int, *prefixes: Shared | None) -> int:
        """A slot for a prompt of so many tokens, of which `prefixes` are others', too. Returns the tokens it holds."""
        shared = [prefix for prefix in prefixes if prefix is not None]
        if not shared:
            del self._free[0]
            return 0
        held = [max(min(tokens, slot.get(key, 0)) for key, tokens in shared) for slot in self._free]
        best = max(range(len(held)), key=held.__getitem__)
        if held[best] <= self.LEAST_SHARE * prompt:
            best = 0
        del self._free[best]
        return held[best]

    def leave(self, key: Key, tokens: int, *prefixes: Shared | None) -> None:
        """The call `key` leaves its slot, with `tokens` of prompt and answer in it, which begin with `prefixes`."""
        self._free.append({key: tokens, **dict(prefix for prefix in prefixes if prefix is not None)})
