"""The blocking server: take, dispatch, reply, heartbeat, drain, with a number of threads."""

from __future__ import annotations

import collections
import logging
import os
import queue
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from . import commands
from ._link import ANSWER, MARGIN, REFUSALS, Backoff, Clock, Link, LinkLost, LinkRefused, describe, factory
from .commands import Commands
from .dispatch import Dispatcher, Job, Methods, Settled
from .keys import NAMESPACE, Keys, check
from .messages import MAX_BYTES, MAX_DEPTH, Limits

if TYPE_CHECKING:
    import redis as redis_py

log: Final = logging.getLogger("sabir")


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


class Held:
    """What the hand holds as far as the worker knows: taken, and its acknowledgement not yet answered."""

    def __init__(self) -> None:
        self._count: collections.Counter[bytes] = collections.Counter()
        self._lock = threading.Lock()

    def add(self, element: bytes) -> None:
        """Note a take."""
        with self._lock:
            self._count[element] += 1

    def remove(self, element: bytes) -> None:
        """Note an acknowledgement."""
        with self._lock:
            self._count[element] -= 1
            if self._count[element] <= 0:
                del self._count[element]

    def __len__(self) -> int:
        with self._lock:
            return self._count.total()

    def snapshot(self) -> collections.Counter[bytes]:
        """A copy, to compare a hand with that is read after it."""
        with self._lock:
            return self._count.copy()


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
    keys. ``name``: of the worker, None: service, host and pid. ``traces``: send stack traces to callers (SABIR-WORKER-7).
    ``max_bytes``, ``max_depth``: limits of what is read and answered.

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
        self._clock = Clock()
        connect = factory(url, redis)
        self._take_link, self._reply_link, self._beat_link = (Link(connect, self._clock) for _ in range(3))
        limits = Limits(max_bytes, max_depth)
        self._dispatcher = Dispatcher(service, self.worker, self, limits, traces, self._clock.now_ms)
        self._take_lock, self._reply_lock = threading.Lock(), threading.Lock()
        self._held = Held()
        self._found: collections.deque[bytes] = collections.deque()  # of a hand that was read again: not seen before
        self._running: list[threading.Thread] = []
        self._beat: threading.Thread | None = None
        self._take_trouble, self._reply_trouble = Trouble(service, "take"), Trouble(service, "reply")
        self._take_backoff = Backoff()
        self._stop_lock = threading.Lock()
        self._ready, self._stopping = threading.Event(), threading.Event()
        self._silent, self._given_up = threading.Event(), threading.Event()

    def dispatcher(self, clock: Callable[[], int]) -> Dispatcher:
        """What decides about elements, by another clock (ms); for ``sabir.testing``."""
        return self._dispatcher.with_clock(clock)

    # ---------------------------------------------------------------------------------------------- start and stop

    def run(self, stop_timeout: float | None = 30.0) -> None:
        """Serve until SIGTERM or SIGINT, then stop(stop_timeout); a second signal ends the process at once.

        Has to be called in the main thread.
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
        for thread in (self._beat, *self._running):
            thread.start()

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until the first heartbeat was answered. ``timeout``: seconds, None: as long as it takes. Returns whether."""
        return self._ready.wait(timeout)

    def stop(self, timeout: float | None = None) -> bool:
        """Take nothing more, finish what runs, give back the rest, say goodbye (section 14). Returns whether all ended.

        ``timeout``: seconds, None: as long as the handlers take. What still runs when it has passed stays in the hand.
        """
        ends = None if timeout is None else time.monotonic() + timeout
        self._stopping.set()
        with self._stop_lock:
            waker = Link(self._take_link.connect, self._clock)
            while running := [thread for thread in self._running if thread.is_alive()]:
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
        """Give back what was taken and never started; remove the lease if the hand is empty (SABIR-STOP-3, -4)."""
        link = self._take_link
        with self._take_lock:
            try:
                if not link.is_open:
                    self._open_take_link()
                else:
                    self._read_hand()
                for _ in self._found:  # they are the newest: nothing was taken since
                    link.run(commands.give_back(self._keys, self.worker), ANSWER)
                hand = link.run(commands.read_hand(self._keys, self.worker), ANSWER)[0]
                if hand:
                    count = describe(hand) if isinstance(hand, Exception) else len(hand)
                    log.warning("%s: stopped with elements in hand: %s", self.service, count)
                else:
                    link.run(commands.goodbye(self._keys, self.worker), ANSWER)
            except (LinkLost, LinkRefused) as error:
                log.warning("%s: no goodbye: %s", self.service, error)

    # ---------------------------------------------------------------------------------------------- heartbeat

    def _lease_ends(self) -> int:
        return self._clock.now_ms() + commands.LEASE_MS

    def _heartbeats(self) -> None:
        link, trouble, backoff = self._beat_link, Trouble(self.service, "heartbeat"), Backoff()
        while not self._silent.is_set():
            try:
                if not link.is_open:
                    link.open(ANSWER)
                sent = time.monotonic()
                answer = link.run(commands.heartbeat(self._keys, self.worker, self._lease_ends()), ANSWER)[-1]
                if isinstance(answer, Exception):
                    raise LinkRefused(answer)
                for fault in faults(answer):
                    trouble.begin(fault)
            except (LinkLost, LinkRefused) as error:
                link.drop(error)
                trouble.begin(error)
                self._silent.wait(min(backoff.pause(), commands.HEARTBEAT_MS / 1000))
                continue
            if not faults(answer):
                trouble.end()
            self._clock.update(answer[0], sent)
            backoff.reset()
            self._ready.set()
            self._silent.wait(max(0, sent + commands.HEARTBEAT_MS / 1000 - time.monotonic()))

    # ---------------------------------------------------------------------------------------------- take and run

    def _serve(self) -> None:
        """One thread: whoever has the lock takes for the process (SABIR-TRANSPORT-3), lets it go, and runs what it took."""
        while not self._ready.wait(0.1):
            if self._stopping.is_set():
                return
        while True:
            with self._take_lock:
                if self._stopping.is_set():
                    return
                element = self._take()
            if element is not None:
                try:
                    self._handle(element)
                except Exception as fault:  # noqa: BLE001 - a fault of ours: the next element may have more luck
                    # not its text, which may hold parameters (SABIR-SECURITY-1)
                    log.error("%s: an element stays in hand: %s", self.service, type(fault).__name__)  # noqa: TRY400

    def _take(self) -> bytes | None:
        """The next element; None: none came, or there was trouble."""
        link, keys, worker, trouble = self._take_link, self._keys, self.worker, self._take_trouble
        try:
            if not link.is_open:
                self._open_take_link()
            if self._found:
                taken: bytes | None = self._found.popleft()
            else:
                block = commands.TAKE_BLOCK_MS
                answers = link.run(commands.take(keys, worker, self._lease_ends(), block), block / 1000 + MARGIN)
                taken = answers[-1] if isinstance(answers[-1], bytes) else None
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
            if taken is not None and self._stopping.is_set():
                link.run(commands.give_back(keys, worker), ANSWER)  # SABIR-STOP-3
                return None
        except (LinkLost, LinkRefused) as error:
            link.drop(error)
            trouble.begin(error)
            self._stopping.wait(self._take_backoff.pause())
            return None
        if taken is not None:
            self._held.add(taken)
        return taken

    def _open_take_link(self) -> None:
        """Connect, and read the hand before anything is taken on the new connection (SABIR-LOST-3)."""
        self._take_link.open(ANSWER, patient=True)
        try:
            self._read_hand()
        except LinkRefused:
            self._take_link.close()
            raise

    def _read_hand(self) -> None:
        seen = self._held.snapshot()
        self._found = unseen(self._take_link.run(commands.read_hand(self._keys, self.worker), ANSWER)[0], seen)

    def _handle(self, element: bytes) -> None:
        work = self._dispatcher.receive(element)
        if isinstance(work, Job):
            try:
                result = work.call()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the caller hears of it
                work = self._dispatcher.fail(work, error)
            else:
                work = self._dispatcher.finish(work, result)
        self._settle(work)

    def _settle(self, settled: Settled) -> None:
        """Write the outcome and acknowledge the element, however long Redis is away (SABIR-LOST-4, SABIR-WORKER-6)."""
        link, trouble, backoff = self._reply_link, self._reply_trouble, Backoff()
        cmds = settle(self._keys, self.worker, settled)
        unknown = False
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
                for fault in faults(answer):
                    log.warning("%s: Redis refused a part of an answer: %s", self.service, fault)
                break
            else:
                return  # stop() has given up, and what is in the hand stays there
            trouble.end()
            self._held.remove(settled.element)
