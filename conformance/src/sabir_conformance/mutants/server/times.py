"""Mutants of the worker: deadlines, heartbeats, its lease."""

from __future__ import annotations

import collections
import threading
import time
from typing import Any

from sabir import _link, commands, dispatch, errors, messages
from sabir.dispatch import Dispatcher, Job, Settled
from sabir.messages import Rejection
from sabir.server import Server

from .. import Original, mutant, wrap
from ..both import sending
from .shared import beating, carrying


@mutant("SABIR-TIME-1", "server/time/clock-ahead")
def lives_on_its_own_clock() -> None:
    """The machine's clock is used, not Redis's."""

    @wrap(_link.Clock, "now_ms")
    def now_ms(original: Original[int], self: Any) -> int:
        return int(time.time() * 1000)


@mutant("SABIR-TIME-3", "server/time/past", "SABIR-TIME-*", "SABIR-DEAD-2", "vectors/requests/*deadline*")
def runs_what_has_expired() -> None:
    """A deadline is not looked at."""

    @wrap(Dispatcher, "receive")
    def receive(original: Any, self: Any, element: bytes, *args: Any) -> Any:
        if type(messages.decode_request(element)) is Rejection:
            return original(self, element, *args)
        work = original(self.with_clock(lambda: 0), element, *args)
        if isinstance(work, Job):
            work.context.clock = self.clock
        elif work.letter is not None:
            work = original(self, element, *args)
        return work


@mutant("SABIR-TIME-4", "server/time/before-unknown-method", "SABIR-TIME-*", "vectors/requests/*deadline*")
def drops_what_has_expired() -> None:
    """A call whose deadline has come is removed and not answered."""

    @wrap(Dispatcher, "receive")
    def receive(original: Any, self: Any, element: bytes, *args: Any) -> Any:
        work = original(self, element, *args)
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
    def lease_ends(original: Original[int], self: Any) -> int:
        return original(self) - 7_000


@mutant("SABIR-LEASE-1", "server/lease/alive")
def alive_too_long() -> None:
    """alive stays for 100 s."""
    carrying("heartbeat", ("alive, '1', 'PX', LEASE_MS", "alive, '1', 'PX', 100000"))


@mutant("SABIR-LEASE-1", "server/lease/heartbeat-transaction", "SABIR-WORKER-6")
def beats_in_pieces() -> None:
    """A heartbeat is three commands, and neither a transaction nor a script."""
    beating(lambda cmds: cmds[1:-1])


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

    @wrap(_link.Link, "send")
    def send(original: Any, self: Any, cmds: Any, timeout: float) -> None:
        if len(cmds) > 1 and cmds[-1][0] == "BLMOVE" and cmds[-2][0] == "ZADD":
            original(self, cmds[:-1], timeout)
            time.sleep(0.01)  # on its way before the rest is sent
            cmds = cmds[-1:]
        original(self, cmds, timeout)


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
