"""The pure parts: what is encoded and refused, the decoder against the schemas, the errors against their table."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import decimal
import enum
import json
import pickle
import time
import uuid
from collections import OrderedDict, namedtuple
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import ID, PROTOCOL

import sabir
from sabir import errors, messages
from sabir.keys import Keys
from sabir.messages import Limits, Rejection, Request

SCHEMAS = {path.name: json.loads(path.read_text()) for path in (PROTOCOL / "schemas").glob("*.json")}
REGISTRY = jsonschema_rs.Registry([(schema["$id"], schema) for schema in SCHEMAS.values()])


def validator(name: str) -> Any:
    return jsonschema_rs.validator_for(SCHEMAS[f"{name}.schema.json"], registry=REGISTRY)


REQUEST, REPLY = validator("request"), validator("reply")


class Not(float):
    pass


class Odd(enum.Enum):
    NAN = float("nan")
    SET = frozenset()


@dataclasses.dataclass
class Point:
    x: int = 1


@pytest.mark.parametrize(
    "value",
    [
        float("nan"), float("inf"), [{"a": (1, float("-inf"))}], Not("nan"), Not(1), Odd.NAN, [Odd.NAN], Odd.SET, {1, 2},
        frozenset(), b"x", bytearray(b"x"), 1j, range(3), object(), Point(), decimal.Decimal(1), datetime.date.today(),
        datetime.datetime.now(tz=datetime.UTC), datetime.timedelta(1), {1: 2}, {None: 1}, 2**64, -(2**63) - 1, "\ud800",
        {"\udc00": 1}, OrderedDict(a=1), namedtuple("Pair", "a b")(1, 2),
    ],
    ids=repr,
)  # fmt: skip
def test_what_json_does_not_have_is_refused(value: Any) -> None:
    """SABIR-JSON-1: nothing is changed in silence. The README's table."""
    for make in (
        lambda: messages.encode_request(ID, None, "a", [value]),
        lambda: messages.encode_result(ID, "w.1", value),
        lambda: messages.encode_error(ID, "w.1", messages.error_object(1, "m", value)),
        lambda: messages.encode_dead_letter(1, "w.1", messages.error_object(1, "m", value), b""),
    ):
        with pytest.raises((TypeError, ValueError), match="expected"):
            make()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"), (True, "true"), (-0.0, "-0.0"), (1e300, "1e+300"), (0.1, "0.1"),
        (2**64 - 1, "18446744073709551615"),
        (-(2**63), "-9223372036854775808"), ("é\u2028\x00", '"é\u2028\\u0000"'), ((1, (2,)), "[1,[2]]"),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (enum.Enum("Colour", {"RED": "red"}).RED, '"red"'), (enum.IntEnum("Number", {"ONE": 1}).ONE, "1"),
    ],
)  # fmt: skip
def test_what_is_written_for_what(value: Any, text: str) -> None:
    """The README's table."""
    assert messages.encode_result(ID, "w.1", value).decode().endswith(f'"result":{text}}}}}')


def test_numbers_that_are_read() -> None:
    def read(text: str) -> Any:
        reply = f'{{"v":1,"id":"{ID}","worker":"w.1","body":{{"jsonrpc":"2.0","id":"{ID}","result":{text}}}}}'
        response = messages.decode_reply(reply.encode())
        return response and response.result

    assert read("9007199254740993") == 2**53 + 1
    assert read("18446744073709551616") == float(2**64)
    assert read("1e400") is None
    assert (type(read("1.0")), type(read("1"))) == (float, int)


def test_limits_of_what_is_sent() -> None:
    """SABIR-LIMIT-1."""
    exact = len(messages.encode_request(ID, "a.b", "m", ["é"]))
    messages.encode_request(ID, "a.b", "m", ["é"], limits=Limits(exact, 3))
    with pytest.raises(sabir.LimitExceeded, match=f"at most {exact - 1} bytes, got {exact}"):
        messages.encode_request(ID, "a.b", "m", ["é"], limits=Limits(exact - 1, 3))
    with pytest.raises(sabir.LimitExceeded, match="at most 2 levels"):
        messages.encode_request(ID, "a.b", "m", ["é"], limits=Limits(exact, 2))
    messages.encode_request(ID, "a.b", "m", ["[" * 100 + '"{' * 100 + "\\"])


@pytest.mark.parametrize("tail", [b'"' + b'\\"' * 300_000, b'"\\' * 300_000, b'"' + b"a" * 600_000, b'"""\\' * 200_000])
def test_levels_are_counted_in_linear_time(tail: bytes) -> None:
    """SABIR-WORKER-5: no element keeps a worker busy."""
    begin = time.perf_counter()
    assert isinstance(messages.decode_request(b"[" * 65 + tail), Rejection)
    assert time.perf_counter() - begin < 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
INTEGERS = st.sampled_from([1, 1.0, 0, 2, -1, 1.5, 2**53 - 1, 2**53, -32603, 1001])
IDS = st.sampled_from([ID, ID.upper(), ID + "\n", "", "0" * 32])
TOKENS = st.sampled_from(["a.b", "a", "a.b.c", "a.b\n", "é.b", "a." + "x" * 63, "a." + "x" * 64])


def objects(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects near the legal ones: each member legal, something else, or absent; and members that nobody knows."""
    near = {name: legal | JSON for name, legal in members.items()}
    return st.fixed_dictionaries({}, optional={**near, "unknown": JSON})


def fixed(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(members)


METHODS = st.sampled_from(["add", "a b", "", "a" * 128, "a" * 129, "é", "add\n", "__proto__"])
REQUESTS = objects(
    v=INTEGERS,
    id=IDS,
    reply_to=TOKENS,
    deadline=INTEGERS,
    idempotent=st.booleans(),
    traceparent=st.sampled_from(["00-1", "", "x" * 512, "x" * 513, "\n"]),
    body=objects(jsonrpc=st.just("2.0"), id=IDS, method=METHODS, params=st.lists(JSON, max_size=2)),
)
CALLS = st.builds(
    lambda base, extra: {**base, **extra, "body": {**base["body"], **extra.get("body", {})}},
    fixed(v=st.just(1), id=st.just(ID), body=fixed(jsonrpc=st.just("2.0"), method=st.just("add"))),
    objects(
        reply_to=TOKENS,
        deadline=INTEGERS,
        v=INTEGERS,
        traceparent=st.just("00-1"),
        body=objects(id=IDS, params=st.lists(JSON, max_size=2), method=METHODS),
    ).map(lambda extra: {**extra, "body": extra["body"] if isinstance(extra.get("body"), dict) else {}}),
)
REPLIES = st.builds(
    lambda base, extra, body: {**base, "body": {**base["body"], **body}, **extra},
    fixed(v=st.just(1), id=st.just(ID), worker=st.just("w.1"), body=fixed(jsonrpc=st.just("2.0"), id=st.just(ID))),
    objects(v=INTEGERS, worker=TOKENS, id=IDS) | st.just({}),
    objects(
        result=JSON, error=objects(code=INTEGERS, message=st.text(), data=JSON), id=st.just(ID), jsonrpc=st.just("2.0")
    ),
)


@given(REQUESTS | CALLS)
@example({"v": 1, "id": ID, "reply_to": "a.b", "body": {"jsonrpc": "2.0", "id": ID, "method": "add", "params": [1]}})
@example({"v": 1, "id": ID, "body": {"jsonrpc": "2.0", "method": "add"}})
def test_the_decoder_accepts_what_the_schema_does(envelope: dict[str, Any]) -> None:
    """SABIR-BODY-1, SABIR-ENVELOPE-3; equal ids are a rule that a schema can't say."""
    got = messages.decode_request(json.dumps(envelope).encode())
    body = envelope.get("body")
    equal = "reply_to" not in envelope or (isinstance(body, dict) and body.get("id") == envelope.get("id"))
    assert isinstance(got, Request) == (REQUEST.is_valid(envelope) and equal)


@given(JSON | st.floats() | st.lists(st.floats()))
def test_a_value_is_measured_as_its_json(value: Any) -> None:
    """SABIR-LIMIT-1: what is large is measured by its parts, what is small by its bytes; both say the same."""
    shape = messages._shape(value, 1_000)
    assert shape is not None
    depth, is_finite = shape
    assert is_finite == messages._finite(value)
    assert depth == messages._depth(json.dumps(value).encode(), 1_000)
    assert messages._shape([value, value], 2) is None  # these are three parts at least


@pytest.mark.parametrize("value", ["x" * 10_000, ["x" * 10_000] * 3, [[["x" * 9_000]], float("nan")]])
def test_large_values_have_the_same_limits(value: Any) -> None:
    """SABIR-LIMIT-1, SABIR-JSON-1."""
    nested = value
    for _ in range(3):
        nested = [nested]
    if "nan" in repr(value):
        with pytest.raises(ValueError, match="finite"):
            messages.to_json(nested, "x", Limits())
        return
    depth = messages._depth(json.dumps(nested).encode(), 100)
    assert json.loads(messages.to_json(nested, "x", Limits(max_depth=depth))) == nested
    with pytest.raises(errors.LimitExceeded, match="levels"):
        messages.to_json(nested, "x", Limits(max_depth=depth - 1))
    call = messages.encode_request(ID, "a.b", "m", [nested])
    assert isinstance(messages.decode_request(call, Limits(max_depth=depth + 3)), Request)
    over = messages.decode_request(call, Limits(max_depth=depth + 2))
    assert isinstance(over, Rejection)
    assert (over.code, over.id, over.reply_to) == (errors.LimitExceeded.code, ID, "a.b")


@given(REPLIES)
def test_the_client_accepts_what_the_schema_does(envelope: dict[str, Any]) -> None:
    """SABIR-REPLY-5, SABIR-REPLY-6."""
    got = messages.decode_reply(json.dumps(envelope).encode())
    body = envelope.get("body")
    equal = isinstance(body, dict) and body.get("id") == envelope.get("id")
    valid = got is not None and type(got.error) is not errors.InvalidReply
    invalid_reply = equal and isinstance(body.get("error"), dict) and body["error"].get("code") == -32011
    assert valid == (REPLY.is_valid(envelope) and equal) or invalid_reply


USUAL = messages.encode_request(ID, "a.b", "m", ["x"], 5)
RESULT = messages.encode_result(ID, "w.1", "x")
FOREIGN = st.sampled_from([
    '["x"]', '{"a":[1]}', " [] ", "1", "null", '"x"', "[1", "[]]", "[NaN]", '["\\ud800"]', "",
    '[],"id":"0"', '[],"method":"other"', '1,"error":{"code":1,"message":""}', "[[[]]]", '["\x7f\u00e9"]',
])  # fmt: skip


@given(FOREIGN, st.sampled_from(["x", "m m", 'm"', "\\u006d"]), st.sampled_from(["5", "0", "05", "-5", "5.0", "9" * 16]))
def test_what_is_usual_is_read_as_everything_else(params: str, method: str, deadline: str) -> None:
    """SABIR-WORKER-5, SABIR-BODY-1: the short way says what the long one says, or leaves it to that."""
    data = USUAL.replace(b'["x"]', params.encode()).replace(b'"m"', f'"{method}"'.encode())
    data = data.replace(b'"deadline":5', b'"deadline":' + deadline.encode())
    for limits in (Limits(), Limits(max_depth=4), Limits(max_bytes=len(data) - 1)):
        assert messages.decode_request(data, limits) == messages._decode_request(data, limits)
    reply = RESULT.replace(b'"x"', params.encode())
    short, long = messages.decode_reply(reply), messages.decode_reply(b" " + reply)  # the blank takes the long way
    assert type(short) is type(long)
    if short is not None and long is not None:
        assert (short.id, short.result, type(short.error)) == (long.id, long.result, type(long.error))


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_raise(data: bytes) -> None:
    """SABIR-WORKER-5."""
    assert isinstance(messages.decode_request(data), Rejection)
    messages.decode_reply(data)
    assert json.loads(messages.encode_dead_letter(1, "w.1", messages.error_object(1, "m"), data))["v"] == 1


@given(METHODS, st.lists(JSON, max_size=3) | st.dictionaries(st.text(max_size=3), JSON) | st.none(), st.booleans())
def test_what_a_client_sends_the_schema_accepts(method: str, params: Any, call: bool) -> None:
    """SABIR-ENVELOPE-1, and it comes back as it was."""
    try:
        data = messages.encode_request(ID, "a.b" if call else None, method, params, deadline=5, idempotent=True)
    except ValueError:
        assert method in ("a b", "", "a" * 129, "é", "add\n")
        return
    assert REQUEST.is_valid(json.loads(data))
    assert messages.decode_request(data) == Request(ID, "a.b" if call else None, 5, True, None, method, params)


@given(JSON)
def test_what_a_worker_sends_the_schema_accepts(value: Any) -> None:
    """SABIR-REPLY-1."""
    for data in (
        messages.encode_result(ID, "w.1", value),
        messages.encode_error(ID, "w.1", messages.error_object(7, "\ud800", value)),
    ):
        assert REPLY.is_valid(json.loads(data))
    response = messages.decode_reply(messages.encode_result(ID, "w.1", value))
    assert response is not None
    assert response.result == value


# ---------------------------------------------------------------------------------------------------- errors


def test_the_classes_are_the_table() -> None:
    """SABIR-ERROR-4: protocol/errors.json, row by row."""
    table = json.loads((PROTOCOL / "errors.json").read_text())
    assert (errors.RESERVED.start, errors.RESERVED.stop - 1) == (table["reserved"]["from"], table["reserved"]["to"])
    rows = {row["code"]: row for row in table["errors"]}
    assert rows.keys() == errors.TABLE.keys()
    for code, row in rows.items():
        cls = errors.TABLE[code]
        assert cls is getattr(sabir, row["name"])
        assert (cls.code, cls.outcome, cls.retryable) == (code, row["outcome"], row["retryable"])
        assert cls.__doc__ == row["description"]
        assert issubclass(cls, sabir.SabirError)


class Priced(sabir.ApplicationError):
    """An application's error with an __init__ of its own."""

    code = 1002

    def __init__(self, price: int) -> None:
        super().__init__(f"costs {price}", data={"price": price})
        self.price = price


def test_an_errors_own_init_is_not_called_for_what_comes() -> None:
    """SABIR-ERROR-5."""
    error = errors.from_wire(1002, "other", {"x": 1}, errors.application_classes([Priced]))
    assert isinstance(error, Priced)
    assert (error.code, error.message, error.data, str(error)) == (1002, "other", {"x": 1}, "other (1002, ran)")


def test_errors_can_be_copied() -> None:
    for error in (sabir.CallTimeout("m"), sabir.ApplicationError("m", code=7, data=None), sabir.SabirError("m", -32099)):
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(again) is type(error)
            assert (again.code, again.message, again.data, again.has_data) == (
                error.code, error.message, error.data, error.has_data,
            )  # fmt: skip


@pytest.mark.parametrize("code", [-32768, -32603, -32000, 2**53, 1.5, "1", True, None])
def test_codes_that_applications_may_not_use(code: Any) -> None:
    """SABIR-ERROR-3."""
    assert not errors.is_application_code(code)


def test_a_name_in_a_message_is_cut() -> None:
    with pytest.raises(ValueError, match="service: expected") as caught:
        Keys("sabir", "x" * 10_000)
    assert len(str(caught.value)) < 300
