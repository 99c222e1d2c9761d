"""What steps share: their register, how JSON is read and compared, what a response is measured against."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from ..proxy import show
from ..world import Failed, World

Step = Callable[[World, Any], Awaitable[None]]
STEPS: Final[dict[str, Step]] = {}
QUIET: Final = 0.25
"""Seconds for which nothing must happen, where nothing must happen."""


def step(function: Step) -> Step:
    """Register a step under its function's name."""
    STEPS[function.__name__] = function
    return function


def strict_json(raw: bytes, what: str) -> Any:
    """What a port has sent, read as RFC 8259 has it (SABIR-JSON-1); Python's parser lets more pass."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError(f"a name twice among {[name for name, _ in pairs]}")
        return found

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        text = raw.decode("utf-8")
        value = json.loads(text, object_pairs_hook=members, parse_constant=refuse)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Failed(f"{what}: expected strict JSON, got {error}: {show(raw)}") from None
    return value


def same(a: Any, b: Any) -> bool:
    """Equal as JSON: 1 and 1.0 are one number, true and 1 are not."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    return type(a) is type(b) and bool(a == b)


def expect_outcome(body: dict[str, Any], spec: dict[str, Any]) -> None:
    """Compare a JSON-RPC response with what a step expects."""
    got = f"result {show(json.dumps(body['result']).encode())}" if "result" in body else f"error {body['error']}"
    if "result" in spec:
        if "result" not in body or not same(body["result"], spec["result"]):
            raise Failed(f"reply: expected the result {json.dumps(spec['result'])[:300]}, got {got}")
    if "result_bytes" in spec and ("result" not in body or len(body["result"]) != spec["result_bytes"]):
        raise Failed(f"reply: expected a text of {spec['result_bytes']} bytes, got {got[:200]}")
    if "code" in spec and body.get("error", {}).get("code") != spec["code"]:
        raise Failed(f"reply: expected the error {spec['code']}, got {got}")
    if "code_in" in spec and "result" not in body and body["error"]["code"] not in spec["code_in"]:
        raise Failed(f"reply: expected a result or one of the errors {spec['code_in']}, got {got}")
    if "message" in spec and body["error"]["message"] != spec["message"]:
        raise Failed(f"reply: expected the message {spec['message']!r}, got {body['error']['message']!r}")
    if "data" in spec and ("data" not in body["error"] or not same(body["error"]["data"], spec["data"])):
        raise Failed(f"reply: expected the data {json.dumps(spec['data'])}, got {got}")
    if spec.get("no_data") and "data" in body["error"]:
        raise Failed(f"reply: expected an error without data, got {got}")
    for name, wanted in spec.get("result_has", {}).items():
        seen = body.get("result", {}).get(name)
        fits = wanted[0] <= seen <= wanted[1] if isinstance(wanted, list) and seen is not None else same(seen, wanted)
        if not fits:
            raise Failed(f"reply: expected {name} {wanted}, got {got}")
    for text in spec.get("nowhere", []):
        if text in json.dumps(body):
            raise Failed(f"reply: expected {text!r} nowhere in it, got {got}")


def long_enough(what: str, name: str, digits: int) -> None:
    """Raise Failed for a name whose random part, behind the dot, holds less than 64 bits."""
    random_part = name.partition(".")[2]
    least = digits if set(random_part) <= set("0123456789abcdef") else 11  # 11 characters of the grammar's 64 hold 64 bits
    if len(random_part) < least:
        raise Failed(f"{what}: expected at least 64 random bits, got {random_part!r}")
