"""An explicit-state model of profile `reliable`: every state that a few calls, workers and failures can reach.

A command, a transaction or a script is one step of Redis; nothing else is atomic. What a process writes waits in its
connection's *pipe* until the server executes it, command by command. The pipe of a connection that was cut, or whose
process was killed, stays with the server as *old*: any prefix is executed, at any later time, and the rest is dropped.

Time is left out but for its order. A lease that its worker renews does not end; one that it does not renew (it is killed,
paused, cut off) may end at any later moment, and `alive` may expire when nobody renews it. So a trace is a history, however
long it takes. An element is the number of its call, from 0. Lists are tuples, head first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Rules:
    """What protects. Each can be taken away."""

    # the worker's takes and its connections
    renew_with_take: bool = True  # SABIR-LEASE-2: ZADD in front of each take, in the same write
    short_block: bool = True  # SABIR-LEASE-2: a blocked take ends before the lease that was renewed in front of it
    end_old_connection: bool = True  # SABIR-LOST-3, SABIR-LOST-4: CLIENT KILL before the hand is read
    read_hand: bool = True  # SABIR-LOST-3: after a reconnect
    resend_what_is_held: bool = True  # SABIR-LOST-4: a transaction is sent again only if the hand still holds the element
    settle_in: str = "MULTI"  # SABIR-REPLY-3; else two commands, "reply, ack" or "ack, reply"
    start_what_is_held: bool = True  # SABIR-LEASE-3: what was taken before the lease ended is looked for in the hand
    attempts_before_refusal: bool = True  # SABIR-ATTEMPT-1: no "never started" of what was delivered before
    refuse_what_is_held: bool = False  # not in the protocol: "never started" is said in one step with a look at the hand
    # stopping
    give_back_in: str = "LMOVE"  # SABIR-STOP-3; else two commands, "LREM, LPUSH" or "LPUSH, LREM"
    start_in_order: bool = True  # SABIR-STOP-3: so that the tail of the hand is what was not started
    take_ends_first: bool = True  # SABIR-STOP-4: the last take is answered before the goodbye
    goodbye_looks: bool = True  # SABIR-STOP-5: the lease goes only if the hand is empty
    # recovery
    recover_in_one_step: bool = True  # SABIR-RECOVER-1: nothing that is recovered lies in anybody's hand in between
    recover_oldest_first: bool = True  # SABIR-RECOVER-1: so that the tail of a hand stays what its worker thinks it is
    count: bool = True  # SABIR-RECOVER-2: lost deliveries are counted
    keep_late_out: bool = True  # SABIR-RECOVER-6: what is past its deadline does not come back to the queue
    everybody_first: bool = True  # SABIR-RECOVER-7: nobody recovers before everybody could renew
    lease_last: bool = True  # SABIR-RECOVER-8: the lease goes when the hand is empty, not before
    # the client
    push_once: bool = True  # SABIR-LOST-1: no second RPUSH after a lost answer
    look: bool = True  # SABIR-WAIT-1: a reply is looked at, not popped
    ask_again: bool = True  # SABIR-ALIVE-3: for `alive`, while waiting
    watch: bool = True  # SABIR-ALIVE-4: so that no worker comes in between
    patience: bool = True  # SABIR-ALIVE-5: no judgement right after an interruption
    give_up: bool = True  # SABIR-ALIVE-6: ConnectionLost after a lost answer to a take-back
    attempts_before_error: bool = True  # SABIR-ALIVE-2, SABIR-QUEUE-1: no "never started" of what was delivered before


class Kind(NamedTuple):
    name: str
    is_call: bool
    idempotent: bool


CALL = Kind("call", True, False)
IDEMPOTENT_CALL = Kind("idempotent call", True, True)
NOTIFICATION = Kind("notification", False, False)
IDEMPOTENT_NOTIFICATION = Kind("idempotent notification", False, True)

KILL, PAUSE, MUTE, CUT_TAKE, CUT_REPLY, CUT_CLIENT = "kill", "pause", "mute", "cut a take", "cut a reply", "cut a client"
STOP, OUTAGE, DEADLINE = "stop", "outage", "deadline"
FAILURES = (KILL, PAUSE, MUTE, CUT_TAKE, CUT_REPLY, CUT_CLIENT, STOP, OUTAGE, DEADLINE)


@dataclass(frozen=True)
class Scenario:
    """The bounds of a run."""

    calls: tuple[Kind, ...]
    workers: int = 2  # that serve at the beginning
    fresh: int = 0  # that may start at any time
    places: int = 1  # handlers that a worker runs at once
    failures: int = 2  # in all
    kinds: tuple[str, ...] = FAILURES
    full: bool = False  # RPUSH may answer a length above the bound (SABIR-QUEUE-1)
    strangers: bool = False  # any worker may lack the method
    late_writes: bool = False  # a take may be under way for longer than a lease


DELIVERIES = 2  # of an idempotent request (three in the protocol)
RESULT, ACCEPTED, TIMEOUT, CONNECTION_LOST, WORKER_LOST = (
    "result",
    "accepted",
    "CallTimeout",
    "ConnectionLost",
    "WorkerLost",
)
LATE, NO_METHOD, UNAVAILABLE, OVERLOADED = "DeadlineExceeded", "MethodNotFound", "ServiceUnavailable", "Overloaded"
NEVER_STARTED = frozenset({LATE, NO_METHOD, UNAVAILABLE, OVERLOADED})


class Command(NamedTuple):
    """What was written."""

    name: str
    element: int = 0
    says: str = ""  # of a reply: the result, or the error


ZADD, LATE_ZADD, TAKE = Command("ZADD"), Command("late ZADD"), Command("BLMOVE")
SETTLE, REPLY, ACK = "MULTI reply LREM EXEC", "RPUSH reply", "LREM hand"
GIVE_BACK, GIVE_LREM, GIVE_LPUSH = "LMOVE hand requests", "LREM hand -1", "LPUSH requests"
PUSH, ASK, TAKE_BACK, JUDGE = "RPUSH", "EXISTS alive", "LREM requests", "MULTI LREM EXISTS LRANGE EXEC"

Pipe = tuple[Command, ...]


class Connection(NamedTuple):
    pipe: Pipe = ()
    old: Pipe = ()  # of the connection before
    lost: bool = False


class Job(NamedTuple):
    """An element as its worker sees it."""

    element: int
    stage: str
    says: str = ""  # what it is answered with
    doubtful: bool = False  # taken before the lease ended


TAKEN, RUNNING, SENT, GIVEN, RECOVERED = "taken", "running", "sent", "given back", "recovered"
ABSENT, SERVING, GONE = 0, 1, 2  # a process: not started yet; serving; dead, or gone after its goodbye
NONE, VALID, ENDED = 0, 1, 2  # a lease


class Worker(NamedTuple):
    """What Redis has of a worker, and what its process knows. Nothing names a worker: they can be sorted."""

    process: int = ABSENT
    lease: int = NONE
    hand: tuple[int, ...] = ()
    jobs: tuple[Job, ...] = ()
    take: Connection = Connection()
    reply: Connection = Connection()
    paused: bool = False
    mute: bool = False  # its heartbeats don't arrive
    silent: bool = False  # was paused or mute, and no heartbeat arrived since
    stopping: bool = False

    @property
    def lives(self) -> bool:
        return self.process == SERVING and not self.silent


NEW, PUSHING, WAITING, TAKING_BACK, JUDGING, OVER = "new", "pushing", "waiting", "taking back", "judging", "over"


class Call(NamedTuple):
    """A call or notification: its client, what Redis has of it, and what became of it."""

    phase: str = NEW
    outcome: str = ""
    connection: Connection = Connection()
    writes: int = 0  # of its RPUSH
    pushed: bool = False
    reply: str = ""  # the first in its list
    popped: str = ""  # by BLPOP, and not read
    attempts: int = 0
    late: bool = False  # its deadline has come
    starts: int = 0
    finished: bool = False
    dead: tuple[str, ...] = ()  # what its dead letters say


UP, AWAY, BACK = "up", "away", "back"  # BACK: until everybody who lives has sent a heartbeat


class State(NamedTuple):
    redis: str
    alive: bool
    queue: tuple[int, ...]
    workers: tuple[Worker, ...]
    calls: tuple[Call, ...]
    failures: int  # that may still happen
    fault: str = ""  # what went wrong in the step that led here

    def worker(self, w: int, **changes: Any) -> State:
        return self.put(w, self.workers[w]._replace(**changes))

    def put(self, w: int, worker: Worker) -> State:
        return self._replace(workers=(*self.workers[:w], worker, *self.workers[w + 1 :]))

    def call(self, c: int, **changes: Any) -> State:
        return self._replace(calls=(*self.calls[:c], self.calls[c]._replace(**changes), *self.calls[c + 1 :]))

    def over(self, c: int, outcome: str) -> State:
        """The call ends; what its client has written may still be executed."""
        return self.call(c, phase=OVER, outcome=outcome, popped="", connection=left(self.calls[c].connection))


Step = tuple[str, State]


class Model:
    """The steps of everybody. A step is a line for the trace and the state behind it."""

    def __init__(self, scenario: Scenario, rules: Rules) -> None:
        self.scenario, self.rules, self.kinds = scenario, rules, scenario.calls

    def initial(self) -> State:
        blocked = Worker(SERVING, VALID, take=Connection((TAKE,)))
        workers = (Worker(),) * self.scenario.fresh + (blocked,) * self.scenario.workers
        return State(UP, self.scenario.workers > 0, (), workers, (Call(),) * len(self.kinds), self.scenario.failures)

    def progress(self, s: State) -> Iterator[Step]:
        """What happens by itself. When nothing of it can, all is quiet."""
        yield from self.server(s)
        if s.redis == AWAY:
            yield from self.redis_returns(s)
            return
        yield from self.time(s)
        for w, worker in enumerate(s.workers):
            if worker.process == SERVING and not worker.paused:
                yield from self.heartbeat(s, w, worker)
                yield from self.reconnect(s, w, worker)
                yield from self.serve(s, w, worker)
                if worker.stopping:
                    yield from self.stop(s, w, worker)
        for c, call in enumerate(s.calls):
            yield from self.client(s, c, call)

    # ---- The server ------------------------------------------------------------------------------------------------

    def server(self, s: State) -> Iterator[Step]:
        """Execute the next command of a pipe, and the process reads the answer; or one of what is old, or drop that."""
        for w, worker in enumerate(s.workers):
            for field in ("take", "reply"):
                connection: Connection = getattr(worker, field)
                for command in connection.pipe[: s.redis != AWAY]:
                    rest = s.worker(w, **{field: connection._replace(pipe=connection.pipe[1:])})
                    if command != TAKE or s.queue:
                        after = self.worker_reads(self.execute(rest, w, command), w, command)
                        yield f"{name(w)}: {text(command)} is executed", after
                    elif worker.paused or worker.stopping:
                        yield f"{name(w)}: BLMOVE ends with nothing", rest
                for command in connection.old[:1]:
                    dropped = s.worker(w, **{field: connection._replace(old=())})
                    yield f"{name(w)}: its old {text(command)} is dropped", dropped
                    if command != TAKE or s.queue:
                        rest = s.worker(w, **{field: connection._replace(old=connection.old[1:])})
                        yield f"{name(w)}: its old {text(command)} is executed", self.execute(rest, w, command)
        for c, call in enumerate(s.calls):
            connection = call.connection
            for command in connection.pipe[: s.redis != AWAY]:
                rest = s.call(c, connection=connection._replace(pipe=connection.pipe[1:]))
                yield from self.client_reads(s, self.execute_for_client(rest, c, command), c, command)
            for command in connection.old[:1]:
                dropped = s.call(c, connection=connection._replace(old=()))
                yield f"client {c + 1}: its old {command.name} is dropped", dropped
                rest = s.call(c, connection=connection._replace(old=connection.old[1:]))
                yield f"client {c + 1}: its old {command.name} is executed", self.execute_for_client(rest, c, command)

    def execute(self, s: State, w: int, command: Command) -> State:
        """What a worker's command does to Redis. (A take is executed when there is something to take.)"""
        hand, (name, e, says) = s.workers[w].hand, command
        if command == TAKE:
            return s._replace(queue=s.queue[1:]).worker(w, hand=(*hand, s.queue[0]))
        if command in (ZADD, LATE_ZADD):  # the end of the lease stands in it
            return s.worker(w, lease=VALID if command == ZADD else ENDED)
        if name == GIVE_BACK:
            return s._replace(queue=(*hand[-1:], *s.queue)).worker(w, hand=hand[:-1])
        if name == GIVE_LPUSH:
            return s._replace(queue=(e, *s.queue))
        if name == GIVE_LREM:
            return s.worker(w, hand=without_last(hand, e))
        if name == SETTLE and e not in hand:
            if says in NEVER_STARTED and self.kinds[e].idempotent and self.rules.refuse_what_is_held:
                return s
            if says == RESULT and s.calls[e].reply == RESULT and not self.kinds[e].idempotent:
                return s._replace(fault="a call is answered twice, with one result")
        if name in (SETTLE, REPLY):
            s = self.answer(s, e, says)
        return s.worker(w, hand=without_first(hand, e)) if name in (SETTLE, ACK) else s

    def answer(self, s: State, e: int, says: str) -> State:
        """A call gets a reply; a notification is a dead letter, unless it ran to its end."""
        if self.kinds[e].is_call:
            return s if s.calls[e].reply else s.call(e, reply=says)
        return s if says == RESULT else self.bury(s, e, says)

    def bury(self, s: State, e: int, says: str) -> State:
        return s.call(e, dead=tuple(sorted({*s.calls[e].dead, says})))

    def worker_reads(self, s: State, w: int, command: Command) -> State:
        """The process knows that its command was executed."""
        worker = s.workers[w]
        if command == TAKE:
            return s.worker(w, jobs=(*worker.jobs, Job(worker.hand[-1], TAKEN)))
        stage = SENT if command.name in (SETTLE, REPLY, ACK) else GIVEN
        if any(other.element == command.element for other in (worker.reply if stage == SENT else worker.take).pipe):
            return s  # the second of two commands is still to come
        for n, job in enumerate(worker.jobs):
            if (job.element, job.stage) == (command.element, stage):
                return s.worker(w, jobs=worker.jobs[:n] + worker.jobs[n + 1 :])
        return s

    def execute_for_client(self, s: State, c: int, command: Command) -> State:
        """What a client's command does to Redis."""
        if command.name == PUSH:
            return s._replace(queue=(*s.queue, c)).call(c, pushed=True)
        if command.name in (TAKE_BACK, JUDGE):
            return s._replace(queue=without_last(s.queue, c))
        return s

    # ---- Time ------------------------------------------------------------------------------------------------------

    def time(self, s: State) -> Iterator[Step]:
        """Leases that are not renewed end; `alive` expires; deadlines have come."""
        for w, worker in enumerate(s.workers):
            if worker.lease == VALID and not worker.lives:
                first = (*worker.take.pipe[:1], *worker.take.old[:1])
                if TAKE in first and self.rules.short_block:
                    continue  # it ends before the lease does
                if ZADD in first and not self.scenario.late_writes:
                    continue
                pipe, old = (
                    tuple(LATE_ZADD if c == ZADD else c for c in pipe) for pipe in (worker.take.pipe, worker.take.old)
                )
                ended = doubt(worker)._replace(lease=ENDED, take=worker.take._replace(pipe=pipe, old=old))
                yield f"{name(w)}: its lease ends", s.put(w, ended)
        if s.alive and not any(worker.lives for worker in s.workers):
            yield "alive expires", s._replace(alive=False)
        for c, call in enumerate(s.calls):
            if call.late and call.phase not in (NEW, OVER):
                outcome = TIMEOUT if self.kinds[c].is_call else CONNECTION_LOST
                yield f"client {c + 1}: its time-out passes", s.over(c, outcome)

    def redis_returns(self, s: State) -> Iterator[Step]:
        """Redis is back, with its data; nothing that is old is executed any more."""
        s = s._replace(redis=BACK)
        for w, worker in enumerate(s.workers):
            s = s.worker(w, take=worker.take._replace(old=()), reply=worker.reply._replace(old=()))
        for c, call in enumerate(s.calls):
            s = s.call(c, connection=call.connection._replace(old=()))
        yield "Redis is back at once", s
        workers = (doubt(worker)._replace(lease=ENDED) if worker.lease == VALID else worker for worker in s.workers)
        yield "Redis is back; all leases have ended", s._replace(alive=False, workers=tuple(workers))

    # ---- The worker ------------------------------------------------------------------------------------------------

    def heartbeat(self, s: State, w: int, worker: Worker) -> Iterator[Step]:
        """heartbeat.lua renews the lease and `alive`, and recovers what ended leases have left.

        One element: a script recovers as many as its limits let it, and many beats with nothing in between do the same.
        """
        lost, ended = worker.lease != VALID, [v for v, other in enumerate(s.workers) if v != w and other.lease == ENDED]
        if worker.mute or not (lost or worker.silent or ended or not s.alive):  # it would change nothing
            return
        s = self.alive_is_set(s.put(w, (doubt(worker) if lost else worker)._replace(lease=VALID, silent=False)))
        yield f"{name(w)}: heartbeat", s
        if lost or (s.redis == BACK and self.rules.everybody_first):
            return
        for v in ended:
            line, after = self.recover(s, w, v, s.workers[v])
            yield f"{name(w)}: heartbeat, recovers from {name(v)}{line}", after

    def alive_is_set(self, s: State) -> State:
        """Transactions that watch `alive` are not executed any more: their clients wait on (SABIR-ALIVE-4)."""
        for c, call in enumerate(s.calls):
            if self.rules.watch and call.phase == JUDGING:
                s = s.call(c, phase=WAITING, connection=call.connection._replace(pipe=()))
            elif self.rules.watch and call.connection.old[:1] == (Command(JUDGE, c),):
                s = s.call(c, connection=call.connection._replace(old=()))
        return s._replace(alive=True)

    def recover(self, s: State, w: int, v: int, other: Worker) -> Step:
        if other.lives:
            return "", s._replace(fault="a worker that lives is robbed of its hand")
        if not other.hand:
            return ": its hand is empty, its lease goes", s.worker(v, lease=NONE)
        e, hand = (other.hand[0], other.hand[1:]) if self.rules.recover_oldest_first else (other.hand[-1], other.hand[:-1])
        s = s.worker(v, hand=hand, lease=ENDED if hand and self.rules.lease_last else NONE)
        if self.rules.recover_in_one_step:
            return self.settle_lost(s, e)
        mine = s.workers[w]
        s = s.worker(w, hand=(*mine.hand, e), jobs=(*mine.jobs, Job(e, RECOVERED)))
        return f" {label(e)} into its own hand", s

    def settle_lost(self, s: State, e: int) -> Step:
        """SABIR-RECOVER-2 to SABIR-RECOVER-6."""
        kind, call = self.kinds[e], s.calls[e]
        count = call.attempts + 1
        if kind.idempotent and count < DELIVERIES and not (call.late and self.rules.keep_late_out):
            if call.reply and call.writes == 1:
                return f" {label(e)}", s._replace(fault="a call is delivered again though it was answered")
            s = s._replace(queue=(e, *s.queue)).call(e, attempts=count if self.rules.count else 0)
            return f" {label(e)}: back to the queue", s
        s = self.answer(s, e, WORKER_LOST)
        return f" {label(e)}: WorkerLost", self.bury(s, e, WORKER_LOST) if kind.idempotent and count >= DELIVERIES else s

    def reconnect(self, s: State, w: int, worker: Worker) -> Iterator[Step]:
        """SABIR-LOST-3, SABIR-LOST-4: connect again, end the old connection, read the hand."""
        line = f"{name(w)}: connects again, reads its hand: {', '.join(map(label, worker.hand)) or 'empty'}"
        if worker.take.lost:
            unseen = list(worker.hand) if self.rules.read_hand else []
            for job in worker.jobs:
                if job.element in unseen:
                    unseen.remove(job.element)
            new = Connection(old=() if self.rules.end_old_connection else worker.take.old)
            line = line if self.rules.read_hand else f"{name(w)}: connects again"
            yield line, s.worker(w, take=new, jobs=(*worker.jobs, *(Job(e, TAKEN) for e in unseen)))
        if worker.reply.lost:
            held = set(worker.hand) if self.rules.resend_what_is_held else range(len(self.kinds))
            jobs = [job for job in worker.jobs if job.stage != SENT or job.element in held]
            again = [command for job in jobs if job.stage == SENT for command in self.settling(job)]
            new = Connection(tuple(again), () if self.rules.end_old_connection else worker.reply.old)
            yield line, s.worker(w, reply=new, jobs=tuple(jobs))

    def settling(self, job: Job) -> Pipe:
        """What answers and acknowledges (SABIR-REPLY-3)."""
        if self.rules.settle_in == "MULTI":
            return (Command(SETTLE, job.element, job.says),)
        reply, ack = Command(REPLY, job.element, job.says), Command(ACK, job.element)
        return (reply, ack) if self.rules.settle_in == "reply, ack" else (ack, reply)

    def serve(self, s: State, w: int, worker: Worker) -> Iterator[Step]:
        """Take; start, or refuse; answer."""
        if not (worker.stopping or worker.take.pipe or worker.take.lost) and len(worker.jobs) < self.scenario.places:
            if not self.rules.renew_with_take:
                yield f"{name(w)}: writes BLMOVE", s.worker(w, take=worker.take._replace(pipe=(TAKE,)))
            elif self.scenario.late_writes:
                yield f"{name(w)}: writes ZADD · BLMOVE", s.worker(w, take=worker.take._replace(pipe=(ZADD, TAKE)))
            else:  # what could come between the write and the ZADD makes no difference
                after = s.worker(w, take=worker.take._replace(pipe=(TAKE,)), lease=VALID)
                yield f"{name(w)}: writes ZADD · BLMOVE, ZADD is executed", after
        taken = [n for n, job in enumerate(worker.jobs) if job.stage == TAKEN]
        for n in taken[:1] if self.rules.start_in_order else taken:
            yield from self.begin(s, w, worker, n)
        for n, job in enumerate(worker.jobs):
            e = job.element
            if job.stage == RUNNING:
                after = s if self.kinds[e].is_call else s.call(e, finished=True)
                yield f"{name(w)}: the handler of {label(e)} returns", self.send(after, w, n, RESULT)
            elif job.stage == RECOVERED:
                after = s.worker(w, hand=without_last(worker.hand, e), jobs=without(worker.jobs, n))
                line, after = self.settle_lost(after, e)
                yield f"{name(w)}: settles{line}", after

    def begin(self, s: State, w: int, worker: Worker, n: int) -> Iterator[Step]:
        """What becomes of a taken element."""
        job, e = worker.jobs[n], worker.jobs[n].element
        call, kind = s.calls[e], self.kinds[e]
        if job.doubtful and self.rules.start_what_is_held:
            sure = (job._replace(doubtful=False),) if e in worker.hand else ()
            line = f"{name(w)}: its hand {'holds' if sure else 'does not hold'} {label(e)}"
            yield line, s.worker(w, jobs=without(worker.jobs, n, *sure))
            return
        if worker.stopping:
            return
        if call.late or self.scenario.strangers:
            says = LATE if call.late else NO_METHOD
            if kind.idempotent and call.attempts and self.rules.attempts_before_refusal:
                says = WORKER_LOST
            yield f"{name(w)}: refuses {label(e)}: {says}", self.send(s, w, n, says)
        if not call.late:
            after = s.worker(w, jobs=without(worker.jobs, n, Job(e, RUNNING)))
            after = after.call(e, starts=1 if kind.idempotent else call.starts + 1)
            if job.doubtful and e not in worker.hand:
                after = after._replace(fault="a worker starts what was taken from it")
            yield f"{name(w)}: starts the handler of {label(e)}", after

    def send(self, s: State, w: int, n: int, says: str) -> State:
        """Write what settles a job; without a connection, it is sent after the reconnect."""
        worker = s.workers[w]
        job = Job(worker.jobs[n].element, SENT, says)
        pipe = worker.reply.pipe if worker.reply.lost else worker.reply.pipe + self.settling(job)
        return s.worker(w, jobs=without(worker.jobs, n, job), reply=worker.reply._replace(pipe=pipe))

    def stop(self, s: State, w: int, worker: Worker) -> Iterator[Step]:
        """SABIR-STOP-3, SABIR-STOP-5: give back what was not started, from the tail; then goodbye.lua."""
        if worker.take.lost or (worker.take.pipe and self.rules.take_ends_first):
            return
        for n in [n for n, job in enumerate(worker.jobs) if job.stage == TAKEN][-1:]:
            e = worker.jobs[n].element
            pipe = {
                "LMOVE": (Command(GIVE_BACK, e),),
                "LREM, LPUSH": (Command(GIVE_LREM, e), Command(GIVE_LPUSH, e)),
                "LPUSH, LREM": (Command(GIVE_LPUSH, e), Command(GIVE_LREM, e)),
            }[self.rules.give_back_in]
            jobs = without(worker.jobs, n, Job(e, GIVEN))
            yield f"{name(w)}: gives {label(e)} back", s.worker(w, take=worker.take._replace(pipe=pipe), jobs=jobs)
        if not worker.jobs and not worker.reply.lost:
            gone = s.put(w, dead(worker))
            if worker.hand and self.rules.goodbye_looks:
                yield f"{name(w)}: goodbye.lua answers 0", gone
                return
            gone = gone.worker(w, lease=NONE)
            others = any(other.lease == VALID for other in gone.workers)
            yield f"{name(w)}: goodbye.lua", gone._replace(alive=gone.alive and others)

    # ---- The client ------------------------------------------------------------------------------------------------

    def client(self, s: State, c: int, call: Call) -> Iterator[Step]:
        me = f"client {c + 1}"
        if call.phase == NEW:
            yield f"{me}: writes RPUSH{' · EXISTS alive' if self.kinds[c].is_call else ''}", self.push(s, c)
        if call.phase != WAITING:
            return
        if call.popped:
            yield f"{me}: reads {call.popped}", s.over(c, call.popped)
        elif call.reply and self.rules.look:
            yield f"{me}: looks: {call.reply}", s.over(c, call.reply)
        elif call.reply:
            yield f"{me}: BLPOP pops {call.reply}", s.call(c, popped=call.reply, reply="")
        if not s.alive and self.rules.ask_again and not (s.redis == BACK and self.rules.patience):
            connection = call.connection._replace(pipe=(Command(JUDGE, c),))
            yield f"{me}: WATCH, alive is gone, writes {JUDGE}", s.call(c, phase=JUDGING, connection=connection)

    def push(self, s: State, c: int) -> State:
        pipe: Pipe = (Command(PUSH, c), Command(ASK, c)) if self.kinds[c].is_call else (Command(PUSH, c),)
        call = s.calls[c]
        return s.call(c, phase=PUSHING, writes=call.writes + 1, connection=call.connection._replace(pipe=pipe))

    def client_reads(self, before: State, s: State, c: int, command: Command) -> Iterator[Step]:
        """The client has the answer to its command."""
        call, kind, line = s.calls[c], self.kinds[c], f"client {c + 1}: {command.name} is executed"
        found = c in before.queue
        if command.name == PUSH and kind.is_call:
            yield line, s
        elif command.name in (PUSH, ASK):
            back = s.call(c, phase=TAKING_BACK, connection=call.connection._replace(pipe=(Command(TAKE_BACK, c),)))
            if self.scenario.full:
                yield f"{line}; the queue is over its bound, writes LREM", back.call(c, outcome=OVERLOADED)
            if not kind.is_call:
                yield line, s.over(c, ACCEPTED)
            elif s.alive:
                yield f"{line}: 1", s.call(c, phase=WAITING)
            else:
                yield f"{line}: 0, writes LREM", back.call(c, outcome=UNAVAILABLE)
        elif command.name == TAKE_BACK and found:
            outcome = WORKER_LOST if self.may_have_run(call) else call.outcome
            yield f"{line}: 1, ends with {outcome}", s.over(c, outcome)
        elif command.name == TAKE_BACK:
            yield f"{line}: 0", s.call(c, phase=WAITING, outcome="") if kind.is_call else s.over(c, ACCEPTED)
        elif command.name == JUDGE:
            outcome = WORKER_LOST
            if call.reply:
                outcome = call.reply
            elif found and not self.may_have_run(call):
                outcome = UNAVAILABLE
            elif call.writes == 1:
                living = [worker for worker in s.workers if worker.lives]
                if living and (found or any(c in worker.hand for worker in living)):
                    s = s._replace(fault="a call is given up though a worker that lives has it")
            yield f"{line}, ends with {outcome}", s.over(c, outcome)

    def may_have_run(self, call: Call) -> bool:
        """Whether what was taken back from the queue was delivered before."""
        return call.attempts > 0 and self.rules.attempts_before_error

    # ---- What goes wrong, and what comes back ----------------------------------------------------------------------

    def events(self, s: State) -> Iterator[Step]:
        """What may happen, and need not: starting, resuming; and the failures, of which there are only so many."""
        if s.redis == AWAY:
            return
        for w, worker in enumerate(s.workers):
            if worker.process == ABSENT:
                yield f"{name(w)}: starts, heartbeat", self.alive_is_set(s.put(w, Worker(SERVING, VALID)))
                break  # it stands for all that are absent
        for w, worker in enumerate(s.workers):
            if worker.paused:
                yield f"{name(w)}: resumes", s.worker(w, paused=False)
            if worker.mute:
                yield f"{name(w)}: its heartbeats arrive again", s.worker(w, mute=False)
        if s.failures:
            s = s._replace(failures=s.failures - 1)
            for kind in self.scenario.kinds:
                if kind == OUTAGE:
                    yield from self.outage(s)
                elif kind in (CUT_CLIENT, DEADLINE):
                    for c, call in enumerate(s.calls):
                        yield from self.call_fails(kind, s, c, call)
                else:
                    for w, worker in enumerate(s.workers):
                        if worker.process == SERVING:
                            yield from worker_fails(kind, s, w, worker)

    def call_fails(self, kind: str, s: State, c: int, call: Call) -> Iterator[Step]:
        if kind == DEADLINE and not call.late and call.phase != NEW:
            yield f"*** the deadline of {label(c)} comes", s.call(c, late=True)
        elif kind == CUT_CLIENT and (call.connection.pipe or call.popped):
            for line, after in self.client_lost(s, c, call):
                yield f"*** client {c + 1}: its connection is cut{line}", after

    def client_lost(self, s: State, c: int, call: Call) -> Iterator[Step]:
        """SABIR-LOST-1, SABIR-LOST-2, SABIR-ALIVE-6."""
        lost = s.call(c, connection=left(call.connection))
        if call.phase == PUSHING:
            if self.kinds[c].is_call:
                yield ", waits", lost.call(c, phase=WAITING)
            else:
                yield ", ends with ConnectionLost", lost.over(c, CONNECTION_LOST)
            if call.writes == 1 and not self.rules.push_once:
                yield ", writes RPUSH again", self.push(lost, c)
        elif call.phase in (TAKING_BACK, JUDGING):
            if self.rules.give_up or not self.kinds[c].is_call:
                yield ", ends with ConnectionLost", lost.over(c, CONNECTION_LOST)
            else:
                yield ", waits on", lost.call(c, phase=WAITING, outcome="")
        else:
            yield "", lost.call(c, popped="")

    def outage(self, s: State) -> Iterator[Step]:
        """Redis goes away, and every connection with it."""
        workers = [lose(lose(worker, "take"), "reply") if worker.process == SERVING else worker for worker in s.workers]
        states = [s._replace(redis=AWAY, workers=tuple(workers))]
        for c, call in enumerate(s.calls):
            states = [after for state in states for _, after in self.client_lost(state, c, call)]
        for after in states:
            yield "*** Redis goes away", after

    # ---- What may never be -----------------------------------------------------------------------------------------

    def wrong(self, s: State) -> str:
        """What is wrong in a state, whatever follows; "" if nothing is."""
        for c, call in enumerate(s.calls):
            if call.starts > 1 and not self.kinds[c].idempotent:
                return f"a {self.kinds[c].name} runs twice"
            if call.starts and call.phase == OVER and call.outcome in NEVER_STARTED:
                return f"{call.outcome}, never started, is said of what runs"
            if call.starts and call.writes == 1 and not NEVER_STARTED.isdisjoint(call.dead):
                return "a dead letter says never started of what runs"
        return s.fault

    def wrong_when_quiet(self, s: State) -> str:
        """What is wrong when nothing is under way: only a failure, or somebody's return, could change anything."""
        lives = any(worker.lives for worker in s.workers)
        for c, call in enumerate(s.calls):
            if call.phase != OVER and (call.pushed or call.late):
                return "a call waits for its time-out" + (", though a worker lives" if lives else "")
            if call.outcome == ACCEPTED and not call.finished and not call.dead:
                kept = c in s.queue or any(c in worker.hand and worker.lease != NONE for worker in s.workers)
                if lives or not kept:
                    return "a notification is lost"
        for worker in s.workers:
            if worker.hand and worker.lease == NONE:
                return "an element is left in a hand that no lease names"
            if lives and (worker.hand or (worker.process == GONE and worker.lease != NONE)):
                return "a hand or a lease is left"
        return "an element is left in the queue" if lives and s.queue else ""


def worker_fails(kind: str, s: State, w: int, worker: Worker) -> Iterator[Step]:
    if kind == KILL:
        yield f"*** {name(w)}: is killed", s.put(w, dead(worker))
    elif kind == CUT_TAKE and lose(worker, "take") != worker:
        yield f"*** {name(w)}: its blocking connection is cut", s.put(w, lose(worker, "take"))
    elif kind == CUT_REPLY and lose(worker, "reply") != worker:
        yield f"*** {name(w)}: its connection for replies is cut", s.put(w, lose(worker, "reply"))
    elif kind == PAUSE and not worker.paused:
        yield f"*** {name(w)}: is paused", s.worker(w, paused=True, silent=True)
    elif kind == MUTE and not worker.paused and not worker.mute:
        yield f"*** {name(w)}: its heartbeats don't arrive", s.worker(w, mute=True, silent=True)
    elif kind == STOP and not worker.paused and not worker.stopping:
        yield f"*** {name(w)}: is told to stop", s.worker(w, stopping=True)


def left(connection: Connection) -> Connection:
    """What the server has of a connection when it is lost, or nobody is there any more."""
    return Connection(old=connection.old + connection.pipe)


def dead(worker: Worker) -> Worker:
    """What is left of a worker: what Redis has, and what it wrote."""
    return Worker(GONE, worker.lease, worker.hand, (), left(worker.take), left(worker.reply))


def lose(worker: Worker, field: str) -> Worker:
    """A worker's connection is lost. Where nothing was under way, that makes no difference, and is left out."""
    connection: Connection = getattr(worker, field)
    open_jobs = (GIVEN, RECOVERED) if field == "take" else ()
    if not connection.pipe and not any(job.stage in open_jobs for job in worker.jobs):
        return worker
    changes: dict[str, Any] = {field: left(connection)._replace(lost=True)}
    return worker._replace(jobs=tuple(job for job in worker.jobs if job.stage not in open_jobs), **changes)


def doubt(worker: Worker) -> Worker:
    """What was taken before the lease ended, and not started, is doubtful (SABIR-LEASE-3)."""
    return worker._replace(jobs=tuple(job._replace(doubtful=True) if job.stage == TAKEN else job for job in worker.jobs))


def without(jobs: tuple[Job, ...], n: int, *instead: Job) -> tuple[Job, ...]:
    return (*jobs[:n], *instead, *jobs[n + 1 :])


def without_first(items: tuple[int, ...], item: int) -> tuple[int, ...]:
    """LREM 1; without_last is LREM -1."""
    n = items.index(item) if item in items else len(items)
    return items[:n] + items[n + 1 :]


def without_last(items: tuple[int, ...], item: int) -> tuple[int, ...]:
    return without_first(items[::-1], item)[::-1]


def name(w: int) -> str:
    return f"worker {'ABCDEF'[w]}"


def label(e: int) -> str:
    return f"call {e + 1}"


def text(command: Command) -> str:
    return f"{command.name} ({label(command.element)}: {command.says})" if command.says else command.name
