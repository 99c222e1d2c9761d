"""The specification's rules: one permanent id, one actor, one keyword each; and whoever cites one cites one that exists."""

from __future__ import annotations

import hashlib
import re

import pytest
from conftest import PROTOCOL, TOP, load

SPEC = (PROTOCOL / "spec.md").read_text(encoding="utf-8")
LINES = SPEC.split("\n")
ID = re.compile(r"SABIR-[A-Z]+-[0-9]+")
KEYWORD = re.compile(r"\b(MUST|SHALL|SHOULD|MAY|REQUIRED|RECOMMENDED|OPTIONAL)( NOT)?\b")
ACTOR = re.compile(r"^> (A|The) (client or worker|client|worker)\b")


def rules() -> list[tuple[str, str]]:
    """(id, sentence) of each rule: its heading and the line behind it."""
    return [(line[5:], LINES[n + 1]) for n, line in enumerate(LINES) if line.startswith("#### ")]


def test_there_are_rules() -> None:
    assert len(rules()) > 50


def test_ids_are_unique_and_well_formed() -> None:
    ids = [id for id, _ in rules()]
    assert [id for id in ids if not ID.fullmatch(id)] == []
    assert sorted(ids) == sorted(set(ids))


def test_ids_of_an_area_count_up_from_one() -> None:
    areas: dict[str, list[int]] = {}
    for id, _ in rules():
        _, area, number = id.split("-")
        areas.setdefault(area, []).append(int(number))
    assert {area: sorted(numbers) for area, numbers in areas.items()} == {
        area: list(range(1, len(numbers) + 1)) for area, numbers in areas.items()
    }


@pytest.mark.parametrize(("id", "sentence"), rules())
def test_a_rule_is_one_quoted_sentence_with_one_actor_and_one_keyword(id: str, sentence: str) -> None:
    assert ACTOR.match(sentence), sentence
    assert len(re.findall(r"\*\*(?:MUST NOT|MUST|SHOULD NOT|SHOULD|MAY)\*\*", sentence)) == 1, sentence
    assert len(KEYWORD.findall(sentence)) == 1, sentence
    assert sentence.endswith("."), sentence
    assert not LINES[LINES.index(f"#### {id}") + 2].startswith(">"), "one sentence, one line"


def test_keywords_stand_nowhere_else() -> None:
    sentences = {sentence for _, sentence in rules()}
    elsewhere = [line for line in LINES if line not in sentences and KEYWORD.search(line)]
    assert elsewhere == []


def test_every_id_in_the_specification_is_a_rule_of_it() -> None:
    assert set(ID.findall(SPEC)) == {id for id, _ in rules()}


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", SPEC):
        assert (PROTOCOL / target).exists(), target


def test_the_error_table_and_the_vectors_cite_rules_that_exist() -> None:
    known = {id for id, _ in rules()}
    cited = {row["requirement"] for row in load("errors.json")["errors"] if row["requirement"]}
    for path in PROTOCOL.glob("vectors/*.json"):
        cited |= {case["rule"] for case in load(f"vectors/{path.name}")["cases"]}
    assert cited - known == set()


def test_a_row_cites_a_rule() -> None:
    assert [row["name"] for row in load("errors.json")["errors"] if row["requirement"] is None] == []


def test_whatever_the_repository_cites_exists() -> None:
    known = {id for id, _ in rules()}
    strays = []
    for name in ("protocol", "python", "ruby", "node", "conformance", "README.md", "CONTRIBUTING.md"):
        for path in [TOP / name, *(TOP / name).rglob("*")]:
            made = {"node_modules", ".venv"} & set(path.parts)
            if not made and path.suffix in {".py", ".rb", ".js", ".ts", ".md", ".json"} and path.is_file():
                text = path.read_text(encoding="utf-8")
                strays += [f"{path.relative_to(TOP)}: {id}" for id in set(ID.findall(text)) - known]
    assert strays == []


def test_the_limits_and_durations_are_those_of_the_vectors() -> None:
    """The spec's tables and the vectors are two places for the same figures."""
    commands = {case["name"]: case["expect"] for case in load("vectors/commands.json")["cases"]}
    assert "| dead letters | 1,000, fixed |" in SPEC
    assert commands["bury"][2] == ["LTRIM", "sabir:{calc}:dead", "-1000", "-1"]
    assert commands["reply"][2][2] == "60000"
    assert "60,000 ms" in SPEC
    assert "| lease | 10,000 ms |" in SPEC


def test_the_scripts_have_the_figures_of_the_specification() -> None:
    script = (PROTOCOL / "scripts" / "heartbeat.lua").read_text(encoding="utf-8")
    figures = {name: int(value) for name, value in re.findall(r"^local ([A-Z_]+) = ([0-9]+)", script, re.MULTILINE)}
    assert figures == {
        "LEASE_MS": 10_000,
        "REPLY_TTL_MS": 60_000,
        "ATTEMPTS": 3,
        "ATTEMPTS_TTL_MS": 86_400_000,
        "DEAD_LETTERS": 1_000,
        "KEPT_BYTES": 16_777_216,
        "KEPT_BINARY": 65_536,
        "READ_BYTES": 4_194_304,
        "STEP_BYTES": 1_048_576,
        "STEP_ELEMENTS": 1_000,
    }
    for row in (
        "| deliveries of an idempotent request | 3 |",
        "| expiry of `attempts:<id>` | 86,400,000 ms |",
        "| recovered in one step | 1,000 elements or about 1,048,576 bytes |",
    ):
        assert row in SPEC


def test_the_vectors_name_the_scripts_by_their_digests() -> None:
    named = {c[1] for case in load("vectors/commands.json")["cases"] for c in case["expect"] or [] if c[0] == "EVALSHA"}
    scripts = [PROTOCOL / "scripts" / f"{name}.lua" for name in ("heartbeat", "goodbye")]  # retry: not every port has it
    assert named == {hashlib.sha1(path.read_bytes()).hexdigest() for path in scripts}
