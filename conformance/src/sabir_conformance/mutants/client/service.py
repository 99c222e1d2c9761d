"""Mutants of the client: whether anybody serves, how long the queue is, what is sent again."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from sabir import _link, commands, errors
from sabir import client as shell
from sabir.client import Client, Retries, _Exchange
from sabir.commands import Commands
from sabir.errors import SabirError
from sabir.keys import Keys
from sabir.messages import Response

from .. import Original, mutant, wrap
from ..both import sending

Ended = dict[str, Response]


def asking(change: Callable[[Keys, bool, Commands], Commands]) -> None:
    """Have the client ask something else behind a push: by the service, whether it was served a moment ago, and the question."""
    pushing = threading.local()

    @wrap(_Exchange, "push")
    def push(original: Any, self: Any, served: set[Keys], *args: Any) -> Any:
        pushing.served = self._keys in served
        try:
            return original(self, served, *args)
        finally:
            del pushing.served

    @wrap(commands, "ask_alive")
    def ask_alive(original: Original[Commands], keys: Keys) -> Commands:
        cmds = original(keys)
        return change(keys, pushing.served, cmds) if hasattr(pushing, "served") else cmds


def taking_back(change: Callable[[Any, Any, SabirError], None], kind: type[SabirError]) -> None:
    """Have the client do something else than take back, where the calls are to end with an error of a kind."""

    @wrap(_Exchange, "_take_back")
    def take_back(original: Any, self: Any, error: SabirError) -> None:
        if isinstance(error, kind):
            change(original, self, error)
        else:
            original(self, error)


def leaving(kind: type[SabirError]) -> None:
    """Have the client end a call with an error and leave it in the queue."""
    taking_back(lambda original, self, error: self._end_all(error), kind)


def taking_back_the_last(kind: type[SabirError]) -> None:
    """Have the client take back the last request of a push, and wait for the others."""

    def change(original: Any, self: Any, error: SabirError) -> None:
        *others, last = self.missing.items()
        self.missing = dict([last])
        original(self, error)
        self.missing |= dict(others)

    taking_back(change, kind)


def trusting(kind: type[SabirError]) -> None:
    """Have the client end with an error what it took back, and what it did not find, too."""

    @wrap(shell, "taken_back")
    def taken_back(original: Original[Ended], keys: Keys, ids: Any, answers: Any, error: SabirError) -> Ended:
        if isinstance(error, kind):
            return {id: Response(id, error=error) for id in ids}
        return original(keys, ids, answers, error)


# ------------------------------------------------------------------------------------------------ nobody serves


@mutant("SABIR-ALIVE-1", "client/service/asks-in-the-same-write")
def asks_in_another_write() -> None:
    """Whether anybody serves is asked behind the push, in a write of its own."""

    @wrap(_link.Link, "send")
    def send(original: Any, self: Any, cmds: Commands, timeout: float) -> None:
        pushed = next((n + 1 for n, cmd in enumerate(cmds) if cmd[0] == "RPUSH"), 0)
        if 0 < pushed < len(cmds):
            original(self, cmds[:pushed], timeout)
            time.sleep(0.02)
            cmds = cmds[pushed:]
        original(self, cmds, timeout)


@mutant("SABIR-ALIVE-1", "client/service/asks-in-the-same-write", "SABIR-ALIVE-2")
def asks_before_it_pushes() -> None:
    """Whether anybody serves is asked in front of the push."""
    told: dict[Keys, bool] = {}
    asking(lambda keys, served, cmds: commands.clock() if told[keys] else [("EXISTS", keys.attempts("0" * 32))])

    @wrap(_Exchange, "push")
    def push(original: Any, self: Any, *args: Any) -> Any:
        told[self._keys] = self._link.run([("EXISTS", self._keys.alive)], 5.0)[0] != 0
        return original(self, *args)


@mutant("SABIR-ALIVE-1", "client/service/asks-with-each-call", "SABIR-ALIVE-2")
def asks_with_the_first_call() -> None:
    """Whether anybody serves is asked with the first call only."""
    asking(lambda keys, served, cmds: commands.clock() if served else cmds)


@mutant("SABIR-ALIVE-2", "client/service/nobody")
def waits_where_nobody_serves() -> None:
    """A call is waited for, though nobody serves."""
    asking(lambda keys, served, cmds: commands.clock())


@mutant("SABIR-ALIVE-2", "client/service/nobody")
def leaves_what_nobody_serves() -> None:
    """A call that ends with ServiceUnavailable is left in the queue."""
    leaving(errors.ServiceUnavailable)


@mutant("SABIR-ALIVE-2", "client/service/nobody")
def takes_back_and_waits() -> None:
    """A call is taken back, and waited for."""

    @wrap(shell, "taken_back")
    def taken_back(original: Original[Ended], *args: Any) -> Ended:
        return {}


@mutant("SABIR-ALIVE-2", "client/service/nobody-many")
def takes_back_one_of_many() -> None:
    """Of many calls that nobody serves only the last is taken back."""
    taking_back_the_last(errors.ServiceUnavailable)


@mutant("SABIR-ALIVE-2", "client/service/taken-meanwhile")
def calls_what_was_taken_unavailable() -> None:
    """A call that a worker has taken meanwhile ends with ServiceUnavailable."""
    trusting(errors.ServiceUnavailable)


@mutant("SABIR-ALIVE-2", "client/service/delivered-before")
def calls_a_second_delivery_unavailable() -> None:
    """An idempotent call that was delivered before, and is taken back, ends with ServiceUnavailable."""

    @wrap(commands, "take_back")
    def take_back(original: Original[Commands], keys: Keys, element: bytes, id: str | None = None) -> Commands:
        return original(keys, element)


@mutant("SABIR-ALIVE-2", "client/service/nobody-any-more")
def remembers_that_nobody_serves() -> None:
    """When nobody has served once, every later call ends with ServiceUnavailable."""
    deserted: set[Keys] = set()

    @wrap(Client, "_exchange")
    def exchange(original: Original[list[Response]], self: Any, keys: Keys, plan: Any) -> list[Response]:
        if keys in deserted:
            return [Response(id, error=shell.unserved(keys)) for id in plan.ids]
        ends = original(self, keys, plan)
        if any(isinstance(end.error, errors.ServiceUnavailable) for end in ends):
            deserted.add(keys)
        return ends


@mutant("SABIR-ALIVE-2", "client/service/waits-for-somebody")
def waits_for_nobody() -> None:
    """Who waits until somebody serves is not kept waiting."""

    @wrap(Client, "wait_for_service")
    def wait_for_service(original: Any, *args: Any, **kwargs: Any) -> None:
        return None


@mutant("SABIR-ALIVE-2", "client/service/waits-in-vain")
def calls_nobody_a_time_out() -> None:
    """Who waits in vain until somebody serves is told CallTimeout."""

    @wrap(shell.Looks, "pause")
    def pause(original: Original[float | None], *args: Any) -> float | None:
        try:
            return original(*args)
        except errors.ServiceUnavailable as error:
            raise errors.CallTimeout(error.message) from error


@mutant("SABIR-ALIVE-3", "client/service/asks-again")
def asks_once() -> None:
    """Whether anybody serves is asked with the push, and never again."""
    shell.ASK = 1e9  # type: ignore[misc]


@mutant("SABIR-ALIVE-3", "client/service/gone-while-queued")
def asks_seldom() -> None:
    """Whether anybody serves is asked again after 10 s."""
    shell.ASK = 10.0  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------ nobody serves any more


def judging(change: Callable[[Keys, Any, list[Any], Ended], Ended]) -> None:
    """Have the client judge otherwise: by the service, the calls, Redis's answers, and what is right."""

    @wrap(shell, "judged")
    def judged(original: Original[Ended], keys: Keys, calls: Any, answers: list[Any], own: Any) -> Ended:
        return change(keys, calls, answers, original(keys, calls, answers, own))


def blaming(make: Callable[[Keys], SabirError]) -> None:
    """Have the client end with one error all that has no reply."""
    judging(
        lambda keys, calls, answers, ended: {
            id: end if end.error is None else Response(id, error=make(keys)) for id, end in ended.items()
        }
    )


@mutant("SABIR-ALIVE-4", "client/service/gone-while-taken")
def waits_for_a_lost_worker() -> None:
    """A call is waited for, though nobody serves any more."""

    @wrap(_Exchange, "_ask")
    def ask(original: Any, self: Any, token: str) -> None:
        self._asked = time.monotonic()
        self._link.run(commands.ask_alive(self._keys), 5.0)


@mutant("SABIR-ALIVE-4", "client/service/gone-while-taken")
def calls_a_lost_worker_unavailable() -> None:
    """Whatever has no reply ends with ServiceUnavailable."""
    blaming(shell.unserved)


@mutant("SABIR-ALIVE-4", "client/service/gone-while-queued")
def calls_what_was_queued_lost() -> None:
    """Whatever has no reply ends with WorkerLost."""
    blaming(shell.lost)


@mutant("SABIR-ALIVE-4", "client/service/gone-while-queued")
def searches_no_queue() -> None:
    """The call that nobody serves any more is not taken back."""
    commands.SEARCHED = -1  # type: ignore[misc]


@mutant("SABIR-ALIVE-4", "client/service/gone-and-a-long-queue")
def searches_any_queue() -> None:
    """The queue is searched however long it is."""
    commands.SEARCHED = 1 << 40  # type: ignore[misc]


@mutant("SABIR-ALIVE-4", "client/service/gone-after-a-delivery")
def forgets_deliveries() -> None:
    """A call that was delivered before, and is taken back, ends with ServiceUnavailable."""

    @wrap(shell, "judged")
    def judged(original: Original[Ended], keys: Keys, calls: Any, answers: list[Any], own: Any) -> Ended:
        return original(keys, calls, [0 if n % 2 else answer for n, answer in enumerate(answers[:-1])] + answers[-1:], own)


@mutant("SABIR-ALIVE-4", "client/service/gone-many")
def judges_many_as_one() -> None:
    """Of many calls all end as the first."""
    judging(lambda keys, calls, answers, ended: {id: Response(id, error=ended[calls[0][0]].error) for id in ended})


@mutant("SABIR-ALIVE-4", "client/service/back-before-the-transaction")
def judges_without_watching() -> None:
    """alive is not watched."""
    sending("look_alive", lambda cmds: [*commands.clock(), *cmds[1:]])


@mutant("SABIR-ALIVE-4", "client/service/reply-in-the-transaction")
def overlooks_the_reply() -> None:
    """The replies are not read before calls are judged."""

    @wrap(shell, "judged")
    def judged(original: Original[Ended], keys: Keys, calls: Any, answers: list[Any], own: Any) -> Ended:
        return original(keys, calls, [*answers[:-1], []], own)


@mutant("SABIR-ALIVE-4", "client/service/judged-in-the-end")
def never_judges_after_an_interruption() -> None:
    """A call whose connection was interrupted is not judged any more."""
    shell.CALM = math.inf  # type: ignore[misc]


@mutant("SABIR-ALIVE-5", "client/service/not-after-an-interruption")
def judges_after_an_interruption() -> None:
    """A call is judged as soon as the connection is back."""
    shell.CALM = 0.0  # type: ignore[misc]


@mutant("SABIR-ALIVE-6", "client/service/take-back-lost")
def waits_after_a_lost_take_back() -> None:
    """A call whose take-back had no answer is waited for."""

    @wrap(_Exchange, "_end_all")
    def end_all(original: Any, *args: Any) -> None:
        return None


@mutant("SABIR-ALIVE-6", "client/service/take-back-lost")
def takes_back_twice() -> None:
    """A call whose take-back had no answer is taken back again."""

    @wrap(_Exchange, "_take_back")
    def take_back(original: Any, self: Any, error: SabirError) -> None:
        missing = dict(self.missing)
        original(self, error)
        if any(isinstance(end.error, errors.ConnectionLost) for end in self.ended.values()):
            self.ended.clear()
            self.missing |= missing
            original(self, error)


@mutant("SABIR-ALIVE-6", "client/service/take-back-lost")
def calls_a_lost_take_back_unavailable() -> None:
    """A call whose take-back had no answer ends with ServiceUnavailable."""

    @wrap(shell, "not_answered")
    def not_answered(original: Any, reason: Exception) -> SabirError:
        return errors.ServiceUnavailable(str(reason))


@mutant("SABIR-ALIVE-7", "client/service/notification")
def takes_notifications_back() -> None:
    """A notification ends with ServiceUnavailable where nobody serves."""

    @wrap(_Exchange, "push")
    def push(original: Any, self: Any, *args: Any) -> Any:
        block = original(self, *args)
        if self._token is None and self._link.run(commands.ask_alive(self._keys), 5.0)[0] == 0:
            self._take_back(shell.unserved(self._keys))
        return block


# ------------------------------------------------------------------------------------------------ the bound


def bounding(change: Callable[[Any, int | None], int | None]) -> None:
    """Have the client use another bound for a push."""

    @wrap(_Exchange, "push")
    def push(original: Any, self: Any, served: Any, max_queue: int | None) -> Any:
        return original(self, served, change(self, max_queue))


@mutant("SABIR-QUEUE-1", "client/service/overloaded")
def pushes_beyond_the_bound() -> None:
    """The length of the queue is not looked at."""
    bounding(lambda exchange, bound: None)


@mutant("SABIR-QUEUE-1", "client/service/overloaded-notification")
def notifies_beyond_the_bound() -> None:
    """The length of the queue is not looked at for a notification."""
    bounding(lambda exchange, bound: None if exchange._token is None else bound)


@mutant("SABIR-QUEUE-1", "client/service/at-the-bound")
def refuses_at_the_bound() -> None:
    """A queue at its bound is over it."""
    bounding(lambda exchange, bound: None if bound is None else bound - 1)


@mutant("SABIR-QUEUE-1", "client/service/default-bound")
def has_no_bound() -> None:
    """Unless configured there is no bound."""

    @wrap(Client, "__init__")
    def init(original: Any, *args: Any, **kwargs: Any) -> None:
        original(*args, **{"max_queue": None, **kwargs})


@mutant("SABIR-QUEUE-1", "client/service/no-bound")
def always_has_a_bound() -> None:
    """No bound is the default one."""

    @wrap(shell, "bound")
    def bound(original: Original[int | None], max_queue: int | None) -> int | None:
        return shell.MAX_QUEUE if max_queue is None else original(max_queue)


@mutant("SABIR-QUEUE-1", "client/service/overloaded")
def leaves_what_is_over_the_bound() -> None:
    """A call that ends with Overloaded is left in the queue."""
    leaving(errors.Overloaded)


@mutant("SABIR-QUEUE-1", "client/service/overloaded-many")
def takes_back_one_over_the_bound() -> None:
    """Of many calls only the last is taken back."""
    taking_back_the_last(errors.Overloaded)


@mutant("SABIR-QUEUE-1", "client/service/overloaded-taken-meanwhile")
def calls_what_was_taken_overloaded() -> None:
    """A call that a worker has taken meanwhile ends with Overloaded."""
    trusting(errors.Overloaded)


@mutant("SABIR-QUEUE-2", "client/service/time-out-searches-nothing")
def takes_back_at_its_time_out() -> None:
    """A call that ends with its time-out is taken back."""

    @wrap(_Exchange, "collect")
    def collect(original: Any, self: Any, *args: Any) -> Any:
        trouble = original(self, *args)
        if self._link.is_open and not self._link.unread:
            for element in self.missing.values():
                self._link.run(commands.take_back(self._keys, element), 5.0)
        return trouble


# ------------------------------------------------------------------------------------------------ again


def minding(change: Callable[[bool], bool]) -> None:
    """Have retry() take a call for idempotent, or not."""

    @wrap(Retries, "__init__")
    def init(original: Any, self: Any, seconds: float, idempotent: bool) -> None:
        original(self, seconds, change(idempotent))


def ignoring(outcome: str) -> None:
    """Have retry() send again what ended with an error of an outcome."""

    @wrap(Retries, "pause")
    def pause(original: Original[float], self: Any, error: SabirError) -> float:
        return original(self, errors.ServiceUnavailable(error.message) if error.outcome == outcome else error)


@mutant("SABIR-RETRY-1", "client/service/never-again")
def sends_again_what_may_have_run() -> None:
    """A call that may have run is sent again, idempotent or not."""
    minding(lambda idempotent: True)


@mutant("SABIR-RETRY-1", "client/service/again-idempotent")
def sends_nothing_again_that_may_have_run() -> None:
    """An idempotent call that may have run is not sent again."""
    minding(lambda idempotent: False)


@mutant("SABIR-RETRY-1", "client/service/not-what-ran")
def sends_again_what_ran() -> None:
    """A call that ran is sent again."""
    ignoring(errors.RAN)


@mutant("SABIR-RETRY-1", "client/service/not-what-never-will")
def sends_again_whatever_never_started() -> None:
    """A call that never started is sent again, even if it never will."""
    ignoring(errors.NEVER_STARTED)


@mutant("SABIR-RETRY-1", "client/service/again-when-unavailable")
def sends_nothing_again() -> None:
    """Nothing is sent again."""

    @wrap(Retries, "pause")
    def pause(original: Original[float], self: Any, error: SabirError) -> float:
        raise error


@mutant("SABIR-RETRY-1", "client/service/again-in-time")
def sends_again_for_ever() -> None:
    """A call is sent again beyond its time-out."""

    @wrap(Retries, "__init__")
    def init(original: Any, self: Any, seconds: float, idempotent: bool) -> None:
        original(self, seconds + 60, idempotent)


@mutant("SABIR-RETRY-1", "client/service/again-idempotent")
def sends_the_same_again() -> None:
    """A call is sent again with the same id."""
    again = threading.local()

    @wrap(Client, "retry")
    def retry(original: Any, *args: Any, **kwargs: Any) -> Any:
        again.id = "5f0c2b7e9a1d4c3f8e6b0a9d7c5e3f12"
        try:
            return original(*args, **kwargs)
        finally:
            del again.id

    @wrap(shell, "new_id")
    def new_id(original: Original[str]) -> str:
        return getattr(again, "id", None) or original()


@mutant("SABIR-ALIVE-4", "client/service/back-before-the-look")
def judges_whatever_it_sees() -> None:
    """That alive is back when it looks makes no difference."""

    @wrap(_link.Link, "run")
    def run(original: Original[list[Any]], self: Any, cmds: Commands, timeout: float) -> list[Any]:
        answers = original(self, cmds, timeout)
        return [answers[0], 0, *answers[2:]] if cmds[0][0] == "WATCH" else answers


@mutant("SABIR-ALIVE-6", "client/service/judging-lost")
def waits_after_a_lost_judgement() -> None:
    """A call whose transaction had no answer is waited for."""

    @wrap(_Exchange, "_end_all")
    def end_all(original: Any, *args: Any) -> None:
        return None


@mutant("SABIR-QUEUE-1", "client/service/overloaded-and-nobody")
def calls_an_overloaded_queue_unserved() -> None:
    """Where nobody serves a queue that is over its bound, a call ends with ServiceUnavailable."""

    @wrap(shell, "overloaded")
    def overloaded(original: Original[SabirError], keys: Keys, max_queue: int | None) -> SabirError:
        return shell.unserved(keys)


@mutant("SABIR-QUEUE-1", "client/service/overloaded-delivered-before", "SABIR-ALIVE-2")
def calls_a_second_delivery_overloaded() -> None:
    """An idempotent call that was delivered before, and is taken back, ends with Overloaded."""

    @wrap(commands, "take_back")
    def take_back(original: Original[Commands], keys: Keys, element: bytes, id: str | None = None) -> Commands:
        return original(keys, element)


@mutant("SABIR-ALIVE-2", "client/service/ask-refused")
def takes_a_refusal_for_an_absence() -> None:
    """An error reply to the question whether anybody serves is taken for "nobody"."""

    @wrap(_link.Link, "read")
    def read(original: Any, self: Any, timeout: float) -> Any:
        answer = original(self, timeout)
        return 0 if isinstance(answer, Exception) and "no" in str(answer) else answer
