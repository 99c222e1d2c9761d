"""The golden cases of protocol/vectors."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from support import vectors

from sabir import commands, errors, keys, messages


def data_of(case: dict[str, Any]) -> bytes:
    if "base64" in case:
        return base64.b64decode(case["base64"])
    parts = case["parts"] if "parts" in case else [case["text"]]
    return "".join(p if isinstance(p, str) else p["repeat"] * p["times"] for p in parts).encode("utf-8", "surrogatepass")


def cases(name: str) -> Any:
    return pytest.mark.parametrize("case", vectors(name), ids=lambda case: case["name"])


@cases("keys")
def test_keys(case: dict[str, Any]) -> None:
    args = case["args"]

    def key() -> str:
        of = keys.Keys(args["namespace"], args["service"])
        part = {"active": "worker", "reply": "token", "attempts": "id"}.get(case["key"])
        if part is not None:
            return getattr(of, case["key"])(args[part])
        return getattr(of, case["key"])

    if case["expect"] is None:
        with pytest.raises(ValueError, match="expected"):
            key()
    else:
        assert key() == case["expect"]


@cases("requests")
def test_requests(case: dict[str, Any]) -> None:
    data, expect = data_of(case), case["expect"]
    got = messages.decode_request(data)
    if expect["kind"] == "open":
        assert isinstance(got, messages.Request | messages.Rejection)
    elif expect["kind"] in ("call", "notification"):
        assert isinstance(got, messages.Request)
        assert (got.reply_to is not None) == (expect["kind"] == "call")
        for member, value in expect.items():
            if member != "kind":
                assert getattr(got, member) == value
    else:
        assert isinstance(got, messages.Rejection)
        assert got.code == expect["code"]
        assert got.message
        answered = (got.id, got.reply_to) if expect["kind"] == "answered" else None
        assert (answered or (got.reply_to,)) == ((expect["id"], expect["reply_to"]) if answered else (None,))


@cases("replies")
def test_replies(case: dict[str, Any]) -> None:
    got, expect = messages.decode_reply(data_of(case)), case["expect"]
    if expect["kind"] == "unreadable":
        assert got is None
        return
    assert got is not None
    assert got.id == expect["id"]
    if expect["kind"] == "result":
        assert got.error is None
        if "result" in expect:
            assert got.result == expect["result"]
            assert type(got.result) is type(expect["result"])
    elif expect["kind"] == "invalid":
        assert type(got.error) is errors.InvalidReply
    else:
        assert got.error is not None
        assert type(got.error) is getattr(errors, expect["name"])
        assert (got.error.code, got.error.message) == (expect["code"], expect["message"])
        assert got.error.has_data == ("data" in expect)
        assert got.error.data == expect.get("data")


@cases("encode")
def test_encode(case: dict[str, Any]) -> None:
    given, what = dict(case["input"]), case["what"]

    def encode() -> bytes:
        if what == "request":
            id, token, method = given.pop("id"), given.pop("reply_to", None), given.pop("method")
            return messages.encode_request(id, token, method, given.pop("params", None), **given)
        if what == "result":
            return messages.encode_result(given["id"], given["worker"], given["result"])
        error = messages.error_object(given["code"], given["message"], given.get("data", errors.MISSING))
        if what == "error":
            return messages.encode_error(given["id"], given["worker"], error)
        element = given["text"].encode() if "text" in given else base64.b64decode(given["base64"])
        return messages.encode_dead_letter(given["at"], given["worker"], error, element)

    if case["expect"] is None:
        with pytest.raises((ValueError, TypeError)):
            encode()
    else:
        got = json.loads(encode())
        if got.get("idempotent") is False:
            del got["idempotent"]
        assert got == case["expect"]
        if what == "request":  # SABIR-ENVELOPE-5
            head = ["v", "id", "reply_to"] if "reply_to" in got else ["v", "id"]
            assert list(got)[: len(head)] == head


@cases("commands")
def test_commands(case: dict[str, Any]) -> None:
    given = dict(case["input"])
    of = keys.Keys(given.pop("namespace"), given.pop("service"))
    for name in ("elements", "element", "reply", "letter"):
        if name in given:
            value = given[name]
            given[name] = [v.encode() for v in value] if isinstance(value, list) else value.encode()
    if "calls" in given:
        given["calls"] = [(call["id"], call["element"].encode()) for call in given["calls"]]

    def step() -> commands.Commands:
        function = getattr(commands, case["step"])
        return function() if case["step"] in ("clock", "unwatch") else function(of, **given)

    if case["expect"] is None:
        with pytest.raises(ValueError, match="expected"):
            step()
    else:
        assert [[a if isinstance(a, str) else a.decode() for a in command] for command in step()] == case["expect"]


def test_several_answers_are_one_transaction() -> None:
    """SABIR-REPLY-3: replies to one token share an RPUSH."""
    of = keys.Keys("sabir", "calc")
    got = commands.replies(of, "w.1", [("a.1", b"r1", b"e1"), ("b.1", b"r2", b"e2"), ("a.1", b"r3", b"e3")])
    assert got == [
        ("MULTI",),
        ("RPUSH", "sabir:{calc}:reply:a.1", b"r1", b"r3"),
        ("PEXPIRE", "sabir:{calc}:reply:a.1", "60000"),
        ("RPUSH", "sabir:{calc}:reply:b.1", b"r2"),
        ("PEXPIRE", "sabir:{calc}:reply:b.1", "60000"),
        ("LREM", "sabir:{calc}:active:w.1", "1", b"e1"),
        ("LREM", "sabir:{calc}:active:w.1", "1", b"e2"),
        ("LREM", "sabir:{calc}:active:w.1", "1", b"e3"),
        ("EXEC",),
    ]
