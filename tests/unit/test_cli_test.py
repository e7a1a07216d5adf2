"""`cds test`: what it shows, writes and returns."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from cds import cli
from cds.errors import EngineError
from cds.screening import Screener

RULES = """\
group: alpha
title: Alpha
version: 1.0.0
rules:
  - id: cramp-noted
    title: Cramp
    tier: soon
    when: [{symptom: cramp}]
    unless: [{condition: pregnancy}]
    evidence: [{source: s, statement: t}]
    review: draft
    card: {summary: A cramp, detail: d, patient: p}
"""
SEEN = """\
as_of: 2026-11-01
cases:
  - name: A cramp is noted
    data: [{symptom: cramp}]
    expect: {fires: [cramp-noted], tier: soon}
"""
CASES = f"""\
{SEEN}
  - name: Not in pregnancy
    data: [{{symptom: cramp}}, {{condition: pregnancy}}]
    expect: {{not: [cramp-noted]}}
  - name: A cramp of somebody who is not pregnant
    data: [{{symptom: cramp}}, {{denies: pregnancy}}]
    expect: {{fires: [cramp-noted]}}
  - {{name: No cramp, data: [{{denies: cramp}}], expect: {{not: [cramp-noted]}}}}
  - {{name: Nobody knows, expect: {{not: [cramp-noted]}}}}
"""
WRONG = "  - {name: Wrong <&\\u0001>, data: [{symptom: cramp}], expect: {not: [cramp-noted]}}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with the ruleset folder `rules` and its group `alpha`."""
    folder = tmp_path / "rules" / "alpha"
    folder.mkdir(parents=True)
    folder.joinpath("rules.yaml").write_text(RULES)
    folder.joinpath("cases.yaml").write_text(CASES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cases(here: Path, text: str) -> None:
    here.joinpath("rules", "alpha", "cases.yaml").write_text(text)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["test", *arguments], prog_name="cds")


def lines(result: Result) -> list[str]:
    return result.stdout.splitlines()


# ------------------------------------------------------------ what is shown


def test_all_is_well_in_four_lines(here: Path) -> None:
    result = run("rules")
    assert result.exit_code == 0, result.output
    assert lines(result) == [
        "group  file                    passed  failed",
        "alpha  rules/alpha/cases.yaml       5       0",
        "",
        "5 cases: 5 passed; criteria 2 of 2; mutants 6: 6 killed",
    ]
    assert run("rules/alpha").stdout == result.stdout


def test_a_failure_is_shown_with_its_line_its_name_and_the_criteria(here: Path) -> None:
    cases(here, CASES + WRONG.replace("<&\\u0001>", "of course"))
    result = run("rules", "--no-mutation")
    assert result.exit_code == 1
    assert "alpha  rules/alpha/cases.yaml       5       1" in lines(result)
    at = lines(result).index("FAILED rules/alpha/cases.yaml:15 Wrong of course")
    assert lines(result)[at + 1] == "    cramp-noted should not fire and does"
    assert re.match(r"      YES +symptom: muscle cramp: ", lines(result)[at + 2])
    assert "A cramp is noted" not in result.stdout
    assert lines(result)[-1] == "6 cases: 5 passed, 1 failed; criteria 2 of 2"


def test_verbose_lists_every_case(here: Path) -> None:
    result = run("rules", "-v", "--no-mutation")
    passed = [line for line in lines(result) if line.startswith("passed ")]
    assert passed[0] == "passed rules/alpha/cases.yaml:3 A cramp is noted"
    assert len(passed) == 5


def test_rules_are_not_changed_while_a_case_fails(here: Path) -> None:
    cases(here, CASES + WRONG)
    result = run("rules")
    assert "only when no case fails" in result.stderr
    assert "mutants" not in lines(result)[-1]


def test_what_no_case_tries_is_shown_with_cases_to_paste_until_nothing_is_left(here: Path) -> None:
    cases(here, SEEN)
    first = run("rules")
    assert first.exit_code == 1
    assert "Criteria that no case tries wholly" in lines(first)
    assert "Changes of the rules that no case notices" in lines(first)
    assert re.search(r"mutant cramp-noted/\S+", first.stdout)
    assert "\n  - name: " in first.stdout
    for _ in range(9):
        result = run("rules", "--format", "json", "--fail-under", "100")
        values = orjson.loads(result.stdout)
        asked = [*values["coverage"]["open"], *values["mutation"]["survivors"]]
        if not asked:
            break
        assert asked[0]["case"]
        cases(here, _text(here) + asked[0]["case"])
    assert result.exit_code == 0
    assert values["summary"].endswith("criteria 2 of 2; mutants 6: 6 killed")
    assert asked == []


def _text(here: Path) -> str:
    return here.joinpath("rules", "alpha", "cases.yaml").read_text()


def test_less_coverage_than_demanded_fails(here: Path) -> None:
    cases(here, SEEN)
    assert run("rules", "--no-mutation").exit_code == 0
    result = run("rules", "--no-mutation", "--fail-under", "90")
    assert result.exit_code == 1
    assert lines(result)[-1] == "1 case: 1 passed; criteria 0 of 2 (0.0 %, 90 % demanded)"


def test_an_accepted_change_does_not_fail_and_one_that_is_noticed_does(here: Path) -> None:
    cases(here, CASES.replace(", tier: soon", ""))
    result = run("rules", "--format", "json")
    survivors = [s["id"] for s in orjson.loads(result.stdout)["mutation"]["survivors"]]
    assert survivors
    listed = "".join(f"  - {{mutant: {id_}, reason: no matter}}\n" for id_ in survivors)
    accepted = here / "rules" / "alpha" / "mutants.yaml"
    accepted.write_text("accepted:\n" + listed)
    result = run("rules")
    assert result.exit_code == 0
    assert f", {len(survivors)} accepted" in lines(result)[-1]
    cases(here, CASES)
    result = run("rules")
    assert result.exit_code == 1
    assert "Faults in the list of accepted mutants" in lines(result)
    assert "rules/alpha/mutants.yaml:2" in result.stdout


# ------------------------------------------------------------ which cases


def test_only_the_cases_that_match_are_run_and_nothing_is_measured(here: Path) -> None:
    result = run("rules", "-k", "pregnan and not somebody")
    assert result.exit_code == 0
    assert lines(result)[-1] == "1 case: 1 passed"
    assert run("rules", "-k", "nothing such").exit_code == 2
    assert run("rules", "-k", "and").exit_code == 2
    assert run("rules", "-k", "x", "--fail-under", "3").exit_code == 2


def test_a_group_without_cases_is_a_warning_and_no_case_at_all_a_failure(here: Path) -> None:
    beta = here / "rules" / "beta"
    beta.mkdir()
    beta.joinpath("rules.yaml").write_text(
        RULES.replace("alpha", "beta").replace("cramp-noted", "other").replace("cramp}", "tremor}")
    )
    result = run("rules", "--no-mutation")
    assert result.exit_code == 0
    assert result.stderr == "cds: warning: group 'beta' has no case\n"
    assert "beta   no case" in [line.rstrip() for line in lines(result)]
    assert lines(result)[-1] == "5 cases: 5 passed; criteria 2 of 4"
    alone = run("rules/beta")
    assert alone.exit_code == 1
    assert lines(alone)[-1] == "no case in beta: write a cases.yaml beside rules.yaml"
    assert lines(run("rules/alpha"))[-1].startswith("5 cases: 5 passed; criteria 2 of 2; mutants 6")


# ------------------------------------------------------------ for machines


def test_json_has_every_case_with_its_failures(here: Path) -> None:
    cases(here, CASES + WRONG)
    result = run("rules", "--format", "json")
    values = orjson.loads(result.stdout)
    assert result.exit_code == 1
    assert (values["passed"], values["groups"]) == (
        False,
        [{"group": "alpha", "path": "rules/alpha/cases.yaml", "passed": 5, "failed": 1}],
    )
    (failed,) = [case for case in values["cases"] if not case["passed"]]
    assert (failed["path"], failed["line"]) == ("rules/alpha/cases.yaml", 15)
    assert failed["as_of"] == "2026-11-01T00:00:00Z"
    (failure,) = failed["failures"]
    assert (failure["kind"], failure["subject"]) == ("not", "cramp-noted")
    assert failure["why"]
    assert values["coverage"] == {"total": 2, "covered": 2, "percent": 100.0, "open": []}


def test_junit_is_well_formed_whatever_a_name_holds_and_counts_what_it_has(here: Path) -> None:
    cases(here, CASES + WRONG.replace("Wrong <&\\u0001>", '"Wrong <&\\u0001>"'))
    result = run("rules", "--junit", "out.xml", "--fail-under", "90")
    assert result.exit_code == 1
    root = ElementTree.parse(here / "out.xml").getroot()  # noqa: S314 - written just now
    alpha, criteria = root
    assert (alpha.get("name"), alpha.get("tests"), alpha.get("failures")) == ("alpha", "6", "1")
    assert (criteria.get("tests"), criteria.get("failures")) == ("1", "0")
    failed = alpha[-1]
    assert failed.get("name") == "Wrong <&\N{REPLACEMENT CHARACTER}>"
    assert (failed.get("file"), failed.get("line")) == ("rules/alpha/cases.yaml", "15")
    assert failed[0].get("message") == "cramp-noted should not fire and does"
    assert "YES" in str(failed[0].text)


def test_junit_has_the_changes_that_no_case_notices(here: Path) -> None:
    cases(here, SEEN)
    run("rules", "--junit", "out.xml", "--fail-under", "90")
    root = ElementTree.parse(here / "out.xml").getroot()  # noqa: S314 - written just now
    suites = {suite.get("name"): suite for suite in root}
    assert suites["criteria"].get("failures") == "1"
    assert len(suites["mutants"]) > 0
    assert "  - name: " in str(suites["mutants"][0][0].text)


def test_cases_are_written_as_bundles_and_hook_requests_and_nothing_is_tested(here: Path) -> None:
    same = "  - {name: a cramp is noted!, data: [], expect: {tier: none}}\n"
    cases(here, CASES + WRONG + same)
    result = run("rules", "--export", "out")
    assert result.exit_code == 0
    assert lines(result) == [
        "7 cases written to out, each as a Bundle (.json) and as a CDS Hooks request (.hook.json)"
    ]
    files = sorted(path.name for path in here.glob("out/alpha/*"))
    assert len(files) == 14
    assert files[:4] == [
        "a-cramp-is-noted-2.hook.json",
        "a-cramp-is-noted-2.json",
        "a-cramp-is-noted.hook.json",
        "a-cramp-is-noted.json",
    ]
    screened = CliRunner().invoke(
        cli.main,
        ["screen", "out", "--as-of", "2026-11-01", "--rulesets", "rules", "--format", "json"],
    )
    found = {a["patient"]: a["tier"] for a in orjson.loads(screened.stdout)}
    assert (len(found), screened.exit_code) == (6, 0)
    assert found["Patient/no-cramp"] is None
    assert found["Patient/a-cramp-of-somebody-who-is-not-pregnant"] == "soon"
    request = orjson.loads(here.joinpath("out/alpha/no-cramp.hook.json").read_bytes())
    assert request["context"]["patientId"] == "no-cramp"
    assert run("rules", "--export", "out", "-k", "nobody").stdout.startswith("1 case written")
    assert run("rules", "--export", "out", "--junit", "x").exit_code == 2


# ------------------------------------------------------------ what cannot be tested


def test_what_cannot_be_used_ends_with_2_and_says_where(here: Path) -> None:
    assert run("nowhere").exit_code == 2
    cases(here, CASES.replace("symptom: cramp", "symptom: kramp"))
    result = run("rules")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert (
        "cds: rules/alpha/cases.yaml:4: there is no value set 'kramp'; did you mean 'cramp'?"
        in result.stderr.splitlines()
    )
    cases(here, "cases: []")
    assert "holds no case" in run("rules").stderr
    here.joinpath("rules", "alpha", "rules.yaml").write_text("group: alpha")
    result = run("rules")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "rules/alpha/rules.yaml:1: " in result.stderr


def test_a_failure_of_the_engine_ends_with_4(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Screener, record: Any, as_of: int) -> Any:
        raise EngineError("the engines differ")

    monkeypatch.setattr(Screener, "assess", broken)
    result = run("rules", "--no-mutation")
    assert result.exit_code == 4
    assert "internal error: the engines differ" in result.stdout


@pytest.mark.parametrize("arguments", [("--junit", "out.xml"), ("--export", "out")])
def test_to_interrupt_it_leaves_no_half_file(
    here: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """Ctrl-C while the second file, or the report, is being written."""
    write, count = Path.write_bytes, 0

    def interrupted(self: Path, data: bytes) -> int:
        nonlocal count
        count += 1
        if count == (2 if "--export" in arguments else 1):
            write(self, data[: len(data) // 2])
            raise KeyboardInterrupt
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    result = run("rules", "--no-mutation", *arguments)
    assert result.exit_code == 130
    left = {path.name for path in here.rglob("*") if path.is_file()}
    assert left - {"rules.yaml", "cases.yaml"} <= {"a-cramp-is-noted.json"}


def test_the_profile_of_a_site_is_tested_with_the_same_cases(here: Path) -> None:
    here.joinpath("site.yaml").write_text(
        "site: ours\ntitle: Ours\nversion: 1.0.0\n"
        "disable:\n  - {rule: cramp-noted, reason: not with us}\n"
    )
    result = run("rules", "--no-mutation", "--site", "site.yaml")
    assert result.exit_code == 1
    assert "      disabled by site 'ours': not with us" in lines(result)


# ------------------------------------------------------------ cases on the page of rules


def test_the_page_of_rules_shows_the_cases_of_each_rule_and_what_they_cover(here: Path) -> None:
    shows = "  - {name: Shown, data: [{symptom: cramp}], expect: {shows: [cramp-noted]}}\n"
    cases(here, CASES + shows + WRONG.replace("\\u0001", ""))
    page = CliRunner().invoke(cli.main, ["rules", "--rulesets", "rules", "--format", "html"]).stdout
    text = " ".join(re.sub(r"<[^>]+>", "", page).split())
    for line in (
        "A cramp is noted: fires; tier of the patient: soon (alpha/cases.yaml:3)",
        "Not in pregnancy: does not fire (alpha/cases.yaml:7)",
        "Shown: its finding is shown",
        "Wrong &lt;&amp;&gt;: does not fire (FAILS)",
        "2 of 2 criteria",
    ):
        assert line in text
