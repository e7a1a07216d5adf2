"""The pytest plugin: `pytest rulesets/` runs cases, and failures read well; others lose nothing."""

from __future__ import annotations

import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from bad_rules import GOOD, HEAD, folder, rule
from cds import load_rulesets
from cds.cases import load_cases_file
from cds.harness import run as run_cases
from cds.screening import Screener

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "cds.testing.plugin"
# An install made before the entry point was written does not have it.
_INSTALLED = any(each.value == PLUGIN for each in entry_points(group="pytest11"))

CASES = """\
as_of: 2026-11-01T00:00:00Z
cases:
  - name: Potassium 3.4 with a twitch is for the next days
    data: [{lab: potassium 3.4 mmol/L now}, {symptom: twitching}]
    expect: {fires: [low], tier: soon}
  - name: Potassium of {x}
    data: [{lab: "potassium {x} mmol/L 2 days ago"}]
    each:
      - {x: 2.4, tier: emergency}
      - {x: 2.6, not: [very-low]}
"""


@pytest.fixture(scope="module", autouse=True)
def _all_modules_are_loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a run inside this process loads is unloaded behind it, which C extensions dislike."""
    root = folder(tmp_path_factory.mktemp("rules"))
    path = root / "small" / "cases.yaml"
    path.write_text(CASES, encoding="utf-8")
    rulesets = load_rulesets(root)
    cases = load_cases_file(path, "small", rulesets)
    assert all(result.passed for result in run_cases(Screener(rulesets), cases))


@pytest.fixture
def rules(pytester: pytest.Pytester) -> Path:
    """A folder of rulesets with cases, in a project of its own."""
    root = folder(pytester.path / "rulesets")
    root.joinpath("small", "cases.yaml").write_text(CASES, encoding="utf-8")
    return root


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest in the project of the test as its user would."""
    loaded = () if _INSTALLED else ("-p", PLUGIN)
    quiet = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    return pytester.runpytest_inprocess(*loaded, *quiet, *arguments)


def shown(result: pytest.RunResult) -> str:
    return "\n".join(result.outlines)


# ---------------------------------------------------------------- cases


def test_each_case_beside_rules_is_a_test_of_its_name(
    pytester: pytest.Pytester, rules: Path
) -> None:
    result = run(pytester, "rulesets", "-v")
    result.assert_outcomes(passed=3)
    for name in (
        "Potassium 3.4 with a twitch is for the next days",
        "Potassium of 2.4",
        "Potassium of 2.6",
    ):
        assert f"rulesets/small/cases.yaml::{name} PASSED" in shown(result)


def test_words_and_ids_select_cases(pytester: pytest.Pytester, rules: Path) -> None:
    run(pytester, "rulesets", "-k", "twitch").assert_outcomes(passed=1, deselected=2)
    run(pytester, "rulesets/small/cases.yaml::Potassium of 2.4").assert_outcomes(passed=1)
    run(pytester, "rulesets/small").assert_outcomes(passed=3)


def test_a_failure_says_where_which_criterion_and_what_was_observed(
    pytester: pytest.Pytester, rules: Path
) -> None:
    path = rules / "small" / "cases.yaml"
    path.write_text(CASES.replace("{x: 2.6, not:", "{x: 2.4999, not:"), encoding="utf-8")
    result = run(pytester, "rulesets")
    result.assert_outcomes(passed=2, failed=1)
    text = shown(result)
    assert "rulesets/small/cases.yaml:10: very-low should not fire and does" in text
    assert "YES     potassium < 2.5 mmol/L, at most 7 days old: 2.4999 mmol/L" in text
    assert "_ small: Potassium of 2.4999 _" in text
    assert "Traceback" not in text
    assert ".py" not in text.partition("FAILURES")[2].partition("summary")[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("fires: [low]", "fires: [lou]"), "cases.yaml:3: there is no rule 'lou'"),
        (("potassium 3.4", "potasium 3.4"), "cases.yaml:4: there is no analyte 'potasium'"),
        (("tier: soon", "tier: sooner"), "sooner"),
        (("cases:\n", "cases: []\nnothing:\n"), "cases.yaml"),
    ],
)
def test_what_is_wrong_in_a_file_of_cases_is_said_with_its_line(
    pytester: pytest.Pytester, rules: Path, change: tuple[str, str], said: str
) -> None:
    rules.joinpath("small", "cases.yaml").write_text(CASES.replace(*change), encoding="utf-8")
    result = run(pytester, "rulesets")
    result.assert_outcomes(errors=1)
    assert said in shown(result)
    assert "Traceback" not in shown(result)


def test_what_is_wrong_in_the_rules_is_said_with_its_line(
    pytester: pytest.Pytester, rules: Path
) -> None:
    folder(rules, GOOD.replace("lab: potassium, lt: 3.5", "lab: potasium, lt: 3.5"))
    result = run(pytester, "rulesets")
    result.assert_outcomes(errors=1)
    assert "rules.yaml:5: rule 'low': unknown analyte 'potasium'" in shown(result)


def test_findings_of_the_groups_beside_are_known(pytester: pytest.Pytester, rules: Path) -> None:
    folder(rules, HEAD + rule("both", "soon", "finding: very-low"), group="other")
    cases = (
        "as_of: 2026-11-01T00:00:00Z\ncases:\n  - name: Very low is known here\n"
        "    data: [{lab: potassium 2.4 mmol/L now}]\n    expect: {fires: [both, very-low]}\n"
    )
    rules.joinpath("other", "cases.yaml").write_text(cases, encoding="utf-8")
    run(pytester, "rulesets/other").assert_outcomes(passed=1)
    run(pytester, "rulesets").assert_outcomes(passed=4)


def test_a_site_profile_changes_the_rules_that_cases_are_run_against(
    pytester: pytest.Pytester, rules: Path
) -> None:
    pytester.path.joinpath("site.yaml").write_text(
        "site: clinic\ntitle: A clinic\nversion: 1.0.0\n"
        "disable: [{rule: low, reason: Not wanted here}]\n",
        encoding="utf-8",
    )
    result = run(pytester, "rulesets", "--cds-site", "site.yaml")
    result.assert_outcomes(passed=2, failed=1)
    assert "disabled by site 'clinic': Not wanted here" in shown(result)


# ---------------------------------------------------------------- fixtures


def test_tests_of_ones_own_get_a_screener_for_the_rules_of_the_project(
    pytester: pytest.Pytester, rules: Path
) -> None:
    pytester.makepyfile(
        """
        from cds.forms import Lab, parse

        def test_lines_forms_and_fhir_are_one_patient(cds_assess, cds_screener, cds_rulesets):
            assert cds_screener.rulesets is cds_rulesets
            assert [file.group for file in cds_rulesets.files] == ["small"]
            assert cds_assess("lab: potassium 2.4 mmol/L").tier.name == "emergency"
            assert cds_assess(parse({"lab": "potassium 2.4 mmol/L"})).fired == {"very-low"}
            assert cds_assess({"lab": "potassium 2.4 mmol/L", "status": "cancelled"}).tier is None
            old = cds_assess("lab: potassium 2.4 mmol/L on 2026-10-31", as_of="2026-12-24T00:00Z")
            assert old.tier is None
            twitch = {
                "resourceType": "Condition", "id": "c", "subject": {"reference": "Patient/p"},
                "code": {"coding": [{"system": "http://snomed.info/sct", "code": "82470000"}]},
            }
            assessment = cds_assess("lab: potassium 3.4 mmol/L", twitch)
            assert (assessment.patient, assessment.fired) == ("Patient/p", {"low"})
        """
    )
    run(pytester, "--cds-rulesets", "rulesets", "-k", "one_patient").assert_outcomes(
        passed=1, deselected=3
    )
    pytester.makeini("[pytest]\ncds_rulesets = rulesets\n")
    run(pytester).assert_outcomes(passed=4)


def test_without_an_option_the_fixtures_hold_the_shipped_rules(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_shipped(cds_rulesets):
            assert "hypokalemia-severe" in cds_rulesets.program.by_id
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_rules_that_do_not_load_are_said_without_a_traceback(pytester: pytest.Pytester) -> None:
    folder(pytester.path / "rulesets", GOOD.replace("tier: soon", "tier: sooner"))
    pytester.makepyfile("def test_it(cds_screener): pass")
    result = run(pytester, "--cds-rulesets", "rulesets")
    result.assert_outcomes(errors=1)
    assert "rules.yaml:" in shown(result)
    assert "sooner" in shown(result)
    assert "load_rulesets" not in shown(result)


# ---------------------------------------------------------------- in other projects


@pytest.mark.parametrize("rules_of_another_tool", [None, "groups:\n  - name: alerts\n", ""])
def test_cases_of_another_tool_are_left_alone(
    pytester: pytest.Pytester, rules_of_another_tool: str | None
) -> None:
    pytester.path.joinpath("cases.yaml").write_text("- anything\n", encoding="utf-8")
    if rules_of_another_tool is not None:
        pytester.path.joinpath("rules.yaml").write_text(rules_of_another_tool, encoding="utf-8")
    pytester.makepyfile("def test_own(): pass")
    run(pytester).assert_outcomes(passed=1)


def test_a_project_that_uses_nothing_of_it_loads_nothing_of_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_own():
            ours = {name for name in sys.modules if name.split(".")[0] == "cds"}
            assert ours <= {"cds", "cds.testing", "cds.testing.plugin"}
        """
    )
    loaded = () if _INSTALLED else ("-p", PLUGIN)
    result = pytester.runpytest_subprocess(*loaded, "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=1)


def test_the_plugin_is_announced_once_under_the_name_cds() -> None:
    project = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"cds": PLUGIN}


def test_it_can_be_named_and_switched_off(pytester: pytest.Pytester, rules: Path) -> None:
    if not _INSTALLED:
        pytest.skip("installed before the entry point was written; install again")
    run(pytester, "-p", "cds", "rulesets").assert_outcomes(passed=3)
    run(pytester, "-p", "no:cds", "rulesets").assert_outcomes()
