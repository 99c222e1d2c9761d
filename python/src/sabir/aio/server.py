"""The asyncio server: take, dispatch, reply, heartbeat and recovery, drain, with a number of tasks.

Elements that wait are taken together, as many as there is room for; answers that are ready together leave in one write,
and with the next take, if they are ready by then.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from .. import commands
from .._link import ANSWER, DEFAULT_URL, MARGIN, AsyncLink, Backoff, Clock, LinkLost, LinkRefused, async_factory, describe
from ..commands import Commands
from ..dispatch import Dispatcher, Job, Methods, Settled
from ..keys import NAMESPACE, Keys
from ..messages import MAX_BYTES, MAX_DEPTH, Limits, Rejection, Request
from ..server import (
    BEAT_PAUSE,
    Held,
    Lease,
    Taken,
    Trouble,
    beaten,
    default_name,
    faults,
    lost_before,
    new_worker,
    refusal,
    run_limit,
    settle,
    unseen,
    warn_of_eviction,
)

if TYPE_CHECKING:
    import redis.asyncio as redis_py

log: Final = logging.getLogger("sabir")

_WRITE_BYTES: Final = 1 << 20  # of answers in one write, about
_AT_ONCE: Final = 22  # elements taken at once, at most: while some are run, others can be on their way
_AT_ONCE_LONG: Final = 64  # the same where the queue is long: so many full takes came, and none had to wait
_FULL_TAKES: Final = 8
_LATE: Final = 4.0  # seconds by which a heartbeat may be late without a warning
_GRACE: Final = 1.0  # seconds that a cancelled handler has to end


class Server(Methods):
    """Serves one service with at most ``concurrency`` handlers at a time, in one event loop.

    A handler is a coroutine function, or a function that does not block; one that holds the loop for longer than the
    lease less a heartbeat (7 s) makes the worker count as lost. A handler that runs longer than ``handler_timeout`` is
    cancelled. The other arguments are those of ``sabir.Server``; ``redis`` is a ``redis.asyncio.Redis``.
    """

    def __init__(
        self,
        service: str,
        url: str | None = None,
        *,
        redis: redis_py.Redis | None = None,
        namespace: str = NAMESPACE,
        name: str | None = None,
        concurrency: int = 100,
        handler_timeout: float | None = None,
        traces: bool = False,
        max_bytes: int = MAX_BYTES,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        super().__init__()
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise ValueError(f"concurrency: expected an integer > 0, got {concurrency!r}")
        self.service = service
        self.worker = new_worker(name or default_name(service))
        """This worker's id."""
        self._keys = Keys(namespace, service)
        self._concurrency = concurrency
        self._limit = run_limit(handler_timeout)
        self._clock = Clock()
        connect = async_factory(url or DEFAULT_URL, redis)
        self._take_link, self._reply_link, self._beat_link = (AsyncLink(connect, self._clock) for _ in range(3))
        limits = Limits(max_bytes, max_depth)
        self._dispatcher = Dispatcher(service, self.worker, self, limits, traces, self._clock.now_ms)
        self._held = Held()
        self._lease = Lease()
        self._found: collections.deque[Taken] = collections.deque()
        self._checks: set[asyncio.Task[None]] = set()
        self._unchecked = 0  # elements that are asked about before they are started
        self._begun = 0  # how many handlers were
        self._running: dict[int, asyncio.Task[None]] = {}  # by their number among those
        self._overdue: set[int] = set()  # those that have run longer than the limit, and were cancelled
        self._failure: RuntimeError | None = None
        self._ending: asyncio.Task[bool] | None = None
        self._settled: list[Settled] = []
        self._collects = False  # whether outcomes are left to the next take
        self._waited = True  # whether the last take found the queue empty, as far as is known
        self._writer: asyncio.Task[None] | None = None
        self._takes: asyncio.Task[None] | None = None
        self._beats: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop  # kept by start(): asking for it is a system call
        self._ready, self._stopping, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._unknown = False  # whether what was written last may have been executed
        self._reply_lock, self._stop_lock = asyncio.Lock(), asyncio.Lock()
        self._stopped = False

    def dispatcher(self, clock: Callable[[], int]) -> Dispatcher:
        """What decides about elements, by another clock (ms); for ``sabir.testing``."""
        return self._dispatcher.with_clock(clock)

    # ---------------------------------------------------------------------------------------------- start and stop

    async def run(self, stop_timeout: float | None = 30.0) -> None:
        """Serve until SIGTERM or SIGINT, then stop(stop_timeout); a second signal ends the process at once.

        Raises RuntimeError when it has stopped because as many handlers as can run at once ran longer than the limit, and
        did not end when they were cancelled (SABIR-RUN-2).
        """
        loop = asyncio.get_running_loop()

        def on_signal(number: int) -> None:
            if self._stopping.is_set():
                os._exit(128 + number)
            self._stopping.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal, number)
        try:
            self.start()
            try:
                await self._stopping.wait()
            finally:  # also when the task is cancelled
                await self.stop(stop_timeout)
            if self._failure is not None:
                raise self._failure
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def start(self) -> None:
        """Start serving in the running loop and return; see wait_ready(). Raises RuntimeError if it was started before."""
        if self._beats is not None:
            raise RuntimeError("a Server starts once: make another one")
        loop = self._loop = asyncio.get_running_loop()
        self._beats = loop.create_task(self._heartbeats(), name=f"sabir-{self.service}-heartbeat")
        self._takes = loop.create_task(self._serve(), name=f"sabir-{self.service}-take")

    async def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until the first heartbeat was answered. ``timeout``: seconds, None: as long as it takes. Returns whether."""
        try:
            await asyncio.wait_for(self._ready.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def stop(self, timeout: float | None = None) -> bool:
        """Take nothing more, finish what runs, give back the rest, say goodbye (section 14). Returns whether all ended.

        ``timeout``: seconds, None: as long as the handlers take. What still runs when it has passed is cancelled, and
        stays in the hand. A handler that has run longer than its limit was answered, and is not waited for.
        """
        self._stopping.set()
        self._room.set()
        async with self._stop_lock:
            if self._stopped or self._beats is None:
                return not self._busy()
            all_ended = True
            try:
                async with asyncio.timeout(timeout):
                    await self._end_takes()
                    while busy := self._busy():
                        await asyncio.wait(busy)
            except TimeoutError:
                all_ended = False
            own = [task for task in (self._takes, self._beats, self._writer) if task is not None]
            tasks = [*own, *self._checks, *self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_GRACE)
            await self._goodbye()
            for link in (self._take_link, self._reply_link, self._beat_link):
                await link.close()
            self._stopped = True
            return all_ended

    def _busy(self) -> set[asyncio.Task[None]]:
        """What has to end before the worker may go."""
        running = {task for number, task in self._running.items() if number not in self._overdue}
        return running | self._checks | ({self._writer} if self._writer else set())

    async def __aenter__(self) -> Server:
        self.start()
        await self.wait_ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _end_takes(self) -> None:
        """Wait until the taker has ended, and end a take that Redis still holds blocked."""
        waker = AsyncLink(self._take_link.connect, self._clock)
        if not self._ready.is_set() and self._takes is not None:
            self._takes.cancel()  # it waits for the first heartbeat
        try:
            while self._takes is not None and not self._takes.done():
                if self._take_link.who is not None:
                    try:
                        if not waker.is_open:
                            await waker.open(ANSWER)
                        await waker.run([("CLIENT", "UNBLOCK", self._take_link.who[0])], ANSWER)
                    except (LinkLost, LinkRefused):
                        pass  # the take ends by itself within its block time
                await asyncio.wait([self._takes], timeout=0.05)
        finally:
            await waker.close()

    async def _goodbye(self) -> None:
        """Give back what was taken and never started; give up the lease if the hand is empty (SABIR-STOP-3, -5)."""
        link, keys, worker = self._take_link, self._keys, self.worker
        for is_last in (False, True):
            try:
                if not link.is_open:
                    await self._open_take_link()
                else:
                    await self._read_hand()
                for _ in self._found:  # they are the newest: nothing was taken since
                    await link.run(commands.give_back(keys, worker), ANSWER)
                answer = await self._run_script(link, commands.goodbye(keys, worker))
            except (LinkLost, LinkRefused) as error:
                await link.close()
                if is_last:
                    log.warning("%s: no goodbye: %s", self.service, error)
                continue
            if answer == 0:
                log.warning("%s: stopped with elements in hand", self.service)
            return

    @staticmethod
    async def _run_script(link: AsyncLink, cmds: Commands) -> Any:
        """The answer to the script that comes last. Raises LinkLost or LinkRefused."""
        answer = (await link.run(cmds, ANSWER))[-1]
        if commands.is_noscript(answer):
            answer = (await link.run(commands.as_eval(cmds), ANSWER))[-1]
        if isinstance(answer, Exception):
            raise LinkRefused(answer)
        return answer

    # ---------------------------------------------------------------------------------------------- heartbeat

    def _lease_ends(self) -> int:
        return self._clock.now_ms() + commands.LEASE_MS

    async def _heartbeats(self) -> None:
        link, trouble, backoff = self._beat_link, Trouble(self.service, "heartbeat"), Backoff()
        while True:
            try:
                if not link.is_open:
                    await link.open(ANSWER)
                if not self._ready.is_set():
                    warn_of_eviction(self.service, (await link.run(commands.memory(), ANSWER))[0])
                sent = time.monotonic()
                beat = commands.heartbeat(self._keys, self.worker, self._lease.judges(sent))
                answer = await self._run_script(link, beat)
            except (LinkLost, LinkRefused) as error:
                await link.drop(error)
                trouble.begin(error)
                await asyncio.sleep(min(backoff.pause(), BEAT_PAUSE))
                continue
            trouble.end()
            backoff.reset()
            self._clock.update(answer, sent)
            pause = beaten(self.service, self._lease, answer, sent)
            self._ready.set()
            due = time.monotonic() + pause
            await asyncio.sleep(pause)
            late = time.monotonic() - due
            if late > _LATE:
                log.warning("%s: a heartbeat is %.1f s late: something has held the event loop", self.service, late)

    # ---------------------------------------------------------------------------------------------- take and run

    async def _serve(self) -> None:
        await self._ready.wait()
        trouble, backoff = Trouble(self.service, "take"), Backoff()
        more = 0  # elements to ask for beyond the first: as many as there seem to wait
        full = 0  # how many takes in a row brought at once all that was asked for
        while not self._stopping.is_set():
            # Room to start (SABIR-WORKER-3); and answers that Redis does not take don't pile up.
            room = self._concurrency - len(self._running) - self._unchecked
            room = min(room, 2 * self._concurrency - len(self._held))
            if room <= 0:
                self._write_soon()
                self._room.clear()
                await self._room.wait()
                continue
            settled = self._collected()
            asked = min(1 + more, room, _AT_ONCE_LONG if full >= _FULL_TAKES else _AT_ONCE)
            try:
                taken = await self._take(settled, asked - 1, trouble, backoff)
            except (LinkLost, LinkRefused) as error:
                await self._take_link.drop(error)
                trouble.begin(error)
                await self._take_trouble(settled, backoff)
                continue
            more = 2 * more + 1 if len(taken) > more else max(len(taken) - 1, 0)
            full = full + 1 if len(taken) == asked >= _AT_ONCE and not self._waited else 0
            if taken:
                self._collects = True
                try:
                    self._admit(taken)
                    await asyncio.sleep(0)  # what is answered at once leaves with the next take
                finally:
                    self._collects = False
        self._write_soon()

    async def _take_trouble(self, settled: list[Settled], backoff: Backoff) -> None:
        """Pause; and if it is not known whether something was settled, end what may still be executed (SABIR-LOST-4)."""
        if not settled:
            await self._pause(backoff.pause())
            return
        while not self._take_link.is_open:
            await asyncio.sleep(backoff.pause())
            try:
                await self._open_take_link()
            except (LinkLost, LinkRefused) as error:
                await self._take_link.drop(error)
        self._settle_again(settled)

    def _settle_again(self, settled: list[Settled]) -> None:
        """Have written over the reply link what may have been written already."""
        self._unknown = True
        self._settled[:0] = settled
        settled.clear()
        self._write_soon()

    def _collected(self) -> list[Settled]:
        """What is to be settled with the next take."""
        size = sum(len(s.element) + len(s.reply or s.letter or b"") for s in self._settled)
        if self._writer is not None or not self._take_link.is_open or self._found or size > _WRITE_BYTES:
            self._write_soon()
            return []
        batch = self._settled[:]
        self._settled.clear()
        return batch

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            pass

    async def _take(self, settled: list[Settled], more: int, trouble: Trouble, backoff: Backoff) -> list[Taken]:
        """Settle, and take the next elements: up to ``more`` beyond the first, or none. Raises LinkLost or LinkRefused.

        ``settled``: emptied, as soon as it is known to be written.
        """
        link, keys, worker = self._take_link, self._keys, self.worker
        if not link.is_open:
            await self._open_take_link()
        if self._found:
            taken = [self._found.popleft()]
        else:
            block = commands.TAKE_BLOCK_MS
            cmds = commands.take(keys, worker, self._lease_ends(), block) + commands.take_more(keys, worker) * more
            sent, epoch = time.monotonic(), self._lease.epoch
            if settled:
                parts = self._parts(settled)
                before = [c for _, of in parts for c in of]
                await link.send(before + cmds)
                refused, _ = self._written(parts, await link.read(len(before), ANSWER))
                settled.clear()
                if refused:
                    self._settle_again(refused)
                self._waited = not link.has_answers(len(cmds))
                answers = await link.read(len(cmds), block / 1000 + MARGIN)
            else:
                self._waited = True
                answers = await link.run(cmds, block / 1000 + MARGIN)
            taken = [Taken(answer, sent, epoch) for answer in answers if isinstance(answer, bytes)]
            # What was taken is run, even if the lease could not be renewed.
            fault = next((answer for answer in answers if isinstance(answer, Exception)), None)
            if fault is None:
                trouble.end()
                backoff.reset()
            elif taken:
                trouble.begin(describe(fault))
            else:
                raise LinkRefused(fault)
        if self._stopping.is_set():  # SABIR-STOP-3
            now = time.monotonic()
            for _ in [one for one in taken if self._lease.covers(one, now)]:  # _goodbye() looks for the others in the hand
                await link.run(commands.give_back(keys, worker), ANSWER)
            return []
        return taken

    async def _open_take_link(self) -> None:
        """Connect, and read the hand before anything is taken on the new connection (SABIR-LOST-3)."""
        await self._take_link.open(ANSWER, patient=True)
        try:
            await self._read_hand()
        except LinkRefused:
            await self._take_link.close()
            raise

    async def _read_hand(self) -> None:
        seen, sent, epoch = self._held.snapshot(), time.monotonic(), self._lease.epoch
        hand = (await self._take_link.run(commands.read_hand(self._keys, self.worker), ANSWER))[0]
        self._found = collections.deque(Taken(element, sent, epoch) for element in unseen(hand, seen))

    def _admit(self, taken: list[Taken]) -> None:
        """Begin what was taken, or ask about it first: all that came together in one write."""
        now = time.monotonic()
        doubtful: list[tuple[Taken, Request | Rejection]] = []
        for one in taken:
            self._held.add(one.element)
            request = self._dispatcher.read(one.element)
            if (isinstance(request, Request) and request.idempotent) or not self._lease.covers(one, now):
                doubtful.append((one, request))
            else:
                self._begin(one.element, request, 0)
        if doubtful:
            self._unchecked += len(doubtful)
            check = asyncio.get_running_loop().create_task(self._check(doubtful), name=f"sabir-{self.service}-check")
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    async def _check(self, doubtful: list[tuple[Taken, Request | Rejection]]) -> None:
        """Ask how often idempotent requests were lost (SABIR-ATTEMPT-1), and what the hand still holds (SABIR-LEASE-3)."""
        try:
            asked = [r.id for _, r in doubtful if isinstance(r, Request) and r.idempotent]
            cmds = [command for id in asked for command in commands.ask_attempts(self._keys, id)]
            answers = await self._ask(cmds) if cmds else []
            lost = {id: lost_before(answer) for id, answer in zip(asked, answers, strict=True)}
            left = [one for one, _ in doubtful]
            while unsure := [one for one in left if not self._lease.covers(one, time.monotonic())]:
                sent, epoch = time.monotonic(), self._lease.epoch
                hand = (await self._ask(commands.read_hand(self._keys, self.worker)))[0]
                for one in unsure:
                    if isinstance(hand, list) and one.element in hand:
                        one.sent, one.epoch = sent, epoch
                    else:
                        log.warning("%s: what was taken has left the hand, and is not started", self.service)
                        self._held.remove(one.element)
                        left.remove(one)
        finally:
            self._unchecked -= len(doubtful)
            self._room.set()
        for one, request in doubtful:
            if any(one is other for other in left):
                self._begin(one.element, request, lost.get(request.id or "", 0))

    async def _ask(self, cmds: Commands) -> list[Any]:
        """The answers to commands, however long Redis is away (SABIR-WORKER-6)."""
        trouble, backoff = Trouble(self.service, "question"), Backoff()
        while True:
            try:
                async with self._reply_lock:
                    if not self._reply_link.is_open:
                        await self._reply_link.open(ANSWER, patient=self._unknown)
                    answers = await self._reply_link.run(cmds, ANSWER)
                refused = next((r for r in map(refusal, answers) if r is not None), None)
                if refused is not None:
                    raise LinkRefused(refused)
            except (LinkLost, LinkRefused) as error:
                await self._reply_link.drop(error)
                trouble.begin(error)
                await asyncio.sleep(backoff.pause())
                continue
            trouble.end()
            return answers

    def _begin(self, element: bytes, request: Request | Rejection, lost: int) -> None:
        try:
            work = self._dispatcher.receive(element, request, lost)
        except Exception as fault:  # noqa: BLE001 - a fault of ours: the next element may have more luck
            # not its text, which may hold parameters (SABIR-SECURITY-1)
            log.error("%s: an element stays in hand: %s", self.service, type(fault).__name__)  # noqa: TRY400
            return
        if isinstance(work, Settled):
            self._settle(work)
            return
        number = self._begun = self._begun + 1
        task = self._running[number] = self._loop.create_task(self._handle(work, number))
        if self._limit is not None:
            timer = self._loop.call_later(self._limit, self._overrun, number, work, self._limit)
            task.add_done_callback(lambda _: timer.cancel())

    def _overrun(self, number: int, job: Job, limit: float) -> None:
        """Settle what runs longer than the limit, and cancel it (SABIR-RUN-1)."""
        self._overdue.add(number)
        self._settle(self._dispatcher.overrun(job, limit))
        self._running[number].cancel()
        self._loop.call_later(_GRACE, self._look_hung, limit)

    def _look_hung(self, limit: float) -> None:
        """Stop when every place is taken by a handler that does not end (SABIR-RUN-2)."""
        if len(self._overdue) == self._concurrency and not self._stopping.is_set():
            self._failure = RuntimeError(f"{self.service}: every handler has run longer than {limit:g} s")
            log.error("%s; stopping", self._failure)
            self._ending = asyncio.get_running_loop().create_task(self.stop(), name=f"sabir-{self.service}-stop")

    async def _handle(self, job: Job, number: int) -> None:
        ends = None if self._limit is None else time.monotonic() + self._limit
        error: BaseException | None = None
        result: Any = None
        try:
            result = await job.call_async()
        except BaseException as raised:  # noqa: BLE001 - whatever it is, the caller hears of it
            error = raised
        del self._running[number]
        self._room.set()
        if number in self._overdue:
            self._overdue.discard(number)
            return  # and was settled
        if self._stopping.is_set() and isinstance(error, asyncio.CancelledError):
            raise error  # stop() has waited long enough
        if ends is not None and self._limit is not None and time.monotonic() >= ends:  # it has held the loop
            self._settle(self._dispatcher.overrun(job, self._limit))
        elif error is not None:
            self._settle(self._dispatcher.fail(job, error))
        else:
            self._settle(self._dispatcher.finish(job, result))

    # ---------------------------------------------------------------------------------------------- answer

    def _settle(self, settled: Settled) -> None:
        """Have an outcome written with all others of this loop turn."""
        self._settled.append(settled)
        if not self._collects:
            self._write_soon()

    def _write_soon(self) -> None:
        if self._writer is None and self._settled:
            self._writer = self._loop.create_task(self._write_all(), name=f"sabir-{self.service}-answer")

    async def _write_all(self) -> None:
        trouble = Trouble(self.service, "reply")
        try:
            while self._settled:
                size = 0
                batch: list[Settled] = []
                while len(batch) < len(self._settled) and size < _WRITE_BYTES:
                    settled = self._settled[len(batch)]
                    batch.append(settled)
                    size += len(settled.element) + len(settled.reply or settled.letter or b"")
                del self._settled[: len(batch)]
                await self._write(batch, trouble)
                self._room.set()
        finally:
            self._writer = None

    async def _write(self, batch: list[Settled], trouble: Trouble) -> None:
        """Write outcomes and acknowledge their elements, however long Redis is away (SABIR-LOST-4, SABIR-WORKER-6)."""
        link, backoff = self._reply_link, Backoff()
        while batch:
            try:
                async with self._reply_lock:
                    if not link.is_open:
                        await link.open(ANSWER, patient=self._unknown)
                    if self._unknown:
                        hand = (await link.run(commands.read_hand(self._keys, self.worker), ANSWER))[0]
                        if isinstance(hand, Exception):
                            raise LinkRefused(hand)
                        for settled in [s for s in batch if s.element not in hand]:
                            batch.remove(settled)
                            self._held.remove(settled.element)
                        self._unknown = False
                        continue
                    batch = await self._write_once(batch)
            except (LinkLost, LinkRefused) as error:
                self._unknown = self._unknown or not isinstance(error, LinkLost) or error.sent
                await link.drop(error)
                trouble.begin(error)
                await asyncio.sleep(backoff.pause())
        trouble.end()

    async def _write_once(self, batch: list[Settled]) -> list[Settled]:
        """One write for all. Returns what Redis refused; raises LinkRefused if that is everything."""
        parts = self._parts(batch)
        answers = await self._reply_link.run([c for _, cmds in parts for c in cmds], ANSWER)
        left, refused = self._written(parts, answers)
        if refused is not None and len(left) == len(batch):
            raise LinkRefused(refused)
        return left

    def _parts(self, batch: list[Settled]) -> list[tuple[list[Settled], Commands]]:
        """Outcomes, and the commands that write them: all replies in one transaction."""
        answered = [(s.token, s.reply, s.element) for s in batch if s.token is not None and s.reply is not None]
        parts: list[tuple[list[Settled], Commands]] = []
        if answered:
            replies = commands.replies(self._keys, self.worker, answered)
            parts.append(([s for s in batch if s.reply is not None], replies))
        return parts + [([s], settle(self._keys, self.worker, s)) for s in batch if s.reply is None]

    def _written(
        self, parts: list[tuple[list[Settled], Commands]], answers: list[Any]
    ) -> tuple[list[Settled], Exception | None]:
        """Take the answers to _parts(). Returns what Redis refused, and why."""
        left: list[Settled] = []
        refused: Exception | None = None
        end = 0
        for group, cmds in parts:
            end += len(cmds)
            answer = answers[end - 1]
            reason = refusal(answer)
            if reason is not None:
                refused = reason
                left += group
                continue
            for fault in faults(answer):
                log.warning("%s: Redis refused a part of an answer: %s", self.service, fault)
            for settled in group:
                self._held.remove(settled.element)
        return left, refused
