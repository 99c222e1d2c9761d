"""--redis container, where there is a Docker engine."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from conftest import TOP


def engine() -> bool:
    """Whether a Docker engine answers."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False).returncode == 0


@pytest.mark.skipif(not engine(), reason="no Docker engine here: --redis container was not run")
@pytest.mark.parametrize("image", ["redis:7", "valkey/valkey:9"])
def test_the_suite_runs_on_a_redis_in_a_container_and_takes_it_away_again(image: str) -> None:
    pytest.importorskip("testcontainers", reason="testcontainers is not installed")
    driver = TOP / "conformance/drivers/python/driver.json"
    done = subprocess.run(
        ["sabir-conformance", "run", "--driver", driver, "--redis", f"container:{image}", "--smoke"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"(container {image})" in done.stdout
    left = subprocess.run(
        ["docker", "ps", "-aq", "--filter", f"ancestor={image}"], capture_output=True, text=True, check=True
    )
    assert left.stdout == ""
