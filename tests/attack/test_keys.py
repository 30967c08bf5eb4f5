"""Strangers and their keys: what opens what, what a wrong key reveals, and what is kept of a good one."""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from msgspec import structs

from hocket.cli import main
from hocket.errors import InputError
from hocket.gateway.identity.keyring import Keyring
from hocket.gateway.openai import ApiError
from hocket.settings import Settings, TenantSettings, load_settings
from hocket.settings.keys import Key, change_keys, digest_of, keys_of, read_keys
from tests.gateway.conftest import Running, Start
from tests.scripted_engine import ScriptedEngine

TENANTS = [TenantSettings("a"), TenantSettings("b")]
CALLS, METRICS, JOBS, RELOAD = "/v1/models", "/metrics", "/admin/jobs", "/admin/reload"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def key(name: str, role: Any = "call", **more: Any) -> Key:
    """A key whose text is its name."""
    return Key(name, digest_of(name), role, tenant=more.pop("tenant", "a") if role == "call" else None, **more)


EVERY = [key("hk-a"), key("hk-a2"), key("hk-b", tenant="b"), key("hk-observe", "observe"), key("hk-admin", "admin")]


def written(folder: Path, keys: list[Key] = EVERY) -> str:
    path = folder / "keys.yaml"
    change_keys(path, lambda _: keys)
    return str(path)


async def status(world: Running, path: str, name: str | None = None, url: str | None = None) -> int:
    method = "POST" if path == RELOAD else "GET"
    headers = {} if name is None else bearer(name)
    async with world.http.request(method, (url or world.url) + path, headers=headers) as response:
        return response.status


# ---------------------------------------------------------------- what opens what


ROLES = {None: (401, 401, 401, 401), "hk-wrong": (401, 401, 401, 401), "hk-a": (200, 403, 403, 403)}
ROLES |= {"hk-a2": ROLES["hk-a"], "hk-b": ROLES["hk-a"]}
# 409: it is let in, and was started without a file
ROLES |= {"hk-observe": (403, 200, 200, 403), "hk-admin": (403, 200, 200, 409)}


async def test_each_role_opens_what_it_is_for_and_nothing_else(
    engine: ScriptedEngine, start: Start, tmp_path: Path
) -> None:
    world = await start(engine, tenants=TENANTS, keys=written(tmp_path))
    found = {
        name: tuple([await status(world, path, name) for path in (CALLS, METRICS, JOBS, RELOAD)]) for name in ROLES
    }
    assert found == ROLES
    opened = {name: await status(world, "/admin/tenants", name) for name in ROLES}
    assert opened == {name: of_jobs for name, (_, _, of_jobs, _) in ROLES.items()}
    for path in ("/admin/", "/admin/keys", "/admin/reload/x"):  # what there is, only an operator learns
        assert [await status(world, path, name) for name in (None, "hk-a", "hk-admin")] == [401, 403, 404]


async def test_without_a_key_of_their_own_operators_get_nothing_from_afar(engine: ScriptedEngine, start: Start) -> None:
    """No key of a role is no invitation: only a listener that this machine alone reaches is open then."""
    digest = digest_of("hk-a")
    world = await start(engine, tenants=[TenantSettings("a", digest)])
    assert [await status(world, path) for path in (METRICS, JOBS, RELOAD)] == [401] * 3
    assert [await status(world, path, "hk-a") for path in (METRICS, JOBS, RELOAD)] == [403] * 3
    apart = await start(engine, tenants=[TenantSettings("a", digest)], admin_listen="127.0.0.1:0")
    _, url = apart.gateway.listeners.urls
    assert [await status(apart, path, url=url) for path in (METRICS, JOBS, RELOAD)] == [200, 200, 409]
    refused = "admin_listen.*other machines"
    with pytest.raises(ValueError, match=refused):
        Settings(tenants=[TenantSettings("a", digest)], admin_listen="0.0.0.0:8081")


async def test_the_main_listener_has_nothing_for_operators(
    engine: ScriptedEngine, start: Start, tmp_path: Path
) -> None:
    world = await start(engine, tenants=TENANTS, keys=written(tmp_path), admin_listen="127.0.0.1:0")
    _, url = world.gateway.listeners.urls
    for path in (METRICS, JOBS, RELOAD, "/admin/"):
        assert await status(world, path) == 401 and await status(world, path, "hk-a") == 404
        assert await status(world, path, "hk-admin") == 403  # it is no key for calls, and nothing else is there
    assert [await status(world, path, "hk-admin", url) for path in (METRICS, JOBS, RELOAD)] == [200, 200, 409]
    assert [await status(world, path, "hk-a", url) for path in (METRICS, JOBS, RELOAD)] == [403] * 3
    assert [await status(world, path, "hk-a", url) for path in (CALLS, "/v1/chat/completions", "/v1/jobs/x")] == [
        404
    ] * 3
    assert [await status(world, path, url=at) for path in ("/health", "/ready") for at in (world.url, url)] == [200] * 4
    # a page of elsewhere, or a name of elsewhere that leads here, gets nothing from what asks for no key
    for header in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        async with world.http.get(url + "/health", headers=header) as response:
            assert response.status == 403


async def test_a_revoked_or_expired_key_opens_nothing(engine: ScriptedEngine, start: Start, tmp_path: Path) -> None:
    path = written(tmp_path, [key("hk-1"), key("hk-2", expires=datetime.now(UTC) + timedelta(hours=1))])
    world = await start(engine, tenants=TENANTS, keys=path)
    assert [await status(world, CALLS, name) for name in ("hk-1", "hk-2")] == [200, 200]
    assert main(["keys", "revoke", "--file", path, "hk-1"]) == 0
    await world.gateway.reload(world.gateway.settings)
    assert [await status(world, CALLS, name) for name in ("hk-1", "hk-2")] == [401, 200]
    later = (datetime.now(UTC) + timedelta(hours=1)).timestamp()
    world.gateway.keyring._clock = lambda: later
    assert await status(world, CALLS, "hk-2") == 401


async def test_a_file_with_a_mistake_changes_nothing(engine: ScriptedEngine, start: Start, tmp_path: Path) -> None:
    path, good = tmp_path / "keys.yaml", Path(written(tmp_path)).read_text()  # noqa: ASYNC240 - a small file
    world = await start(engine, tenants=TENANTS, keys=str(path))
    for bad, why in (
        ("keys: [", "not valid YAML"),
        (good.replace("tenant: b", "tenant: c"), "of tenant 'c', which the settings do not list"),
        (good.replace("role: observe", "role: root"), "root"),
        (good.replace("name: hk-a2", "name: hk-a"), "already"),
    ):
        path.write_text(bad)
        with pytest.raises(InputError, match=why):
            await world.gateway.reload(structs.replace(world.gateway.settings, mode="observe"))
        assert world.gateway.settings.mode == "schedule"
        assert await status(world, CALLS, "hk-a") == 200


# ---------------------------------------------------------------- what a wrong key reveals


def steps(keyring: Keyring, authorization: str | None) -> tuple[list[str], str]:
    """All functions that are entered to judge a header, Python's and C's, in order; and the verdict."""
    seen: list[str] = []

    def note(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            seen.append(frame.f_code.co_qualname)
        elif event == "c_call":
            seen.append(arg.__qualname__)

    sys.setprofile(note)
    try:
        verdict = keyring.holder(authorization).name
    except ApiError as error:
        verdict = str((error.status, error.code, error.message))
    finally:
        sys.setprofile(None)
    return seen, verdict


def test_a_wrong_key_takes_the_same_steps_whoever_it_is_nearly_of() -> None:
    over = key("hk-over", expires=datetime(2020, 1, 1, tzinfo=UTC))
    settings = Settings(tenants=[*TENANTS, TenantSettings("c", digest_of("hk-inline"))], keys="keys.yaml")
    many = [key(f"hk-{i}") for i in range(1000)]
    wrong = ("hk-x", "hk-aa", "hk-", "Hk-a", "hk-a\x00", "hk-b2", digest_of("hk-a"), "hk-observer")
    paths = set()
    verdicts = set()
    for keys in ([], EVERY, [*EVERY, over, *many]):
        keyring = Keyring(settings, keys)
        for name in wrong:
            path, verdict = steps(keyring, f"Bearer {name}")
            paths.add(tuple(path))
            verdicts.add(verdict)
    assert len(paths) == 1, "a wrong key takes the same steps, however many keys there are"
    assert len(verdicts) == 1, "and gets the same answer"
    (path,) = paths
    assert path.index("Keyring._slot") < path.index("compare_digest")
    # a good key takes them too, up to the comparison; one that is over has the answer of one that never was
    good, name = steps(keyring, "Bearer hk-a")
    assert name == "hk-a" and good[: good.index("compare_digest")] == list(path[: path.index("compare_digest")])
    assert steps(keyring, "Bearer hk-over")[1] == verdicts.pop()


def test_where_a_key_is_looked_up_no_stranger_can_work_out() -> None:
    one, other = Keyring(Settings(), EVERY[3:]), Keyring(Settings(), EVERY[3:])
    assert not one._holders.keys() & other._holders.keys(), "each process has its own secret"
    assert one.holder("Bearer hk-admin").name == other.holder("bearer   hk-admin ").name == "hk-admin"
    for header in (None, "", "Bearer", "Bearer ", "Basic hk-admin", "hk-admin", "Bearer, hk-admin"):
        with pytest.raises(ApiError, match="wants an API key"):
            one.holder(header)


# ---------------------------------------------------------------- what is kept


def reachable(*roots: object) -> list[object]:
    """Everything that these hold on to, but for modules and types."""
    seen: dict[int, object] = {}
    todo = list(roots)
    while todo:
        found = todo.pop()
        if id(found) not in seen and not isinstance(found, type(sys) | type):
            seen[id(found)] = found
            if not callable(found):
                todo += gc.get_referents(found)
    return list(seen.values())


async def test_no_key_is_kept_in_memory(engine: ScriptedEngine, start: Start, tmp_path: Path) -> None:
    world = await start(engine, tenants=TENANTS, keys=written(tmp_path, [key("canary-in-a-coal-mine")]))
    world.gateway.keyring.change(world.gateway.settings, [Key("one", digest_of("canary-in-a-coal-mine"), tenant="a")])
    assert await status(world, CALLS, "canary-in-a-coal-mine") == 200
    gateway = world.gateway
    held = reachable(gateway.keyring.__dict__, gateway.guard.__dict__, gateway.tenants.__dict__, gateway.jobs.__dict__)
    assert any(found == "one" for found in held) and len(held) > 20
    assert not [found for found in held if isinstance(found, str) and "canary" in found]
    assert not [found for found in held if isinstance(found, bytes) and b"canary" in found]


def test_only_the_digest_is_written_and_the_key_is_shown_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "hocket.yaml"
    config.write_text("keys: keys.yaml\ntenants: [{name: team-a}]\n")
    words = ["keys", "new", "--config", str(config), "--tenant", "team-a", "--expires", "90d"]
    made = []
    for _ in range(2):
        assert main(words) == 0
        made.append(capsys.readouterr().out.strip())
    assert made[0] != made[1] and all(len(text) == len("hk-") + 43 and text.startswith("hk-") for text in made)
    file = tmp_path / "keys.yaml"
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert not any(name in text for name in made) and all(digest_of(name) in text for name in made)
    keyring = Keyring(load_settings(config), keys_of(load_settings(config)))
    assert [keyring.holder(f"Bearer {name}").name for name in made] == ["team-a-1", "team-a-2"]
    assert main(["keys", "list", "--config", str(config), "--json"]) == 0
    listed = capsys.readouterr().out
    assert [row["name"] for row in json.loads(listed)] == ["team-a-1", "team-a-2"]
    assert not any(name in listed or digest_of(name) in listed for name in made)


def test_a_file_of_keys_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = Path(written(tmp_path))
    assert len(read_keys(path)) == len(EVERY)
    for mode in (0o604, 0o640, 0o620, 0o602, 0o677):
        path.chmod(mode)
        with pytest.raises(InputError, match=f"mode is {mode:04o}.*chmod 600"):
            read_keys(path)
    path.chmod(0o400)
    assert len(read_keys(path)) == len(EVERY)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["new"], "--tenant is missing"),
        (["new", "--role", "admin", "--tenant", "a"], "belongs to none"),
        (["new", "--tenant", "nobody", "--config", "hocket.yaml"], "lists a, b"),
        (["new", "--tenant", "a", "--name", "hk-a"], "already"),
        (["new", "--tenant", "a", "--name", "a b"], "--name must be"),
        (["new", "--tenant", "a", "--expires", "soon"], "write 30d"),
        (["new", "--tenant", "a", "--expires", "2020-01-01"], "over already"),
        (["revoke", "hk-a", "nobody"], "there is no key 'nobody'.*Nothing was revoked"),
        (["list", "--file", "none.yaml"], "no such file of keys"),
    ],
)
def test_mistakes_are_told_in_one_line_and_lose_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hocket.yaml").write_text("keys: keys.yaml\ntenants: [{name: a}, {name: b}]\n")
    before = Path(written(tmp_path)).read_bytes()
    where = [] if "--file" in words or "--config" in words else ["--file", "keys.yaml"]
    assert main(["keys", *words, *where]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(why, said), said
    assert (tmp_path / "keys.yaml").read_bytes() == before and not (tmp_path / "keys.yaml.new").exists()
    (tmp_path / "keys.yaml.new").touch()
    with pytest.raises(InputError, match="another `hocket keys` is at work"):
        change_keys(tmp_path / "keys.yaml", lambda keys: keys)


def test_a_change_goes_where_a_link_leads_and_leaves_the_file_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that was revoked by one name of the file must not stay good by another."""
    path, link = Path(written(tmp_path)), tmp_path / "link.yaml"
    link.symlink_to(path)
    owner = path.stat().st_uid
    if owner == 0:
        os.chown(path, owner := 65534, 65534)
    change_keys(link, lambda keys: keys[1:])
    assert link.is_symlink() and read_keys(path) == EVERY[1:]
    assert path.stat().st_uid == owner and path.stat().st_mode & 0o777 == 0o600

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        change_keys(path, lambda _: [])
    assert read_keys(path) == EVERY[1:] and not (tmp_path / "keys.yaml.new").exists()


async def test_operators_see_the_open_jobs_of_all_tenants(engine: ScriptedEngine, start: Start, tmp_path: Path) -> None:
    world = await start(engine, tenants=TENANTS, keys=written(tmp_path))
    for name, job in (("hk-a", "a/1"), ("hk-b", "2")):
        body = {"app": "x", "job": job, "urgency": 3}
        async with world.http.post(f"{world.url}/v1/jobs", json=body, headers=bearer(name)) as response:
            assert response.status == 200
    async with world.http.get(world.url + JOBS, headers=bearer("hk-observe")) as response:
        told = await response.json()
    assert told["total"] == 2
    assert [(job["tenant"], job["id"], job["urgency"]) for job in told["data"]] == [("a", "a/1", 3), ("b", "2", 3)]
    opened = await start(engine)
    for job in ("default/1", "j"):
        async with opened.http.post(f"{opened.url}/v1/jobs", json={"app": "x", "job": job}) as response:
            assert response.status == 200
    async with opened.http.get(opened.url + JOBS) as response:
        assert [job["id"] for job in (await response.json())["data"]] == ["default/1", "j"]
    await opened.gateway.reload(structs.replace(opened.gateway.settings, tenants=TENANTS, keys=written(tmp_path)))
    async with opened.http.get(opened.url + JOBS, headers=bearer("hk-observe")) as response:
        assert (await response.json())["data"][1]["id"] == "j", "it was opened when there were no tenants"
