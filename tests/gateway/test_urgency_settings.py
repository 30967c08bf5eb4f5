"""The block `urgency` of `hocket.yaml`, and what tenants and preemption add: what is taken, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hocket.cli import main
from hocket.core.spec import PreemptionSpec, Route, TenantSpec
from hocket.errors import InputError
from hocket.settings import Settings, load_settings
from tests.gateway.test_settings import KEY, write

ENGINE = "engines:\n  - name: a\n    models: [m]\n    replicas: [http://h:1]\n"
CLASSES = "classes: {0: {means: fire}, 4: {means: news}}"
READER = f"urgency:\n  readers:\n    - name: r\n      {CLASSES}\n"
REFUSED = [
    ("urgency: {default: 5}", 1, "urgency.default", "<= 4"),
    ("urgency:\n  deadlines_s: [10, 60, 600]", 2, "deadlines_s", "four rising numbers"),
    ("urgency:\n  deadlines_s: [10, 60, 60, 600]", 2, "deadlines_s", "four rising numbers"),
    ("urgency:\n  deadlines_s: [0, 60, 600, 700]", 2, "deadlines_s", "> 0"),
    ("urgency:\n  if_unreadable: ignore", 2, "if_unreadable", "ignore"),
    ("urgency:\n  readers:\n    - name: r", 3, "name", "nothing to read by"),
    ("urgency:\n  readers:\n    - name: r\n      head: ''", 4, "head", "hocket urgency train"),
    (READER.replace("0: {means", "5: {means"), 4, "classes.5", "0 (emergency) to 4"),
    (READER.replace("0: {means: fire}", "0: {}"), 4, "classes.0", "says nothing"),
    (READER.replace("0: {means: fire}, ", ""), 4, "classes", "one class alone"),
    (READER.replace("fire", "fire" * 999), 4, "classes.0", "shorten it"),
    (READER.replace("fire}", "fire, example: x}"), 4, "example", "unknown field"),
    (READER + "      moves_at_most: 0", 5, "moves_at_most", ">= 1"),
    (READER + "      encoder: bert", 5, "encoder", "bert"),
    (READER + "      features: {hr: vitals.hr}", 5, "features", "a `head` that was trained with them"),
    (
        "urgency:\n  readers:\n    - name: r\n      head: h\n      features: {hr: 'a..b'}",
        5,
        "features.hr",
        "joined by dots",
    ),
    (READER + "      apps: [x, x]", 5, "apps[1]", "already"),
    (READER + f"    - name: s\n      apps: [x]\n      {CLASSES}", 5, "readers[1]", "never asked: 'r'"),
    (READER + f"      apps: [x]\n    - name: r\n      {CLASSES}", 6, "readers[1].name", "already"),
    (READER + "      tenants: [t]\n", 5, "tenants[0]", "no tenant 't'; there is none are set"),
    ("urgency:\n  judge: {engine: a}\n" + ENGINE, 2, "judge", "nothing to judge"),
    (ENGINE + READER + "  judge: {engine: b}", 9, "judge.engine", "there is no engine 'b'; there is a"),
    (ENGINE + READER + "  judge: {engine: a, model: x}", 9, "judge.model", "it has m"),
    (ENGINE + READER + "  judge: {engine: a, per_minute: 0}", 9, "per_minute", "> 0"),
    (ENGINE + READER + "  judge: {engine: a, max_calls_in_flight: 0}", 9, "max_calls_in_flight", ">= 1"),
    (ENGINE + f"tenants:\n  - {{name: t, key_sha256: {KEY}, urgency: 5}}", 6, "urgency", "<= 4"),
    (ENGINE + f"tenants:\n  - {{name: t, key_sha256: {KEY}, urgency: 1, most_urgent: 2}}", 6, "urgency", "raise one"),
    (ENGINE + f"tenants:\n  - {{name: t, key_sha256: {KEY}, urgent_share: 0}}", 6, "urgent_share", "> 0"),
    (ENGINE + f"tenants:\n  - {{name: t, key_sha256: {KEY}, urgent_share: 2}}", 6, "urgent_share", "<= 1"),
    (ENGINE + f"tenants:\n  - {{name: t, key_sha256: {KEY}, urgent_burst_s: 0}}", 6, "urgent_burst_s", "> 0"),
    ("preemption: {at_most: 0}", 1, "at_most", "1 or more"),
    ("preemption: {across: jobs}", 1, "across", "jobs"),
    ("preemption: maybe", 1, "preemption", "Expected `bool"),
]


@pytest.mark.parametrize(("text", "line", "key", "why"), REFUSED, ids=[f"{k}: {w}" for _, _, k, w in REFUSED])
def test_a_mistake_names_line_key_and_remedy(tmp_path: Path, text: str, line: int, key: str, why: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as refused:
        load_settings(path)
    message = str(refused.value)
    assert message.startswith(f"{path}:{line}: "), message
    assert key in message and why in message and "\n" not in message


def test_the_judges_own_tenant_is_nobodys(tmp_path: Path) -> None:
    text = ENGINE + READER + f"  judge: {{engine: a}}\ntenants:\n  - {{name: hocket-judge, key_sha256: {KEY}}}"
    with pytest.raises(InputError, match="call that tenant something else"):
        load_settings(write(tmp_path, text))


def test_what_reaches_the_core(tmp_path: Path) -> None:
    tenants = f"tenants:\n  - {{name: t, key_sha256: {KEY}, urgent_share: 0.2, urgent_burst_s: 5, urgency: 3}}\n"
    text = ENGINE + READER + "  judge: {engine: a}\n" + tenants + "routes:\n  - {app: x, engine: a}\npreemption: true"
    spec = load_settings(write(tmp_path, text)).to_spec()
    assert spec.tenants == [TenantSpec("t", 1.0, 0.2, 5.0)]
    assert spec.routes == [Route("a", app="hocket-judge"), Route("a", app="x")]
    assert spec.preemption == PreemptionSpec()


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("", None),
        ("preemption: false", None),
        ("preemption: {}", PreemptionSpec()),
        ("preemption: {at_most: 3}", PreemptionSpec(at_most=3)),
    ],
)
def test_preemption(tmp_path: Path, text: str, means: PreemptionSpec | None) -> None:
    assert load_settings(write(tmp_path, text)).to_spec().preemption == means


def test_without_the_block_nobody_reads() -> None:
    urgency = Settings().urgency
    assert (urgency.default, urgency.readers, urgency.judge) == (2, [], None)


def test_check_shows_what_is_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tenants = f"tenants:\n  - {{name: t, key_sha256: {KEY}, urgent_share: 0.2, urgency: 3}}\n"
    path = write(
        tmp_path, ENGINE + READER + "      apps: [desk]\n  judge: {engine: a}\n" + tenants + "preemption: true"
    )
    assert main(["config", "check", str(path)]) == 0
    out = capsys.readouterr().out
    assert "urgency  2 unless something says another; deadlines 10, 60, 600, 3600 s" in out
    assert "reader   r (static, described classes 0, 4): apps desk; moves 1 class at most" in out
    assert "judge    m on a: 2 in flight, 60 a minute, 10 s each" in out
    assert "t (weight 1, most urgent 0, urgency 3, urgent share 0.2)" in out
    assert "preempt  across class, 8 times a call at most" in out


def test_check_says_which_model_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = tmp_path / "missing.head"
    path = write(tmp_path, f"urgency:\n  readers:\n    - {{name: r, head: {head}}}")
    assert main(["config", "check", str(path)]) == 1
    assert "missing.head" in capsys.readouterr().err
