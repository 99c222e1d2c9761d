"""Mutants of the worker."""

from __future__ import annotations

import collections
import dataclasses
import json
import secrets
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import orjson
from sabir import _link, commands, dispatch, errors, keys, messages
from sabir import server as shell
from sabir.dispatch import Dispatcher, Job, Methods, Settled, Signature
from sabir.errors import ApplicationError, SabirError
from sabir.messages import UNLIMITED, Rejection, Request
from sabir.server import Server

from . import mutant, wrap

Read = Request | Rejection

# ------------------------------------------------------------------------------------------------ what mutants share


def reading(change: Callable[[dict[str, Any]], None]) -> None:
    """Have the worker read another envelope than the one that came. What has no body, or is very large, stays."""

    @wrap(messages, "decode_request")
    def decode_request(original: Any, data: bytes, *args: Any) -> Read:
        try:
            envelope = orjson.loads(data)
        except orjson.JSONDecodeError:
            return original(data, *args)
        if type(envelope) is not dict or type(envelope.get("body")) is not dict or len(data) > 100_000:
            return original(data, *args)
        change(envelope)
        return original(orjson.dumps(envelope), *args)


def judging(change: Callable[[Read, bytes], Read]) -> None:
    """Have the worker think otherwise of what it has read."""

    @wrap(messages, "decode_request")
    def decode_request(original: Any, data: bytes, *args: Any) -> Read:
        return change(original(data, *args), data)


def leniently(parse: Callable[[bytes], Any]) -> None:
    """Have the worker read with another parser what the right one refuses."""

    @wrap(messages, "decode_request")
    def decode_request(original: Any, data: bytes, *args: Any) -> Read:
        read = original(data, *args)
        if type(read) is Rejection and read.code == errors.ParseError.code:
            try:
                return original(orjson.dumps(parse(data)), *args)
            except (ValueError, TypeError, RecursionError):
                return read
        return read


def unlimited(limit: str) -> None:
    """Have the worker read what is over a limit."""

    @wrap(messages, "decode_request")
    def decode_request(original: Any, data: bytes, limits: Any) -> Read:
        return original(data, dataclasses.replace(limits, **{limit: sys.maxsize}))


def answering(code: int, instead: int) -> None:
    """Have the worker give callers one error for another; dead letters stay as they are."""

    @wrap(messages, "encode_error")
    def encode_error(original: Any, id: str, worker: str, error: dict[str, Any], *args: Any) -> bytes:
        return original(id, worker, error | {"code": instead} if error["code"] == code else error, *args)


def burying(code: int, instead: int) -> None:
    """Have the worker write one error for another into dead letters."""

    @wrap(messages, "encode_dead_letter")
    def encode_dead_letter(original: Any, at: int, worker: str, error: dict[str, Any], element: bytes) -> bytes:
        return original(at, worker, error | {"code": instead} if error["code"] == code else error, element)


def sending(step: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """Have the worker send other commands for a step."""

    @wrap(commands, step)
    def send(original: Any, *args: Any, **kwargs: Any) -> list[Any]:
        return change(original(*args, **kwargs))


def every_lrem(change: Callable[[bytes], bytes]) -> None:
    """Have the worker remove something else from its hand than what it took."""
    for step in ("replies", "bury", "acknowledge"):
        sending(step, lambda cmds: [(*c[:-1], change(c[-1])) if c[0] == "LREM" else c for c in cmds])


# ------------------------------------------------------------------------------------------------ transport, keys, names


@mutant("SABIR-TRANSPORT-1", "server/hand/block-time")
def takes_for_ever() -> None:
    """A take blocks without an end."""
    sending("take", lambda cmds: [*cmds[:-1], (*cmds[-1][:-1], "0")])


@mutant("SABIR-TRANSPORT-2", "server/hand/quiet-for-longer-than-the-block", "server/trouble/*")
def takes_quiet_for_dead() -> None:
    """An answer is given up before the block time of its take has passed."""
    shell.MARGIN = -1.5  # type: ignore[misc]


@mutant("SABIR-TRANSPORT-2", "server/trouble/reply-silence")
def waits_on_silence() -> None:
    """An answer is awaited for ever."""

    @wrap(_link.Link, "_patience")
    def patience(original: Any, self: Any, timeout: float) -> None:
        original(self, 3600.0)


@mutant("SABIR-TRANSPORT-3", "server/hand/reply-while-others-wait", "server/stop/*", "server/hand/*", "server/trouble/*")
def replies_behind_a_take() -> None:
    """Replies go over the connection of the takes, when the take has ended."""
    later: dict[Any, list[Settled]] = collections.defaultdict(list)
    write = Server._settle

    def flush(self: Any) -> None:
        while later[self]:
            write(self, later[self].pop(0))

    @wrap(Server, "__init__")
    def init(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._reply_link = self._take_link

    @wrap(Server, "_settle")
    def settle(original: Any, self: Any, settled: Settled) -> None:
        later[self].append(settled)

    @wrap(Server, "_take")
    def take(original: Any, self: Any) -> Any:
        flush(self)
        return original(self)

    @wrap(Server, "_goodbye")
    def goodbye(original: Any, self: Any) -> None:
        flush(self)
        original(self)


@mutant("SABIR-TRANSPORT-4", "server/hand/invalid-utf-8", "SABIR-JSON-2")
def removes_a_re_encoding() -> None:
    """Elements are decoded to text, and encoded again to be removed from the hand."""
    every_lrem(lambda element: element.decode("utf-8", "replace").encode())


@mutant("SABIR-TRANSPORT-4", "server/hand/odd-white-space", "SABIR-JSON-2", "vectors/requests/white-space-*")
def removes_what_it_trimmed() -> None:
    """White space around an element is cut off before it is removed from the hand."""
    every_lrem(bytes.strip)


@mutant("SABIR-KEY-1", "server/names/only-its-keys")
def keeps_statistics() -> None:
    """Each heartbeat writes a key that is not in the table."""
    sending(
        "heartbeat", lambda cmds: [*cmds[:-1], ("SET", cmds[-2][1].replace(":alive", ":stats"), "1", "PX", "9"), cmds[-1]]
    )


@mutant("SABIR-TOKEN-2", "vectors/requests/reply-to-is-a-key", "SABIR-DEAD-1", "SABIR-LIMIT-3")
def takes_any_token() -> None:
    """A token may be any text."""

    @wrap(keys, "is_token")
    def is_token(original: Any, text: str) -> bool:
        return True

    @wrap(keys.Keys, "reply")
    def reply(original: Any, self: Any, token: str) -> str:
        return self.requests.removesuffix("requests") + "reply:" + token


@mutant("SABIR-WORKER-1", "server/names/new-id")
def keeps_its_id() -> None:
    """A worker has the same id whenever it starts."""

    @wrap(shell, "new_worker")
    def new_worker(original: Any, name: str) -> str:
        return f"{name}.0f1e2d3c4b5a6978"


@mutant("SABIR-WORKER-1", "server/names/new-id")
def worker_of_24_bits() -> None:
    """A worker's id has 24 random bits."""

    @wrap(shell, "new_worker")
    def new_worker(original: Any, name: str) -> str:
        return f"{name}.{secrets.token_hex(3)}"


@mutant("SABIR-WORKER-7", "server/errors/no-trace")
def sends_traces() -> None:
    """An InternalError brings the stack trace along."""

    @wrap(Server, "__init__")
    def init(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{**kwargs, "traces": True})


@mutant("SABIR-SECURITY-1", "server/names/payload-not-logged")
def logs_elements() -> None:
    """Every element is logged."""

    @wrap(Dispatcher, "receive")
    def receive(original: Any, self: Any, element: bytes) -> Any:
        dispatch.log.warning("took %s", element)
        return original(self, element)


# ------------------------------------------------------------------------------------------------ what it reads


def _unknown(envelope: dict[str, Any]) -> set[str]:
    return envelope.keys() - {"v", "id", "reply_to", "deadline", "idempotent", "traceparent", "body"}


@mutant("SABIR-ENVELOPE-3", "vectors/requests/unknown-member-in-the-envelope")
def refuses_unknown_members() -> None:
    """A member of the envelope that it does not know makes a request invalid."""
    reading(lambda envelope: envelope.update(idempotent=None) if _unknown(envelope) else None)


@mutant("SABIR-ENVELOPE-3", "vectors/requests/unknown-member-in-the-body")
def refuses_unknown_members_of_the_body() -> None:
    """A member of the body that it does not know makes a request invalid."""

    def change(envelope: dict[str, Any]) -> None:
        if envelope["body"].keys() - {"jsonrpc", "id", "method", "params"}:
            envelope["body"]["jsonrpc"] = "?"

    reading(change)


@mutant("SABIR-ENVELOPE-4", "vectors/requests/v-is-2")
def calls_a_later_version_invalid() -> None:
    """A version that it does not know is InvalidRequest."""
    answering(errors.UnsupportedVersion.code, errors.InvalidRequest.code)


@mutant("SABIR-ENVELOPE-4", "vectors/requests/v-is-2-and-the-rest-is-unknown")
def reads_on_in_a_later_version() -> None:
    """The rest of an element of a later version has to be valid."""

    def change(read: Read, data: bytes) -> Read:
        if type(read) is Rejection and read.code == errors.UnsupportedVersion.code and read.reply_to:
            envelope = orjson.loads(data)
            if type(envelope.get("body")) is not dict or _unknown(envelope):
                return dataclasses.replace(read, code=errors.InvalidRequest.code)
        return read

    judging(change)


@mutant("SABIR-BODY-1", "vectors/requests/jsonrpc-is-1-0")
def takes_any_jsonrpc() -> None:
    """jsonrpc is not looked at."""
    reading(lambda envelope: envelope["body"].update(jsonrpc="2.0"))


@mutant("SABIR-BODY-1", "vectors/requests/body-id-is-another-id")
def takes_any_body_id() -> None:
    """The id of a call's body is not looked at."""
    reading(lambda envelope: envelope["body"].update(id=envelope.get("id")) if "reply_to" in envelope else None)


@mutant("SABIR-BODY-1", "vectors/requests/params-is-null", "SABIR-DEAD-1")
def takes_params_null() -> None:
    """params: null is "no parameters"."""
    reading(lambda envelope: envelope["body"].pop("params", 0) if envelope["body"].get("params", 0) is None else None)


@mutant("SABIR-BODY-1", "vectors/requests/deadline-is-zero", "SABIR-TIME-*")
def takes_a_deadline_of_zero() -> None:
    """A deadline of 0 means "never"."""
    reading(lambda envelope: envelope.pop("deadline", 0) if envelope.get("deadline", 1) == 0 else None)


@mutant("SABIR-BODY-1", "vectors/requests/v-is-a-string")
def takes_v_as_text() -> None:
    """v may be the text "1"."""
    reading(lambda envelope: envelope.update(v=1) if envelope.get("v") == "1" else None)


@mutant("SABIR-BODY-2", "server/methods/case")
def ignores_case() -> None:
    """A method is found whatever the case of its name."""

    @wrap(Methods, "find")
    def find(original: Any, self: Any, name: str) -> Any:
        return original(self, name) or original(self, name.lower())


@mutant("SABIR-BODY-2", "server/methods/unknown", "SABIR-BODY-3")
def calls_an_unknown_method_invalid() -> None:
    """An unknown method is InvalidRequest."""
    answering(errors.MethodNotFound.code, errors.InvalidRequest.code)


@mutant("SABIR-BODY-3", "server/methods/language-9")
def finds_attributes() -> None:
    """Methods are looked up among the attributes of the server, too."""

    @wrap(Methods, "find")
    def find(original: Any, self: Any, name: str) -> Any:
        found = original(self, name)
        other = getattr(self, name, None)
        return (other, Signature(other)) if found is None and callable(other) else found


@mutant("SABIR-BODY-4", "server/params/too-few", "SABIR-DEAD-2", "SABIR-SECURITY-1")
def does_not_count_parameters() -> None:
    """Parameters are not compared with the handler's."""

    @wrap(Signature, "fault")
    def fault(original: Any, self: Any, params: Any) -> None:
        return None


@mutant("SABIR-BODY-4", "server/params/fault-inside", "SABIR-SECURITY-1")
def blames_the_caller() -> None:
    """A type error inside a handler is InvalidParams."""

    @wrap(Dispatcher, "fail")
    def fail(original: Any, self: Any, job: Job, error: BaseException) -> Settled:
        settled = original(self, job, error)
        if isinstance(error, TypeError) and settled.reply:
            settled.reply = settled.reply.replace(b"-32603", b"-32602")
        return settled


@mutant("SABIR-JSON-2", "vectors/requests/NaN")
def reads_nan() -> None:
    """NaN and Infinity are read."""
    leniently(lambda data: json.loads(data.decode()))


@mutant("SABIR-JSON-2", "vectors/requests/a-byte-order-mark")
def reads_behind_a_byte_order_mark() -> None:
    """A byte order mark is skipped."""
    leniently(lambda data: orjson.loads(data.removeprefix(b"\xef\xbb\xbf")))


@mutant("SABIR-JSON-2", "vectors/requests/invalid-UTF-8-in-a-string")
def reads_invalid_utf_8() -> None:
    """Bytes that are no UTF-8 are replaced."""
    leniently(lambda data: orjson.loads(data.decode("utf-8", "replace")))


def first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What json.loads() makes of an object: the first of duplicate names wins."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    return found


@mutant("SABIR-JSON-3", "vectors/requests/duplicate-method-the-last-counts")
def first_of_duplicates() -> None:
    """The first of duplicate names wins."""

    @wrap(messages, "decode_request")
    def decode_request(original: Any, data: bytes, *args: Any) -> Read:
        read = original(data, *args)
        if len(data) < 10_000 and (type(read) is Request or read.id):
            return original(orjson.dumps(json.loads(data, object_pairs_hook=first_wins)), *args)
        return read


@mutant("SABIR-JSON-4", "vectors/requests/lone-high-surrogate")
def chokes_on_surrogates() -> None:
    """Nothing becomes of an element with a lone surrogate."""

    def change(read: Read, data: bytes) -> Read:
        if b"\\ud8" in data.lower() and b"\\ud83" not in data.lower():
            raise UnicodeError("surrogate")
        return read

    judging(change)


@mutant("SABIR-LIMIT-2", "server/limits/too-large-is-not-run", "SABIR-LIMIT-3")
def runs_what_is_too_large() -> None:
    """The size of an element is not looked at."""
    unlimited("max_bytes")


@mutant("SABIR-LIMIT-2", "server/limits/too-deep-is-not-run", "SABIR-LIMIT-3", "SABIR-JSON-2")
def runs_what_is_too_deep() -> None:
    """The depth of an element is not looked at."""
    unlimited("max_depth")


@mutant("SABIR-LIMIT-3", "vectors/requests/65-levels", "SABIR-LIMIT-2")
def answers_nothing_over_a_limit() -> None:
    """What is over a limit is always a dead letter."""
    judging(lambda read, data: dataclasses.replace(read, reply_to=None) if _is_over(read) else read)


@mutant("SABIR-LIMIT-3", "vectors/requests/over-a-limit-id-behind-the-body")
def reads_all_over_a_limit() -> None:
    """An element over a limit is read to its end to find its id."""

    def change(read: Read, data: bytes) -> Read:
        if _is_over(read):
            try:
                members = orjson.loads(data)
                if keys.is_id(members["id"]) and keys.is_token(members["reply_to"]):
                    return dataclasses.replace(read, id=members["id"], reply_to=members["reply_to"])
            except (ValueError, KeyError, TypeError):
                pass
        return read

    judging(change)


def _is_over(read: Read) -> bool:
    return type(read) is Rejection and read.code == errors.LimitExceeded.code


# ------------------------------------------------------------------------------------------------ what it answers


@mutant("SABIR-REPLY-1", "server/values/null")
def leaves_null_out() -> None:
    """A reply with the result null has no result."""

    @wrap(messages, "encode_result")
    def encode_result(original: Any, id: str, worker: str, result: Any, *args: Any) -> bytes:
        reply = original(id, worker, result, *args)
        return reply.replace(b',"result":null}}', b"}}") if result is None else reply


@mutant("SABIR-REPLY-1", "server/replies/id-of-an-invalid-request", "SABIR-BODY-*", "SABIR-JSON-3")
def no_id_of_an_invalid_request() -> None:
    """The reply to an invalid request has the body id null, as plain JSON-RPC would."""

    @wrap(messages, "encode_error")
    def encode_error(original: Any, id: str, worker: str, error: dict[str, Any], *args: Any) -> bytes:
        reply = original(id, worker, error, *args)
        return reply.replace(f'"2.0","id":"{id}"'.encode(), b'"2.0","id":null') if error["code"] == -32600 else reply


@mutant("SABIR-REPLY-2", "server/hand/equal-elements")
def answers_equal_elements_once() -> None:
    """Of two equal elements the second is removed and not answered."""
    seen: set[tuple[int, bytes]] = set()

    @wrap(Dispatcher, "receive")
    def receive(original: Any, self: Any, element: bytes) -> Any:
        if (id(self), element) in seen:
            return Settled(element)
        seen.add((id(self), element))
        return original(self, element)


@mutant("SABIR-REPLY-2", "server/replies/once", "SABIR-REPLY-3", "SABIR-LOST-4", "SABIR-TOKEN-2")
def answers_twice() -> None:
    """Each reply is pushed twice."""
    sending("replies", lambda cmds: [(*c, c[-1]) if c[0] == "RPUSH" else c for c in cmds])


_LEFT_UNREAD = ("server/replies/*", "SABIR-LOST-4", "SABIR-REPLY-2")  # cases that leave a reply unread


@mutant("SABIR-REPLY-3", "server/replies/expiry", *_LEFT_UNREAD)
def replies_stay() -> None:
    """Reply lists do not expire."""
    sending("replies", lambda cmds: [c for c in cmds if c[0] != "PEXPIRE"])


@mutant("SABIR-REPLY-3", "server/replies/expiry", "server/replies/token-of-one-character")
def replies_expire_in_a_second() -> None:
    """Reply lists expire after a second."""
    sending("replies", lambda cmds: [(*c[:2], "1000") if c[0] == "PEXPIRE" else c for c in cmds])


@mutant("SABIR-REPLY-3", "server/replies/expiry-renewed")
def expiry_is_set_once() -> None:
    """A second reply to the same token does not renew the expiry."""
    sending("replies", lambda cmds: [(*c, "NX") if c[0] == "PEXPIRE" else c for c in cmds])


@mutant("SABIR-REPLY-3", "server/replies/transaction", "SABIR-LOST-4", "SABIR-REPLY-2")
def acknowledges_apart() -> None:
    """The element is removed from the hand behind the transaction."""
    sending("replies", lambda cmds: [c for c in cmds if c[0] != "LREM"] + [c for c in cmds if c[0] == "LREM"])


@mutant("SABIR-JSON-1", "server/values/unicode")
def writes_a_byte_order_mark() -> None:
    """A reply with text beyond ASCII begins with a byte order mark."""

    @wrap(messages, "encode_result")
    def encode_result(original: Any, *args: Any) -> bytes:
        reply = original(*args)
        return reply if reply.isascii() else b"\xef\xbb\xbf" + reply


@mutant("SABIR-JSON-1", "server/values/fractions", "server/values/*", "SABIR-LIMIT-*")
def writes_a_name_twice() -> None:
    """A reply with an array as its result has the member v twice."""

    @wrap(messages, "encode_result")
    def encode_result(original: Any, *args: Any) -> bytes:
        reply = original(*args)
        return reply.replace(b'{"v":1,', b'{"v":1,"v":1,', 1) if b'"result":[' in reply else reply


@mutant("SABIR-JSON-1", "server/errors/unwritable-surrogate")
def writes_surrogates() -> None:
    """A lone surrogate is sent as an escape."""

    @wrap(messages, "encode_result")
    def encode_result(original: Any, id: str, worker: str, result: Any, *args: Any) -> bytes:
        if result == "\ud800":
            return original(id, worker, "?", *args).replace(b'"?"', b'"\\ud800"')
        return original(id, worker, result, *args)


@mutant("SABIR-LIMIT-4", "server/errors/unwritable-other")
def calls_a_bad_result_internal() -> None:
    """A result that cannot be written is InternalError."""
    answering(errors.InvalidResult.code, errors.InternalError.code)


@mutant("SABIR-LIMIT-4", "server/errors/unwritable-nan")
def writes_null_for_nan() -> None:
    """A result that is NaN is sent as null."""

    @wrap(messages, "encode_result")
    def encode_result(original: Any, id: str, worker: str, result: Any, *args: Any) -> bytes:
        return original(id, worker, None if result != result else result, *args)  # noqa: PLR0124 - that is NaN


@mutant("SABIR-LIMIT-4", "server/errors/too-large")
def sends_what_is_too_large() -> None:
    """The size of a result is not looked at."""

    @wrap(messages, "encode_result")
    def encode_result(original: Any, id: str, worker: str, result: Any, *args: Any) -> bytes:
        return original(id, worker, result, UNLIMITED)


@mutant("SABIR-ERROR-1", "server/errors/plain", "SABIR-WORKER-*", "SABIR-BODY-4", "SABIR-SECURITY-1", "SABIR-DEAD-2")
def sends_any_error_as_the_application_s() -> None:
    """Whatever a handler raises is an application error with the code 1."""

    @wrap(Dispatcher, "fail")
    def fail(original: Any, self: Any, job: Job, error: BaseException) -> Settled:
        return original(self, job, error if isinstance(error, SabirError) else ApplicationError(str(error), code=1))


@mutant("SABIR-ERROR-1", "server/errors/of-sabir-itself")
def passes_on_its_own_errors() -> None:
    """An error of a call that the handler made goes to its caller as it is."""

    @wrap(Dispatcher, "fail")
    def fail(original: Any, self: Any, job: Job, error: BaseException) -> Settled:
        settled = original(self, job, error)
        if isinstance(error, SabirError) and not isinstance(error, ApplicationError) and settled.reply:
            settled.reply = settled.reply.replace(b"-32603", str(error.code).encode())
        return settled


def _changing(change: Callable[[ApplicationError], None]) -> None:
    @wrap(Dispatcher, "fail")
    def fail(original: Any, self: Any, job: Job, error: BaseException) -> Settled:
        if isinstance(error, ApplicationError):
            change(error)
        return original(self, job, error)


@mutant("SABIR-ERROR-2", "server/errors/application")
def drops_data() -> None:
    """An application error is sent without its data."""
    _changing(lambda error: setattr(error, "has_data", False))


@mutant("SABIR-ERROR-2", "server/errors/application-data-false")
def drops_false_data() -> None:
    """Data that counts as false is not sent."""
    _changing(lambda error: setattr(error, "has_data", bool(error.data)))


@mutant("SABIR-ERROR-2", "server/errors/application-message-empty")
def fills_in_a_message() -> None:
    """An empty message is replaced."""
    _changing(lambda error: setattr(error, "message", error.message or "error"))


@mutant("SABIR-ERROR-3", "server/errors/code-forged")
def lets_codes_be_forged() -> None:
    """An application error may have a code of the table."""

    @wrap(errors, "is_application_code")
    def is_application_code(original: Any, code: object) -> bool:
        return type(code) is int


@mutant("SABIR-ERROR-3", "server/errors/too-large-error-data")
def sends_data_over_the_limit() -> None:
    """The size of an error's data is not looked at."""

    @wrap(messages, "encode_error")
    def encode_error(original: Any, id: str, worker: str, error: dict[str, Any], *args: Any) -> bytes:
        return original(id, worker, error, UNLIMITED)


# ------------------------------------------------------------------------------------------------ taking, and the hand


@mutant("SABIR-WORKER-2", "server/hand/in-order", "server/hand/as-much-as-room")
def takes_from_the_tail() -> None:
    """The newest element is taken first."""
    sending("take", lambda cmds: [cmds[0], (*cmds[1][:3], "RIGHT", "RIGHT", cmds[1][-1])])


@mutant("SABIR-WORKER-2", "server/hand/take")
def puts_at_the_head_of_its_hand() -> None:
    """A taken element is put at the head of the hand."""
    sending("take", lambda cmds: [cmds[0], (*cmds[1][:3], "LEFT", "LEFT", cmds[1][-1])])


@mutant("SABIR-WORKER-3", "server/hand/no-more-than-room", "server/stop/*", "server/time/expires-in-the-queue")
def takes_ahead() -> None:
    """Two elements more are taken than can be started."""

    @wrap(Server, "__init__")
    def init(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.room = threading.Semaphore(self._threads)
        self._threads += 2

    @wrap(Server, "_handle")
    def handle(original: Any, self: Any, element: bytes) -> None:
        with self.room:
            original(self, element)


@mutant(
    "SABIR-WORKER-4",
    "server/hand/in-hand-while-it-runs",
    "SABIR-TRANSPORT-4",
    "SABIR-LOST-*",
    "SABIR-REPLY-2",
    "SABIR-STOP-*",
)
def acknowledges_at_once() -> None:
    """A call is removed from the hand when it is taken."""

    @wrap(Server, "_take")
    def take(original: Any, self: Any) -> bytes | None:
        taken = original(self)
        if taken is not None and b'"reply_to"' in taken:
            self._take_link.run(commands.acknowledge(self._keys, self.worker, taken), 5.0)
        return taken


@mutant("SABIR-WORKER-5", "server/notifications/many-bad-ones", "SABIR-SECURITY-1")
def tires_of_garbage() -> None:
    """A thread ends with the first element that it can't read."""

    @wrap(Server, "_handle")
    def handle(original: Any, self: Any, element: bytes) -> None:
        original(self, element)
        if type(messages.decode_request(element)) is Rejection:
            raise SystemExit


@mutant("SABIR-WORKER-6", "server/trouble/take-loading", "SABIR-LOST-*", "SABIR-REPLY-2", "SABIR-LEASE-*")
def pauses_too_long() -> None:
    """After trouble a worker pauses for a quarter of a minute."""

    @wrap(_link.Backoff, "pause")
    def pause(original: Any, self: Any) -> float:
        return 15.0


@mutant("SABIR-WORKER-6", "server/trouble/take-wrongtype", "SABIR-LOST-*", "SABIR-REPLY-2", "SABIR-LEASE-*")
def gives_up_after_a_refusal() -> None:
    """A worker that Redis has refused a command takes nothing any more."""
    taker = threading.local()

    @wrap(shell.Trouble, "begin")
    def begin(original: Any, self: Any, reason: object) -> None:
        taker.refused = True

    @wrap(Server, "_take")
    def take(original: Any, self: Any) -> bytes | None:
        taken = original(self)
        if getattr(taker, "refused", False):
            self._stopping.set()
        return taken


@mutant("SABIR-WORKER-6", "server/trouble/reply-aborted")
def forgets_an_aborted_reply() -> None:
    """A transaction that was not executed is not sent again."""

    @wrap(shell, "refusal")
    def refusal(original: Any, answer: Any) -> None:
        return None


# ------------------------------------------------------------------------------------------------ time, lease


@mutant("SABIR-TIME-1", "server/time/clock-ahead")
def lives_on_its_own_clock() -> None:
    """The machine's clock is used, not Redis's."""

    @wrap(_link.Clock, "now_ms")
    def now_ms(original: Any, self: Any) -> int:
        return int(time.time() * 1000)


@mutant("SABIR-TIME-3", "server/time/past", "SABIR-TIME-*", "SABIR-DEAD-2", "vectors/requests/*deadline*")
def runs_what_has_expired() -> None:
    """A deadline is not looked at."""

    @wrap(Dispatcher, "receive")
    def receive(original: Any, self: Any, element: bytes) -> Any:
        if type(messages.decode_request(element)) is Rejection:
            return original(self, element)
        work = original(self.with_clock(lambda: 0), element)
        if isinstance(work, Job):
            work.context.clock = self._clock
        elif work.letter is not None:
            work = original(self, element)
        return work


@mutant("SABIR-TIME-4", "server/time/before-unknown-method", "SABIR-TIME-*", "vectors/requests/*deadline*")
def drops_what_has_expired() -> None:
    """A call whose deadline has come is removed and not answered."""

    @wrap(Dispatcher, "receive")
    def receive(original: Any, self: Any, element: bytes) -> Any:
        work = original(self, element)
        expired = (
            isinstance(work, Settled) and work.reply and f'"code":{errors.DeadlineExceeded.code}'.encode() in work.reply
        )
        return Settled(element) if expired else work


@mutant("SABIR-TIME-5", "server/time/nested")
def hands_on_no_time() -> None:
    """A call that a handler makes has its own time-out."""

    @wrap(dispatch, "current")
    def current(original: Any) -> None:
        return None


@mutant("SABIR-LEASE-1", "server/lease/before-the-first-take")
def takes_before_its_first_heartbeat() -> None:
    """The first take does not wait for the first heartbeat."""

    @wrap(Server, "start")
    def start(original: Any, self: Any) -> None:
        self._ready.set()
        original(self)

    @wrap(Server, "_heartbeats")
    def heartbeats(original: Any, self: Any) -> None:
        time.sleep(0.4)
        original(self)


@mutant("SABIR-LEASE-1", "server/lease/heartbeat-again", "SABIR-WORKER-6")
def beats_once() -> None:
    """Heartbeats come every 30 s."""
    commands.HEARTBEAT_MS = 30_000  # type: ignore[misc]


@mutant("SABIR-LEASE-1", "server/lease/heartbeat-while-busy", "SABIR-WORKER-6")
def beats_when_idle() -> None:
    """While a handler runs there is no heartbeat."""
    busy: collections.Counter[str] = collections.Counter()

    @wrap(Job, "call")
    def call(original: Any, self: Any) -> Any:
        busy[self.context.worker] += 1
        try:
            return original(self)
        finally:
            busy[self.context.worker] -= 1

    @wrap(commands, "heartbeat")
    def heartbeat(original: Any, place: Any, worker: str, *args: Any) -> Any:
        while busy[worker] > 0:
            time.sleep(0.02)
        return original(place, worker, *args)


@mutant("SABIR-LEASE-1", "server/lease/lease", "SABIR-TIME-1")
def lease_of_three_seconds() -> None:
    """A lease ends after 3 s."""

    @wrap(Server, "_lease_ends")
    def lease_ends(original: Any, self: Any) -> int:
        return original(self) - 7_000


@mutant("SABIR-LEASE-1", "server/lease/alive")
def alive_too_long() -> None:
    """alive stays for 100 s."""
    sending("heartbeat", lambda cmds: [(*c[:-1], "100000") if c[0] == "SET" else c for c in cmds])


@mutant("SABIR-LEASE-1", "server/lease/heartbeat-transaction", "SABIR-WORKER-6")
def beats_in_pieces() -> None:
    """A heartbeat is three commands, and no transaction."""

    @wrap(_link.Link, "run")
    def run(original: Any, self: Any, cmds: Any, timeout: float) -> list[Any]:
        if len(cmds) == 5 and cmds[3][0] == "SET":
            return [original(self, cmds[1:-1], timeout)]
        return original(self, cmds, timeout)


@mutant("SABIR-LEASE-1", "server/lease/heartbeat-apart", "SABIR-LOST-4", "SABIR-WORKER-6")
def beats_where_it_replies() -> None:
    """Heartbeats and replies share a connection."""
    lock = threading.RLock()

    @wrap(Server, "__init__")
    def init(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._beat_link = self._reply_link
        self._beat_link.shared = True

    for name in ("run", "open"):

        @wrap(_link.Link, name)
        def alone(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
            if not getattr(self, "shared", False):
                return original(self, *args, **kwargs)
            with lock:
                return original(self, *args, **kwargs)


@mutant("SABIR-LEASE-2", "server/lease/take-renews")
def renews_in_another_write() -> None:
    """The lease is renewed in a write of its own in front of a take."""

    @wrap(_link.Link, "run")
    def run(original: Any, self: Any, cmds: Any, timeout: float) -> list[Any]:
        if len(cmds) == 2 and cmds[1][0] == "BLMOVE":
            return original(self, cmds[:1], timeout) + original(self, cmds[1:], timeout)
        return original(self, cmds, timeout)


@mutant("SABIR-LEASE-2", "server/lease/every-take-renews")
def renews_once() -> None:
    """Only the first take renews the lease."""
    renewed: set[str] = set()

    def change(cmds: list[Any]) -> list[Any]:
        worker = cmds[0][-1]
        if worker in renewed:
            return cmds[1:]
        renewed.add(worker)
        return cmds

    sending("take", change)


# ------------------------------------------------------------------------------------------------ dead letters


@mutant("SABIR-DEAD-1", "vectors/requests/element-is-an-array", "SABIR-TOKEN-2", "SABIR-ENVELOPE-*")
def drops_what_it_can_t_answer() -> None:
    """What is no request is removed and not kept."""

    @wrap(commands, "bury")
    def bury(original: Any, place: Any, worker: str, letter: bytes, element: bytes) -> list[Any]:
        if b'"code":-32600' in letter:
            return commands.acknowledge(place, worker, element)
        return original(place, worker, letter, element)


@mutant(
    "SABIR-DEAD-1",
    "server/notifications/empty-element",
    "SABIR-JSON-*",
    "SABIR-DEAD-3",
    "SABIR-SECURITY-1",
    "SABIR-TRANSPORT-4",
)
def calls_garbage_invalid() -> None:
    """What is no JSON is kept as InvalidRequest."""
    burying(errors.ParseError.code, errors.InvalidRequest.code)


@mutant("SABIR-DEAD-1", "vectors/requests/notification-with-v-2")
def buries_a_later_version_as_invalid() -> None:
    """A notification of a later version is kept as InvalidRequest."""
    burying(errors.UnsupportedVersion.code, errors.InvalidRequest.code)


@mutant("SABIR-DEAD-2", "server/notifications/raises", "server/names/only-its-keys")
def drops_a_failed_notification() -> None:
    """A notification whose handler raised is removed and not kept."""

    @wrap(Dispatcher, "fail")
    def fail(original: Any, self: Any, job: Job, error: BaseException) -> Settled:
        return original(self, job, error) if job.request.reply_to else Settled(job.element)


@mutant("SABIR-DEAD-2", "server/notifications/unknown-method", "SABIR-TIME-3", "vectors/requests/notification*")
def drops_a_refused_notification() -> None:
    """A notification that is not run is removed and not kept."""

    @wrap(Dispatcher, "receive")
    def receive(original: Any, self: Any, element: bytes) -> Any:
        work, read = original(self, element), messages.decode_request(element)
        return Settled(element) if isinstance(work, Settled) and type(read) is Request and not read.reply_to else work


@mutant("SABIR-DEAD-2", "server/notifications/unwritable-result")
def buries_a_notification_with_a_bad_result() -> None:
    """A notification whose result cannot be written is kept as a dead letter."""

    @wrap(Dispatcher, "finish")
    def finish(original: Any, self: Any, job: Job, result: Any) -> Settled:
        bad = not job.request.reply_to and isinstance(result, float)
        return self.fail(job, ValueError("NaN")) if bad else original(self, job, result)


@mutant("SABIR-DEAD-3", "server/notifications/bounded")
def keeps_all_dead_letters() -> None:
    """Dead letters have no bound."""
    sending("bury", lambda cmds: [c for c in cmds if c[0] != "LTRIM"])


@mutant("SABIR-DEAD-3", "server/notifications/bounded-in-the-transaction")
def bounds_apart() -> None:
    """Dead letters are bounded behind the transaction."""
    sending("bury", lambda cmds: [c for c in cmds if c[0] != "LTRIM"] + [c for c in cmds if c[0] == "LTRIM"])


@mutant("SABIR-DEAD-3", "server/notifications/bounded", "server/notifications/bounded-in-the-transaction")
def keeps_the_oldest() -> None:
    """The oldest 1,000 dead letters are kept."""
    sending("bury", lambda cmds: [(*c[:2], "0", "999") if c[0] == "LTRIM" else c for c in cmds])


@mutant("SABIR-DEAD-4", "server/notifications/in-hand-while-it-runs")
def acknowledges_a_notification_at_once() -> None:
    """A notification is removed from the hand before its handler runs."""

    @wrap(Server, "_handle")
    def handle(original: Any, self: Any, element: bytes) -> None:
        read = messages.decode_request(element)
        if type(read) is Request and not read.reply_to:
            self._settle(Settled(element))
        original(self, element)


# ------------------------------------------------------------------------------------------------ lost connections, stop


@mutant("SABIR-LOST-3", "server/trouble/hand-read-again")
def does_not_read_its_hand() -> None:
    """The hand is not read after a lost connection."""

    @wrap(Server, "_read_hand")
    def read_hand(original: Any, self: Any) -> None:
        self._found = collections.deque()


@mutant("SABIR-LOST-3", "server/trouble/found-once", "SABIR-LOST-4", "SABIR-REPLY-2")
def runs_again_what_runs() -> None:
    """What the hand holds is run, though it is running."""

    @wrap(shell.Held, "snapshot")
    def snapshot(original: Any, self: Any) -> collections.Counter[bytes]:
        return collections.Counter()


@mutant("SABIR-LOST-4", "server/trouble/reply-cut-after", "SABIR-REPLY-2")
def pushes_a_reply_again() -> None:
    """A transaction without an answer is sent again, whatever the hand holds."""

    @wrap(_link.LinkLost, "__init__")
    def init(original: Any, self: Any, reason: object, sent: bool) -> None:
        original(self, reason, False)


@mutant("SABIR-LOST-4", "server/trouble/reply-cut-before", "SABIR-REPLY-2", "SABIR-WORKER-6")
def never_pushes_a_reply_again() -> None:
    """A transaction without an answer is taken for done."""

    @wrap(_link.Link, "run")
    def run(original: Any, self: Any, cmds: Any, timeout: float) -> list[Any]:
        try:
            return original(self, cmds, timeout)
        except _link.LinkLost:
            if len(cmds) > 2 and cmds[1][0] == "RPUSH":
                return [[]]
            raise


@mutant("SABIR-STOP-1", "server/stop/takes-nothing-more")
def takes_until_it_is_idle() -> None:
    """A worker that is told to stop goes on taking as long as something runs."""

    @wrap(Server, "stop")
    def stop(original: Any, self: Any, *args: Any) -> bool:
        while len(self._held):
            time.sleep(0.02)
        return original(self, *args)


@mutant("SABIR-STOP-2", "server/stop/finishes", "server/stop/*")
def stops_at_once() -> None:
    """A worker that is told to stop does not wait for what runs."""

    @wrap(Server, "stop")
    def stop(original: Any, self: Any, *args: Any) -> bool:
        return original(self, 0.1)


@mutant("SABIR-STOP-3", "server/stop/gives-back", "SABIR-STOP-4")
def gives_nothing_back() -> None:
    """What was taken and not started stays in the hand."""
    sending("give_back", lambda cmds: commands.clock())


@mutant("SABIR-STOP-3", "server/stop/given-back-in-one-step")
def gives_back_to_the_tail() -> None:
    """What was taken and not started goes to the tail of the queue."""
    sending("give_back", lambda cmds: [(*cmds[0][:3], "RIGHT", "RIGHT")])


@mutant("SABIR-STOP-4", "server/stop/idle-without-a-call", "server/names/new-id")
def goes_without_a_goodbye() -> None:
    """A worker that had nothing to do leaves its lease behind."""
    worked: set[str] = set()

    @wrap(Dispatcher, "receive")
    def receive(original: Any, self: Any, element: bytes) -> Any:
        worked.add(self.worker)
        return original(self, element)

    @wrap(commands, "goodbye")
    def goodbye(original: Any, place: Any, worker: str) -> list[Any]:
        return original(place, worker) if worker in worked else commands.clock()


@mutant("SABIR-STOP-4", "server/stop/no-orphan", "SABIR-STOP-3")
def leaves_an_orphan() -> None:
    """The lease is removed, whatever the hand holds."""

    @wrap(Server, "_goodbye")
    def goodbye(original: Any, self: Any) -> None:
        with self._take_lock:
            self._take_link.run(commands.goodbye(self._keys, self.worker), 5.0)


@mutant("SABIR-STOP-4", "server/stop/goodbye-last")
def says_alive_after_its_goodbye() -> None:
    """Something is written behind the goodbye."""

    @wrap(commands, "goodbye")
    def goodbye(original: Any, place: Any, worker: str) -> list[Any]:
        return [*original(place, worker), ("SET", place.alive, "1", "PX", "1000")]
