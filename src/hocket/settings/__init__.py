"""`hocket.yaml`: what an operator may set, its defaults, and what is refused before anything starts.

Every mistake is an InputError that names the file, the line, the key and the remedy. The reference is
docs/reference/settings.md; a test keeps it and these structs equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field, structs

from hocket.core.spec import EngineSpec, PreemptionSpec, Route, SchedulerSpec, TenantSpec
from hocket.errors import InputError
from hocket.policies import check_parameters, compose, routing, spell_out
from hocket.settings.checks import (
    Count,
    Seconds,
    base_url,
    check_digest,
    check_name,
    is_loopback,
    key_of,
    parse_address,
    refuse,
    unique,
)
from hocket.settings.engines import EngineSettings, Health, Kind, Timeouts
from hocket.settings.history import HistorySettings
from hocket.settings.identity import IdentitySettings
from hocket.settings.limits import LimitsSettings, TenantLimits
from hocket.settings.plan import PlanSettings
from hocket.settings.tls import TlsSettings
from hocket.settings.urgency import JUDGE, Class, ReaderSettings, UrgencySettings
from hocket.yamlfile import load_yaml

__all__ = [
    "EngineSettings",
    "Health",
    "HistorySettings",
    "IdentitySettings",
    "Kind",
    "PlanSettings",
    "ReaderSettings",
    "RouteSettings",
    "Settings",
    "TenantSettings",
    "Timeouts",
    "TlsSettings",
    "UrgencySettings",
    "base_url",
    "is_loopback",
    "key_of",
    "load_settings",
    "parse_address",
]


class TenantSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Who pays: known by the SHA-256 of its API key, so that this file holds no secret."""

    name: str
    key_sha256: str | None = None
    'hexadecimal: printf %s "$KEY" | sha256sum; None = its keys are in the file of `keys`'
    weight: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    most_urgent: Class = 0
    "calls that claim a lower number get this one"
    urgency: Class | None = None
    "the class of its jobs where nothing says another; None = `urgency.default`"
    urgent_share: Annotated[float, Meta(gt=0, le=1)] | None = None
    "of all slots, for its calls of classes 0 and 1, on average; None = any"
    urgent_burst_s: Seconds = 60.0
    "slot-seconds of such work that it may have saved up"
    limits: TenantLimits = TenantLimits()
    "what it may have at once"

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        check_name(self.name)
        if self.key_sha256 is not None:
            check_digest("key_sha256", self.key_sha256)
        if self.urgency is not None and self.urgency < self.most_urgent:
            refuse("urgency", f"is {self.urgency}, but most_urgent is {self.most_urgent}; raise one or lower the other")


class RouteSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Sends some calls to another engine than the first that serves their model. A key left out matches all."""

    engine: str
    app: str | None = None
    stage: str | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        """A route without a condition would take everything."""
        if self.app is None and self.stage is None and self.model is None:
            refuse("engine", "this route matches every call; give it an app, a stage or a model")


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All of `hocket.yaml`."""

    listen: str = "127.0.0.1:8080"
    admin_listen: str | None = None
    "another address, for /metrics and /admin alone; None = they are at `listen`"
    tls: TlsSettings | None = None
    "None = plain HTTP"
    mode: Literal["schedule", "observe"] = "schedule"
    "observe: pass every call through at once, and only record"
    policy: str | list[str] = "default"
    "a name, or orderings from coarse to fine scope"
    policies: dict[str, dict[str, float | list[float]]] = {}
    "policy -> its parameters, where they are not the defaults"
    routing: str = "affinity"
    engines: list[EngineSettings] = field(default_factory=lambda: [EngineSettings(name="small", kind="embedded")])
    tenants: list[TenantSettings] = []
    "none = open to whoever can reach the port; then only a loopback address is allowed"
    keys: str | None = None
    "a file of API keys that `hocket keys` writes, relative to this one; None = those in `tenants` alone"
    routes: list[RouteSettings] = []
    job_idle_s: Seconds = 300.0
    "a job of which nothing was heard for so long, and that nobody closed, ends"
    identity: IdentitySettings = IdentitySettings()
    journal: str | None = None
    "a file for all events and commands; None = no journal"
    urgency: UrgencySettings = UrgencySettings()
    preemption: bool | PreemptionSpec = False
    "whether a waiting call may take the slot of a running one, where that pays; true = with every default"
    profiles: str | None = None
    "a folder that `hocket learn` wrote: what is known of the applications; None = what their live jobs teach"
    plan: PlanSettings | None = None
    "the plan that the engines come from: metrics say how far demand has drifted from it"
    history: bool | HistorySettings = True
    "jobs and calls on disk; true = with every default, false (`off`) = none"
    limits: LimitsSettings = LimitsSettings()
    "what all tenants together may have at once, and who is refused where a queue is long"
    timeouts: Timeouts = Timeouts()
    health: Health = Health()
    queue_timeout: Seconds | None = None
    "a call that waited for so long without a slot gets 503; None = it waits on"
    heartbeat_s: Seconds | None = None
    "a stream that waits gets a comment so often, so that no proxy cuts it; None = silence until the engine answers"
    admin_key_sha256: str | None = None
    "of a key of role admin; others are in the file of `keys`"
    log_text: bool = False
    "whether the log may quote what was sent: the messages of unexpected errors do; keys are never in it"
    body_limit_mib: Annotated[float, Meta(gt=0, le=1024)] = 32
    reuse_port: bool = False
    "another hocket may listen on the same address, and takes over when this one ends; for restarts without a gap"
    max_connections: Count = 10_000
    "of clients at once; more are told to try again. Each call needs one to an engine besides"
    shutdown_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    "how long calls may take to end after SIGTERM"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what holds between keys."""
        host, _ = self.address
        if not self.tenants and not is_loopback(host):
            refuse(
                "listen",
                f"'{self.listen}' can be reached from other machines and no tenants are set: "
                "anyone could use the engines; list `tenants` with their keys, or listen on 127.0.0.1",
            )
        if self.admin_key_sha256 is not None:
            check_digest("admin_key_sha256", self.admin_key_sha256)
        self._check_operators()
        try:
            compose(self.orderings)
        except InputError as error:
            refuse("policy", str(error))
        try:
            check_parameters(self.policies)
        except InputError as error:
            raise ValueError(str(error)) from None
        try:
            routing(self.routing)
        except InputError as error:
            refuse("routing", str(error))
        if not self.engines:
            refuse("engines", "is empty; list at least one engine, or leave it out for the embedded one")
        unique("engines", [engine.name for engine in self.engines], "name")
        unique("tenants", [tenant.name for tenant in self.tenants], "name")
        for i, tenant in enumerate(self.tenants):
            if tenant.key_sha256 is None and self.keys is None:
                refuse(f"tenants[{i}]", "has no key_sha256 and no file of `keys` is named: nobody could call")
        unique("tenants", [t.key_sha256.lower() for t in self.tenants if t.key_sha256 is not None], "key_sha256")
        names = [engine.name for engine in self.engines]
        for i, route in enumerate(self.routes):
            if route.engine not in names:
                refuse(f"routes[{i}].engine", f"there is no engine '{route.engine}'; there is {', '.join(names)}")
        self.urgency.check({engine.name: engine.served for engine in self.engines}, [t.name for t in self.tenants])

    def _check_operators(self) -> None:
        if self.admin_listen is None:
            return
        host, port = parse_address(self.admin_listen, "admin_listen")
        if port and (host, port) == self.address:
            refuse("admin_listen", f"'{self.admin_listen}' is `listen`, too; choose another port, or leave it out")
        if not is_loopback(host) and self.keys is None and self.admin_key_sha256 is None:
            refuse(
                "admin_listen",
                f"'{self.admin_listen}' can be reached from other machines and no key opens it: name a file of `keys`",
            )

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
        preemption: PreemptionSpec | bool | None = self.preemption
        if isinstance(preemption, bool):
            preemption = PreemptionSpec() if preemption else None
        return SchedulerSpec(
            engines=[
                EngineSpec(e.name, e.served, e.auto_window, e.latency, preempts=e.priority != "off")
                for e in self.engines
            ],
            policy=self.orderings,
            parameters=self.policies,
            routing=self.routing,
            routes=[*self._judges_route(), *(Route(r.engine, r.app, r.stage, r.model) for r in self.routes)],
            tenants=[
                TenantSpec(t.name, t.weight, t.urgent_share, t.urgent_burst_s, t.limits.to_spec()) for t in self.tenants
            ],
            limits=self.limits.to_spec(),
            job_idle_s=self.job_idle_s,
            queue_timeout_s=self.queue_timeout,
            preemption=preemption,
            observe=self.mode == "observe",
            seed=self.seed,
        )

    def _judges_route(self) -> list[Route]:
        """The judge's calls go to its engine, whichever else serves that model."""
        judge = self.urgency.judge
        return [] if judge is None else [Route(judge.engine, app=JUDGE)]


def load_settings(path: str | Path | None) -> Settings:
    """Read a settings file; None gives the defaults. Raises InputError."""
    if path is None:
        return Settings()
    settings = load_yaml(path, Settings)

    def beside(file: str) -> str:
        return str(Path(path).parent / file)

    if settings.plan is not None:
        settings = structs.replace(settings, plan=structs.replace(settings.plan, file=beside(settings.plan.file)))
    if settings.keys is not None:
        settings = structs.replace(settings, keys=beside(settings.keys))
    if (tls := settings.tls) is not None:
        client_ca = None if tls.client_ca is None else beside(tls.client_ca)
        settings = structs.replace(settings, tls=TlsSettings(beside(tls.cert), beside(tls.key), client_ca))
    return settings
