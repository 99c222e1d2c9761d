"""Mutants of the worker: requests that were delivered before, leases that were lost, handlers that hang, the last goodbye."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from sabir import commands, errors
from sabir import server as shell
from sabir.dispatch import Dispatcher, Job, Settled
from sabir.messages import Request
from sabir.server import Lease, Server, Taken

from .. import Original, mutant, wrap
from ..both import sending
from .shared import carrying


@mutant("SABIR-ATTEMPT-1", "server/delivery/expired", "SABIR-ATTEMPT-2")
def asks_for_no_attempts() -> None:
    """Every delivery is taken for the first."""

    @wrap(shell, "lost_before")
    def lost_before(original: Original[int], answer: Any) -> int:
        return 0


def calling_it_unstarted(code: int, *, calls: bool) -> None:
    """Have the worker refuse with an error that says "never started", though the request was delivered before."""

    @wrap(Dispatcher, "_unstarted")
    def unstarted(
        original: Original[Settled], self: Any, element: bytes, request: Request, lost: int, why: int, message: str
    ) -> Settled:
        is_meant = why == code and (request.reply_to is not None) == calls
        return original(self, element, request, 0 if is_meant else lost, why, message)


@mutant("SABIR-ATTEMPT-1", "server/delivery/expired")
def says_what_has_expired_never_ran() -> None:
    """A call that was delivered before, and has expired, is answered DeadlineExceeded."""
    calling_it_unstarted(errors.DeadlineExceeded.code, calls=True)


@mutant("SABIR-ATTEMPT-1", "server/delivery/unknown-method")
def says_an_unknown_method_never_ran() -> None:
    """A call that was delivered before, and of a method that this worker does not have, is answered MethodNotFound."""
    calling_it_unstarted(errors.MethodNotFound.code, calls=True)


@mutant("SABIR-ATTEMPT-1", "server/delivery/unfit-params")
def says_unfit_params_never_ran() -> None:
    """A call that was delivered before, and whose parameters do not fit, is answered InvalidParams."""
    calling_it_unstarted(errors.InvalidParams.code, calls=True)


@mutant("SABIR-ATTEMPT-1", "server/delivery/expired-notification")
def buries_as_if_it_never_ran() -> None:
    """A notification that was delivered before, and has expired, is kept with DeadlineExceeded."""
    calling_it_unstarted(errors.DeadlineExceeded.code, calls=False)


@mutant("SABIR-ATTEMPT-1", "server/delivery/first-delivery", "SABIR-ATTEMPT-2")
def takes_each_for_a_second() -> None:
    """The first delivery of an idempotent request is taken for the second."""

    @wrap(shell, "lost_before")
    def lost_before(original: Original[int], answer: Any) -> int:
        return original(answer) or 1


@mutant("SABIR-ATTEMPT-1", "server/delivery/handler-errors")
def calls_what_ran_lost() -> None:
    """Of a second delivery, an error of the handler is answered as WorkerLost."""

    @wrap(Dispatcher, "fail")
    def fail(original: Original[Settled], self: Dispatcher, job: Job, error: BaseException) -> Settled:
        if job.context.attempt > 1:
            return self._unstarted(job.element, job.request, 1, errors.InternalError.code, "it raised")
        return original(self, job, error)


@mutant("SABIR-ATTEMPT-1", "server/delivery/asks-nothing-else")
def asks_for_every_request() -> None:
    """The attempts of a request are asked for whether it is idempotent or not."""

    @wrap(Server, "_prepare")
    def prepare(original: Any, self: Any, taken: Taken) -> Any:
        request = self._dispatcher.read(taken.element)
        if isinstance(request, Request):
            self._ask(commands.ask_attempts(self._keys, request.id))
        return original(self, taken)


def telling(change: Callable[[int], int]) -> None:
    """Have the worker tell handlers of another delivery."""

    @wrap(Dispatcher, "receive")
    def receive(original: Any, self: Any, *args: Any) -> Any:
        work = original(self, *args)
        if isinstance(work, Job):
            work.context.attempt = change(work.context.attempt)
        return work


@mutant("SABIR-ATTEMPT-2", "server/delivery/attempt")
def tells_of_lost_deliveries() -> None:
    """A handler is told how many deliveries were lost."""
    telling(lambda attempt: attempt - 1)


@mutant("SABIR-ATTEMPT-2", "server/delivery/attempt")
def calls_each_delivery_the_first() -> None:
    """A handler is told that it is the first delivery."""
    telling(lambda attempt: 1)


@mutant("SABIR-LEASE-3", "server/delivery/lease-lost")
def starts_whatever_it_took() -> None:
    """What was taken is started, whatever became of the lease."""

    @wrap(Lease, "covers")
    def covers(original: Original[bool], *args: Any) -> bool:
        return True


@mutant("SABIR-LEASE-3", "server/delivery/lease-lost")
def trusts_its_clock() -> None:
    """That its lease has ended, a worker knows by its own clock only."""

    @wrap(Lease, "covers")
    def covers(original: Original[bool], self: Lease, taken: Taken, now: float) -> bool:
        return now - taken.sent <= shell.LEASE


@mutant("SABIR-LEASE-3", "server/faults/paused-with-a-take")
def trusts_its_heartbeats() -> None:
    """That its lease has ended, a worker knows by a heartbeat's answer only."""

    @wrap(Lease, "covers")
    def covers(original: Original[bool], self: Lease, taken: Taken, now: float) -> bool:
        return taken.epoch == self.epoch


@mutant("SABIR-LEASE-3", "server/delivery/lease-lost-hand-kept")
def forgets_what_it_still_holds() -> None:
    """What was taken before the lease ended is not started, though the hand still holds it."""

    @wrap(Server, "_prepare")
    def prepare(original: Any, self: Any, taken: Taken) -> Any:
        if self._lease.covers(taken, time.monotonic()):
            return original(self, taken)
        self._held.remove(taken.element)
        return None


@mutant("SABIR-RUN-1", "server/delivery/handler-timeout", "SABIR-RUN-2")
def lets_handlers_run() -> None:
    """A handler may run as long as it likes."""

    @wrap(shell, "run_limit")
    def run_limit(original: Any, seconds: float | None) -> None:
        return None


@mutant("SABIR-RUN-1", "server/delivery/handler-in-time")
def ends_handlers_early() -> None:
    """A handler has a tenth of its time."""

    @wrap(shell, "run_limit")
    def run_limit(original: Original[float | None], seconds: float | None) -> float | None:
        return None if seconds is None else seconds / 10


@mutant("SABIR-RUN-1", "server/delivery/handler-timeout")
def answers_after_its_limit() -> None:
    """What a handler returns after its limit is sent too."""

    @wrap(Server, "_run")
    def run(original: Any, self: Any, job: Job) -> Any:
        results: list[Any] = []
        handler = job.handler

        def noted(*args: Any, **kwargs: Any) -> Any:
            results.append(handler(*args, **kwargs))
            return results[0]

        job.handler = noted
        settled = original(self, job)
        return self._dispatcher.finish(job, results[0]) if settled is None and results else settled


@mutant("SABIR-RUN-1", "server/delivery/handler-timeout")
def calls_a_limit_a_deadline() -> None:
    """A call whose handler runs too long is answered DeadlineExceeded."""

    @wrap(Dispatcher, "overrun")
    def overrun(original: Original[Settled], self: Dispatcher, job: Job, seconds: float) -> Settled:
        return self._refuse(job.element, job.request, errors.DeadlineExceeded.code, "too long")


@mutant("SABIR-RUN-1", "server/delivery/handler-timeout-notification")
def drops_a_notification_that_hangs() -> None:
    """A notification whose handler runs too long is removed and not kept."""

    @wrap(Dispatcher, "overrun")
    def overrun(original: Original[Settled], self: Any, job: Job, seconds: float) -> Settled:
        return original(self, job, seconds) if job.request.reply_to else Settled(job.element)


def noting_overdue(kind: type[set[threading.Thread]]) -> None:
    """Have the worker note in another kind of set which threads run longer than their limit."""

    @wrap(Server, "__init__")
    def init(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._overdue = kind()


@mutant("SABIR-RUN-2", "server/delivery/every-place-taken")
def hangs_with_its_handlers() -> None:
    """A worker goes on when handlers that run too long have taken every place."""

    class Uncounted(set[threading.Thread]):
        def __len__(self) -> int:
            return 0

    noting_overdue(Uncounted)


@mutant("SABIR-RUN-2", "server/delivery/every-place-taken")
def waits_for_what_hangs() -> None:
    """A worker whose places are all taken stops when its handlers have ended."""

    class Unseen(set[threading.Thread]):
        def __contains__(self, thread: object) -> bool:
            return False

    noting_overdue(Unseen)


@mutant("SABIR-STOP-5", "server/delivery/last-goodbye")
def says_goodbye_as_the_core_does() -> None:
    """A goodbye is the ZREM of the core, and leaves alive."""
    sending("goodbye", lambda cmds: [("ZREM", cmds[0][3], cmds[0][-1])])


@mutant("SABIR-STOP-5", "server/delivery/not-the-last-goodbye")
def takes_alive_along() -> None:
    """Every goodbye removes alive."""
    carrying("goodbye", ("if redis.call('ZCOUNT', leases, '(' .. string.format('%.0f', now), '+inf') == 0 then", "do"))


@mutant("SABIR-STOP-5", "server/delivery/lost-leases-do-not-count")
def counts_leases_that_have_ended() -> None:
    """A lease that has ended keeps alive."""
    carrying("goodbye", ("'(' .. string.format('%.0f', now), '+inf'", "'-inf', '+inf'"))


@mutant("SABIR-STOP-5", "server/delivery/goodbye-with-a-hand")
def gives_up_a_full_hand() -> None:
    """The goodbye's script does not look whether the hand is empty."""
    carrying("goodbye", ("if redis.call('LLEN', hand) > 0 then return 0 end", ""))
