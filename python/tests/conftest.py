"""One real server for all tests; each test has a namespace of its own. See support.py."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest
import redis
from hypothesis import settings
from support import Asyncio, Blocking, Peer, Proxy, redis_server

settings.register_profile("sabir", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("sabir")


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if given := os.environ.get("SABIR_TEST_REDIS_URL"):
        yield given
        return
    with redis_server(tmp_path_factory.mktemp("redis")) as own:
        yield own


@pytest.fixture(scope="session")
def _raw(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url, socket_timeout=15) as client:
        yield client


@pytest.fixture
def namespace(_raw: redis.Redis) -> Iterator[str]:
    name = f"test.{secrets.token_hex(8)}"
    yield name
    for key in _raw.scan_iter(f"{name}:*", count=1000):
        _raw.delete(key)


@pytest.fixture
def raw(_raw: redis.Redis) -> redis.Redis:
    return _raw


@pytest.fixture
def peer(raw: redis.Redis, namespace: str) -> Peer:
    return Peer(raw, namespace)


@pytest.fixture(params=[Blocking, Asyncio], ids=lambda shell: shell.name)
def shell(request: pytest.FixtureRequest, url: str, namespace: str) -> Iterator[Blocking]:
    one = request.param(url, namespace)
    yield one
    one.close()


@pytest.fixture
def proxy(url: str, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    one = Proxy(url)
    yield one
    if "shell" in request.fixturenames:  # while there still is a way to say goodbye
        one.refuse(False)
        one.silence(False)
        request.getfixturevalue("shell").close()
    one.close()
