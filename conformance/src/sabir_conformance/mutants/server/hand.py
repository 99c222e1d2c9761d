"""Mutants of the worker: what it takes, what it holds in its hand, how it goes on after trouble."""

from __future__ import annotations

import threading
from typing import Any

from sabir import _link, commands, messages
from sabir import server as shell
from sabir.dispatch import Job, Settled
from sabir.messages import Rejection
from sabir.server import Server, Taken

from .. import mutant, wrap
from ..both import sending


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

    @wrap(Server, "_run")
    def run(original: Any, self: Any, job: Job) -> Any:
        with self.room:
            return original(self, job)


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
    def take(original: Any, self: Any, settled: Settled | None) -> Any:
        taken = original(self, settled)
        if isinstance(taken, Taken) and b'"reply_to"' in taken.element:
            self._take_link.run(commands.acknowledge(self._keys, self.worker, taken.element), 5.0)
        return taken


@mutant("SABIR-WORKER-5", "server/notifications/many-bad-ones", "SABIR-SECURITY-1")
def tires_of_garbage() -> None:
    """A thread ends with the first element that it can't read."""

    @wrap(Server, "_prepare")
    def prepare(original: Any, self: Any, taken: Taken) -> Any:
        work = original(self, taken)
        if type(messages.decode_request(taken.element)) is Rejection:
            self._settle(work)
            raise SystemExit
        return work


@mutant("SABIR-WORKER-6", "server/trouble/take-loading", "SABIR-LOST-*", "SABIR-REPLY-2", "SABIR-LEASE-*")
def pauses_too_long() -> None:
    """After trouble a worker pauses for a quarter of a minute."""

    class Patient(_link.Backoff):
        def pause(self) -> float:
            return 15.0

    @wrap(Server, "__init__")
    def init(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._take_backoff = Patient()


@mutant("SABIR-WORKER-6", "server/trouble/take-wrongtype", "SABIR-LOST-*", "SABIR-REPLY-2", "SABIR-LEASE-*")
def gives_up_after_a_refusal() -> None:
    """A worker that Redis has refused a command takes nothing any more."""
    taker = threading.local()

    @wrap(shell.Trouble, "begin")
    def begin(original: Any, self: Any, reason: object) -> None:
        taker.refused = True

    @wrap(Server, "_take")
    def take(original: Any, self: Any, settled: Settled | None) -> Any:
        taken = original(self, settled)
        if getattr(taker, "refused", False):
            self._stopping.set()
        return taken


@mutant("SABIR-WORKER-6", "server/trouble/reply-aborted")
def forgets_an_aborted_reply() -> None:
    """A transaction that was not executed is not sent again."""

    @wrap(shell, "refusal")
    def refusal(original: Any, answer: Any) -> None:
        return None
