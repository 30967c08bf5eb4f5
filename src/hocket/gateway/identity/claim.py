"""What a request says of where it belongs, whichever way it says so."""

from __future__ import annotations

from hashlib import blake2b

from msgspec import Struct, structs

DEFAULT_APP = "default"
DEFAULT_STAGE = "call"
MAX_NAME = 200
"characters of a name or an id"
MAX_DEADLINE_S = 10**9


class Claim(Struct, frozen=True, gc=False):
    """What one source says. None: it does not say."""

    app: str | None = None
    stage: str | None = None
    parent: str | None = None
    "the stage that caused this one"
    span: str | None = None
    "what caused this one, in another system's words: the parent where no stage is known to be"
    urgency: int | None = None
    deadline_s: float | None = None
    hint_output_tokens: int | None = None

    job: str | None = None
    session: str | None = None
    "one agent's conversation: a job, or a part of the job of the session that started it"
    parent_session: str | None = None
    "the session that started this one"
    final: bool = False
    "nothing follows in this session"
    explicit: bool = False
    "the job was named to hocket, not to some other system: then a contradiction is an error"

    @property
    def places(self) -> bool:
        """Whether it says which job this is."""
        return self.job is not None or self.session is not None or self.parent_session is not None


NOTHING = Claim()

_PLACE = ("job", "session", "parent_session", "final", "explicit")
_REST = tuple(name for name in Claim.__struct_fields__ if name not in _PLACE)


def merge(first: Claim, then: Claim) -> Claim:
    """Each field from the first that has it. What says which job it is comes from one of the two, never from both."""
    if first is NOTHING or then is NOTHING:
        return then if first is NOTHING else first
    more = {name: getattr(then, name) for name in _REST if getattr(first, name) is None}
    if not first.places:
        more |= {name: getattr(then, name) for name in _PLACE}
    return structs.replace(first, **more)


def is_name(text: str) -> bool:
    """Whether hocket can use it as a name or an id: 1 to 200 printable ASCII characters without margins."""
    return 0 < len(text) <= MAX_NAME and text.isascii() and text.isprintable() and text == text.strip()


def tamed(value: object) -> str | None:
    """Somebody else's id or name in a form that hocket can use: itself, a hash of it, or None if there is none.

    The hash has no key: the same id is the same job after a restart, too.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    if not text or is_name(text):
        return text or None
    return "id-" + blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def urgency_of(priority: object, *, higher_first: bool) -> int | None:
    """Another system's number, 0 its default, as an urgency: one class for each step away from it, 0 to 4."""
    number = _number(priority)
    if number is None or number == 0:
        return None
    step = -1 if (number > 0) == higher_first else 1
    return max(0, min(4, 2 + step * min(abs(int(number)) or 1, 2)))


def seconds_of(value: object) -> float | None:
    """A deadline in seconds from now, if it is one."""
    number = _number(value)
    return number if number is not None and 0 < number <= MAX_DEADLINE_S else None


def tokens_of(value: object) -> int | None:
    """A number of tokens, if it is one."""
    number = _number(value)
    return int(number) if number is not None and 1 <= number < 2**31 else None


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            value = float(value) if len(value) <= 32 else None
        except ValueError:
            return None
    if isinstance(value, int):
        value = float(max(-(2**53), min(2**53, value)))
    return value if isinstance(value, float) and -1e15 < value < 1e15 else None
