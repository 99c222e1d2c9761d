"""The cases: read from cases/, made from the protocol's vectors, checked by a schema."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Final

from .schemas import HERE, protocol_folder, validate
from .world import VECTOR_TOKEN

CASES: Final = HERE / "cases"

# What a worker may say to a vector that is a call: it was understood. The method or the parameters may not fit.
_UNDERSTOOD: Final = [-32601, -32602, -32603, -32001, -32008, 1001]


class SuiteError(Exception):
    """The cases themselves are wrong."""


@functools.cache
def all_cases() -> list[dict[str, Any]]:
    """Every case, in order. Raises SuiteError for an invalid or doubled one."""
    cases = [*_from_files(), *_from_requests(), *_from_replies()]
    ids: set[str] = set()
    for case in cases:
        fault = validate("case", case)
        if fault:
            raise SuiteError(f"case {case.get('id')}: {fault}")
        if case["id"] in ids:
            raise SuiteError(f"case {case['id']}: the id is taken")
        ids.add(case["id"])
    return cases


def _from_files() -> list[dict[str, Any]]:
    found = []
    for path in sorted(CASES.rglob("*.json")):
        area = path.relative_to(CASES).with_suffix("").as_posix()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SuiteError(f"{path.name}: {error}") from None
        for case in content["cases"]:
            found.append(
                {"role": content["role"], "profile": content.get("profile", "core"), **case, "id": f"{area}/{case['id']}"}
            )
    return found


def _slug(name: str) -> str:
    words = name.replace("+", " plus ").replace("−", "-").replace("-Infinity", "minus infinity")
    kept = "".join(c if c.isalnum() and c.isascii() else " " for c in words).split()
    return "-".join(kept) or "".join(f"{ord(c):x}" for c in name)


def _vectors(name: str) -> list[dict[str, Any]]:
    path = protocol_folder() / "vectors" / f"{name}.json"
    cases: list[dict[str, Any]] = json.loads(Path(path).read_text(encoding="utf-8"))["cases"]
    return cases


def _element(case: dict[str, Any]) -> dict[str, Any]:
    return {name: case[name] for name in ("text", "base64", "parts") if name in case}


def _from_requests() -> list[dict[str, Any]]:
    """Each vector of requests.json, pushed at a worker."""
    made = []
    for vector in _vectors("requests"):
        expect, element = vector["expect"], _element(vector)
        kind = expect["kind"]
        if expect.get("reply_to") not in (None, VECTOR_TOKEN.decode()):
            element["token"] = expect["reply_to"]
        steps: list[dict[str, Any]] = [{"push": element}]
        if kind == "answered":
            steps += [{"reply": {"code": expect["code"]}}, {"not_invoked": {}}, {"no_dead": {}}]
        elif kind == "dead letter":
            steps += [{"dead": {"code": expect["code"]}}, {"not_invoked": {}}]
        elif kind == "open":
            steps += [{"settled": {}}]
        elif kind == "notification":
            expired = expect["deadline"] is not None
            steps += (
                [{"dead": {"code": -32001}}, {"not_invoked": {}}]
                if expired
                else [{"invoked": {"method": "note"}}, {"no_dead": {}}]
            )
        elif expect["deadline"] is not None and expect["deadline"] < 2**50 and expect["deadline"] < 1_800_000_000_000:
            steps += [{"reply": {"code": -32001}}, {"not_invoked": {}}]
        elif expect["method"] == "add" and expect.get("params") == [1, 2]:
            steps += [{"reply": {"result": 3}}, {"no_dead": {}}]
        else:
            steps += [{"reply": {"code_in": _UNDERSTOOD}}, {"no_dead": {}}]
        made.append(
            {
                "id": f"vectors/requests/{_slug(vector['name'])}",
                "role": "server",
                "profile": "core",
                "title": f"request: {vector['name']}",
                "rules": [vector["rule"]],
                "steps": [{"serve": {}}, *steps],
            }
        )
    return made


def _from_replies() -> list[dict[str, Any]]:
    """Each vector of replies.json, answered to a client."""
    made = []
    for vector in _vectors("replies"):
        expect, element = vector["expect"], _element(vector)
        kind = expect["kind"]
        steps: list[dict[str, Any]] = [
            {"call": {"method": "echo", "params": [1], "timeout_ms": 5000}},
            {"take": {}},
            {"answer": element},
        ]
        if kind == "result":
            steps.append({"outcome": {"is": "result", **({"result": expect["result"]} if "result" in expect else {})}})
        elif kind == "error":
            wanted = {name: expect[name] for name in ("code", "message", "data", "name") if name in expect}
            steps.append(
                {"outcome": {"is": ["error", "timeout", "unavailable", "overloaded", "transport_error"], **wanted}}
            )
        elif kind == "invalid":
            steps.append({"outcome": {"is": "error", "code": -32011}})
        else:
            steps += [{"pending": {}}, {"answer": {"result": "valid"}}, {"outcome": {"result": "valid"}}]
        made.append(
            {
                "id": f"vectors/replies/{_slug(vector['name'])}",
                "role": "client",
                "profile": "core",
                "title": f"reply: {vector['name']}",
                "rules": [vector["rule"]],
                "steps": steps,
            }
        )
    return made
