"""The runs: the protocol as it is, and with one of its rules taken away; and the search through their states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from model import (
    BACK,
    CALL,
    CUT_REPLY,
    CUT_TAKE,
    IDEMPOTENT_CALL,
    IDEMPOTENT_NOTIFICATION,
    KILL,
    NOTIFICATION,
    PAUSE,
    STOP,
    UP,
    VALID,
    Model,
    Rules,
    Scenario,
    State,
)


class Found(NamedTuple):
    """What a search found: how many states, what is wrong ("" if nothing is), and the shortest way there."""

    states: int
    fault: str = ""
    trace: tuple[str, ...] = ()


def search(model: Model) -> Found:
    """Search all states, breadth first."""
    start = canonical(model.initial())
    before = {hash(start): 0}  # a state's hash, and that of the state from which it was first reached
    level = [start]
    while level:
        following = []
        for state in level:
            here = hash(state)
            quiet = True
            for happens_by_itself, steps in ((True, model.progress(state)), (False, model.events(state))):
                for _, reached in steps:
                    after = canonical(reached)
                    there = hash(after)
                    if there != here and happens_by_itself:
                        quiet = False
                    if there not in before:
                        before[there] = here
                        if fault := model.wrong(after):
                            return Found(len(before), fault, trace(model, before, there))
                        following.append(after)
            if quiet and (fault := model.wrong_when_quiet(state)):
                return Found(len(before), fault, (*trace(model, before, here), "nothing more happens"))
        level = following
    return Found(len(before))


def trace(model: Model, before: dict[int, int], last: int) -> tuple[str, ...]:
    """The lines of the steps to a state, every worker under one name from the beginning to the end."""
    path = [last]
    while before[path[-1]]:
        path.append(before[path[-1]])
    lines, state = [], model.initial()
    for wanted in path[-2::-1]:
        steps = (*model.progress(state), *model.events(state))
        line, after = next(step for step in steps if hash(canonical(step[1])) == wanted)
        lines.append(line)
        state = back_is_over(after)
    return tuple(lines)


def back_is_over(state: State) -> State:
    """After an outage, everybody may judge again as soon as everybody who lives has sent a heartbeat."""
    if state.redis == BACK and all(state.alive and worker.lease == VALID for worker in state.workers if worker.lives):
        return state._replace(redis=UP)
    return state


def canonical(state: State) -> State:
    """The one that stands for all states which differ in nothing but their workers' order."""
    state = back_is_over(state)
    workers = tuple(sorted(state.workers))
    return state if workers == state.workers else state._replace(workers=workers)


# ---- The runs ------------------------------------------------------------------------------------------------------


RULES = Rules()


@dataclass(frozen=True)
class Run:
    """A search, and what it is to find."""

    name: str
    scenario: Scenario
    rules: Rules = RULES
    without: str = ""  # which rule is taken away, or what is not assumed
    fault: str = ""  # what is to be found; "": nothing
    note: str = ""  # how it comes about; or, where nothing is found, why

    def go(self) -> Found:
        return search(Model(self.scenario, self.rules))


PLACES = Scenario((NOTIFICATION, NOTIFICATION), workers=1, fresh=1, places=2, kinds=(KILL, PAUSE, CUT_TAKE, STOP))
KINDS = {kind.name.replace(" ", "-"): kind for kind in (CALL, IDEMPOTENT_CALL, NOTIFICATION, IDEMPOTENT_NOTIFICATION)}

WHOLE = [
    *(Run(name, Scenario((kind,))) for name, kind in KINDS.items()),
    *(Run(f"{name}-fresh", Scenario((kind,), workers=1, fresh=1)) for name, kind in KINDS.items()),
    Run("call-nobody", Scenario((CALL,), workers=0, fresh=1)),
    Run("idempotent-call-nobody", Scenario((IDEMPOTENT_CALL,), workers=0, fresh=1)),
    *(Run(f"{name}-full", Scenario((kind,), failures=1, full=True)) for name, kind in KINDS.items()),
    Run("call-three-failures", Scenario((CALL,), failures=3, kinds=(KILL, PAUSE, CUT_TAKE, CUT_REPLY))),
    Run("two-calls", Scenario((CALL, IDEMPOTENT_CALL), failures=1)),
    Run("two-calls-places", Scenario((CALL, CALL), places=2, failures=1)),
    Run("two-notifications-places", PLACES),
]

LOST_CALL = "a call waits for its time-out, though a worker lives"
LOST_NOTIFICATION = "a notification is lost"

ABLATIONS = [
    Run(
        "take-without-lease",
        Scenario((NOTIFICATION,)),
        Rules(renew_with_take=False),
        "SABIR-LEASE-2: no `ZADD` in front of a take",
        LOST_NOTIFICATION,
        "a worker that was paused and robbed of its lease resumes, takes into a hand that no lease names, and is killed",
    ),
    Run(
        "long-block",
        Scenario((NOTIFICATION,)),
        Rules(short_block=False),
        "SABIR-LEASE-2: a take may block for longer than the lease",
        LOST_NOTIFICATION,
        "the take of a killed worker is still blocked when its lease has gone, and then moves an element",
    ),
    Run(
        "old-connection",
        Scenario((NOTIFICATION,)),
        Rules(end_old_connection=False),
        "SABIR-LOST-3: the old connection is not ended",
        LOST_NOTIFICATION,
        "the take that is blocked there moves an element behind the look at the hand",
    ),
    Run(
        "unread-hand",
        Scenario((NOTIFICATION,)),
        Rules(read_hand=False),
        "SABIR-LOST-3: the hand is not read after a reconnect",
        LOST_NOTIFICATION,
        "the answer to a take was lost with the connection",
    ),
    Run(
        "blind-resend",
        Scenario((CALL,)),
        Rules(resend_what_is_held=False),
        "SABIR-LOST-4: a transaction is sent again without a look at the hand",
        "a call is answered twice, with one result",
        "the first one had been executed",
    ),
    Run(
        "reply-then-ack",
        Scenario((IDEMPOTENT_CALL,)),
        Rules(settle_in="reply, ack"),
        "SABIR-REPLY-3: first the reply, then the acknowledgement",
        "a call is delivered again though it was answered",
        "its worker is killed between the two",
    ),
    Run(
        "ack-then-reply",
        Scenario((CALL,)),
        Rules(settle_in="ack, reply"),
        "SABIR-REPLY-3: first the acknowledgement, then the reply",
        LOST_CALL,
        "the connection is cut between the two, and nobody has the element any more",
    ),
    Run(
        "start-in-doubt",
        Scenario((CALL,)),
        Rules(start_what_is_held=False),
        "SABIR-LEASE-3: started without a look at the hand",
        "a worker starts what was taken from it",
        "its caller has been told WorkerLost. No promise is broken by that: the rule spares idle runs",
    ),
    Run(
        "refusal-without-attempts",
        Scenario((IDEMPOTENT_NOTIFICATION,)),
        Rules(attempts_before_refusal=False),
        "SABIR-ATTEMPT-1: `attempts` is not asked for",
        "a dead letter says never started of what runs",
        "the deadline of a request comes that another worker had begun to run",
    ),
    Run(
        "lrem-then-lpush",
        Scenario((NOTIFICATION,)),
        Rules(give_back_in="LREM, LPUSH"),
        "SABIR-STOP-3: given back by `LREM`, then `LPUSH`",
        LOST_NOTIFICATION,
        "the connection is cut between the two",
    ),
    Run(
        "lpush-then-lrem",
        Scenario((NOTIFICATION,)),
        Rules(give_back_in="LPUSH, LREM"),
        "SABIR-STOP-3: given back by `LPUSH`, then `LREM`",
        "a notification runs twice",
        "the connection is cut between the two, the hand is read, and the element given back again",
    ),
    Run(
        "any-order",
        PLACES,
        Rules(start_in_order=False),
        "SABIR-STOP-3: started in another order than taken",
        "a notification runs twice",
        "the tail of the hand, which is given back, is what runs",
    ),
    Run(
        "goodbye-before-the-take",
        Scenario((NOTIFICATION,)),
        Rules(take_ends_first=False),
        "SABIR-STOP-4: goodbye before the last take was answered",
        LOST_NOTIFICATION,
        "the take moves an element behind the goodbye",
    ),
    Run(
        "blind-goodbye",
        Scenario((CALL,)),
        Rules(goodbye_looks=False),
        "SABIR-STOP-5: the lease goes whatever the hand holds",
        note="who keeps SABIR-LOST-3 and SABIR-STOP-4 knows that the hand is empty; the look is for who does not",
    ),
    Run(
        "recovery-through-a-hand",
        Scenario((NOTIFICATION,)),
        Rules(recover_in_one_step=False),
        "SABIR-RECOVER-1: what is recovered is moved into the finder's hand first",
        "a notification runs twice",
        "the finder loses its connection, reads its hand, and starts what it had only found",
    ),
    Run(
        "newest-first",
        PLACES,
        Rules(recover_oldest_first=False),
        "SABIR-RECOVER-1: a hand is recovered from its tail, not from its head",
        "a notification runs twice",
        "an `LMOVE` that gives back comes late, after a part of the hand was recovered, and finds what runs at the tail",
    ),
    Run(
        "uncounted",
        Scenario((IDEMPOTENT_CALL,)),
        Rules(count=False),
        "SABIR-RECOVER-2: lost deliveries are not counted",
        "ServiceUnavailable, never started, is said of what runs",
        "the client takes back what had been delivered before",
    ),
    Run(
        "late-again",
        Scenario((IDEMPOTENT_NOTIFICATION,)),
        Rules(keep_late_out=False),
        "SABIR-RECOVER-6: delivered again past its deadline",
        note="who takes it next asks for `attempts` (SABIR-ATTEMPT-1) and says WorkerLost too. The rule says it at once",
    ),
    Run(
        "hasty-recovery",
        Scenario((CALL,)),
        Rules(everybody_first=False),
        "SABIR-RECOVER-7: recovered before everybody could renew",
        "a worker that lives is robbed of its hand",
        "after an outage, by whoever is back first",
    ),
    Run(
        "lease-first",
        PLACES,
        Rules(lease_last=False),
        "SABIR-RECOVER-8: the lease goes while the hand holds something",
        LOST_NOTIFICATION,
        "a step of the recovery has its limit, and nobody comes back for the rest",
    ),
    Run(
        "second-push",
        Scenario((CALL,)),
        Rules(push_once=False),
        "SABIR-LOST-1: a request whose `RPUSH` had no answer is pushed again",
        "a call runs twice",
        "both had been executed",
    ),
    Run(
        "pushed-twice",
        Scenario((IDEMPOTENT_CALL,), full=True),
        Rules(push_once=False),
        "SABIR-LOST-1: the same, of an idempotent request",
        "Overloaded, never started, is said of what runs",
        "one of the two was taken back, the other one runs",
    ),
    Run(
        "blpop",
        Scenario((CALL,)),
        Rules(look=False),
        "SABIR-WAIT-1: `BLPOP` in place of a look",
        LOST_CALL,
        "the connection is cut when the reply was popped and not read",
    ),
    Run(
        "asked-once",
        Scenario((CALL,)),
        Rules(ask_again=False),
        "SABIR-ALIVE-3: `alive` is asked for only once",
        "a call waits for its time-out",
        "all workers are lost, and nobody is left to say so",
    ),
    Run(
        "unwatched",
        Scenario((CALL,), workers=0, fresh=1),
        Rules(watch=False),
        "SABIR-ALIVE-4: no `WATCH`",
        "a call is given up though a worker that lives has it",
        "a worker starts, and takes it, between `EXISTS` and `LREM`",
    ),
    Run(
        "impatient",
        Scenario((CALL,)),
        Rules(patience=False),
        "SABIR-ALIVE-5: judged right after an interruption",
        "a call is given up though a worker that lives has it",
        "after an outage, before the workers have sent their heartbeats",
    ),
    Run(
        "waits-after-take-back",
        Scenario((CALL,), workers=0, fresh=1),
        Rules(give_up=False),
        "SABIR-ALIVE-6: waits on after a lost answer to a take-back",
        LOST_CALL,
        "the request was taken back, and then a worker starts",
    ),
    Run(
        "take-back-without-attempts",
        Scenario((IDEMPOTENT_CALL,), full=True),
        Rules(attempts_before_error=False),
        "SABIR-ALIVE-2, SABIR-QUEUE-1: taken back without a look at `attempts`",
        "Overloaded, never started, is said of what runs",
        "it had been delivered, and its worker lost, before it was taken back",
    ),
]

ASSUMPTIONS = [
    Run(
        "late-write",
        Scenario((NOTIFICATION,), kinds=(KILL, PAUSE), late_writes=True),
        without="a write is under way for longer than 8 s (a lease less a block time)",
        fault="a worker that lives is robbed of its hand",
        note="a `ZADD` that comes late takes a lease back to an end that has passed",
    ),
    Run(
        "different-workers",
        Scenario((IDEMPOTENT_CALL,), strangers=True),
        without="the workers of a service differ in their methods",
        fault="MethodNotFound, never started, is said of what runs",
        note="a worker refuses an idempotent request, is lost before that is executed, and the next one runs it",
    ),
]

RUNS = [*WHOLE, *ABLATIONS, *ASSUMPTIONS]


def bounds(scenario: Scenario) -> str:
    """A scenario in a line."""
    parts = [
        " + ".join(kind.name for kind in scenario.calls),
        counted(scenario.workers, "worker") + (f" + {scenario.fresh}" if scenario.fresh else ""),
        *([f"{scenario.places} places"] if scenario.places > 1 else []),
        counted(scenario.failures, "failure") + (" of " + ", ".join(scenario.kinds) if len(scenario.kinds) < 5 else ""),
    ]
    return ", ".join(parts)


def counted(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number} {noun}{'s' * (number != 1)}"


def verdict(run: Run, found: Found) -> tuple[bool, str]:
    """Whether a run found what it was to find; and what."""
    what = f"{found.fault}, in {len(found.trace)} steps" if found.fault else "nothing is wrong in any state"
    if found.fault == run.fault:
        return True, what
    return False, f"expected {run.fault or 'nothing'}, found: {what}"


def tables(found: dict[str, Found]) -> str:
    """What the runs found, in Markdown."""
    whole = sum(found[run.name].states for run in WHOLE)
    return "\n".join(
        [
            f"The whole protocol, in {len(WHOLE)} runs with {whole:,} states: nothing is wrong in any of them.",
            "",
            "| rule taken away | what the model found | shortest trace |",
            "| --- | --- | --- |",
            *(row(run, found[run.name]) for run in ABLATIONS),
            "",
            "| not assumed | what the model found | shortest trace |",
            "| --- | --- | --- |",
            *(row(run, found[run.name]) for run in ASSUMPTIONS),
        ]
    )


def row(run: Run, found: Found) -> str:
    """A row of a table."""
    steps = f"{len(found.trace)} steps" if found.fault else "none"
    return f"| {run.without} | {found.fault or 'nothing'}: {run.note} | {steps} |"
