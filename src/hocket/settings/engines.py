"""One engine of `hocket.yaml`, and how long its replicas may be silent."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, structs

from hocket.core.latency import Latency
from hocket.settings.checks import Count, Seconds, base_url, check_name, refuse, unique, url_problem

FIRST_WINDOW = 8
"where `max_concurrency: auto` begins, and the slots of an embedded engine then"

Kind = Literal["openai", "vllm", "sglang", "llamacpp", "embedded"]


class Timeouts(Struct, frozen=True, forbid_unknown_fields=True):
    """How long a replica, or a client, may be silent before a call has failed, in seconds."""

    connect: Seconds = 5.0
    first_byte: Seconds = 600.0
    "from the request to the first byte of the answer; for a call that does not stream that is the whole call"
    between_chunks: Seconds = 120.0
    request: Seconds = 60.0
    "for a client to send its headers, and again for its body"
    client: Seconds = 60.0
    "for a client to read what it was sent, once the connection can hold no more"


class Health(Struct, frozen=True, forbid_unknown_fields=True):
    """Active checks of the replicas; failures of calls count by themselves."""

    interval_s: Annotated[float, Meta(ge=0.1, le=3600)] = 2.0
    timeout_s: Annotated[float, Meta(ge=0.1, le=3600)] = 5.0
    "a check that is not answered for so long is a miss; two in a row, and the replica gets no calls"


class EngineSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One model being served, by replicas that are all alike."""

    name: str
    kind: Kind = "openai"
    models: list[str] = []
    "names that clients ask for; empty = the engine's name"
    upstream_model: str | None = None
    "what the engine itself calls the model, where that differs"
    replicas: list[str] | Count = 1
    "base URLs; for kind embedded, how many processes to start"
    max_concurrency: int | str | list[int] = 8
    "the window: calls in one replica at once; a list = of each replica; auto = hocket finds it"
    latency: Latency | None = None
    "constants of the engine model, as `hocket engine profile` measures them: what beliefs make seconds of tokens with"
    priority: Literal["off", "low-first", "high-first"] = "off"
    "whether a call's urgency is passed on in `priority`, and which number the engine takes first"
    api_key_env: str | None = None
    "the environment variable that holds the key which the engine wants"
    weights: str | None = None
    "kind embedded: a name of the catalog, a .gguf file or hf:OWNER/REPO/FILE.gguf; None = the engine's name"
    context: Count = 2048
    "kind embedded: tokens of each slot, prompt and answer together"
    threads: Count | None = None
    "kind embedded: CPU threads of one replica; None = 1"
    cpus: list[int] | None = None
    "kind embedded: pin the processes to these CPUs"
    nice: Annotated[int, Meta(ge=0, le=19)] = 0
    "kind embedded: how far the processes give way to others on the same CPUs; a step is a fifth less of them"

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        check_name(self.name)
        if isinstance(self.max_concurrency, str):
            if self.max_concurrency != "auto":
                refuse("max_concurrency", f"must be a number of calls >= 1 or auto, got '{self.max_concurrency}'")
        elif isinstance(self.max_concurrency, list):
            if not isinstance(self.replicas, list) or len(self.replicas) != len(self.max_concurrency):
                refuse("max_concurrency", "as a list must have a number for each URL of `replicas`")
            if min(self.max_concurrency, default=1) < 1:
                refuse("max_concurrency", f"must be >= 1, got {min(self.max_concurrency)}")
        elif self.max_concurrency < 1:
            refuse("max_concurrency", f"must be >= 1, got {self.max_concurrency}")
        for i, model in enumerate(self.models):
            if not model.strip():
                refuse(f"models[{i}]", "is empty; give the name that clients ask for, or leave `models` out")
        if self.latency is not None:
            self._check_latency(structs.asdict(self.latency))
        if self.kind == "embedded":
            self._check_embedded()
        else:
            self._check_remote()

    @staticmethod
    def _check_latency(constants: dict[str, float]) -> None:
        for key, seconds in constants.items():
            if not 0 <= seconds < 1e9:
                refuse(f"latency.{key}", f"must be seconds, 0 or more, got {seconds}")
        if not any(constants.values()):
            refuse("latency", "is all 0, an engine that takes no time; give what `hocket engine profile` measured")

    def _check_embedded(self) -> None:
        if not isinstance(self.replicas, int):
            refuse("replicas", "must be a number for kind embedded: hocket starts the processes itself")
        for key in ("api_key_env", "upstream_model"):
            if getattr(self, key) is not None:
                refuse(key, "has no meaning for kind embedded; remove it")

    def _check_remote(self) -> None:
        if isinstance(self.replicas, int) or not self.replicas:
            refuse("replicas", f"must be a list of base URLs for kind {self.kind}, like [http://127.0.0.1:9001]")
        for i, url in enumerate(self.replicas):
            if problem := url_problem(url):
                refuse(f"replicas[{i}]", f"{problem}, got '{url}'; write it like http://127.0.0.1:9001")
        unique("replicas", [base_url(url) for url in self.replicas])
        for key in ("weights", "threads", "cpus", "nice"):
            if getattr(self, key) not in (None, 0):
                refuse(key, f"is for kind embedded only; a replica of kind {self.kind} is set up where it runs")

    @property
    def auto_window(self) -> bool:
        """Whether hocket finds the window."""
        return self.max_concurrency == "auto"

    @property
    def window(self) -> int:
        """Calls in one replica at once; where hocket finds the number, the one it begins with."""
        return self.max_concurrency if isinstance(self.max_concurrency, int) else FIRST_WINDOW

    def window_of(self, url: str) -> int:
        """The same, of the replica with this base URL."""
        if isinstance(self.max_concurrency, int | str) or isinstance(self.replicas, int):
            return self.window
        windows = {base_url(own): window for own, window in zip(self.replicas, self.max_concurrency, strict=True)}
        return windows[url]

    @property
    def served(self) -> list[str]:
        """The names that clients ask for."""
        return self.models or [self.name]
