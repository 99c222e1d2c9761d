"""Mutants of the worker: lost connections, and how it stops."""

from __future__ import annotations

import collections
import time
from typing import Any

from sabir import _link, commands
from sabir import server as shell
from sabir.dispatch import Dispatcher
from sabir.server import Server

from .. import Original, mutant, wrap
from ..both import sending


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
    def snapshot(original: Original[collections.Counter[bytes]], self: Any) -> collections.Counter[bytes]:
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
    def run(original: Original[list[Any]], self: Any, cmds: Any, timeout: float) -> list[Any]:
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
    def stop(original: Original[bool], self: Any, *args: Any) -> bool:
        while len(self._held):
            time.sleep(0.02)
        return original(self, *args)


@mutant("SABIR-STOP-2", "server/stop/finishes", "server/stop/*")
def stops_at_once() -> None:
    """A worker that is told to stop does not wait for what runs."""

    @wrap(Server, "stop")
    def stop(original: Original[bool], self: Any, *args: Any) -> bool:
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
    def receive(original: Any, self: Any, *args: Any) -> Any:
        worked.add(self.worker)
        return original(self, *args)

    @wrap(commands, "goodbye")
    def goodbye(original: Original[list[Any]], place: Any, worker: str) -> list[Any]:
        return original(place, worker) if worker in worked else commands.clock()


@mutant("SABIR-STOP-4", "server/stop/no-orphan", "SABIR-STOP-3", "SABIR-STOP-5")
def leaves_an_orphan() -> None:
    """The lease is removed, whatever the hand holds."""
    sending("goodbye", lambda cmds: [("ZREM", cmds[0][3], cmds[0][-1])])

    @wrap(Server, "_goodbye")
    def goodbye(original: Any, self: Any) -> None:
        with self._take_lock:
            if not self._take_link.is_open:
                self._take_link.open(5.0)
            self._take_link.run(commands.goodbye(self._keys, self.worker), 5.0)


@mutant("SABIR-STOP-4", "server/stop/goodbye-last")
def says_alive_after_its_goodbye() -> None:
    """Something is written behind the goodbye."""

    @wrap(commands, "goodbye")
    def goodbye(original: Original[list[Any]], place: Any, worker: str) -> list[Any]:
        return [*original(place, worker), ("SET", place.alive, "1", "PX", "1000")]
