"""The dead letters of a service: read them, send their requests again, drop them (section 16, "Dead letters again").

>>> with DeadLetters("calc") as dead:
...     for letter in dead:
...         if letter.method == "invoice/send" and isinstance(letter.error, WorkerLost):
...             dead.retry(letter)

An entry is known by its bytes: who else reads the list sees the same, and what is gone is not taken for its neighbour.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from . import commands, errors, messages
from ._link import ANSWER, Clock, Link, LinkLost, LinkRefused, describe, factory
from .commands import Commands
from .errors import MISSING, SabirError
from .keys import NAMESPACE, Keys, is_token
from .messages import Limits, Request

if TYPE_CHECKING:
    import redis as redis_py

_PAGE_BYTES: Final = 1 << 22
"""About so much is asked of Redis at a time."""
_PAGE: Final = 100
_FIRST_PAGE: Final = 10

_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An entry of the list ``dead``, equal to another if its bytes are.

    What is no dead letter (anybody can push to a list) is one all the same, with None for what can't be read.
    """

    raw: bytes = field(repr=False)
    """Its bytes."""
    at: int | None = field(default=None, compare=False)
    """When it was written, ms of Redis's clock."""
    worker: str | None = field(default=None, compare=False)
    """Who wrote it."""
    error: SabirError | None = field(default=None, compare=False)
    """Why: an error of the class that a caller would have got."""
    element: bytes | None = field(default=None, repr=False, compare=False)
    """The element, or its beginning."""
    size: int | None = field(default=None, compare=False)
    """The element's whole size in bytes."""
    id: str | None = field(default=None, compare=False)
    """The request's id."""
    request: Request | None = field(default=None, repr=False, compare=False)
    """The request, if it can be sent again."""
    fault: str | None = field(default=None, compare=False)
    """Why the request can't be sent again; None: it can."""

    @property
    def digest(self) -> str:
        """SHA-256 of its bytes, in hexadecimal: a name for it that holds wherever it stands in the list."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def is_letter(self) -> bool:
        """Whether it is a dead letter at all."""
        return self.element is not None

    @property
    def is_cut(self) -> bool:
        """Whether only the beginning of the element was kept (SABIR-DEAD-5)."""
        return self.element is not None and self.size != len(self.element)

    @property
    def method(self) -> str | None:
        """The request's method; None where there is no valid request."""
        return self.request.method if self.request else None

    @property
    def kind(self) -> str | None:
        """Which kind of request it is: "call" or "notification"; None where there is no valid one."""
        return None if self.request is None else "notification" if self.request.reply_to is None else "call"


def decode(raw: bytes) -> DeadLetter:
    """What an entry of ``dead`` says. Never raises, whatever the bytes."""
    try:
        letter = orjson.loads(raw)
    except orjson.JSONDecodeError:
        letter = None
    if type(letter) is not dict:
        return DeadLetter(raw, fault="it is no dead letter")
    at, worker, error, element = (letter.get(name) for name in ("at", "worker", "error", "element"))
    at, element = messages._integer(at), _element(letter)
    error = error if type(error) is dict else {}
    code, message = messages._integer(error.get("code")), error.get("message")
    size = messages._integer(letter["size"]) if "size" in letter else len(element or b"")
    if (
        messages._integer(letter.get("v")) != 1
        or at is None
        or type(worker) is not str
        or not is_token(worker)
        or code is None
        or type(message) is not str
        or element is None
        or size is None
        or size < len(element)
    ):
        return DeadLetter(raw, fault="it is no dead letter")
    why = errors.from_wire(code, message, error.get("data", MISSING), {})
    cut = size > len(element)
    request = messages.decode_request(element, Limits(0) if cut else messages.UNLIMITED)  # of a cut one, the head
    if isinstance(request, Request):
        return DeadLetter(raw, at, worker, why, element, size, request.id, request)
    fault = f"only {len(element)} of its {size} bytes were kept" if cut else request.message
    return DeadLetter(raw, at, worker, why, element, size, request.id, fault=fault)


def _element(letter: dict[str, Any]) -> bytes | None:
    """The bytes of the element that a dead letter keeps; None where there are none, or two."""
    if ("element" in letter) == ("element_base64" in letter):
        return None
    try:
        if "element" in letter:
            return letter["element"].encode() if type(letter["element"]) is str else None
        return base64.b64decode(letter["element_base64"], validate=True)
    except (TypeError, ValueError):
        return None


def without_deadline(element: bytes) -> bytes:
    """A request without its member ``deadline``, every other one as it was written (SABIR-DEAD-6).

    Not decoded and encoded again: that would round an integer beyond 64 bits, which other languages read as it stands.
    """
    depth, begin, name, kept = 0, 0, b"", []
    for token in _TOKEN.finditer(element):
        first = token[0][:1]
        if first in b"{[":
            depth += 1
            begin = token.end() if depth == 1 else begin
        elif first == b'"':
            name = name or token[0]
        elif depth == 1:  # the end of a member
            if orjson.loads(name) != "deadline":
                kept.append(element[begin : token.start()])
            begin, name = token.end(), b""
        depth -= first in b"]}"
    return b"{" + b",".join(kept) + b"}"


class DeadLetters:
    """The dead letters of a service.

    ``url``: of the Redis; ``redis``: a ``redis.Redis`` whose settings are used instead. ``namespace``: first part of all
    keys. Not to be shared between threads.

    Raises ValueError for a name outside its grammar. Everything that asks Redis raises NotQueued where Redis cannot be
    reached or refuses (nothing was done then), and ConnectionLost where its answer did not come.
    """

    def __init__(
        self,
        service: str,
        url: str | None = None,
        *,
        redis: redis_py.Redis | None = None,
        namespace: str = NAMESPACE,
    ) -> None:
        self.service = service
        self._keys = Keys(namespace, service)
        self._clock = Clock()
        self._link = Link(factory(url, redis), self._clock)

    def count(self) -> int:
        """How many there are."""
        return int(self._ask(commands.count_dead(self._keys)))

    def read(self, limit: int | None = None) -> list[DeadLetter]:
        """The newest ``limit`` (None: all), newest last. Raises ValueError for a limit below 1."""
        if limit is None:
            return list(self)
        if limit < 1:
            raise ValueError(f"limit: expected an integer > 0, got {limit!r}")
        return [decode(raw) for raw in self._ask(commands.read_dead(self._keys, -limit, -1))]

    def __iter__(self) -> Iterator[DeadLetter]:
        """All of them, newest last, a few at a time; at most as many as there are now.

        They may be dropped, retried and added meanwhile, by the loop itself too: none is left out for it, but for some of
        several that are equal.
        """
        left = self.count()
        at, size, last = 0, _FIRST_PAGE, b""
        seen: Counter[bytes] = Counter()
        while left > 0:
            page = self._ask(commands.read_dead(self._keys, at, at + size - 1))
            digests = [hashlib.sha256(raw).digest() for raw in page]
            if at and not (page and seen[digests[0]]):  # so many before it have gone that this may not be the next one
                at = max(at - size, 0)
                continue
            skip = Counter(digests[:1]) if digests[:1] == [last] else seen.copy()
            for raw, digest in zip(page, digests, strict=True):
                if skip[digest]:
                    skip[digest] -= 1
                    continue
                seen[digest] += 1
                yield decode(raw)
                left -= 1
                if not left:
                    return
            if len(page) < size:
                return
            at, last = at + len(page) - 1, digests[-1]  # again the last one, to see whether they have moved
            size = min(max(_PAGE_BYTES // max(map(len, page)), 2), _PAGE)

    def get(self, name: str) -> DeadLetter | None:
        """The newest with this request's id, or with this digest; None: there is none."""
        found = None
        for letter in self:
            if name in (letter.id, letter.digest):
                found = letter
        return found

    def retry(self, letter: DeadLetter) -> bool:
        """Send its request again, without a deadline (SABIR-DEAD-6). False: it is not there any more, nothing was done.

        It is sent as it was, so a call's reply goes where nobody waits for it any more. Raises ValueError where there is no
        request to send (``letter.fault``). After ConnectionLost it may have been sent: read them again.
        """
        if letter.request is None or letter.element is None:
            raise ValueError(
                f"dead letter {letter.digest[:8]}: expected a request that can be sent again, but {letter.fault}"
            )
        element = letter.element if letter.request.deadline is None else without_deadline(letter.element)
        return bool(self._ask(commands.retry_dead(self._keys, letter.raw, element, letter.request.id)))

    def drop(self, letter: DeadLetter) -> bool:
        """Remove it. False: it is not there any more."""
        return bool(self._ask(commands.drop_dead(self._keys, letter.raw)))

    def now_ms(self) -> int:
        """Redis's clock, in ms, as of the last connection."""
        self._connect()
        return self._clock.now_ms()

    def close(self) -> None:
        """Close the connection. The object may be used again."""
        self._link.close()

    def __enter__(self) -> DeadLetters:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ inside

    def _connect(self) -> None:
        if self._link.is_open and (self._link.unread or self._link.is_stale()):
            self._link.close()
        if self._link.is_open:
            return
        try:
            self._link.open(ANSWER)
        except LinkRefused as refused:
            raise errors.NotQueued(f"Redis refused the connection: {refused}") from refused
        except LinkLost as lost:
            raise errors.NotQueued(f"no connection to Redis: {lost}") from lost

    def _ask(self, cmds: Commands) -> Any:
        """Redis's answer to one command. It is not sent again by itself when the connection is lost."""
        self._connect()
        try:
            answer = self._link.run(cmds, ANSWER)[0]
            if commands.is_noscript(answer):  # SABIR-SCRIPT-1
                answer = self._link.run(commands.as_eval(cmds), ANSWER)[0]
        except LinkLost as lost:
            raise errors.ConnectionLost(f"connection to Redis lost before its answer: {lost}") from lost
        if isinstance(answer, Exception):
            self._link.drop(LinkRefused(answer))
            raise errors.NotQueued(f"Redis refused {cmds[0][0]!s}: {describe(answer)}")
        return answer
