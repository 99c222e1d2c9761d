"""The JSON Schemas of the suite and of the protocol."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any, Final

import jsonschema_rs  # compiled: a run validates tens of thousands of messages

HERE: Final = Path(__file__).resolve().parent


def protocol_folder() -> Path:
    """``protocol/``: packaged beside this module, or, in a checkout, at the top of the repository."""
    packaged = HERE / "protocol"
    return packaged if packaged.is_dir() else HERE.parents[2] / "protocol"


@functools.cache
def script_digest(name: str) -> str:
    """The digest by which EVALSHA names a script of the protocol."""
    return hashlib.sha1((protocol_folder() / "scripts" / f"{name}.lua").read_bytes()).hexdigest()  # noqa: S324 - Redis's own


@functools.cache
def _registry() -> jsonschema_rs.Registry:
    found = []
    for folder in (protocol_folder() / "schemas", HERE / "schemas"):
        for path in sorted(folder.glob("*.schema.json")):
            schema = json.loads(path.read_text(encoding="utf-8"))
            found.append((schema["$id"], schema))
    return jsonschema_rs.Registry(found)


@functools.cache
def _validator(name: str) -> jsonschema_rs.Draft202012Validator:
    for folder in (HERE / "schemas", protocol_folder() / "schemas"):
        path = folder / f"{name}.schema.json"
        if path.exists():
            return jsonschema_rs.Draft202012Validator(json.loads(path.read_text(encoding="utf-8")), registry=_registry())
    raise KeyError(name)


def validate(name: str, value: Any) -> str | None:
    """What is wrong with a value, by a schema of the suite (manifest, line, hello, case) or of the protocol; None: nothing."""
    error = next(iter(_validator(name).iter_errors(value)), None)
    if error is None:
        return None
    path = "/".join(map(str, error.instance_path))
    return f"{path or 'it'}: {error.message[:300]}"
