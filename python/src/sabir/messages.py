"""The envelope and the body: encode, decode, limits. No socket, no clock, no random source.

What a worker reads is a Request or a Rejection; what a client reads is a Response, or None for what it drops.
"""

from __future__ import annotations

import base64
import enum
import functools
import math
import re
import sys
from dataclasses import dataclass
from typing import Any, Final

import orjson

from . import errors
from .errors import MISSING
from .keys import ID, TOKEN, check, is_id, is_method, is_token

MAX_BYTES: Final = 1_048_576
"""The default limit of an element, in bytes."""
MAX_DEPTH: Final = 64
"""The default limit of an element's nesting, in levels."""
_LARGE: Final = 8_192  # bytes from which on it may pay to look at the parts of a value
KEPT_BYTES: Final = 16_777_216
"""How many bytes of an element a dead letter keeps."""
MAX_INTEGER: Final = 2**53 - 1

Params = list[Any] | dict[str, Any] | None

# Dates and dataclasses have no JSON form of their own: refused, like everything else that JSON does not know.
_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS
_HEAD: Final = re.compile(
    rb'[ \t\r\n]*\{([ \t\r\n]*"(v|id|reply_to)"[ \t\r\n]*:[ \t\r\n]*("[A-Za-z0-9_.-]{0,128}"|[0-9]{1,15})[ \t\r\n]*,){2,3}'
)
# A string, or what is left of one that never ends. It gives nothing back, so that no text takes more than linear time.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKET: Final = re.compile(rb"[\[\]{}]")
_TRACEPARENT: Final = re.compile(r"[ -~]{1,512}", re.ASCII)
# How nearly all calls and results are written. What stands where the dots are has to be one JSON value, and then all is
# as it has to be; whatever else there is takes the longer way.
_USUAL_REQUEST: Final = re.compile(
    rf'{{"v":1,"id":"({ID})","reply_to":"({TOKEN})","deadline":([1-9][0-9]{{0,14}}),"body":{{"jsonrpc":"2\.0","id":"\1",'
    r'"method":"([!#-\[\]-~]{1,128})","params":(.*)}}'.encode(),
    re.DOTALL,
)
_USUAL_RESULT: Final = re.compile(
    rf'{{"v":1,"id":"({ID})","worker":"{TOKEN}","body":{{"jsonrpc":"2\.0","id":"\1","result":(.*)}}}}'.encode(),
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_bytes`` of an element, ``max_depth`` of its nesting in levels."""

    max_bytes: int = MAX_BYTES
    max_depth: int = MAX_DEPTH


UNLIMITED: Final = Limits(sys.maxsize, sys.maxsize)


@dataclass(slots=True)
class Request:
    """A request that may be run. ``reply_to`` None: a notification. ``deadline``: ms of Redis's clock, None: never."""

    id: str
    reply_to: str | None
    deadline: int | None
    idempotent: bool
    traceparent: str | None
    method: str
    params: Params


@dataclass(slots=True)
class Rejection:
    """An element that is not run. With a ``reply_to`` it is answered with the error, without one it is a dead letter."""

    code: int
    message: str
    id: str | None = None
    reply_to: str | None = None


@dataclass(slots=True)
class Response:
    """A reply to the call ``id``: a result, or an ``error`` (then the result means nothing)."""

    id: str
    result: Any = None
    error: errors.SabirError | None = None


# ---------------------------------------------------------------------------------------------------- encode


def to_json(value: Any, what: str, limits: Limits, head: str = "", tail: bytes = b"", levels: int = 0) -> bytes:
    """JSON in UTF-8 (SABIR-JSON-1). ``what`` is named in messages.

    ``head``, ``tail``: what stands around it in an element, with so many ``levels`` of nesting. The limits are those of
    the element.
    Raises TypeError for a value of a type that JSON does not have, ValueError for NaN, infinities and lone surrogates,
    LimitExceeded over a limit (SABIR-LIMIT-1).
    """
    try:
        data = orjson.dumps(value, option=_OPTIONS)
    except TypeError as error:
        if "surrogates" in str(error):
            raise ValueError(f"{what}: expected text that can be written as UTF-8, got a lone surrogate") from None
        if "Recursion" in str(error):
            raise errors.LimitExceeded(f"{what}: expected at most {limits.max_depth} levels of nesting, got more") from None
        raise TypeError(f"{what}: expected JSON values, got: {error}") from None
    shape = _shape(value, len(data) >> 7) if len(data) > _LARGE else None
    if shape is None:
        is_finite = b"null" not in data or _finite(value)  # orjson writes NaN as null
    else:
        is_finite = shape[1]
    if not is_finite:
        raise ValueError(f"{what}: expected finite numbers, got NaN or an infinity")
    element = b"".join((head.encode(), data, tail))
    depth = levels + (_at_most(data) if shape is None else shape[0])
    if len(element) > limits.max_bytes or depth > limits.max_depth:
        _refuse_over(limits, element, what, None if shape is None else depth)
    return element


def _refuse_over(limits: Limits, element: bytes, what: str, depth: int | None = None) -> None:
    """Raise LimitExceeded if an element is over a limit."""
    over = over_limit(element, limits, depth)
    if over:
        raise errors.LimitExceeded(f"{what}: {over}")


def _finite(value: Any) -> bool:
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return True


def _shape(value: Any, most: int) -> tuple[int, bool] | None:
    """How deep a value is nested, and whether its numbers are finite; None: it has more than ``most`` parts.

    In what is large and has few parts, which is long texts, that is found much sooner than by searching its JSON.
    """
    level, depth, is_finite = [value], 0, True
    while level:
        most -= len(level)
        if most < 0:
            return None
        below: list[Any] = []
        has_containers = False
        for part in level:
            if isinstance(part, enum.Enum):
                part = part.value  # noqa: PLW2901
            if isinstance(part, dict):
                has_containers = True
                below += part.values()
            elif isinstance(part, (list, tuple)):
                has_containers = True
                below += part
            elif isinstance(part, float) and not math.isfinite(part):
                is_finite = False
        depth += has_containers
        level = below
    return depth, is_finite


def encode_request(
    id: str,
    reply_to: str | None,
    method: str,
    params: Any = None,
    deadline: int | None = None,
    idempotent: bool = False,
    traceparent: str | None = None,
    limits: Limits = Limits(),
) -> bytes:
    """An element for ``requests`` (SABIR-ENVELOPE-1, -5). ``reply_to`` None: a notification. ``params`` None: none.

    Raises ValueError or TypeError for what the encoder refuses, LimitExceeded over a limit (SABIR-LIMIT-1).
    """
    head = f'{{"v":1,"id":"{id}"'
    if reply_to is not None:
        head += f',"reply_to":"{reply_to}"'
    if deadline is not None:
        head += f',"deadline":{deadline}'
    if idempotent:
        head += ',"idempotent":true'
    if traceparent is not None:
        if not isinstance(traceparent, str) or not _TRACEPARENT.fullmatch(traceparent):
            raise ValueError(f"traceparent: expected 1 to 512 printable ASCII characters, got {traceparent!r:.100}")
        head += f',"traceparent":{orjson.dumps(traceparent).decode()}'
    head += ',"body":{"jsonrpc":"2.0"' if reply_to is None else f',"body":{{"jsonrpc":"2.0","id":"{id}"'
    head += _member_of(method) if isinstance(method, str) else check("method", method)
    if params is None:
        element = f"{head}}}}}".encode()
        _refuse_over(limits, element, "method")
        return element
    if not isinstance(params, (list, tuple, dict)):
        raise TypeError(f"params: expected a list, a tuple, a dict or None, got {type(params).__name__}")
    return to_json(params, "params", limits, head + ',"params":', b"}}", 2)


@functools.lru_cache(1024)
def _member_of(method: str) -> str:
    """The method as a member. Raises ValueError for a name outside the grammar."""
    return f',"method":{orjson.dumps(check("method", method)).decode()}'


def encode_result(id: str, worker: str, result: Any, limits: Limits = Limits()) -> bytes:
    """A reply with a result (SABIR-REPLY-1).

    Raises TypeError, ValueError or LimitExceeded for a result that cannot be sent (SABIR-LIMIT-4).
    """
    return _encode_reply(id, worker, "result", result, "result", limits)


def _encode_reply(id: str, worker: str, member: str, value: Any, what: str, limits: Limits) -> bytes:
    head = f'{{"v":1,"id":"{id}","worker":"{worker}","body":{{"jsonrpc":"2.0","id":"{id}","{member}":'
    return to_json(value, what, limits, head, b"}}", 2)


def error_object(code: int, message: str, data: Any = MISSING) -> dict[str, Any]:
    """The error member of a response or a dead letter. ``data`` MISSING: absent."""
    error: dict[str, Any] = {"code": code, "message": message.encode("utf-8", "replace").decode()}
    if data is not MISSING:
        error["data"] = data
    return error


def encode_error(id: str, worker: str, error: dict[str, Any], limits: Limits = Limits()) -> bytes:
    """A reply with an error, as error_object() makes it (SABIR-REPLY-1).

    Raises TypeError, ValueError or LimitExceeded where its data cannot be sent (SABIR-ERROR-3).
    """
    return _encode_reply(id, worker, "error", error, "error data", limits)


def encode_dead_letter(at: int, worker: str, error: dict[str, Any], element: bytes) -> bytes:
    """A dead letter (SABIR-DEAD-1, -2), with 16 MiB of its element at most (SABIR-DEAD-5). ``at``: ms of Redis's clock.

    Raises TypeError or ValueError where the error's data cannot be written.
    """
    letter: dict[str, Any] = {"v": 1, "at": at, "worker": worker, "error": error}
    if len(element) > KEPT_BYTES:
        letter |= {"element_base64": base64.b64encode(element[:KEPT_BYTES]).decode(), "size": len(element)}
        return to_json(letter, "error data", UNLIMITED)
    try:
        letter["element"] = element.decode("utf-8")
    except UnicodeDecodeError:
        letter["element_base64"] = base64.b64encode(element).decode()
    return to_json(letter, "error data", UNLIMITED)


# ---------------------------------------------------------------------------------------------------- decode


def over_limit(data: bytes, limits: Limits, depth: int | None = None) -> str | None:
    """What limit an element is over, or None. ``depth``: its nesting in levels, None: it is not known."""
    if len(data) > limits.max_bytes:
        return f"expected at most {limits.max_bytes} bytes, got {len(data)}"
    if depth is None:
        depth = _at_most(data)
        if depth > limits.max_depth:
            depth = _depth(data, limits.max_depth)
    return f"expected at most {limits.max_depth} levels of nesting, got more" if depth > limits.max_depth else None


def _at_most(data: bytes) -> int:
    """How deep JSON is nested at most: counting brackets costs next to nothing, and few texts hold too many."""
    return data.count(b"[") + data.count(b"{")


def _depth(data: bytes, most: int) -> int:
    """How deep an element is nested, counted in its bytes, whatever they mean; no further than ``most`` and one."""
    depth = deepest = 0
    for bracket in _BRACKET.finditer(_STRING.sub(b"", data)):
        depth = depth + 1 if bracket[0] in b"[{" else max(depth - 1, 0)
        deepest = max(depth, deepest)
        if deepest > most:
            break
    return deepest


def _integer(value: Any) -> int | None:
    if type(value) is int and -MAX_INTEGER <= value <= MAX_INTEGER:
        return value
    if type(value) is float and value.is_integer() and -MAX_INTEGER <= value <= MAX_INTEGER:
        return int(value)
    return None


def decode_request(data: bytes, limits: Limits = Limits()) -> Request | Rejection:
    """What an element of ``requests`` means. Never raises, whatever the bytes (SABIR-WORKER-5)."""
    if len(data) <= min(_LARGE, limits.max_bytes) and (usual := _USUAL_REQUEST.fullmatch(data)):
        id, reply_to, deadline, method, text = usual.groups()
        if _at_most(text) + 2 <= limits.max_depth:
            try:
                params = orjson.loads(text)
            except orjson.JSONDecodeError:
                params = None
            if type(params) is list or type(params) is dict:
                return Request(id.decode(), reply_to.decode(), int(deadline), False, None, method.decode(), params)
    return _decode_request(data, limits)


def _decode_request(data: bytes, limits: Limits) -> Request | Rejection:
    """The same for an element of any form."""
    envelope: Any = None
    unread, shape = "", None
    if len(data) <= limits.max_bytes:
        try:
            envelope = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            unread = f"expected UTF-8 JSON, got {error}"
        else:
            shape = _shape(envelope, len(data) >> 7) if len(data) > _LARGE else None
    over = over_limit(data, limits, shape[0] if shape else None)
    if over:
        head = _HEAD.match(data)
        try:
            members = orjson.loads(head[0][:-1] + b"}") if head else {}
        except orjson.JSONDecodeError:  # "v":01
            members = {}
        return _reject(errors.LimitExceeded.code, over, *_address(members))
    if unread:
        return _reject(errors.ParseError.code, unread)
    if type(envelope) is not dict:
        return _reject(errors.InvalidRequest.code, f"expected an object, got {_kind(envelope)}")
    id, reply_to = _address(envelope)
    if id is None:
        return _reject(errors.InvalidRequest.code, "id: expected 32 lower-case hexadecimal digits")
    if reply_to is None and "reply_to" in envelope:
        return _reject(errors.InvalidRequest.code, "reply_to: expected a token", id)
    v = _integer(envelope.get("v"))
    if v is not None and v > 1:
        return _reject(errors.UnsupportedVersion.code, f"v: expected 1, got {v}", id, reply_to)
    fault = _fault(envelope, v, id, reply_to)
    if fault:
        return _reject(errors.InvalidRequest.code, fault, id, reply_to)
    deadline = envelope.get("deadline")
    body = envelope["body"]
    return Request(
        id,
        reply_to,
        None if deadline is None else int(deadline),
        envelope.get("idempotent", False),
        envelope.get("traceparent"),
        body["method"],
        body.get("params"),
    )


def _address(members: dict[str, Any]) -> tuple[str | None, str | None]:
    """The id and the token, each None where it is absent or outside its grammar."""
    id, reply_to = members.get("id"), members.get("reply_to")
    return (
        id if type(id) is str and is_id(id) else None,
        reply_to if type(reply_to) is str and is_token(reply_to) else None,
    )


def _reject(code: int, message: str, id: str | None = None, reply_to: str | None = None) -> Rejection:
    return Rejection(code, message, id, reply_to if id else None)


def _kind(value: Any) -> str:
    """What a value is, in JSON's words, for messages: never the value itself (SABIR-SECURITY-1)."""
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _fault(envelope: dict[str, Any], v: int | None, id: str, reply_to: str | None) -> str | None:
    """What is wrong with an envelope whose id and reply_to are in order (SABIR-BODY-1), or None."""
    if v != 1:
        return "v: expected 1"
    if "deadline" in envelope:
        deadline = _integer(envelope["deadline"])
        if deadline is None or deadline < 1:
            return f"deadline: expected an integer > 0, got {_kind(envelope['deadline'])}"
    if type(envelope.get("idempotent", False)) is not bool:
        return f"idempotent: expected a boolean, got {_kind(envelope['idempotent'])}"
    if "traceparent" in envelope:
        trace = envelope["traceparent"]
        if type(trace) is not str or not _TRACEPARENT.fullmatch(trace):
            return "traceparent: expected 1 to 512 printable ASCII characters"
    body = envelope.get("body")
    if type(body) is not dict:
        return f"body: expected an object, got {_kind(body)}"
    if body.get("jsonrpc") != "2.0":
        return 'body.jsonrpc: expected "2.0"'
    if reply_to is None and "id" in body:
        return "body.id: expected none without a reply_to"
    if reply_to is not None and body.get("id") != id:
        return "body.id: expected the envelope's id"
    method = body.get("method")
    if type(method) is not str or not is_method(method):
        return "body.method: expected 1 to 128 printable ASCII characters"
    if "params" in body and type(body["params"]) not in (list, dict):
        return f"body.params: expected an array or an object, got {_kind(body['params'])}"
    return None


def decode_reply(data: bytes, own: dict[int, type[errors.ApplicationError]] | None = None) -> Response | None:
    """What an element of a reply list means to a client; None: no id can be read, it is dropped (SABIR-REPLY-5).

    ``own``: the application's error classes by code. A reply that has an id and is otherwise invalid is an InvalidReply.
    """
    if usual := _USUAL_RESULT.fullmatch(data):
        try:
            return Response(usual[1].decode(), orjson.loads(usual[2]))
        except orjson.JSONDecodeError:
            pass
    try:
        envelope = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    id = _address(envelope)[0] if type(envelope) is dict else None
    if id is None:
        return None
    body, worker = envelope.get("body"), envelope.get("worker")
    if (
        _integer(envelope.get("v")) != 1
        or type(worker) is not str
        or not is_token(worker)
        or type(body) is not dict
        or body.get("jsonrpc") != "2.0"
        or body.get("id") != id
        or ("result" in body) == ("error" in body)
    ):
        return Response(id, error=errors.InvalidReply("the reply is not a reply envelope with a JSON-RPC 2.0 response"))
    if "result" in body:
        return Response(id, body["result"])
    error = body["error"]
    code = _integer(error.get("code")) if type(error) is dict else None
    if code is None or type(error.get("message")) is not str:
        return Response(id, error=errors.InvalidReply("the reply's error has no integer code and text message"))
    return Response(id, error=errors.from_wire(code, error["message"], error.get("data", MISSING), own or {}))
