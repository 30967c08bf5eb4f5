"""A folder of profiles: one file an application, as `hocket learn` writes and the gateway and the simulator read it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from hocket.beliefs.posterior import Bound
from hocket.beliefs.profile import Profile, decode_profile, encode_profile
from hocket.core.latency import Latency
from hocket.errors import InputError

MOST_CHARACTERS = 200
"of a file's name before its suffix; file systems allow 255 bytes"
KEPT = 120
"characters of a longer name that stay readable"


def file_name(app: str) -> str:
    """The name of an application's file: any name is safe, and `app_of` reads it back."""
    name = quote(app, safe=" ").replace("~", "%7E")
    if name[:1] in {".", " "} or name[-1:] == " ":
        name = "".join(f"%{ord(c):02X}" if c in ". " and i in {0, len(name) - 1} else c for i, c in enumerate(name))
    if len(name) > MOST_CHARACTERS:
        name = f"{name[:KEPT]}~{hashlib.sha256(app.encode()).hexdigest()[:32]}"
    return f"{name}.json"


def app_of(name: str) -> str | None:
    """The application of a file's name; None where the name was too long to be kept, and only the file knows."""
    stem = name.removesuffix(".json")
    return None if "~" in stem else unquote(stem)


def write_profile(folder: str | Path, profile: Profile) -> Path:
    """Write `profile` as a file of `folder`, which is made if need be; it appears whole or not at all.

    Raises InputError where that cannot be, or where the file belongs to another application: a file system that does
    not tell `App` from `app` has room for one of them.
    """
    target = Path(folder) / file_name(profile.app)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and (held := _app_in(target)) not in {None, profile.app}:
            raise InputError(f"{target}: is the profile of {held!r}; write that of {profile.app!r} to another folder")
        draft.write_bytes(encode_profile(profile))
        draft.replace(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}); check the folder") from None
    finally:
        if draft.exists():
            draft.unlink()
    return target


def _app_in(file: Path) -> str | None:
    try:
        return read_profile(file).app
    except InputError:
        return None


def read_profile(path: str | Path) -> Profile:
    """Read a profile. Raises InputError: which file, what is wrong, what to do."""
    return _read(Path(path))[0]


def read_profiles(folder: str | Path) -> dict[str, str]:
    """Application -> text of its profile, of all files of `folder`. Raises InputError for the first bad one."""
    found: dict[str, str] = {}
    for app, text, problem in _all(Path(folder)):
        if problem:
            raise InputError(problem)
        found[app] = text
    if not found:
        raise InputError(f"{folder}: holds no profiles; `hocket learn -o {folder}` writes them")
    return found


def read_usable_profiles(folder: str | Path) -> tuple[dict[str, str], list[str]]:
    """The profiles of `folder` that can be used, and what is wrong with the others, one line each.

    For a gateway, which serves on without a profile. A folder that is not there is one problem.
    """
    found: dict[str, str] = {}
    problems = []
    try:
        for app, text, problem in _all(Path(folder)):
            if problem:
                problems.append(problem)
            else:
                found[app] = text
    except InputError as error:
        problems.append(str(error))
    return found, problems


def _all(folder: Path) -> Iterator[tuple[str, str, str]]:
    """(Application, text, problem) of each file; one of the last two is empty."""
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix == ".json" and not file.name.startswith("."))
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be read ({error.strerror}); give a folder that `hocket learn` wrote"
        ) from None
    seen: dict[str, Path] = {}
    for file in files:
        try:
            profile, text = _read(file)
        except InputError as error:
            yield "", "", str(error)
            continue
        if profile.app in seen:
            yield "", "", f"{file}: a profile of {profile.app!r}, as {seen[profile.app].name} is; keep one of them"
            continue
        seen[profile.app] = file
        yield profile.app, text, ""


def _read(file: Path) -> tuple[Profile, str]:
    try:
        text = file.read_bytes().decode()
        profile = decode_profile(text)
        if profile.network is not None:
            Bound(profile.network, lambda stage, model: ("any", Latency()))
        return profile, text
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); `hocket learn` writes profiles") from None
    except RecursionError:
        raise InputError(f"{file}: not a profile (nested too deeply); learn it again") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a profile (byte {error.start} is not UTF-8); learn it again") from None
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None
