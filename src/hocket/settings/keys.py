"""`keys.yaml`: API keys with a role, a name and an end, as `hocket keys` writes them. It holds their SHA-256 alone.

It is a file of its own, so that who manages keys need not write the settings, and so that its mode can be strict: who
may write it may let anyone in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import yaml
from msgspec import Meta, Struct, structs

from hocket.errors import InputError
from hocket.settings import Settings
from hocket.settings.checks import check_digest, check_name, refuse, unique
from hocket.yamlfile import load_yaml

Role = Literal["call", "observe", "admin"]
"""call: calls and jobs of its tenant. observe: metrics and lists of jobs, of all tenants; no calls. admin: what observe
may, and changes"""

GUIDE = "docs/guides/security.md"
HEADER = (
    "# API keys, by their SHA-256. Written by `hocket keys`, which drops comments; the gateway reads it on SIGHUP.\n"
)


class Key(Struct, frozen=True, forbid_unknown_fields=True):
    """One key. What was handed out cannot be found again from it."""

    name: str
    "by which it is listed and revoked"
    sha256: str
    role: Role = "call"
    tenant: str | None = None
    "whose calls those are that come with it; of role `call` alone"
    created: Annotated[datetime, Meta(tz=True)] | None = None
    expires: Annotated[datetime, Meta(tz=True)] | None = None
    "None = never"

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        check_name(self.name)
        check_digest("sha256", self.sha256)
        if self.role == "call" and self.tenant is None:
            refuse("tenant", "is missing: a key of role call belongs to a tenant")
        if self.role != "call" and self.tenant is not None:
            refuse("tenant", f"is set, but a key of role {self.role} is an operator's and belongs to none")

    @property
    def until(self) -> float:
        """Seconds since 1970; infinite where it does not expire."""
        return float("inf") if self.expires is None else self.expires.timestamp()


class KeyFile(Struct, frozen=True, forbid_unknown_fields=True):
    """All of `keys.yaml`."""

    keys: list[Key] = []

    def __post_init__(self) -> None:
        """Each key and each name once."""
        unique("keys", [key.name for key in self.keys], "name")
        unique("keys", [key.sha256.lower() for key in self.keys], "sha256")


def digest_of(key: str) -> str:
    """What is stored of a key."""
    return sha256(key.encode()).hexdigest()


def read_keys(path: str | Path) -> list[Key]:
    """The keys of a file. Raises InputError, also where others than its owner may read or write it."""
    _check_mode(Path(path))
    return load_yaml(path, KeyFile, GUIDE).keys


def keys_of(settings: Settings) -> list[Key]:
    """The keys of the file that the settings name, if any. Raises InputError, also for one that cannot be meant."""
    found = [] if settings.keys is None else read_keys(settings.keys)
    tenants = [tenant.name for tenant in settings.tenants]
    inline = {(tenant.key_sha256 or "").lower() for tenant in settings.tenants}
    inline.add((settings.admin_key_sha256 or "").lower())
    for key in found:
        if key.tenant is not None and key.tenant not in tenants:
            raise InputError(
                f"{settings.keys}: key '{key.name}' is of tenant '{key.tenant}', which the settings do not list "
                f"(there is: {', '.join(tenants) or 'none'}); add the tenant, or: hocket keys revoke {key.name}"
            )
        if key.sha256.lower() in inline:
            raise InputError(f"{settings.keys}: key '{key.name}' is in the settings, too; a key has one holder")
    return found


def change_keys(path: str | Path, change: Callable[[list[Key]], list[Key]]) -> None:
    """Replace the file, or make it, in one step; its owner alone may read it. Raises InputError."""
    file = Path(path).resolve()  # where a link leads: others may read the same file by another name
    draft = file.with_name(f"{file.name}.new")
    try:
        # the draft is the lock, too: of two that write at once neither may lose the other's key
        out = os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8")
    except FileExistsError:
        raise InputError(
            f"{draft}: another `hocket keys` is at work, or was cut off; if so, delete that file"
        ) from None
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror}); check the path") from None
    try:
        with out:
            out.write(_text(change(read_keys(file) if file.exists() else [])))
            out.flush()
            os.fsync(out.fileno())
            if os.name == "posix" and os.geteuid() == 0 and file.exists():
                # the gateway's own user, whose file root changes, must still be able to read it
                os.fchown(out.fileno(), file.stat().st_uid, file.stat().st_gid)
        draft.replace(file)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"{file}: cannot be written ({error.strerror}); nothing has changed") from None
        raise


def _text(keys: Sequence[Key]) -> str:
    rows = [{name: value for name, value in structs.asdict(key).items() if value is not None} for key in keys]
    return HEADER + yaml.safe_dump({"keys": rows}, sort_keys=False, allow_unicode=True)


def now() -> datetime:
    """In whole seconds, for the file."""
    return datetime.now(UTC).replace(microsecond=0)


def _check_mode(file: Path) -> None:
    try:
        found = file.stat()
    except FileNotFoundError:
        raise InputError(f"{file}: there is no such file of keys; make a first key with `hocket keys new`") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the path") from None
    if os.name == "posix" and found.st_mode & 0o077:
        mode = f"{found.st_mode & 0o777:04o}"
        raise InputError(f"{file}: its mode is {mode}, so that others may read or write it; run: chmod 600 {file}")
