"""Runs cases against a driver and says how they ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from .driver import Driver, DriverError, Manifest
from .proxy import Line, show
from .resp import Connection, RedisError
from .server import OwnServer, Redis, ServerError
from .steps import STEPS
from .world import Failed, World

PASS, FAIL, KNOWN, STALE, UNSUPPORTED, NOT_RUN, HARNESS = (
    "pass",
    "fail",
    "known-fail",
    "stale-known-fail",
    "unsupported",
    "not-run",
    "harness-error",
)
VERDICTS: Final = (PASS, FAIL, KNOWN, STALE, UNSUPPORTED, NOT_RUN, HARNESS)
GREEN: Final = frozenset({PASS, KNOWN, UNSUPPORTED})

HOPELESS: Final = 5
"""After so many harness-errors and nothing else, the driver is given up."""

RAMP: Final = 0.25
"""Seconds between the beginnings of slow cases of one driver."""
STALL: Final = 0.3
"""Seconds for which the machine must have stopped the runner itself for a failure to prove nothing."""
CASE_LIMIT: Final = 30.0
"""Seconds that a case may take in all, unless it says otherwise."""


@dataclass(slots=True)
class Result:
    """How a case ended with a driver."""

    case: dict[str, Any]
    driver: str
    verdict: str
    reason: str = ""
    step: str = ""
    seconds: float = 0.0
    transcript: list[Line] = field(default_factory=list)
    dialogue: list[str] = field(default_factory=list)
    """What went to the driver and came from it during the case."""
    stderr: list[str] = field(default_factory=list)
    stalled: float = 0.0
    """Seconds for which the runner itself was stopped while the case failed, which was then run again."""


Report = Callable[[Result], None]


async def run_driver(
    manifest: Manifest,
    role: str,
    cases: list[dict[str, Any]],
    redis: Redis,
    report: Report,
    *,
    at_once: int = 12,
    fail_fast: asyncio.Event | None = None,
    attach: Callable[[Driver], None] | None = None,
    again: int = 0,
) -> None:
    """Run cases of one role against one driver. Every case is reported, whatever happens to the others.

    ``again``: how often a case is repeated that fails while the machine stops the runner (STALL): its times mean nothing.
    """
    pool, pace = Pool(manifest, role, redis), Pace()
    gate, wide_gate = asyncio.Semaphore(at_once), asyncio.Semaphore(4 * at_once)
    done: list[Result] = []

    def take(result: Result) -> None:  # one behind: the driver may still spoil the last when it is ended
        if done:
            report(done[-1])
        done.append(result)

    async def one(case: dict[str, Any], number: int = 0) -> None:
        if case.get("slow"):  # they are many at once: one after the other they begin
            await asyncio.sleep(number * RAMP)
        async with wide_gate if case.get("slow") else gate:
            if fail_fast is not None and fail_fast.is_set():
                take(Result(case, manifest.name, NOT_RUN, "a case before it failed (--fail-fast)"))
            elif len(done) >= HOPELESS and all(result.verdict == HARNESS for result in done):
                take(Result(case, manifest.name, HARNESS, f"given up after {HOPELESS} times: {done[0].reason}"))
            else:
                take(await repeated(case))

    async def repeated(case: dict[str, Any]) -> Result:
        stalled = 0.0
        for left in reversed(range(again + 1)):
            begin = time.monotonic()
            result = await run_case(case, pool)
            result.stalled = stalled
            stall = pace.worst(begin)
            if result.verdict in GREEN or stall < STALL or not left:
                break
            stalled = max(stalled, stall)
        return result

    ticking = asyncio.create_task(pace.run())
    try:
        try:
            driver = await pool.driver()
            if attach is not None:
                attach(driver)
        except DriverError as error:
            for case in cases:
                take(Result(case, manifest.name, HARNESS, str(error)))
            return
        alone = [case for case in cases if case.get("alone")]
        await asyncio.gather(*(one(case, n) for n, case in enumerate(cases) if not case.get("alone")))
        for case in alone:
            await one(case)
    finally:
        ticking.cancel()
        stray = await pool.close()
        if done:
            if stray is not None and done[-1].verdict in GREEN:
                done[-1].verdict, done[-1].reason = HARNESS, str(stray)
            report(done[-1])


class Pace:
    """How late the runner's own loop is: what it waits for by the clock can't come earlier."""

    TICK: Final = 0.05

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []

    async def run(self) -> None:
        """Look on, until cancelled."""
        while True:
            due = time.monotonic() + self.TICK
            await asyncio.sleep(self.TICK)
            late = time.monotonic() - due
            if late >= STALL:
                self._late.append((due + late, late))

    def worst(self, since: float) -> float:
        """Seconds of the longest stop that ended after ``since`` (monotonic, s)."""
        return max((late for when, late in self._late if when > since), default=0.0)


class Pool:
    """The driver, started again when a case (or the port) has brought it down."""

    def __init__(self, manifest: Manifest, role: str, redis: Redis) -> None:
        self.manifest, self.role, self.redis = manifest, role, redis
        self._driver: Driver | None = None
        self._lock = asyncio.Lock()
        self._idle: list[Connection] = []

    async def driver(self) -> Driver:
        async with self._lock:
            if self._driver is not None and (self._driver.fault is not None or not self._driver.alive):
                await self._driver.stop()
                stray, self._driver = self._driver.stray, None
                if stray is not None:
                    raise stray
            if self._driver is None:
                driver = Driver(self.manifest, self.role, self.redis.url)
                try:
                    await driver.start()
                except DriverError:
                    await driver.stop()
                    raise
                self._driver = driver
            return self._driver

    async def connection(self) -> Connection:
        return self._idle.pop() if self._idle else await self.redis.connect()

    def give_back(self, connection: Connection) -> None:
        self._idle.append(connection)

    async def close(self) -> DriverError | None:
        """End all. Returns what the driver said unasked, if no case has been blamed for it."""
        if self._driver is not None:
            await self._driver.stop()
        for connection in self._idle:
            await connection.close()
        return self._driver.stray if self._driver is not None else None


async def run_case(case: dict[str, Any], pool: Pool) -> Result:
    """One case, with its implicit end."""
    begin = time.monotonic()
    result = Result(case, pool.manifest.name, PASS)
    world: World | None = None
    driver: Driver | None = None
    clean = False
    try:
        driver = await pool.driver()
        needs = set(case.get("features", [])) - set(driver.hello.get("features", []))
        if needs:
            result.verdict, result.reason = UNSUPPORTED, f"the driver does not claim {', '.join(sorted(needs))}"
            return result
        world = await _world_of(case, driver, pool)
        async with asyncio.timeout(case.get("limit_s", CASE_LIMIT)):
            await world.open()
            for step in case["steps"]:
                ((name, spec),) = step.items()
                result.step = name
                await STEPS[name](world, spec)
            result.step = "end"
            await _end(world)
            clean = True
        result.step = ""
    except Failed as error:
        result.verdict, result.reason = FAIL, str(error)
    except DriverError as error:
        result.verdict, result.reason = HARNESS, str(error)
        if driver is not None and not driver.alive:
            result.verdict, result.reason = FAIL, f"the process ended: {error}"
    except TimeoutError:
        result.verdict, result.reason = FAIL, f"the case did not end within {case.get('limit_s', CASE_LIMIT):g} s"
    except (RedisError, ServerError, OSError, KeyError, ValueError, AssertionError, TypeError) as error:
        result.verdict, result.reason = HARNESS, f"{type(error).__name__}: {error}"
    finally:
        result.seconds = time.monotonic() - begin
        if driver is not None and driver.stray is not None:
            result.verdict, result.reason, driver.stray = HARNESS, str(driver.stray), None
        if world is not None:
            if not clean:
                await _abandon(world)
            try:
                await world.close()
                if world.own is None:
                    pool.give_back(world.connection)
            except (RedisError, OSError) as error:
                result.verdict, result.reason = HARNESS, f"clean-up: {error}"
            result.transcript = world.transcript.lines
        if driver is not None:
            _keep_talk(result, driver, world.namespace if world else "")
    return result


async def _world_of(case: dict[str, Any], driver: Driver, pool: Pool) -> World:
    """A case's surroundings, on the run's Redis or on one of its own."""
    if not case.get("own_redis"):
        return World(case, driver, pool.redis, await pool.connection())
    own = await asyncio.to_thread(OwnServer)
    return World(case, driver, own.redis, await own.redis.connect(), own=own)


def _keep_talk(result: Result, driver: Driver, namespace: str) -> None:
    """Put what the driver said during a case into its result."""
    result.dialogue = list(driver.about.pop(namespace, ()))
    if result.verdict not in GREEN:
        if driver.fault is not None:  # what belongs to no case may be why
            result.dialogue += [line for line in list(driver.log)[-5:] if line not in result.dialogue]
        result.stderr = list(driver.stderr)[-40:]


async def _abandon(world: World) -> None:
    """End what a failed case has left running in the driver, as well as it goes."""
    world.proxy.rules.clear()
    world.proxy.refusing = False
    if world.driver.role == "server" and world.worker and not world.worker_stopped and world.driver.fault is None:
        try:
            await world.driver.ask("stop", seconds=5.0, namespace=world.namespace, service=world.service)
        except DriverError:
            pass  # the next case starts it anew


# ---------------------------------------------------------------------------------------------------- the implicit end


async def _end(world: World) -> None:
    """A valid call works, the process lives, no key is left that would stay, nothing was written outside the namespace."""
    for rule in world.proxy.rules:
        rule.go.set()
    world.proxy.rules.clear()
    world.proxy.refusing = False
    if world.driver.role == "server":
        await _server_end(world)
    else:
        await _client_end(world)
    if not world.driver.alive:
        raise Failed("end: the process does not live any more")
    await _no_key_violations(world)


async def _server_end(world: World) -> None:
    ask = world.driver.ask
    if world.worker_stopped or not world.worker:
        again = await ask("serve", seconds=15.0, url=world.url, namespace=world.namespace, service=world.service)
        world.worker = again["worker"]
    await STEPS["push"](world, {"as": "end", "method": "echo", "params": ["end"]})
    try:
        await STEPS["reply"](world, {"to": "end", "result": "end", "within_s": 8.0})
    except Failed as error:
        raise Failed(f"end: a valid call: {error}") from None
    await ask("stop", seconds=10.0, namespace=world.namespace, service=world.service)
    world.worker_stopped = True
    await _no_lasting_keys(world, {"dead", *world.case.get("leaves", [])})


async def _client_end(world: World) -> None:
    await STEPS["redis"](world, ["DEL", "{requests}"])
    await world.serves()
    await STEPS["call"](world, {"as": "end", "method": "echo", "params": ["end"], "timeout_ms": 8000})
    try:
        await STEPS["take"](world, {"as": "end", "within_s": 8.0})
        await STEPS["answer"](world, {"to": "end", "result": "end"})
        await STEPS["outcome"](world, {"of": "end", "result": "end"})
    except Failed as error:
        raise Failed(f"end: a valid call: {error}") from None
    await world.driver.ask("close", url=world.url, namespace=world.namespace)
    await _no_lasting_keys(world, {"requests", *world.case.get("leaves", [])})


async def _no_lasting_keys(world: World, may_last: Iterable[str]) -> None:
    allowed = {world.key(role).encode() for role in may_last}
    for name in await world.keys():
        if name not in allowed and await world.connection.run("PTTL", name) == -1:
            raise Failed(f"end: expected no key that stays, got {show(name)}")


async def _no_key_violations(world: World) -> None:
    """What the port's user was not allowed to touch: the proxy saw the refusal, and Redis's own record tells which key."""
    refused = (str(s.reply) for s in world.proxy.seen if isinstance(s.reply, RedisError))
    if not any("NOPERM" in text and " key" in text for text in refused):
        return
    for entry in await world.connection.run("ACL", "LOG", "128"):
        fields = dict(zip(entry[::2], entry[1::2], strict=False))
        if fields.get(b"username") == world.user.encode() and fields.get(b"reason") == b"key":
            raise Failed(f"end: the port touched a key outside its own: {show(fields.get(b'object'))}")


def as_json(result: Result) -> str:
    """A result as a line of JSON."""
    return json.dumps(
        {
            "case": result.case["id"],
            "title": result.case["title"],
            "rules": result.case["rules"],
            "role": result.case["role"],
            "driver": result.driver,
            "verdict": result.verdict,
            "reason": result.reason,
            "step": result.step,
            "seconds": round(result.seconds, 4),
            "transcript": [[round(line.at, 4), line.who, line.kind, line.text] for line in result.transcript],
            "dialogue": result.dialogue,
            "stderr": result.stderr,
        },
        ensure_ascii=False,
    )
