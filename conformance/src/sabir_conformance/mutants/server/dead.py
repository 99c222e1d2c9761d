"""Mutants of the worker: dead letters."""

from __future__ import annotations

from typing import Any

from sabir import commands, errors, messages
from sabir.dispatch import Dispatcher, Job, Settled
from sabir.messages import Request
from sabir.server import Server, Taken

from .. import Original, mutant, wrap
from ..both import sending
from .shared import burying


@mutant("SABIR-DEAD-1", "vectors/requests/element-is-an-array", "SABIR-TOKEN-2", "SABIR-ENVELOPE-*")
def drops_what_it_can_t_answer() -> None:
    """What is no request is removed and not kept."""

    @wrap(commands, "bury")
    def bury(original: Original[list[Any]], place: Any, worker: str, letter: bytes, element: bytes) -> list[Any]:
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
    def fail(original: Original[Settled], self: Any, job: Job, error: BaseException) -> Settled:
        return original(self, job, error) if job.request.reply_to else Settled(job.element)


@mutant("SABIR-DEAD-2", "server/notifications/unknown-method", "SABIR-TIME-3", "vectors/requests/notification*")
def drops_a_refused_notification() -> None:
    """A notification that is not run is removed and not kept."""

    @wrap(Dispatcher, "receive")
    def receive(original: Any, self: Any, element: bytes, *args: Any) -> Any:
        work, read = original(self, element, *args), messages.decode_request(element)
        return Settled(element) if isinstance(work, Settled) and type(read) is Request and not read.reply_to else work


@mutant("SABIR-DEAD-2", "server/notifications/unwritable-result")
def buries_a_notification_with_a_bad_result() -> None:
    """A notification whose result cannot be written is kept as a dead letter."""

    @wrap(Dispatcher, "finish")
    def finish(original: Original[Settled], self: Any, job: Job, result: Any) -> Settled:
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


@mutant("SABIR-DEAD-5", "server/notifications/huge", "SABIR-WORKER-5")
def keeps_huge_elements() -> None:
    """A dead letter keeps its element whole, however large."""
    messages.KEPT_BYTES = 1 << 40  # type: ignore[misc]


@mutant("SABIR-DEAD-4", "server/notifications/in-hand-while-it-runs")
def acknowledges_a_notification_at_once() -> None:
    """A notification is removed from the hand before its handler runs."""

    @wrap(Server, "_prepare")
    def prepare(original: Any, self: Any, taken: Taken) -> Any:
        read = messages.decode_request(taken.element)
        if type(read) is Request and not read.reply_to:
            self._settle(Settled(taken.element))
        return original(self, taken)
