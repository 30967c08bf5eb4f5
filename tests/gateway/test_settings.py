"""`hocket.yaml`: what is refused names the file, the line, the key and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from hocket.cli import main
from hocket.core.spec import AdmissionSpec, EngineSpec, Route, SchedulerSpec, TenantSpec
from hocket.errors import InputError
from hocket.policies import spell_out
from hocket.settings import EngineSettings, Settings, load_settings

KEY = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
CONTRACT = f"""
listen: 127.0.0.1:8080
policy: default
engines:
  - name: small
    kind: openai
    models: [small]
    replicas: [http://127.0.0.1:9001, http://127.0.0.1:9002/v1/]
    max_concurrency: 8
tenants:
  - {{name: team-a, key_sha256: "{KEY}", weight: 2, most_urgent: 1}}
routes: []
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "hocket.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_contract(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, CONTRACT))
    assert settings.to_spec() == SchedulerSpec(
        engines=[EngineSpec("small", ["small"])],
        policy=spell_out(["default"]),
        routing="affinity",
        tenants=[TenantSpec("team-a", 2.0)],
        limits=AdmissionSpec(jobs=100_000, held_bytes=2**30),
    )
    assert settings.address == ("127.0.0.1", 8080)


def test_nothing_at_all_is_the_embedded_engine_on_loopback(tmp_path: Path) -> None:
    assert load_settings(None) == load_settings(write(tmp_path, "")) == Settings()
    (engine,) = Settings().engines
    assert (engine.kind, engine.served, Settings().address) == ("embedded", ["small"], ("127.0.0.1", 8080))


def test_routes_reach_the_scheduler(tmp_path: Path) -> None:
    text = CONTRACT.replace("routes: []", "routes:\n  - {app: a, stage: plan, engine: small}")
    assert load_settings(write(tmp_path, text)).to_spec().routes == [Route(engine="small", app="a", stage="plan")]


TENANT = f"  - {{name: t, key_sha256: {KEY}}}\n"
ENGINE = "engines:\n  - name: a\n    replicas: [http://h:1]\n"
REFUSED = [
    ("listen: 8080", 1, "listen", "Expected `str`"),
    ("listen: localhost", 1, "listen", "host:port"),
    ("listen: 127.0.0.1:99999", 1, "listen", "host:port"),
    ("\nlisten: 0.0.0.0:8080", 2, "listen", "no tenants"),
    ("listen: '[::]:8080'", 1, "listen", "no tenants"),
    ("listen: gpu.example:8080", 1, "listen", "no tenants"),
    ("policy: lass", 1, "policy", "known: "),
    ("policy: [las, urgency]", 1, "policy", "put 'urgency' first"),
    ("policy: []", 1, "policy", "at least one"),
    ("routing: fastest", 1, "routing", "least-loaded"),
    ("prot: 1", 1, "prot", "unknown field"),
    ("engines: []", 1, "engines", "at least one"),
    ("engines:\n  - replicas: [http://h:1]", 2, "engines[0]", "name"),
    ("engines:\n  - name: a\n    replicas: [http://h:1]\n    max_concurency: 3", 4, "max_concurency", "unknown field"),
    ("engines:\n  - name: a b\n    replicas: [http://h:1]", 2, "name", "letters"),
    ("engines:\n  - name: a\n    kind: tgi\n    replicas: [http://h:1]", 3, "kind", "tgi"),
    ("engines:\n  - name: a\n    replicas:\n    - http://h:1\n    - ftp://h:1", 5, "replicas[1]", "http://"),
    ("engines:\n  - name: a\n    replicas: [http://h:1, http://h:1/v1]", 3, "replicas[1]", "already"),
    ("engines:\n  - name: a\n    replicas: [http://u:p@h:1]", 3, "replicas[0]", "api_key_env"),
    ("engines:\n  - name: a\n    replicas: ['http://h:99999']", 3, "replicas[0]", "not a URL"),
    ("engines:\n  - name: a\n    replicas: ['http://']", 3, "replicas[0]", "host"),
    ("engines:\n  - name: a\n    replicas: []", 3, "replicas", "list of base URLs"),
    ("engines:\n  - name: a\n    replicas: 2", 3, "replicas", "list of base URLs"),
    (ENGINE + "    max_concurrency: 0", 4, "max_concurrency", ">= 1"),
    (ENGINE + "    max_concurrency: [2, 3]", 4, "max_concurrency", "for each URL"),
    (ENGINE + "    max_concurrency: [0]", 4, "max_concurrency", ">= 1"),
    (ENGINE + "    max_concurrency: many", 4, "max_concurrency", "or auto"),
    (ENGINE + "    max_concurrency: 2\n    max_concurrency: 3", 5, "max_concurrency", "already, on line 4"),
    ("admin_key_sha256: secret", 1, "admin_key_sha256", "sha256sum"),
    ("queue_timeout: 0", 1, "queue_timeout", "> 0"),
    ("mode: dry-run", 1, "mode", "dry-run"),
    ("health: {interval_s: 0}", 1, "health.interval_s", ">= 0.1"),
    (ENGINE + "    models: [a, '']", 4, "models[1]", "empty"),
    (ENGINE + "    threads: 2", 4, "threads", "embedded"),
    (ENGINE + "  - name: a\n    replicas: [http://h:2]", 4, "engines[1].name", "already"),
    ("engines:\n  - name: a\n    kind: embedded\n    replicas: [http://h:1]", 4, "replicas", "number"),
    ("engines:\n  - name: a\n    kind: embedded\n    replicas: 0", 4, "replicas", ">= 1"),
    ("engines:\n  - name: a\n    kind: embedded\n    upstream_model: b", 4, "upstream_model", "embedded"),
    (ENGINE + "tenants:\n  - {name: t, key_sha256: secret}", 5, "key_sha256", "sha256sum"),
    (ENGINE + f"tenants:\n  - {{name: t, key_sha256: {KEY}, weight: 0}}", 5, "weight", "> 0"),
    (ENGINE + f"tenants:\n  - {{name: t, key_sha256: {KEY}, weight: .inf}}", 5, "weight", "<= 1000000"),
    ("job_idle_s: .inf\n" + ENGINE, 1, "job_idle_s", "<= 1000000000"),
    (ENGINE + f"tenants:\n  - {{name: t, key_sha256: {KEY}, most_urgent: 5}}", 5, "most_urgent", "<= 4"),
    (
        ENGINE + f"tenants:\n  - {{name: t, key_sha256: {KEY}}}\n  - {{name: u, key_sha256: {KEY}}}",
        6,
        "key_sha256",
        "own",
    ),
    (ENGINE + "routes:\n  - {engine: a}", 5, "engine", "every call"),
    (ENGINE + "routes:\n  - {engine: b, app: x}", 5, "engine", "there is a"),
    ("job_idle_s: 0", 1, "job_idle_s", "> 0"),
    ("timeouts: {connect: -1}", 1, "connect", "> 0"),
    ("listen: [", 1, "", "not valid YAML"),
    ("- a", 1, "top level", "object"),
]


@pytest.mark.parametrize(("text", "line", "key", "says"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(tmp_path: Path, text: str, line: int, key: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as refused:
        load_settings(path)
    message = str(refused.value)
    assert message.startswith(f"{path}:{line}: "), message
    assert key in message and says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "says"),
    [("listen: 2001-99-99", "in quotes"), ("listen: " + "[" * 3000, "too deeply")],
    ids=["date", "deep"],
)
def test_what_yaml_itself_chokes_on(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=says):
        load_settings(path)


def test_config_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, CONTRACT)
    assert main(["config", "check", str(path)]) == 0
    out = capsys.readouterr().out
    assert "ok" in out and "team-a" in out and KEY not in out
    assert main(["config", "check", str(path), "--json"]) == 0
    assert '"max_concurrency": 8' in capsys.readouterr().out
    assert main(["config", "check", str(write(tmp_path, "policy: lass"))]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["config", "check", str(tmp_path / "none.yaml")]) == 2


def test_the_command_line_wins(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, CONTRACT)).replaced(port=0, policy=["urgency", "las"], journal="j")
    assert (settings.address, settings.orderings, settings.journal) == (("127.0.0.1", 0), ("urgency", "las"), "j")
    with pytest.raises(InputError, match="unknown policy"):
        Settings().replaced(port=None, policy=["lass"], journal=None)


def test_a_missing_key_of_an_engine_is_told() -> None:
    from hocket.gateway.fleet import engine_key

    engine = EngineSettings(name="a", replicas=["http://h:1"], api_key_env="HOCKET_TEST_NOT_SET")
    with pytest.raises(InputError, match="HOCKET_TEST_NOT_SET"):
        engine_key(engine)


def test_a_key_of_an_engine_is_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    from hocket.gateway.fleet import engine_key

    engine = EngineSettings(name="a", replicas=["http://h:1"], api_key_env="HOCKET_TEST_KEY")
    monkeypatch.setenv("HOCKET_TEST_KEY", "secret\n")  # as files of secrets end
    assert engine_key(engine) == "secret"
    monkeypatch.setenv("HOCKET_TEST_KEY", "sec\nret")
    with pytest.raises(InputError, match="HOCKET_TEST_KEY") as refused:
        engine_key(engine)
    assert "sec" not in str(refused.value)
