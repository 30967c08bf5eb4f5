"""Events: what has happened, told to the core by a driver.

Each is a fact in the past tense and carries `at`, seconds on the driver's clock (monotonic, not negative). They are
immutable and encode to JSON as they are, which is what the journal holds. Nothing here says what will happen: output
sizes and durations are known when a call ends, not before. (`gc=False`: they hold no cycles, and there are many.)
"""

from __future__ import annotations

import msgspec

from hocket.core.spec import SchedulerSpec


class Event(msgspec.Struct, frozen=True, gc=False, tag_field="event", tag=True, omit_defaults=True):
    """A fact. `at` is in seconds."""

    at: float


class PastStep(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A call or tool run of a job, before this process knew it. Times in seconds since the job's arrival."""

    stage: str
    model: str | None
    "None: a tool run"
    began_s: float
    ended_s: float | None
    "None: it was lost, and will never end"
    prompt_tokens: int = 0
    output_tokens: int = 0


class Past(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a job had done when the process that served it ended: it keeps its age, its service and its belief."""

    number: int
    "its arrival number, below 0: before all jobs that arrived since"
    age_s: float
    service_s: float = 0.0
    path_s: float = 0.0
    steps: list[PastStep] = []
    "in the order in which they began"


class JobOpened(Event, frozen=True, gc=False, tag=True):
    """A job has begun. Carries no future: only what its first request shows."""

    job: str
    app: str
    tenant: str = "default"
    urgency: int = 2
    "0 (emergency) ... 4 (background)"
    deadline_s: float | None = None
    "seconds after `at` by which the job should end"
    features: dict[str, float] = {}
    past: Past | None = None
    "of a job that goes on after a restart"


class JobClosed(Event, frozen=True, gc=False, tag=True):
    """No further stage will come. With `abort`, its open calls are to be killed as well."""

    job: str
    abort: bool = False
    reason: str = "closed"
    "closed | idle | aborted | refused (its first call was, and opened it)"


class CallArrived(Event, frozen=True, gc=False, tag=True):
    """A call waits to be scheduled. Its job has been opened before."""

    call: str
    job: str
    stage: str
    model: str
    prompt_tokens: int = 0
    max_tokens: int | None = None
    urgency: int | None = None
    "None: the job's"
    parent: str | None = None
    "the stage that caused this one, where the application said so"
    hint_output_tokens: int | None = None
    "what a length predictor says, where there is one"
    prefix: str | None = None
    "a fingerprint of what the prompt begins with (system prompt and tools): equal ones share KV cache"
    retry: int = 0
    "the client's own count of attempts: above 0 it is an earlier call again, not a new step of the job"
    resumable: bool = False
    "whether a part of its answer can be continued: if not, it may be displaced only before its first byte"
    idempotency: str | None = None
    "a hash of the key by which its client would recognise a repetition; for the history"
    bytes: int = 0
    "of its request, which the driver holds while the call is open"


class CallStarted(Event, frozen=True, gc=False, tag=True):
    """The replica has begun to work on a dispatched call."""

    call: str


class CallStreamed(Event, frozen=True, gc=False, tag=True):
    """The first token is out (then at most every 250 ms: `tokens` so far).

    After a `Preempt` of a call that is not resumable it says that the driver did not obey: the call runs on. With 0
    tokens it says so of any call.
    """

    call: str
    tokens: int = 1
    "of the whole answer, with what was made before it was displaced; 0 = there is no news but that it runs on"


class CallFinished(Event, frozen=True, gc=False, tag=True):
    """A call is complete. Sizes as the engine reports them."""

    call: str
    prompt_tokens: int = 0
    output_tokens: int = 0


class CallFailed(Event, frozen=True, gc=False, tag=True):
    """The replica did not deliver. The core answers with a new `Dispatch` in time, or with `Reject`."""

    call: str
    kind: str
    "connect | reset | timeout | garbage | status"
    status: int = 0
    "the replica's HTTP status, where kind is status"
    first_byte: bool = False
    "whether the client has been sent anything: then there is no retry"
    retry_after_s: float | None = None
    "what a 429 asked for"


class CallCancelled(Event, frozen=True, gc=False, tag=True):
    """The client is gone: the call is over, wherever it was. The driver stops it upstream by itself."""

    call: str


class CallPreempted(Event, frozen=True, gc=False, tag=True):
    """A `Preempt` was obeyed: the call has left its replica and waits again, to go on from there."""

    call: str
    tokens_kept: int = 0
    "of its answer: they will not be made again (what the engine must compute again to go on is another matter)"


class CallRevised(Event, frozen=True, gc=False, tag=True):
    """More is known of a waiting call than when it arrived."""

    call: str
    urgency: int | None = None
    features: dict[str, float] = {}


class ToolStarted(Event, frozen=True, gc=False, tag=True):
    """A tool run of a job has begun."""

    job: str
    run: str
    name: str
    parent: str | None = None


class ToolFinished(Event, frozen=True, gc=False, tag=True):
    """A tool run of a job is over."""

    job: str
    run: str


class ReplicaAdded(Event, frozen=True, gc=False, tag=True):
    """A replica can take calls: `window` of them at once."""

    engine: str
    replica: str
    window: int


class ReplicaRemoved(Event, frozen=True, gc=False, tag=True):
    """A replica takes no more calls. The fate of those it holds is told call by call."""

    engine: str
    replica: str
    died: bool = False


class ReplicaObserved(Event, frozen=True, gc=False, tag=True):
    """A health check was answered, or was not. Told when it changes, and each time where windows are `auto`."""

    engine: str
    replica: str
    healthy: bool = True
    running: int | None = None
    "calls that the replica itself says it works on; None = it does not say"
    waiting: int | None = None
    "calls that wait inside the replica"
    kv_used: float | None = None
    "share of its KV cache in use, 0 to 1"


class ProfileReplaced(Event, frozen=True, gc=False, tag=True):
    """An application was learned anew: `profile` is the text of a profile file, so a journal replays by itself."""

    app: str
    profile: str


class SettingsChanged(Event, frozen=True, gc=False, tag=True):
    """The operator changed the settings. Replicas of engines that are gone were removed before."""

    spec: SchedulerSpec


class Tick(Event, frozen=True, gc=False, tag=True):
    """Time has come to `at`: the answer to a `WakeAt`."""


AnyEvent = (
    JobOpened
    | JobClosed
    | CallArrived
    | CallStarted
    | CallStreamed
    | CallFinished
    | CallFailed
    | CallCancelled
    | CallPreempted
    | CallRevised
    | ToolStarted
    | ToolFinished
    | ReplicaAdded
    | ReplicaRemoved
    | ReplicaObserved
    | ProfileReplaced
    | SettingsChanged
    | Tick
)
