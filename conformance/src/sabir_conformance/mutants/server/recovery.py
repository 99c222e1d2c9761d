"""Mutants of the worker: what it does for lost workers, and the scripts by which it does so.

Those that recover do so at once, unless it is SABIR-RECOVER-7 that they break: their cases need not wait for a lease.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from sabir import commands
from sabir import server as shell
from sabir._link import ANSWER, LinkRefused
from sabir.commands import Commands
from sabir.server import Lease, Server

from .. import Change, Original, mutant, wrap
from .shared import beating, carrying, judging_at_once


def recovery(rule: str, case: str) -> Callable[[Change], Change]:
    """Register a mutant that recovers by another script; the cases that look for the right one may fail too."""
    return mutant(rule, f"server/recovery/{case}", "server/lease/heartbeat-transaction")


def recovering(*changes: tuple[str, str]) -> None:
    """Have the worker recover by another text of the script, and at once."""
    judging_at_once()
    carrying("heartbeat", *changes)


_AGAIN = "envelope.v == 1 and envelope.idempotent == true"
_TELL = "local told = token ~= nil and tell(id, token, why)"
_BURY = "if (not told or is_poison) and not bury(element, why)"


@recovery("SABIR-RECOVER-1", "call")
def beats_as_the_core_does() -> None:
    """A heartbeat is the transaction of the core: nothing is recovered."""
    beating(lambda cmds: cmds)


@recovery("SABIR-RECOVER-1", "lease-that-has-not-ended")
def robs_the_living() -> None:
    """A worker whose lease ends within 100 s is taken for lost."""
    recovering(
        ("'-inf', decimal(now), 'LIMIT'", "'-inf', decimal(now + 100000), 'LIMIT'"),
        ("while true do", "while ended ~= worker do"),
    )


@recovery("SABIR-RECOVER-2", "bytes-and-place")
def requeues_at_the_tail() -> None:
    """What is delivered again goes to the tail of the queue."""
    recovering(("requests, 'LEFT', 'LEFT')", "requests, 'LEFT', 'RIGHT')"), ("if count > 1 then", "if false then"))


@recovery("SABIR-RECOVER-2", "bytes-and-place")
def requeues_the_newest_first() -> None:
    """What is delivered again lies in the queue in reverse."""
    recovering(("if count > 1 then", "if false then"))


@recovery("SABIR-RECOVER-2", "bytes-and-place")
def requeues_a_re_encoding() -> None:
    """What is delivered again is decoded and encoded again."""
    copied = "redis.call('LPOP', hand) redis.call('LPUSH', hand, cjson.encode(cjson.decode(element)))"
    recovering(("local moved = redis.pcall('LMOVE'", f"{copied} local moved = redis.pcall('LMOVE'"))


@recovery("SABIR-RECOVER-2", "idempotent-call")
def counts_no_delivery() -> None:
    """A lost delivery is not counted."""
    recovering(("redis.pcall('SET', key, decimal(count), 'PX', ATTEMPTS_TTL_MS)", ""))


@recovery("SABIR-RECOVER-2", "idempotent-call")
def counts_for_ever() -> None:
    """The count of lost deliveries does not expire."""
    recovering((", 'PX', ATTEMPTS_TTL_MS", ""))


@recovery("SABIR-RECOVER-2", "idempotent-call")
def delivers_nothing_again() -> None:
    """An idempotent request is treated like any other."""
    recovering((_AGAIN, "false"))


@recovery("SABIR-RECOVER-2", "idempotent-notification")
def delivers_no_notification_again() -> None:
    """An idempotent notification is treated like any other."""
    recovering((_AGAIN, f"{_AGAIN} and token ~= nil"))


@recovery("SABIR-RECOVER-3", "call")
def delivers_everything_again() -> None:
    """A call that is not idempotent is delivered again."""
    recovering((_AGAIN, "true"))


@recovery("SABIR-RECOVER-3", "not-a-boolean")
def takes_one_for_true() -> None:
    """Whatever is not false is true."""
    recovering((_AGAIN, "envelope.idempotent"))


@recovery("SABIR-RECOVER-3", "call")
def tells_nobody() -> None:
    """The caller of a lost worker is not answered."""
    recovering((_TELL, "local told = token ~= nil"))


@recovery("SABIR-RECOVER-3", "call")
def buries_calls() -> None:
    """A call of a lost worker is kept as a dead letter in place of an answer."""
    recovering((_TELL, "local told = false"))


@recovery("SABIR-RECOVER-3", "call")
def buries_what_it_answers() -> None:
    """A call of a lost worker is answered, and a dead letter too."""
    recovering((_BURY, "if not bury(element, why)"))


@recovery("SABIR-RECOVER-3", "call-expiry")
def bad_news_stays() -> None:
    """The list with the WorkerLost does not expire."""
    recovering(("redis.call('PEXPIRE', key, REPLY_TTL_MS)", ""))


@recovery("SABIR-RECOVER-3", "call")
def calls_a_lost_worker_an_internal_error() -> None:
    """The caller of a lost worker is told InternalError."""
    recovering((""".. id .. '","error":{"code":-32005""", """.. id .. '","error":{"code":-32603"""))


@recovery("SABIR-RECOVER-4", "notification")
def drops_lost_notifications() -> None:
    """A notification of a lost worker is removed and not kept."""
    recovering((_BURY, "if (id == nil or is_poison) and not bury(element, why)"))


@recovery("SABIR-RECOVER-4", "garbage")
def drops_lost_garbage() -> None:
    """What is no request is removed from a lost worker's hand and not kept."""
    recovering((_BURY, "if id ~= nil and (not told or is_poison) and not bury(element, why)"))


@recovery("SABIR-RECOVER-4", "not-utf-8")
def keeps_bytes_as_text() -> None:
    """A dead letter holds bytes that are not UTF-8 as text."""
    recovering(("#element <= KEPT_BYTES and is_utf8(element)", "#element <= KEPT_BYTES"))


@recovery("SABIR-RECOVER-4", "not-utf-8-and-long")
def keeps_long_bytes_whole() -> None:
    """However long an element is that is not UTF-8, its dead letter holds it whole."""
    recovering(("local KEPT_BINARY = 65536", "local KEPT_BINARY = 16777216"))


@recovery("SABIR-RECOVER-4", "not-utf-8-and-long")
def forgets_the_size() -> None:
    """A dead letter of an element that was cut does not say how long it was."""
    recovering(("""kept = kept .. ',"size":' .. decimal(#element)""", ""))


@recovery("SABIR-RECOVER-4", "by-its-head")
def reads_no_head() -> None:
    """A call that the script can't read whole is not answered."""
    recovering(("local found = head(element)", "local found = {}"))


@recovery("SABIR-RECOVER-4", "no-token")
def tells_any_key() -> None:
    """Any text is a token."""
    recovering(("if is_token(envelope.reply_to) then", "if type(envelope.reply_to) == 'string' then"))


@recovery("SABIR-RECOVER-4", "reply-of-the-wrong-type")
def drops_what_it_can_t_tell() -> None:
    """A call whose WorkerLost Redis refuses is removed and not kept."""
    recovering((_TELL, "local told = token ~= nil and (tell(id, token, why) or true)"))


@recovery("SABIR-RECOVER-5", "poison-call")
def poison_circulates() -> None:
    """A request is delivered again however often its worker was lost."""
    recovering(("is_poison = count >= ATTEMPTS", ""))


@recovery("SABIR-RECOVER-5", "poison-notification")
def poisoned_notifications_circulate() -> None:
    """A notification is delivered again however often its worker was lost."""
    recovering(("is_poison = count >= ATTEMPTS", "is_poison = count >= ATTEMPTS and token ~= nil"))


@recovery("SABIR-RECOVER-5", "second-delivery")
def gives_up_after_two() -> None:
    """A request is given up after two deliveries."""
    recovering(("local ATTEMPTS = 3", "local ATTEMPTS = 2"))


@recovery("SABIR-RECOVER-5", "poison-call")
def keeps_no_poison() -> None:
    """A call whose third delivery was lost is answered and not kept."""
    recovering((_BURY, "if not told and not bury(element, why)"))


@recovery("SABIR-RECOVER-5", "poison-call")
def buries_poison_in_silence() -> None:
    """A call whose third delivery was lost is kept and not answered."""
    recovering((_TELL, "local told = token ~= nil and not is_poison and tell(id, token, why)"))


@recovery("SABIR-RECOVER-6", "expired-call")
def requeues_what_has_expired() -> None:
    """A request whose deadline has come is delivered again."""
    recovering(("elseif not deadline or deadline > now then", "else"))


@recovery("SABIR-RECOVER-6", "expired-notification")
def drops_what_expired_in_a_lost_hand() -> None:
    """An idempotent notification whose deadline has come is removed and not kept."""
    recovering((_BURY, "if not (deadline and deadline <= now) and (not told or is_poison) and not bury(element, why)"))


@recovery("SABIR-RECOVER-7", "not-at-once")
def recovers_at_once() -> None:
    """A worker recovers from its second heartbeat on."""
    judging_at_once()


@recovery("SABIR-RECOVER-7", "not-after-an-outage")
def recovers_after_an_outage() -> None:
    """A worker that has waited for a lease once does not wait for another after an outage."""

    @wrap(Lease, "beat")
    def beat(original: Original[bool], self: Lease, sent: float, lost: bool) -> bool:
        since = self._since
        ended = original(self, sent, lost)
        if since > -math.inf:
            self._since = since
        return ended


@recovery("SABIR-RECOVER-8", "hand-that-stays")
def ends_leases_first() -> None:
    """A lost worker's lease is removed before its hand is empty."""
    recovering(
        (
            "local hand = prefix .. 'active:' .. ended",
            "local hand = prefix .. 'active:' .. ended redis.call('ZREM', leases, ended)",
        )
    )


@recovery("SABIR-RECOVER-8", "hand-that-stays")
def leaves_leases() -> None:
    """A lost worker's lease stays."""
    recovering(("if not element then redis.call('ZREM', leases, ended) end", ""))


@recovery("SABIR-RECOVER-8", "empty-hand")
def leaves_leases_of_empty_hands() -> None:
    """The lease of a lost worker that had nothing in its hand stays."""
    recovering(("if not element then redis.call", "if not element and recovered > 0 then redis.call"))


@recovery("SABIR-RECOVER-9", "many")
def recovers_a_step_at_a_heartbeat() -> None:
    """Where there is more to recover, the next heartbeat comes in 3 s as ever."""
    judging_at_once(beat_ms=3_000)
    shell.SOON = 3.0  # type: ignore[misc]


def sending_a_text_at_first(script: str) -> None:
    """Have the worker send a script's text in its first two seconds only."""
    began: dict[Any, float] = {}

    @wrap(Server, "_run_script")
    def run_script(original: Any, link: Any, cmds: Commands) -> Any:
        is_new = time.monotonic() - began.setdefault(link._clock, time.monotonic()) < 2
        if is_new or cmds[0][1] != getattr(commands, f"_{script.upper()}"):
            return original(link, cmds)
        answer = link.run(cmds, ANSWER)[0]
        if isinstance(answer, Exception):
            raise LinkRefused(answer)
        return answer


@mutant("SABIR-SCRIPT-1", "server/recovery/digest-forgotten")
def loads_its_heartbeat_once() -> None:
    """When Redis has forgotten the heartbeat's script, its digest is sent all the same."""
    sending_a_text_at_first("heartbeat")


@mutant("SABIR-SCRIPT-1", "server/recovery/digest-forgotten")
def loads_its_goodbye_once() -> None:
    """When Redis has forgotten the goodbye's script, its digest is sent all the same."""
    sending_a_text_at_first("goodbye")
