"""`hocket.yaml`: what an operator may set, its defaults, and what is refused before anything starts.

Every mistake is an InputError that names the file, the line, the key and the remedy. The reference is
docs/reference/settings.md; a test keeps it and these structs equal.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, NoReturn
from urllib.parse import urlsplit

from msgspec import Meta, Struct, field, structs

from hocket.core.spec import EngineSpec, Route, SchedulerSpec, TenantSpec
from hocket.errors import InputError
from hocket.policies import compose, routing, spell_out
from hocket.yamlfile import load_yaml

Kind = Literal["openai", "vllm", "sglang", "llamacpp", "embedded"]
Seconds = Annotated[float, Meta(gt=0, le=1e9)]
Count = Annotated[int, Meta(ge=1)]


class Timeouts(Struct, frozen=True, forbid_unknown_fields=True):
    """How long a replica may be silent before a call on it has failed, in seconds."""

    connect: Seconds = 5.0
    first_byte: Seconds = 600.0
    "from the request to the first byte of the answer; for a call that does not stream that is the whole call"
    between_chunks: Seconds = 120.0


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
    max_concurrency: int | str = 8
    "the window: calls in one replica at once"
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

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        _check_name(self.name)
        if isinstance(self.max_concurrency, str):
            _refuse("max_concurrency", "must be a number of calls >= 1; 'auto' does not exist yet")
        if self.max_concurrency < 1:
            _refuse("max_concurrency", f"must be >= 1, got {self.max_concurrency}")
        for i, model in enumerate(self.models):
            if not model.strip():
                _refuse(f"models[{i}]", "is empty; give the name that clients ask for, or leave `models` out")
        if self.kind == "embedded":
            self._check_embedded()
        else:
            self._check_remote()

    def _check_embedded(self) -> None:
        if not isinstance(self.replicas, int):
            _refuse("replicas", "must be a number for kind embedded: hocket starts the processes itself")
        for key in ("api_key_env", "upstream_model"):
            if getattr(self, key) is not None:
                _refuse(key, "has no meaning for kind embedded; remove it")

    def _check_remote(self) -> None:
        if isinstance(self.replicas, int) or not self.replicas:
            _refuse("replicas", f"must be a list of base URLs for kind {self.kind}, like [http://127.0.0.1:9001]")
        for i, url in enumerate(self.replicas):
            if problem := _url_problem(url):
                _refuse(f"replicas[{i}]", f"{problem}, got '{url}'; write it like http://127.0.0.1:9001")
        _unique("replicas", [base_url(url) for url in self.replicas])
        for key in ("weights", "threads", "cpus"):
            if getattr(self, key) is not None:
                _refuse(key, f"is for kind embedded only; a replica of kind {self.kind} is set up where it runs")

    @property
    def served(self) -> list[str]:
        """The names that clients ask for."""
        return self.models or [self.name]


class TenantSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Who pays: known by the SHA-256 of its API key, so that this file holds no secret."""

    name: str
    key_sha256: str
    'hexadecimal: printf %s "$KEY" | sha256sum'
    weight: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    most_urgent: Annotated[int, Meta(ge=0, le=4)] = 0
    "calls that claim a lower number get this one"

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        _check_name(self.name)
        if not re.fullmatch("[0-9a-fA-F]{64}", self.key_sha256):
            _refuse("key_sha256", 'must be the key\'s SHA-256, 64 hexadecimal digits: printf %s "$KEY" | sha256sum')


class RouteSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Sends some calls to another engine than the first that serves their model. A key left out matches all."""

    engine: str
    app: str | None = None
    stage: str | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        """A route without a condition would take everything."""
        if self.app is None and self.stage is None and self.model is None:
            _refuse("engine", "this route matches every call; give it an app, a stage or a model")


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All of `hocket.yaml`."""

    listen: str = "127.0.0.1:8080"
    policy: str | list[str] = "default"
    "a name, or orderings from coarse to fine scope"
    routing: str = "least-loaded"
    engines: list[EngineSettings] = field(default_factory=lambda: [EngineSettings(name="small", kind="embedded")])
    tenants: list[TenantSettings] = []
    "none = open to whoever can reach the port; then only a loopback address is allowed"
    routes: list[RouteSettings] = []
    job_idle_s: Seconds = 300.0
    "a job of which nothing was heard for so long, and that nobody closed, ends"
    journal: str | None = None
    "a file for all events and commands; None = no journal"
    timeouts: Timeouts = Timeouts()
    body_limit_mib: Annotated[float, Meta(gt=0, le=1024)] = 32
    shutdown_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    "how long calls may take to end after SIGTERM"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what holds between keys."""
        host, _ = self.address
        if not self.tenants and not _is_loopback(host):
            _refuse(
                "listen",
                f"'{self.listen}' can be reached from other machines and no tenants are set: "
                "anyone could use the engines; list `tenants` with their keys, or listen on 127.0.0.1",
            )
        try:
            compose(self.orderings)
        except InputError as error:
            _refuse("policy", str(error))
        try:
            routing(self.routing)
        except InputError as error:
            _refuse("routing", str(error))
        if not self.engines:
            _refuse("engines", "is empty; list at least one engine, or leave it out for the embedded one")
        _unique("engines", [engine.name for engine in self.engines], "name")
        _unique("tenants", [tenant.name for tenant in self.tenants], "name")
        _unique("tenants", [tenant.key_sha256.lower() for tenant in self.tenants], "key_sha256")
        names = [engine.name for engine in self.engines]
        for i, route in enumerate(self.routes):
            if route.engine not in names:
                _refuse(f"routes[{i}].engine", f"there is no engine '{route.engine}'; there is {', '.join(names)}")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`. Port 0 takes a free one."""
        return parse_address(self.listen)

    @property
    def orderings(self) -> tuple[str, ...]:
        """Names of orderings, coarse scope first. Recipes are spelled out: a journal replays when they mean another."""
        return spell_out((self.policy,) if isinstance(self.policy, str) else self.policy)

    @property
    def body_limit(self) -> int:
        """Bytes that a request may have."""
        return int(self.body_limit_mib * 2**20)

    def replaced(self, *, port: int | None, policy: list[str] | None, journal: str | None) -> Settings:
        """With what the command line says instead; None keeps what is there. Raises InputError."""
        host, own_port = self.address
        new_port = own_port if port is None else port
        try:
            return structs.replace(
                self,
                listen=f"[{host}]:{new_port}" if ":" in host else f"{host}:{new_port}",
                policy=self.policy if policy is None else policy,
                journal=self.journal if journal is None else journal,
            )
        except ValueError as error:
            raise InputError(str(error)) from None

    def to_spec(self) -> SchedulerSpec:
        """What decides, without what does I/O."""
        return SchedulerSpec(
            engines=[EngineSpec(name=engine.name, models=engine.served) for engine in self.engines],
            policy=self.orderings,
            routing=self.routing,
            routes=[Route(engine=r.engine, app=r.app, stage=r.stage, model=r.model) for r in self.routes],
            tenants=[TenantSpec(name=tenant.name, weight=tenant.weight) for tenant in self.tenants],
            job_idle_s=self.job_idle_s,
            seed=self.seed,
        )


def load_settings(path: str | Path | None) -> Settings:
    """Read a settings file; None gives the defaults. Raises InputError."""
    return Settings() if path is None else load_yaml(path, Settings)


def parse_address(text: str) -> tuple[str, int]:
    """'127.0.0.1:8080' or '[::1]:8080' as host and port. Raises ValueError in the form of this module."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        _refuse("listen", f"must be host:port, like 127.0.0.1:8080, got '{text}'")
    return host, int(port)


def base_url(url: str) -> str:
    """A replica's URL without the `/v1` and the slash that people add."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def key_of(variable: str, asked_by: str) -> str:
    """The API key in an environment variable that `asked_by` names. Raises InputError, which does not show it."""
    key = os.environ.get(variable, "").strip()  # a secret that was read from a file often ends in a newline
    if not key:
        raise InputError(f"{asked_by}: the environment variable {variable} is not set; export it, or ask for none")
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"{asked_by}: {variable} holds characters that no HTTP header can carry; is it the key alone?")
    return key


def _check_name(name: str) -> None:
    """Names of engines and tenants become metric labels and parts of ids."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        _refuse("name", f"must be 1 to 64 letters, digits, '.', '_' or '-', got '{name}'")


def _url_problem(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"}:
            return "must be an http:// or https:// URL"
        if not parts.hostname or parts.port == 0:
            return "must name a host"
    except ValueError:
        return "is not a URL"
    if parts.query or parts.fragment:
        return "must not have a query or a fragment"
    if parts.username or parts.password:
        return "must not hold a password; put the key in an environment variable and name it in `api_key_env`"
    return None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _unique(key: str, values: Iterable[str], field: str | None = None) -> None:
    seen: dict[str, int] = {}
    for i, value in enumerate(values):
        if value in seen:
            at = f"{key}[{i}].{field}" if field else f"{key}[{i}]"
            _refuse(at, f"'{value}' is there already, as {key}[{seen[value]}]; each needs its own")
        seen[value] = i


def _refuse(key: str, problem: str) -> NoReturn:
    """Raise in the form that `hocket.yamlfile` turns into file, line and key: "`key` problem"."""
    raise ValueError(f"`{key}` {problem}")
