"""A folder of profiles: safe names, whole files, and what is wrong with those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hocket.beliefs.learn import learn
from hocket.beliefs.profile import Profile, encode_profile
from hocket.beliefs.record import Record, Step, record_of
from hocket.errors import InputError
from hocket.profiles import app_of, file_name, read_profile, read_profiles, read_usable_profiles, write_profile
from hocket.sim.workloads import generate

NAMES = [
    *("research", "code generation", "a/b", "../../etc/passwd", ".", "..", ".hidden", " ", "x ", "é", "日本", "a\x00b"),
    *("a%2Fb", "a~b", "C:\\temp", "nul?", "*", 'quo"te', "tab\t", "a" * 150, "App", "app"),
]


def profile(app: str) -> Profile:
    return Profile(app=app, jobs=1, records=[Record([Step("a", "m", 1, 1, 0.0, [])])])


@pytest.mark.parametrize("app", NAMES)
def test_a_name_is_safe_and_comes_back(app: str, tmp_path: Path) -> None:
    name = file_name(app)
    assert app_of(name) == app
    assert not set(name) & set('/\\:*?"<>|\0\t'), name
    assert not name.startswith((".", " ")) and len(name.encode()) <= 255
    file = write_profile(tmp_path / "profiles", profile(app))
    assert file.parent == tmp_path / "profiles"
    assert read_profile(file).app == app
    assert list(read_profiles(tmp_path / "profiles")) == [app]


def test_different_names_are_different_files() -> None:
    assert len({file_name(app) for app in [*NAMES, "é" * 300, "é" * 301]}) == len(NAMES) + 2


def test_a_very_long_name_is_in_the_file_only(tmp_path: Path) -> None:
    app = "/" * 1000
    file = write_profile(tmp_path, profile(app))
    assert app_of(file.name) is None
    assert read_profile(file).app == app


def test_a_profile_is_replaced_whole(tmp_path: Path) -> None:
    first, again = profile("a"), profile("a")
    again.jobs = 2
    write_profile(tmp_path, first)
    write_profile(tmp_path, again)
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert read_profile(tmp_path / "a.json").jobs == 2


def test_the_profile_of_another_application_is_not_overwritten(tmp_path: Path) -> None:
    """As `App` would `app` on a file system that does not tell them apart."""
    (tmp_path / "app.json").write_bytes(encode_profile(profile("App")))
    with pytest.raises(InputError, match="is the profile of 'App'"):
        write_profile(tmp_path, profile("app"))
    assert [file.name for file in tmp_path.iterdir()] == ["app.json"]


def test_a_damaged_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "app.json").write_text("{")
    write_profile(tmp_path, profile("app"))
    assert read_profile(tmp_path / "app.json").app == "app"


def test_where_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_profile(tmp_path / "file", profile("a"))


# ---------------------------------------------------------------- bad files


def good() -> dict[str, object]:
    records = [record_of(job) for job in generate("code-generation", 30, 1.0, 1)]
    value: dict[str, object] = json.loads(encode_profile(learn("good", records, network=False)))
    return value


def with_network(**changes: object) -> dict[str, object]:
    a = {"name": "a", "stage": "a", "fact": "tokens", "model": "m", "cuts": [1.0], "centres": [0.5, 2.0]}
    a |= {"prompts": [1.0, 1.0], "table": [0.5, 0.4, 0.1]}
    return good() | {"network": {"variables": [a | changes]}}


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a profile"),
    "no JSON": (b"{'app':", "not a profile"),
    "cut": (json.dumps(good()).encode()[:-100], "not a profile"),
    "no UTF-8": (b'{"app":"\xff"}', "not UTF-8"),
    "a list": (b"[]", "not a profile"),
    "foreign": (b'{"nodes": [1, 2]}', "not a profile"),
    "another program's": (json.dumps(good() | {"weights": []}).encode(), "weights"),
    "nested too deeply": (
        b'{"v": 1, "app": "a", "jobs": 1, "records": [{"steps": [], "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
        "nested too deeply",
    ),
    "another version": (json.dumps(good() | {"v": 9}).encode(), "version 9"),
    "no name": (json.dumps(good() | {"app": ""}).encode(), "app is empty"),
    "edges to nowhere": (json.dumps(good() | {"edges": [["write", "nowhere", 1.0]]}).encode(), "nowhere"),
    "needs of later steps": (
        json.dumps(good() | {"records": [{"steps": [["a", "m", 1, 1, 0.0, [0]]]}]}).encode(),
        "records[0].steps[0].after",
    ),
    "a negative size": (json.dumps(good() | {"records": [{"steps": [["a", "m", -1, 1, 0.0, []]]}]}).encode(), "sizes"),
    "a network without probabilities": (json.dumps(with_network(table=[0.5, 0.5])).encode(), "network.a.table"),
    "a network with unknown parents": (json.dumps(with_network(parents=["b"])).encode(), "network.a.parents"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_profile_is_refused_and_the_gateway_goes_on_without_it(name: str, tmp_path: Path) -> None:
    content, said = BAD[name]
    (tmp_path / "bad.json").write_bytes(content)
    (tmp_path / "good.json").write_text(json.dumps(with_network()))
    (tmp_path / "notes.txt").write_text("no profile, and not taken for one")
    (tmp_path / ".draft.json.1").write_text("{")
    for read in (lambda: read_profiles(tmp_path), lambda: read_profile(tmp_path / "bad.json")):
        with pytest.raises(InputError) as error:
            read()
        assert str(error.value).startswith(f"{tmp_path / 'bad.json'}: ")
        assert said in str(error.value)
        assert "\n" not in str(error.value)
    usable, problems = read_usable_profiles(tmp_path)
    assert list(usable) == ["good"]
    assert len(problems) == 1 and said in problems[0]


def test_two_profiles_of_one_application(tmp_path: Path) -> None:
    for name in ("a.json", "copy.json"):
        (tmp_path / name).write_text(json.dumps(good()))
    usable, problems = read_usable_profiles(tmp_path)
    assert list(usable) == ["good"]
    assert problems == [f"{tmp_path / 'copy.json'}: a profile of 'good', as a.json is; keep one of them"]


def test_a_folder_without_profiles(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no profiles"):
        read_profiles(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_profiles(tmp_path / "none")
    assert read_usable_profiles(tmp_path) == ({}, [])
    usable, problems = read_usable_profiles(tmp_path / "none")
    assert not usable and len(problems) == 1
