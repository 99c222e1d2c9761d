"""A pytest plugin: one item for each case and driver. Inert unless --sabir-driver is given.

    pytest --sabir-driver drivers/ruby/driver.json [--sabir-driver …] [--sabir-redis URL] [-k …] [--lf] [-n 2]

The items stand below the driver.json: ``drivers/ruby/driver.json::server/lease/before-the-first-take``; the checks of a
client (that driver) with a server are ``cross/positional[python]``. Nothing of the suite is imported before it is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from .driver import Manifest
    from .run import Pool, Result
    from .server import Redis, ServerError

AHEAD: Final = 12
"""Cases that run side by side: while an item is waited for, those behind it have begun. Not under xdist, whose workers do
not know which items are theirs."""
_LINES: Final = 60


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sabir", "conformance of ports of the Sabir protocol")
    group.addoption(
        "--sabir-driver",
        action="append",
        default=[],
        metavar="DRIVER.JSON",
        help="Run the conformance suite against this driver; may be repeated.",
    )
    group.addoption(
        "--sabir-redis",
        default="embedded",
        metavar="WHERE",
        help="embedded (the default), container[:IMAGE], or a redis:// URL.",
    )


def pytest_configure(config: pytest.Config) -> None:
    paths = [str((config.invocation_params.dir / path).resolve()) for path in config.option.sabir_driver]
    if not paths:
        return
    for path in paths:
        if not Path(path).is_file():
            raise pytest.UsageError(f"--sabir-driver: no such file: {path}")
    config.option.sabir_driver = paths  # absolute: xdist hands the options on
    named = {str((config.invocation_params.dir / argument.split("::")[0]).resolve()) for argument in config.args}
    config.args += [path for path in paths if path not in named]
    config.pluginmanager.register(_Plugin(config, [Path(path) for path in paths]), "sabir_conformance_run")


class _Plugin:
    """What there is when a driver was given."""

    def __init__(self, config: pytest.Config, paths: list[Path]) -> None:
        self.paths = paths
        self.runner = Runner(config.option.sabir_redis)
        self.ahead = 1 if hasattr(config, "workerinput") else AHEAD

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        if file_path.resolve() not in self.paths:
            return None
        found: DriverFile = DriverFile.from_parent(parent, path=file_path)
        found.plugin = self
        return found

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        seen: set[str] = set()  # a driver below a folder that is collected too
        items[:] = [
            item
            for item in items
            if not (isinstance(item, CaseItem) and (item.nodeid in seen or seen.add(item.nodeid)))  # type: ignore[func-returns-value]
        ]

    def begin(self, item: CaseItem) -> None:
        """Let the item's case begin, and those behind it, as far as they may run beside it."""
        items = item.session.items
        place = items.index(item)
        for other in items[place : place + self.ahead]:
            if not isinstance(other, CaseItem):
                return
            if other.case.get("alone") and other is not item:
                return
            self.runner.begin(other)
            if other.case.get("alone"):
                return

    def pytest_unconfigure(self) -> None:
        self.runner.close()


class DriverFile(pytest.File):
    """A driver.json: its cases."""

    plugin: _Plugin

    def collect(self) -> Iterator[CaseItem]:
        from . import cross  # noqa: PLC0415
        from .driver import DriverError, Manifest  # noqa: PLC0415
        from .session import Options, select  # noqa: PLC0415
        from .suite import SuiteError  # noqa: PLC0415

        try:
            manifest = Manifest.read(self.path)
            others = [manifest if path == self.path.resolve() else Manifest.read(path) for path in self.plugin.paths]
            cases = select(Options(), manifest)
        except (DriverError, SuiteError) as error:
            raise self.CollectError(str(error)) from None
        for case in sorted(cases, key=lambda case: bool(case.get("alone"))):
            yield CaseItem.from_parent(self, name=case["id"], case=case, manifest=manifest)
        for client, server in cross.pairs(others):
            if client is manifest:
                for case in cross.cases():
                    yield CaseItem.from_parent(
                        self, name=f"{case['id']}[{server.name}]", case=case, manifest=client, server=server
                    )


class CaseItem(pytest.Item):
    """A case, with a driver."""

    parent: DriverFile

    def __init__(self, *, case: dict[str, Any], manifest: Manifest, server: Manifest | None = None, **more: Any) -> None:
        super().__init__(**more)
        self.case, self.manifest, self.server = case, manifest, server
        self.user_properties += [("requirement", rule) for rule in case["rules"]]
        self.extra_keyword_matches.update([*case["rules"], case["title"], manifest.name])

    def runtest(self) -> None:
        plugin = self.parent.plugin
        plugin.begin(self)
        result = plugin.runner.result(self)
        if result.verdict == "unsupported":
            pytest.skip(result.reason)
        if result.verdict != "pass":
            raise CaseFailed(result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        from .server import ServerError  # noqa: PLC0415

        if isinstance(excinfo.value, ServerError):
            return str(excinfo.value)
        if not isinstance(excinfo.value, CaseFailed):
            return super().repr_failure(excinfo, style)
        return _told(excinfo.value.result)

    def reportinfo(self) -> tuple[Path, None, str]:
        return (
            self.path,
            None,
            f"{self.case['id']} · {self.manifest.name}" + (f" → {self.server.name}" if self.server else ""),
        )


class CaseFailed(Exception):
    """A case did not pass."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.reason)
        self.result = result


def _told(result: Result) -> str:
    from .reports import figures  # noqa: PLC0415

    lines = [f"{result.verdict}: {figures.printable(result.reason)}", f"rules: {' '.join(result.case['rules'])}"]
    if result.transcript:
        left = len(result.transcript) - _LINES
        lines += ["", "on the wire (ms, connection):"] + ([f"  … {left} lines before these"] if left > 0 else [])
        lines += [f"  {figures.wire(line)}" for line in result.transcript[-_LINES:]]
    for title, said in (("driver, in (>) and out (<):", result.dialogue), ("driver's stderr:", result.stderr)):
        if said:
            lines += ["", title, *(f"  {figures.printable(line)[:400]}" for line in said[-20:])]
    return "\n".join(lines)


class Runner:
    """Runs cases in an event loop of its own thread; Redis and the drivers start when they are needed first."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._stack = contextlib.ExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._redis: Redis | None = None
        self._refused: ServerError | None = None
        self._pools: dict[tuple[str, str], Pool] = {}
        self._crossed: dict[tuple[str, str], asyncio.Task[dict[str, Result]]] = {}
        self._running: dict[str, Any] = {}

    def begin(self, item: CaseItem) -> None:
        """Let a case begin, unless it has."""
        if item.nodeid not in self._running:
            self._start()
            assert self._loop is not None
            self._running[item.nodeid] = asyncio.run_coroutine_threadsafe(self._run(item), self._loop)

    def result(self, item: CaseItem) -> Result:
        """Wait for a case. It may be run again afterwards (a plugin that repeats)."""
        result: Result = self._running[item.nodeid].result()
        del self._running[item.nodeid]
        return result

    def _start(self) -> None:
        if self._loop is not None:
            return
        # All that is needed later is imported now, before there is a second thread.
        from . import cross, reports, run, session  # noqa: F401, PLC0415
        from .server import ServerError, provide  # noqa: PLC0415

        if self._refused is not None:
            raise self._refused
        try:
            self._redis = self._stack.enter_context(provide(self._where))
        except ServerError as error:
            self._refused = error  # once is enough for all items
            raise
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="sabir-conformance", daemon=True)
        thread.start()

        def end(loop: asyncio.AbstractEventLoop) -> None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

        self._stack.callback(end, self._loop)

    async def _run(self, item: CaseItem) -> Result:
        from .run import Pool, run_case  # noqa: PLC0415
        from .session import scrub  # noqa: PLC0415

        assert self._redis is not None
        if item.server is not None:
            pair = (item.manifest.name, item.server.name)
            if pair not in self._crossed:
                self._crossed[pair] = asyncio.get_running_loop().create_task(self._cross(item.manifest, item.server))
            result = (await self._crossed[pair])[item.case["id"]]
        else:
            place = (item.manifest.name, item.case["role"])
            if place not in self._pools:
                self._pools[place] = Pool(item.manifest, item.case["role"], self._redis)
            result = await run_case(item.case, self._pools[place])
        scrub(result)
        return result

    async def _cross(self, client: Manifest, server: Manifest) -> dict[str, Result]:
        """All checks of a pair at once: its drivers are started for them only."""
        from . import cross  # noqa: PLC0415

        assert self._redis is not None
        found: dict[str, Result] = {}

        def take(result: Result) -> None:
            found[result.case["id"]] = result

        await cross.run([(client, server)], cross.cases(), self._redis, take, asyncio.Event())
        return found

    def close(self) -> None:
        """End the drivers, then Redis."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._stack.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:  # begun ahead, and not wanted any more
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pool in self._pools.values():
            await pool.close()
