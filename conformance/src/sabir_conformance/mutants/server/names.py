"""Mutants of the worker: its connections, its keys, its names."""

from __future__ import annotations

import collections
import secrets
from typing import Any

from sabir import _link, dispatch, keys
from sabir import server as shell
from sabir.dispatch import Dispatcher, Settled
from sabir.server import Server

from .. import Original, mutant, wrap
from ..both import sending
from .shared import every_lrem


@mutant("SABIR-TRANSPORT-1", "server/hand/block-time")
def takes_for_ever() -> None:
    """A take blocks without an end."""
    sending("take", lambda cmds: [*cmds[:-1], (*cmds[-1][:-1], "0")])


@mutant("SABIR-TRANSPORT-2", "server/hand/quiet-for-longer-than-the-block", "server/trouble/*")
def takes_quiet_for_dead() -> None:
    """An answer is given up before the block time of its take has passed."""
    shell.MARGIN = -1.5  # type: ignore[attr-defined]  # what it has imported


@mutant("SABIR-TRANSPORT-2", "server/trouble/reply-silence")
def waits_on_silence() -> None:
    """An answer is awaited for ever."""

    @wrap(_link.Link, "_patience")
    def patience(original: Any, self: Any, timeout: float) -> None:
        original(self, 3600.0)


@mutant(
    "SABIR-TRANSPORT-3",
    "server/hand/reply-while-others-wait",
    "server/stop/*",
    "server/hand/*",
    "server/trouble/*",
    "server/delivery/*",
)
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
    def settle(original: Any, self: Any, settled: Settled, unknown: bool = False) -> None:
        later[self].append(settled)

    @wrap(Server, "_take")
    def take(original: Any, self: Any, settled: Settled | None) -> Any:
        flush(self)
        return original(self, settled)

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
    sending("heartbeat", lambda cmds: [("SET", cmds[0][3].removesuffix("requests") + "stats", "1", "PX", "9"), *cmds])


@mutant("SABIR-TOKEN-2", "vectors/requests/reply-to-is-a-key", "SABIR-DEAD-1", "SABIR-LIMIT-3")
def takes_any_token() -> None:
    """A token may be any text."""

    @wrap(keys, "is_token")
    def is_token(original: Original[bool], text: str) -> bool:
        return True

    @wrap(keys.Keys, "reply")
    def reply(original: Original[str], self: keys.Keys, token: str) -> str:
        return self.requests.removesuffix("requests") + "reply:" + token


@mutant("SABIR-WORKER-1", "server/names/new-id")
def keeps_its_id() -> None:
    """A worker has the same id whenever it starts."""

    @wrap(shell, "new_worker")
    def new_worker(original: Original[str], name: str) -> str:
        return f"{name}.0f1e2d3c4b5a6978"


@mutant("SABIR-WORKER-1", "server/names/new-id")
def worker_of_24_bits() -> None:
    """A worker's id has 24 random bits."""

    @wrap(shell, "new_worker")
    def new_worker(original: Original[str], name: str) -> str:
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
    def receive(original: Any, self: Any, element: bytes, *args: Any) -> Any:
        dispatch.log.warning("took %s", element)
        return original(self, element, *args)
