"""The blocking server: take, dispatch, reply, heartbeat and recovery, drain, with a number of threads."""

from __future__ import annotations

import collections
import logging
import math
import os
import queue
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from . import commands
from ._link import ANSWER, MARGIN, REFUSALS, Backoff, Clock, Link, LinkLost, LinkRefused, describe, factory
from .commands import Commands
from .dispatch import Dispatcher, Job, Methods, Settled
from .keys import NAMESPACE, Keys, check
from .messages import MAX_BYTES, MAX_DEPTH, Limits, Rejection, Request

if TYPE_CHECKING:
    import redis as redis_py

log: Final = logging.getLogger("sabir")

LEASE: Final = commands.LEASE_MS / 1000
GAP: Final = 4.0
"""Seconds between two heartbeats at most, for a worker that may recover (SABIR-RECOVER-7)."""
BEAT_PAUSE: Final = 1.0
"""Seconds after which a heartbeat that was not answered is sent again, at most."""
TICK: Final = 0.001
"""Seconds between two looks whether a handler holds up those who could take meanwhile."""
REST: Final = 0.1
"""The same while nothing is run, for a second; from then on nobody looks until something is."""
RESTS: Final = 10
QUICK: Final = 0.0002
"""Seconds that a handler may take for its thread to go on taking; twice in a row more, and it does not for a second."""
SLOW: Final = 0.005
"""Seconds from which on a handler that is run without the lead is slow for sure."""
SOON: Final = 0.05
"""Seconds until the next heartbeat where there is more to recover (SABIR-RECOVER-9)."""


def new_worker(name: str) -> str:
    """A worker id with 64 random bits, after ``name`` (SABIR-WORKER-1)."""
    return f"{check('client', name)}.{secrets.token_hex(8)}"


def default_name(service: str) -> str:
    """``<service>-<host>-<pid>``, cut to what the grammar allows."""
    host = "".join(c if c.isascii() and c.isalnum() else "-" for c in socket.gethostname())
    return f"{service[:30]}-{host[:22]}-{os.getpid()}"[:64]


def settle(keys: Keys, worker: str, settled: Settled) -> Commands:
    """The commands that write what became of an element, and acknowledge it."""
    if settled.reply is not None and settled.token is not None:
        return commands.reply(keys, worker, settled.token, settled.reply, settled.element)
    if settled.letter is not None:
        return commands.bury(keys, worker, settled.letter, settled.element)
    return commands.acknowledge(keys, worker, settled.element)


def refusal(answer: Any) -> Exception | None:
    """Why a transaction, or an acknowledgement, was not executed; None: it was.

    A wrong type is final: that command will never work, and the rest of its transaction was executed (SABIR-WORKER-6).
    """
    if not isinstance(answer, Exception) or describe(answer).startswith("WRONGTYPE"):
        return None
    return answer


def faults(answer: Any) -> list[str]:
    """What Redis refused inside a transaction that it executed."""
    answers = answer if isinstance(answer, list) else [answer]
    return [describe(part) for part in answers if isinstance(part, REFUSALS)]


def run_limit(handler_timeout: float | None) -> float | None:
    """The limit of a handler's run time in seconds; None: none. Raises TypeError or ValueError for anything else."""
    if handler_timeout is None:
        return None
    if isinstance(handler_timeout, bool) or not isinstance(handler_timeout, int | float):
        raise TypeError(f"handler_timeout: expected seconds or None, got {handler_timeout!r:.100}")
    if not 0 < handler_timeout <= 1e9:
        raise ValueError(
            f"handler_timeout: expected a number of seconds > 0 and at most 10^9, got {handler_timeout!r:.100}"
        )
    return float(handler_timeout)


def warn_of_eviction(service: str, info: Any) -> None:
    """Warn if Redis evicts, by its answer to INFO (SABIR-TRANSPORT-5); a refused INFO says nothing."""
    found = re.search(rb"^maxmemory_policy:(\S+)", info, re.MULTILINE) if isinstance(info, bytes) else None
    if found and found[1] != b"noeviction":
        log.warning("%s: Redis may evict the queue: maxmemory-policy is %s, not noeviction", service, found[1].decode())


def lost_before(answer: Any) -> int:
    """How many deliveries were lost, by the answer to commands.ask_attempts()."""
    return int(answer) if isinstance(answer, bytes) and answer.isdigit() else 0


@dataclass(slots=True)
class Taken:
    """An element that was taken, or found in the hand."""

    element: bytes
    sent: float
    """When the take, or the reading of the hand, was sent (monotonic, s)."""
    epoch: int
    """Of the lease at that moment."""


@dataclass(slots=True)
class Unsettled:
    """What was to be settled with a take, and was not. ``unknown``: or was, and the answer is lost."""

    settled: Settled
    unknown: bool


class Paces:
    """Which methods' handlers are so quick that their thread keeps the lead. Pure: the moments are given (monotonic, s).

    A method counts as slow until it was quick; and as threads that run side by side slow each other down, it is given
    another chance a second after it was slow.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._strikes: dict[str, int] = {}

    def is_slow(self, method: str, now: float) -> bool:
        """Whether somebody else should take while a handler of this method runs."""
        until = self._until.get(method)
        if until is None:
            until = self._until[method] = now + 1
        return now < until

    def led(self, method: str, seconds: float, now: float, leads: bool) -> None:
        """Note a handler that began while its thread had the lead, and whether it still had it at the end."""
        if leads and seconds <= QUICK:
            if self._strikes:
                self._strikes.pop(method, None)
            return
        strikes = self._strikes.pop(method, 0) + 1
        if leads and strikes < 2:  # one alone may be the machine's fault
            self._strikes[method] = strikes
        else:
            self._until[method] = now + 1

    def followed(self, method: str, seconds: float, now: float) -> None:
        """Note a handler that was run without the lead."""
        if seconds <= QUICK:
            self._until[method] = -math.inf
        elif seconds > SLOW:
            self._until[method] = now + 1


class Lease:
    """What a worker knows of its lease. Pure: the moments are given (monotonic, s)."""

    epoch = 0
    """How often it was found to have ended."""

    def __init__(self) -> None:
        self._since = self._last = -math.inf

    def judges(self, now: float) -> bool:
        """Whether a heartbeat that is sent now may recover (SABIR-RECOVER-7)."""
        return now - self._last <= GAP and now - self._since >= LEASE

    def beat(self, sent: float, lost: bool) -> bool:
        """Note a heartbeat that was answered. ``lost``: the lease had ended. Returns whether it had been there before."""
        is_first = self._last == -math.inf
        if lost or sent - self._last > GAP:
            self._since = sent
        self._last = sent
        if lost and not is_first:
            self.epoch += 1
        return lost and not is_first

    def covers(self, taken: Taken, now: float) -> bool:
        """Whether it has held since an element was taken; otherwise the hand has to be read again (SABIR-LEASE-3)."""
        return taken.epoch == self.epoch and now - taken.sent <= LEASE


def beaten(service: str, lease: Lease, answer: list[int], sent: float) -> float:
    """Take the answer of a heartbeat that was sent at ``sent`` (monotonic, s). Returns the seconds until the next one."""
    *_, lost, recovered, more = answer
    if lease.beat(sent, lost == 1):
        log.warning("%s: the lease had ended; what was taken and not started is looked for in the hand", service)
    if recovered:
        log.warning("%s: recovered from lost workers: %d", service, recovered)
    return SOON if more else max(0, sent + commands.HEARTBEAT_MS / 1000 - time.monotonic())


class Held:
    """What the hand holds as far as the worker knows: taken, and its acknowledgement not yet answered."""

    def __init__(self) -> None:
        self._elements: dict[int, bytes] = {}  # by what they are, not by what they hold: hashing 200 KiB takes long

    def add(self, element: bytes) -> None:
        """Note a take."""
        self._elements[id(element)] = element

    def remove(self, element: bytes) -> None:
        """Note the acknowledgement of what was taken: the same object."""
        self._elements.pop(id(element), None)

    def __len__(self) -> int:
        return len(self._elements)

    def snapshot(self) -> collections.Counter[bytes]:
        """A copy, to compare a hand with that is read after it."""
        return collections.Counter(self._elements.copy().values())


def unseen(hand: Any, seen: collections.Counter[bytes]) -> collections.deque[bytes]:
    """The elements of a hand that are not among those seen before it was read (SABIR-LOST-3).

    Raises LinkRefused if the hand is an error reply.
    """
    if isinstance(hand, Exception):
        raise LinkRefused(hand)
    found: collections.deque[bytes] = collections.deque()
    for element in hand:
        if seen[element] > 0:
            seen[element] -= 1
        else:
            found.append(element)
    return found


class Trouble:
    """Logs trouble with Redis once when it begins, and once when it ends."""

    def __init__(self, service: str, what: str) -> None:
        self._about = f"{service}: {what}"
        self._reason: str | None = None

    def begin(self, reason: object) -> None:
        """Note a failure; the same reason is not logged again."""
        if str(reason) != self._reason:
            self._reason = str(reason)
            log.warning("%s: %s; trying again", self._about, reason)

    def end(self) -> None:
        """Note that it works (again)."""
        if self._reason is not None:
            self._reason = None
            log.warning("%s: works again", self._about)


class Server(Methods):
    """Serves one service with ``threads`` threads; methods are registered by method(), register() and expose().

    ``url``: of the Redis; ``redis``: a ``redis.Redis`` whose settings are used instead. ``namespace``: first part of all
    keys. ``name``: of the worker, None: service, host and pid. ``handler_timeout``: seconds that a handler may run, None:
    any time; at the limit its caller gets InternalError, and the thread runs on (SABIR-RUN-1). ``traces``: send stack
    traces to callers (SABIR-WORKER-7). ``max_bytes``, ``max_depth``: limits of what is read and answered.

    Raises ValueError or TypeError for an argument outside its grammar. Nothing is sent before start() or run().
    """

    def __init__(
        self,
        service: str,
        url: str | None = None,
        *,
        redis: redis_py.Redis | None = None,
        namespace: str = NAMESPACE,
        name: str | None = None,
        threads: int = 8,
        handler_timeout: float | None = None,
        traces: bool = False,
        max_bytes: int = MAX_BYTES,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        super().__init__()
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ValueError(f"threads: expected an integer > 0, got {threads!r}")
        self.service = service
        self.worker = new_worker(name or default_name(service))
        """This worker's id."""
        self._keys = Keys(namespace, service)
        self._threads = threads
        self._limit = run_limit(handler_timeout)
        self._clock = Clock()
        connect = factory(url, redis)
        self._take_link, self._reply_link, self._beat_link = (Link(connect, self._clock) for _ in range(3))
        limits = Limits(max_bytes, max_depth)
        self._dispatcher = Dispatcher(service, self.worker, self, limits, traces, self._clock.now_ms)
        self._take_lock, self._reply_lock = threading.Lock(), threading.Lock()
        self._held = Held()
        self._lease = Lease()
        self._found: collections.deque[Taken] = collections.deque()  # of a hand that was read again: not seen before
        self._paces = Paces()
        self._lead: list[bool] = []  # popped, once, by whoever decides: its thread goes on leading, or others may
        self._turn = 0  # how many handlers were run by threads that had the lead: only they count
        self._led = threading.Event()  # cleared where none is for a while: _pass_on() sleeps until it is set
        self._led.set()
        self._running: list[threading.Thread] = []
        self._runs: dict[threading.Thread, tuple[Job, float]] = {}  # what runs, and until when it may (monotonic, s)
        self._overdue: set[threading.Thread] = set()  # the threads whose handlers have run longer
        self._runs_lock = threading.Lock()
        self._failure: RuntimeError | None = None
        self._beat: threading.Thread | None = None
        self._take_trouble, self._reply_trouble = Trouble(service, "take"), Trouble(service, "reply")
        self._take_backoff = Backoff()
        self._stop_lock = threading.Lock()
        self._ready, self._stopping = threading.Event(), threading.Event()
        self._silent, self._given_up, self._gone = threading.Event(), threading.Event(), threading.Event()

    def dispatcher(self, clock: Callable[[], int]) -> Dispatcher:
        """What decides about elements, by another clock (ms); for ``sabir.testing``."""
        return self._dispatcher.with_clock(clock)

    # ---------------------------------------------------------------------------------------------- start and stop

    def run(self, stop_timeout: float | None = 30.0) -> None:
        """Serve until SIGTERM or SIGINT, then stop(stop_timeout); a second signal ends the process at once.

        Has to be called in the main thread. Raises RuntimeError when it has stopped because every thread had a handler that
        ran longer than the limit (SABIR-RUN-2).
        """

        signals: queue.SimpleQueue[int] = queue.SimpleQueue()  # an Event's set() in a signal handler could deadlock

        def on_signal(number: int, _: FrameType | None) -> None:
            if self._stopping.is_set():
                os._exit(128 + number)
            signals.put(number)

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self.start()
            while not self._stopping.is_set():  # another thread may call stop()
                try:
                    signals.get(timeout=0.5)
                except queue.Empty:
                    continue
                break
            self.stop(stop_timeout)
            if self._failure is not None:
                raise self._failure
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def start(self) -> None:
        """Start the threads and return; see wait_ready(). Raises RuntimeError if it was started before."""
        if self._beat is not None:
            raise RuntimeError("a Server starts once: make another one")
        self._beat = threading.Thread(target=self._heartbeats, name=f"sabir-{self.service}-heartbeat", daemon=True)
        self._running = [
            threading.Thread(target=self._serve, name=f"sabir-{self.service}-{n}", daemon=True)
            for n in range(self._threads)
        ]
        passing_on = threading.Thread(target=self._pass_on, name=f"sabir-{self.service}-lead", daemon=True)
        for thread in (self._beat, passing_on, *self._running):
            thread.start()
        if self._limit is not None:
            watch = threading.Thread(
                target=self._watch, args=(self._limit,), name=f"sabir-{self.service}-watch", daemon=True
            )
            watch.start()

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until the first heartbeat was answered. ``timeout``: seconds, None: as long as it takes. Returns whether."""
        return self._ready.wait(timeout)

    def stop(self, timeout: float | None = None) -> bool:
        """Take nothing more, finish what runs, give back the rest, say goodbye (section 14). Returns whether all ended.

        ``timeout``: seconds, None: as long as the handlers take. What still runs when it has passed stays in the hand. A
        handler that has run longer than its limit was answered, and is not waited for.
        """
        ends = None if timeout is None else time.monotonic() + timeout
        self._stopping.set()
        with self._stop_lock:
            waker = Link(self._take_link.connect, self._clock)
            while running := [t for t in self._running if t.is_alive() and t not in self._overdue]:
                if ends is not None and time.monotonic() > ends:
                    self._given_up.set()
                    break
                if self._take_lock.locked():
                    self._wake_taker(waker)
                running[0].join(0.02)
            waker.close()
            if self._beat is not None and not self._silent.is_set():
                self._silent.set()
                self._beat.join()
                self._goodbye()
                for link in (self._take_link, self._reply_link, self._beat_link):
                    link.close()
                self._gone.set()
                self._led.set()
            return not self._given_up.is_set()

    def __enter__(self) -> Server:
        self.start()
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wake_taker(self, waker: Link) -> None:
        """End a take that Redis still holds blocked. Should it fail, the take ends by itself within its block time."""
        if self._take_link.who is None:
            return
        try:
            if not waker.is_open:
                waker.open(MARGIN)
            waker.run([("CLIENT", "UNBLOCK", self._take_link.who[0])], MARGIN)
        except (LinkLost, LinkRefused):
            pass

    def _goodbye(self) -> None:
        """Give back what was taken and never started; give up the lease if the hand is empty (SABIR-STOP-3, -5)."""
        link, keys, worker = self._take_link, self._keys, self.worker
        with self._take_lock:
            for is_last in (False, True):
                try:
                    if not link.is_open:
                        self._open_take_link()
                    else:
                        self._read_hand()
                    for _ in self._found:  # they are the newest: nothing was taken since
                        link.run(commands.give_back(keys, worker), ANSWER)
                    answer = self._run_script(link, commands.goodbye(keys, worker))
                except (LinkLost, LinkRefused) as error:
                    link.close()
                    if is_last:
                        log.warning("%s: no goodbye: %s", self.service, error)
                    continue
                if answer == 0:
                    log.warning("%s: stopped with elements in hand", self.service)
                return

    @staticmethod
    def _run_script(link: Link, cmds: Commands) -> Any:
        """The answer to the script that comes last. Raises LinkLost or LinkRefused."""
        answer = link.run(cmds, ANSWER)[-1]
        if commands.is_noscript(answer):
            answer = link.run(commands.as_eval(cmds), ANSWER)[-1]
        if isinstance(answer, Exception):
            raise LinkRefused(answer)
        return answer

    # ---------------------------------------------------------------------------------------------- heartbeat

    def _lease_ends(self) -> int:
        return self._clock.now_ms() + commands.LEASE_MS

    def _heartbeats(self) -> None:
        link, trouble, backoff = self._beat_link, Trouble(self.service, "heartbeat"), Backoff()
        while not self._silent.is_set():
            try:
                if not link.is_open:
                    link.open(ANSWER)
                if not self._ready.is_set():
                    warn_of_eviction(self.service, link.run(commands.memory(), ANSWER)[0])
                sent = time.monotonic()
                beat = commands.heartbeat(self._keys, self.worker, self._lease.judges(sent))
                answer = self._run_script(link, beat)
            except (LinkLost, LinkRefused) as error:
                link.drop(error)
                trouble.begin(error)
                self._silent.wait(min(backoff.pause(), BEAT_PAUSE))
                continue
            trouble.end()
            backoff.reset()
            self._clock.update(answer, sent)
            pause = beaten(self.service, self._lease, answer, sent)
            self._ready.set()
            self._silent.wait(pause)

    # ---------------------------------------------------------------------------------------------- take and run

    def _serve(self) -> None:
        """One thread: whoever has the lock takes for the process (SABIR-TRANSPORT-3)."""
        while not self._ready.wait(0.1):
            if self._stopping.is_set():
                return
        while not self._stopping.is_set():
            try:
                self._take_turns()
            except Exception as fault:  # noqa: BLE001 - a fault of ours: the next element may have more luck
                # not its text, which may hold parameters (SABIR-SECURITY-1)
                log.error("%s: an element stays in hand: %s", self.service, type(fault).__name__)  # noqa: TRY400

    def _take_turns(self) -> None:
        """Lead: take, run and settle, with one write for each element, for as long as the handlers are quick.

        What a handler has answered leaves with the next take. One that may take its time is run without the lead, as is in
        the end one that takes it unexpectedly (see _pass_on()); what those answer goes over the reply link, because
        nothing can be sent where a take blocks.
        """
        settled: Settled | None = None
        taken: Taken | Unsettled | None = None
        self._take_lock.acquire()
        leads = True
        try:
            while leads and not self._stopping.is_set():
                taken, settled = self._take(settled), None
                if not isinstance(taken, Taken):
                    break
                work = self._prepare(taken)
                if isinstance(work, Job):
                    settled, leads = self._run_leading(work)
                else:
                    settled = work
        finally:
            if leads:
                self._take_lock.release()
        if settled is not None:
            self._settle(settled)
        elif isinstance(taken, Unsettled):
            self._settle(taken.settled, taken.unknown)

    def _run_leading(self, job: Job) -> tuple[Settled | None, bool]:
        """Run a handler of a thread that has the lead. Returns what it answers, and whether the thread has it still."""
        method, begin = job.request.method, time.monotonic()
        if self._paces.is_slow(method, begin):
            self._take_lock.release()
            settled = self._run_safely(job)
            now = time.monotonic()
            self._paces.followed(method, now - begin, now)
            return settled, False
        lead = self._lead = [True]
        self._turn += 1
        if not self._led.is_set():
            self._led.set()
        settled = self._run_safely(job)
        try:
            leads = lead.pop()
        except IndexError:
            leads = False
        now = time.monotonic()
        self._paces.led(method, now - begin, now, leads)
        return settled, leads

    def _run_safely(self, job: Job) -> Settled | None:
        try:
            return self._run(job)
        except Exception as fault:  # noqa: BLE001 - a fault of ours: the next element may have more luck
            log.error("%s: an element stays in hand: %s", self.service, type(fault).__name__)  # noqa: TRY400
            return None

    def _pass_on(self) -> None:
        """Take the lead from a thread whose handler keeps it, so that another one takes meanwhile."""
        turn, rests = -1, 0
        while not self._gone.wait(REST):
            rests += 1
            while self._turn != turn or self._lead:
                if self._turn == turn:
                    try:
                        self._lead.pop()
                    except IndexError:
                        continue
                    self._take_lock.release()
                turn, rests = self._turn, 0
                time.sleep(TICK)
            if rests >= RESTS:
                self._led.clear()
                if self._turn == turn and not self._gone.is_set():
                    self._led.wait()

    def _take(self, settled: Settled | None) -> Taken | Unsettled | None:
        """Settle the element before in the same write, and wait for the next one; None: none came, or there was trouble."""
        link, keys, worker, trouble = self._take_link, self._keys, self.worker, self._take_trouble
        before: Commands = []
        if settled is not None and (not link.is_open or self._found):
            return Unsettled(settled, unknown=False)
        try:
            if not link.is_open:
                self._open_take_link()
            if self._found:
                taken: Taken | None = self._found.popleft()
            else:
                if settled is not None:
                    before = settle(keys, worker, settled)
                block = commands.TAKE_BLOCK_MS
                sent, epoch = time.monotonic(), self._lease.epoch
                take = commands.take(keys, worker, self._lease_ends(), block)
                patience = block / 1000 + MARGIN
                link.send(before + take, patience)
                if settled is not None:
                    answer = link.read_some(len(before), patience)[-1]
                    if refusal(answer) is not None:
                        trouble.begin(describe(answer))
                        link.close()  # a take blocks on it
                        return Unsettled(settled, unknown=True)
                    self._note_settled(settled, answer)
                    settled = None
                answers = link.read_some(len(take), patience)
                taken = Taken(answers[-1], sent, epoch) if isinstance(answers[-1], bytes) else None
                # What was taken is run, even if the lease could not be renewed.
                for answer in answers:
                    if isinstance(answer, Exception):
                        trouble.begin(describe(answer))
                        if taken is None:
                            raise LinkRefused(answer)
                        break
                else:
                    trouble.end()
                    self._take_backoff.reset()
            if taken is not None and self._stopping.is_set():  # SABIR-STOP-3
                if self._lease.covers(taken, time.monotonic()):  # otherwise _goodbye() looks whether it is still there
                    link.run(commands.give_back(keys, worker), ANSWER)
                return None
        except (LinkLost, LinkRefused) as error:
            link.drop(error)
            trouble.begin(error)
            if settled is not None:
                self._end_take_link()
                return Unsettled(settled, unknown=True)
            self._stopping.wait(self._take_backoff.pause())
            return None
        if taken is not None:
            self._held.add(taken.element)
        return taken

    def _end_take_link(self) -> None:
        """See to it that nothing is executed any more of what was sent on the lost take link (SABIR-LOST-4)."""
        while not self._given_up.wait(self._take_backoff.pause()):
            try:
                self._open_take_link()
            except (LinkLost, LinkRefused) as error:
                self._take_link.drop(error)
                self._take_trouble.begin(error)
            else:
                return

    def _open_take_link(self) -> None:
        """Connect, and read the hand before anything is taken on the new connection (SABIR-LOST-3)."""
        self._take_link.open(ANSWER, patient=True)
        try:
            self._read_hand()
        except LinkRefused:
            self._take_link.close()
            raise

    def _read_hand(self) -> None:
        seen, sent, epoch = self._held.snapshot(), time.monotonic(), self._lease.epoch
        hand = self._take_link.run(commands.read_hand(self._keys, self.worker), ANSWER)[0]
        self._found = collections.deque(Taken(element, sent, epoch) for element in unseen(hand, seen))

    def _prepare(self, taken: Taken) -> Job | Settled | None:
        """What to do with an element that was taken. None: nothing, it is not ours any more, or stop() has given up."""
        element = taken.element
        request: Request | Rejection = self._dispatcher.read(element)
        lost = 0
        if isinstance(request, Request) and request.idempotent:  # SABIR-ATTEMPT-1
            answers = self._ask(commands.ask_attempts(self._keys, request.id))
            if answers is None:
                return None
            lost = lost_before(answers[0])
        while not self._lease.covers(taken, time.monotonic()):  # SABIR-LEASE-3
            sent, epoch = time.monotonic(), self._lease.epoch
            answers = self._ask(commands.read_hand(self._keys, self.worker))
            if answers is None:
                return None
            if not isinstance(answers[0], list) or element not in answers[0]:
                log.warning("%s: what was taken has left the hand, and is not started", self.service)
                self._held.remove(element)
                return None
            taken.sent, taken.epoch = sent, epoch
        return self._dispatcher.receive(element, request, lost)

    def _run(self, job: Job) -> Settled | None:
        """Run a handler. None: it has run longer than the limit, and that was settled meanwhile."""
        thread = threading.current_thread()
        if self._limit is not None:
            with self._runs_lock:
                self._runs[thread] = job, time.monotonic() + self._limit
        error: BaseException | None = None
        try:
            result = job.call()
        except BaseException as raised:  # noqa: BLE001 - whatever it is, the caller hears of it
            error = raised
        if self._limit is not None:
            with self._runs_lock:
                run = self._runs.pop(thread, None)
                self._overdue.discard(thread)
            if run is None:
                return None
            if time.monotonic() >= run[1]:
                return self._dispatcher.overrun(job, self._limit)
        return self._dispatcher.finish(job, result) if error is None else self._dispatcher.fail(job, error)

    def _watch(self, limit: float) -> None:
        """Settle what runs longer than the limit (SABIR-RUN-1), and stop when every thread does (SABIR-RUN-2)."""
        wait = limit
        while not self._silent.wait(wait):
            now = time.monotonic()
            with self._runs_lock:
                late = [(thread, job) for thread, (job, ends) in self._runs.items() if ends <= now]
                for thread, _ in late:
                    del self._runs[thread]
                    self._overdue.add(thread)
                wait = min([ends - now for _, ends in self._runs.values()], default=limit)  # what begins later is due later
            for _, job in late:
                self._settle(self._dispatcher.overrun(job, limit))
            if len(self._overdue) == self._threads and not self._stopping.is_set():
                self._failure = RuntimeError(f"{self.service}: every handler has run longer than {limit:g} s")
                log.error("%s; stopping", self._failure)
                self.stop()
                return

    def _ask(self, cmds: Commands) -> list[Any] | None:
        """The answer to a command, however long Redis is away (SABIR-WORKER-6). None: stop() has given up."""
        link, trouble, backoff = self._reply_link, self._reply_trouble, Backoff()
        with self._reply_lock:
            while not self._given_up.is_set():
                try:
                    if not link.is_open:
                        link.open(ANSWER)
                    answers = link.run(cmds, ANSWER)
                    refused = refusal(answers[0])
                    if refused is not None:
                        raise LinkRefused(refused)
                except (LinkLost, LinkRefused) as error:
                    link.drop(error)
                    trouble.begin(error)
                    self._given_up.wait(backoff.pause())
                    continue
                trouble.end()
                return answers
        return None

    def _settle(self, settled: Settled, unknown: bool = False) -> None:
        """Write the outcome and acknowledge the element, however long Redis is away (SABIR-LOST-4, SABIR-WORKER-6).

        ``unknown``: it may have been written already.
        """
        link, trouble, backoff = self._reply_link, self._reply_trouble, Backoff()
        cmds = settle(self._keys, self.worker, settled)
        with self._reply_lock:
            while not self._given_up.is_set():
                try:
                    if not link.is_open:
                        link.open(ANSWER, patient=unknown)
                    if unknown:
                        hand = link.run(commands.read_hand(self._keys, self.worker), ANSWER)[0]
                        if isinstance(hand, Exception):
                            raise LinkRefused(hand)
                        if settled.element not in hand:
                            self._held.remove(settled.element)
                            break
                        unknown = False
                    answer = link.run(cmds, ANSWER)[-1]
                    refused = refusal(answer)
                    if refused is not None:
                        raise LinkRefused(refused)
                except (LinkLost, LinkRefused) as error:
                    unknown = unknown or not isinstance(error, LinkLost) or error.sent
                    link.drop(error)
                    trouble.begin(error)
                    self._given_up.wait(backoff.pause())
                    continue
                self._note_settled(settled, answer)
                break
            else:
                return  # stop() has given up, and what is in the hand stays there
            trouble.end()

    def _note_settled(self, settled: Settled, answer: Any) -> None:
        for fault in faults(answer):
            log.warning("%s: Redis refused a part of an answer: %s", self.service, fault)
        self._held.remove(settled.element)
