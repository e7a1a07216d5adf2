"""Lint: for each id a folder that has just this fault, and what else a rule author relies on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cds import lint as linting
from cds.errors import UsageError
from cds.lint import Lint, validators
from cds.lint.codes import loinc_digit, snomed_digit_holds
from cds.shipped import shipped
from lint_folder import MILD, MODERATE, RULES, SEVERE, USUAL, rule, write


def lints(folder: Path) -> list[Lint]:
    """What is found, but for the remark that a folder of a test is in no git checkout."""
    return [e for e in linting.lint([folder]) if e.id != "CDS904"]


def only(folder: Path, id_: str) -> Lint:
    """The one lint of a folder, or the first of several with one id."""
    found = lints(folder)
    assert {e.id for e in found} == {id_}, [(e.id, e.line, e.message) for e in found]
    assert found[0].fix
    return found[0]


def line_of(file: Path, text: str) -> int:
    return next(n for n, line in enumerate(file.read_text().splitlines(), 1) if text in line)


def test_nothing_is_found_in_a_folder_where_nothing_is_wrong(tmp_path: Path) -> None:
    assert lints(write(tmp_path)) == []


def test_the_shipped_rules_have_no_error() -> None:
    # Whether the version has been raised is for the author, who may be in the middle of a change.
    errors = [e for e in linting.lint() if e.severity == "error" and not e.accepted]
    assert [e for e in errors if e.id != "CDS901"] == []


def test_a_copy_of_the_shipped_rules_is_judged_like_these(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shipped("rulesets"), copy)
    shutil.copytree(shipped("fhir_examples"), tmp_path / "fhir_examples")  # its cases use them
    assert [e for e in lints(copy) if e.severity == "error" and not e.accepted] == []


# ------------------------------------------------------------ one text changed

RULE_FILE = "trial/rules.yaml"
FEW_DAYS = "Call your doctor in the next few days."


@pytest.mark.parametrize(
    ("id_", "file", "old", "new"),
    [
        ("CDS101", RULE_FILE, "title: Rules for trying", "title: [Rules"),
        ("CDS101", "valuesets/all.yaml", "value_sets:", "value_sets: &all"),
        ("CDS102", RULE_FILE, "tier: urgent", "tier: high"),
        ("CDS102", RULE_FILE, "family: low", "famly: low"),
        ("CDS102", "valuesets/all.yaml", "kind: medication", "kind: drug"),
        ("CDS102", "cards.yaml", "age_unknown:", "age_unkown:"),
        ("CDS103", RULE_FILE, "lt: 2.5", "lt: 2.55555"),
        ("CDS105", RULE_FILE, "- id: severe", "- id: moderate"),
        ("CDS105", "valuesets/all.yaml", "- id: weakness", "- id: twitching"),
        ("CDS106", RULE_FILE, "{finding: wanted}", "{finding: wnated}"),
        ("CDS107", RULE_FILE, "{lab: potassium, lt: 2.5", "{lab: potasium, lt: 2.5"),
        ("CDS107", RULE_FILE, "{condition: pregnancy}", "{condition: loop-diuretic}"),
        ("CDS107", "valuesets/all.yaml", "includes: [fasciculation]", "includes: [fascia]"),
        ("CDS201", "valuesets/all.yaml", "82470000", "82470001"),
        ("CDS201", "analytes.yaml", '"2000-8"', '"2000-7"'),
        ("CDS202", "valuesets/all.yaml", '"4603"', '"C03CA01"'),
        ("CDS202", "valuesets/all.yaml", '"R25.3"', '"R253"'),
        (
            "CDS203",
            "analytes.yaml",
            '"29265-6", property: substance, display: "Calcium adjusted"',
            '"2000-8", property: substance, display: "Calcium"',
        ),
        (
            "CDS204",
            "cards.yaml",
            '          display: "Potassium [Moles/volume] in Serum"',
            "          display: Sodium",
        ),
        ("CDS205", "analytes.yaml", "unit: g/L", "unit: gram%"),
        ("CDS206", RULE_FILE, "lt: 2.5, unit: mmol/L", "lt: 2.5, unit: mg/dL"),
        (
            "CDS206",
            "analytes.yaml",
            '"1995-0", property: substance',
            '"1995-0", property: time',
        ),
        ("CDS207", "analytes.yaml", '"2823-3", property: substance', '"2823-3", property: mass'),
        ("CDS208", "valuesets/all.yaml", "system: rxnorm", "system: rxnrom"),
        ("CDS208", "cards.yaml", '"http://loinc.org"', '"https://loinc.org/"'),
        (
            "CDS209",
            "valuesets/all.yaml",
            '\n      - {system: rxnorm, code: "4603", display: "furosemide"}',
            " []",
        ),
        ("CDS208", "cards.yaml", '"http://loinc.org"', "loinc"),
        ("CDS301", RULE_FILE, "tier: emergency", "tier: soon"),
        ("CDS305", RULE_FILE, ", first_band: true", ""),
        ("CDS307", RULE_FILE, ", critical_flag: true", ""),
        ("CDS406", RULE_FILE, "id: severe", "id: severe\n    caveat_for: [lwo]"),
        ("CDS501", RULE_FILE, "[repeat-potassium]", "[repeat-potassium, sodium]"),
        ("CDS503", RULE_FILE, "{potassium.date}", "{potassium.day}"),
        ("CDS504", RULE_FILE, "{potassium.date}", "{albumin.date}"),
        ("CDS506", RULE_FILE, "covers: [TH-001]", "covers: [TH-999]"),
        ("CDS507", "trial/cases.yaml", "not: []", "not: [sever]"),
        ("CDS602", RULE_FILE, "review: draft", "review: approved"),
        ("CDS602", RULE_FILE, "review: draft", "last_reviewed: yesterday\n    review: draft"),
        ("CDS602", RULE_FILE, "review: draft", "last_reviewed: 2026-02-30\n    review: draft"),
        ("CDS701", RULE_FILE, "suggestions: [", f"patient_summary: {'x' * 140}, suggestions: ["),
        ("CDS701", RULE_FILE, "Potassium low at", "Potassium low " + "very " * 24 + "at"),
        ("CDS702", "cards.yaml", "label: Repeat potassium", "label: Repeat " + "potassium " * 9),
        ("CDS702", RULE_FILE, "A guideline, statement: So", f"{'A guide ' * 12}, statement: So"),
        ("CDS703", RULE_FILE, f', patient: "Your potassium is low. {FEW_DAYS}"', ""),
        ("CDS703", RULE_FILE, f"Your potassium is low. {FEW_DAYS}", " "),
        ("CDS803", RULE_FILE, FEW_DAYS, f"{FEW_DAYS} You need an ECG."),
        ("CDS804", RULE_FILE, FEW_DAYS, "That is all."),
        ("CDS804", "cards.yaml", "Call your doctor in the next few days.", "Call your doctor."),
        ("CDS805", RULE_FILE, FEW_DAYS, f"{FEW_DAYS} Stop taking your water pills."),
        ("CDS805", RULE_FILE, "doctor's office today.", "doctor's office today. Do not stop it."),
        ("CDS805", RULE_FILE, FEW_DAYS, f"{FEW_DAYS} Eat bananas."),
        ("CDS805", RULE_FILE, FEW_DAYS, f"{FEW_DAYS} Massage helps."),
        ("CDS805", RULE_FILE, FEW_DAYS, f"{FEW_DAYS} There is no need to worry."),
        ("CDS806", RULE_FILE, '"Call your local emergency number now."', '"Call for help now."'),
        ("CDS807", RULE_FILE, FEW_DAYS, f"{FEW_DAYS} It is below 3.5."),
        ("CDS807", RULE_FILE, "Your potassium is low.", "Your potassium is {potassium}."),
        ("CDS808", RULE_FILE, "doctor's office today", "doctor's office about your pills today"),
    ],
)  # fmt: skip
def test_a_fault_has_its_own_id(tmp_path: Path, id_: str, file: str, old: str, new: str) -> None:
    folder = write(tmp_path, change=(file, old, new))
    found = only(folder, id_)
    assert found.path == str(folder / file)
    assert found.line > 0 or "twice" in found.message


# ------------------------------------------------------------ other rules


@pytest.mark.parametrize(
    ("id_", "about", "rules"),
    [
        (
            "CDS104",
            "a",
            (
                *USUAL,
                rule("a", "[{symptom: weakness}]", unless="[{finding: b}]", family=None),
                rule("b", "[{finding: c}]", family=None),
                rule("c", "[{symptom: twitching}, {finding: a}]", family=None),
            ),
        ),
        ("CDS407", "idle", (*USUAL, rule("idle", "[{symptom: weakness}]", step="true", card=""))),
        # A two-sided band ends, and the values beyond it are worse.
        (
            "CDS301",
            "moderate",
            (
                MILD,
                rule(
                    "moderate",
                    "[{lab: potassium, lt: 3.0, unit: mmol/L, critical_flag: true}, "
                    "{lab: potassium, ge: 2.5, unit: mmol/L}]",
                    tier="urgent",
                ),
            ),
        ),
        ("CDS302", "again", (*USUAL, SEVERE.replace("severe", "again") + "\n  finding: severe")),
        (
            "CDS303",
            "moderate",
            (
                MILD,
                rule(
                    "moderate",
                    "[{lab: potassium, lt: 3.0, unit: mmol/L, critical_flag: true}, "
                    "{lab: potassium, ge: 2.4, unit: mmol/L}]",
                    tier="urgent",
                ),
                SEVERE,
            ),
        ),
        (
            "CDS304",
            "moderate",
            (
                MILD,
                rule(
                    "moderate",
                    "[{lab: potassium, lt: 3.0, unit: mmol/L, critical_flag: true}, "
                    "{lab: potassium, gt: 2.5, unit: mmol/L}]",
                    tier="urgent",
                ),
                SEVERE,
            ),
        ),
        ("CDS306", "severe", (MILD, MODERATE, SEVERE.replace("unit:", "first_band: true, unit:"))),
        ("CDS401", "x", (*USUAL, rule("x", "[{sex: male}, {sex: female}]"))),
        (
            "CDS401",
            "x",
            (
                *USUAL,
                rule(
                    "x",
                    "[{lab: albumin, gt: 50, unit: g/L}, {lab: albumin, lt: 50, unit: g/L}]",
                    family=None,
                ),
            ),
        ),
        (
            "CDS401",
            "x",
            (
                *USUAL,
                rule("x", "[{lab: albumin, laboratory: above, within: P7D, older_than: P7D}]"),
            ),
        ),
        (
            "CDS401",
            "x",
            (*USUAL, rule("x", "[{symptom: weakness, within: P7D, longer_than: P30D}]")),
        ),
        (
            "CDS401",
            "x",
            (
                *USUAL,
                rule(
                    "x",
                    "[{lab: albumin, laboratory: below}, {no_result: albumin, within: P30D}]",
                ),
            ),
        ),
        (
            "CDS401",
            "x",
            (*USUAL, rule("x", "[{symptom: fasciculation}]", unless="[{symptom: twitching}]")),
        ),
        (
            "CDS402",
            "y",
            (
                *USUAL,
                rule("x", "[{no_result: albumin, within: P7D}]", family="albumin"),
                rule("y", "[{no_result: albumin, within: P30D}]", family="albumin"),
            ),
        ),
        (
            "CDS402",
            "x",
            (*USUAL, rule("x", "[{finding: severe}, {symptom: weakness}]", tier="urgent")),
        ),
        (
            "CDS402",
            "x",
            (*USUAL, rule("x", "[{lab: potassium, le: 2.4, unit: mmol/L}]", tier="emergency")),
        ),
        (
            "CDS403",
            "x",
            (*USUAL, rule("w", "[{sex: male}]"), rule("x", "[{sex: male}]", tier="routine")),
        ),
        (
            "CDS403",
            "x",
            (*USUAL, SEVERE.replace("severe", "x") + "\n  finding: other"),
        ),
        (
            "CDS404",
            "x",
            (*USUAL, rule("x", "[{sex: male}, {any: [{sex: female}, {symptom: weakness}]}]")),
        ),
        (
            "CDS405",
            "x",
            (
                *USUAL,
                rule("x", "[{lab: albumin, laboratory: below, within: P7D}]", recheck="true"),
            ),
        ),
        # The analyte's results count no longer as context than they count as fresh.
        ("CDS405", "x", (*USUAL, rule("x", "[{lab: egfr, laboratory: below}]", recheck="true"))),
        (
            "CDS504",
            "x",
            (
                *USUAL,
                rule(
                    "x",
                    "[{any: [{lab: albumin, laboratory: below}, {symptom: weakness}]}]",
                    card=f'{{summary: "Albumin {{albumin}}", detail: D., patient: "{FEW_DAYS}"}}',
                ),
            ),
        ),
        (
            "CDS601",
            "x",
            (
                *USUAL,
                rule("x", "[{sex: male}]", evidence="[{source: A, statement: B, year: 2020}]"),
            ),
        ),
        (
            "CDS603",
            "x",
            (
                *USUAL,
                rule(
                    "x",
                    "[{sex: male}]",
                    evidence="[{source: A, statement: B, from_knowledge: true}]",
                ),
            ),
        ),
        (
            "CDS801",
            "x",
            (
                *USUAL,
                rule(
                    "x",
                    "[{sex: male}]",
                    card="{summary: S, detail: D., patient: Immediately following any "
                    "deterioration of your neuromuscular symptomatology you need to organize a "
                    "consultation with your physician in the next few days.}",
                ),
            ),
        ),
    ],
)  # fmt: skip
def test_a_fault_of_criteria_or_texts_has_its_own_id(
    tmp_path: Path, id_: str, about: str, rules: tuple[str, ...]
) -> None:
    found = only(write(tmp_path, *rules), id_)
    assert found.rule == about
    assert found.line > 0


# ------------------------------------------------------------ what is left over


def test_what_nobody_uses_is_said(tmp_path: Path) -> None:
    folder = write(tmp_path, MODERATE, rule("x", "[{finding: wanted}]"))
    assert {(e.id, e.rule) for e in lints(folder)} == {
        ("CDS502", "repeat-potassium"),
        ("CDS505", "loop-diuretic"),
        ("CDS505", "pregnancy"),
    }


def test_a_rule_that_no_case_expects_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, change=("trial/cases.yaml", "mild, moderate, severe", "mild, severe"))
    found = only(folder, "CDS604")
    assert found.rule == "moderate"
    assert found.line == line_of(folder / RULE_FILE, "- id: moderate")


def test_a_rule_that_only_a_row_of_a_case_expects_counts_as_expected(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        change=(
            "trial/cases.yaml",
            "data: []\n    expect: {fires: [mild, moderate, severe], not: []}",
            'data: [{lab: "potassium {k} mmol/L"}]\n'
            "    expect: {fires: [mild]}\n"
            "    each: [{k: 2.4, fires: [moderate]}, {k: 2.3, shows: [severe]}]",
        ),
    )
    assert lints(folder) == []


def test_a_case_that_cannot_be_used_is_told_with_its_line(tmp_path: Path) -> None:
    change = ("trial/cases.yaml", "data: []", "data: [{lab: potasium 2.4 mmol/L}]")
    found = only(write(tmp_path, change=change), "CDS507")
    assert found.line == line_of(tmp_path / "trial/cases.yaml", "potasium")
    assert "did you mean 'potassium'?" in found.message


def test_a_group_without_cases_is_one_lint(tmp_path: Path) -> None:
    found = only(write(tmp_path, cases=False), "CDS604")
    assert "3 rules" in found.message


def test_cases_that_cannot_be_read_are_no_missing_cases(tmp_path: Path) -> None:
    folder = write(tmp_path, change=("trial/cases.yaml", "data: []", "data: ["))
    assert only(folder, "CDS101").path == str(folder / "trial/cases.yaml")


def test_the_rules_of_a_circle_are_named(tmp_path: Path) -> None:
    rules = (
        rule("a", "[{symptom: weakness}]", unless="[{finding: b}]", family=None),
        rule("b", "[{finding: a}]", family=None),
    )
    assert "a -> b -> a" in only(write(tmp_path, *USUAL, *rules), "CDS104").message


def test_rules_that_only_wait_for_each_other_can_never_hold(tmp_path: Path) -> None:
    rules = (
        rule("a", "[{finding: b}]", family=None),
        rule("b", "[{finding: a}]", family=None),
    )
    found = lints(write(tmp_path, *USUAL, *rules))
    assert [(e.id, e.rule) for e in found] == [("CDS401", "a"), ("CDS401", "b")]


def test_a_file_that_cannot_be_read_hides_no_fault_of_another_group(tmp_path: Path) -> None:
    other = RULES.replace("group: trial", "group: other").replace(
        "- id: wanted", "- id: wanted-too"
    )
    folder = write(tmp_path, change=(RULE_FILE, "title: Rules", "title: [Rules"))
    body = "  - id: gone-wrong\n    tier: high\n"
    files = {
        "other": other + "  " + rule("x", "[{sex: male}, {sex: female}]").replace("\n", "\n  "),
        "third": other.replace("other", "third").replace("wanted-too", "wanted-three") + body,
    }
    for name, text in files.items():
        (folder / name).mkdir()
        (folder / name / "rules.yaml").write_text(text)
    found = {(e.id, Path(e.path).parent.name) for e in lints(folder) if e.severity == "error"}
    assert found == {("CDS101", "trial"), ("CDS401", "other"), ("CDS102", "third")}


def test_a_rule_of_the_wrong_shape_hides_no_fault_of_another_rule(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        *USUAL,
        rule("x", "[{sex: male}, {sex: female}]", family=None),
        change=(RULE_FILE, "tier: urgent", "tier: high"),
    )
    assert [e.id for e in lints(folder)] == ["CDS102", "CDS401"]


def test_broken_value_sets_hide_no_fault_of_a_rule_file(tmp_path: Path) -> None:
    folder = write(tmp_path, change=("valuesets/all.yaml", "kind: medication", "kind: drug"))
    rules = folder / RULE_FILE
    rules.write_text(rules.read_text().replace("tier: urgent", "tier: high"))
    found = [(e.id, Path(e.path).name) for e in lints(folder)]
    assert found == [("CDS102", "rules.yaml"), ("CDS102", "all.yaml")]


def test_a_fault_of_yaml_has_line_and_column(tmp_path: Path) -> None:
    folder = write(tmp_path, change=(RULE_FILE, "title: Rules for trying", "title: a: b"))
    found = only(folder, "CDS101")
    assert (found.line, found.column) == (2, 9)


def test_a_folder_without_any_file_of_a_ruleset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file of a ruleset"):
        linting.lint([tmp_path])


def test_bands_in_pregnancy_may_have_a_first_band_of_their_own(tmp_path: Path) -> None:
    pregnant = rule(
        "mild-pregnancy",
        "[{condition: pregnancy}, {finding: wanted}, "
        "{lab: potassium, lt: 3.3, unit: mmol/L, first_band: true}]",
    )
    assert lints(write(tmp_path, *USUAL, pregnant)) == []


def two_sided(low: int, tier: str) -> str:
    """A band ten wide."""
    limits = f"{{lab: albumin, ge: {low}, unit: g/L}}, {{lab: albumin, lt: {low + 10}, unit: g/L}}"
    return rule(f"b{low}", f"[{limits}]", tier=tier, family="albumin")


def test_two_sided_bands_belong_to_the_side_that_they_are_nearer_to(tmp_path: Path) -> None:
    bands = {10: "urgent", 20: "soon", 60: "soon", 70: "urgent"}
    rules = (
        *USUAL,
        *(two_sided(low, tier) for low, tier in bands.items()),
        rule("low", "[{lab: albumin, lt: 10, unit: g/L}]", tier="emergency", family="albumin"),
        rule("high", "[{lab: albumin, ge: 80, unit: g/L}]", tier="emergency", family="albumin"),
    )
    found = {(e.id, e.rule) for e in lints(write(tmp_path, *rules))}
    # Nothing falls on the way to worse values, on either side.
    assert found == {
        ("CDS305", "b20"),
        ("CDS305", "b60"),
        ("CDS307", "b10"),
        ("CDS307", "b70"),
    }


@pytest.mark.parametrize(
    ("tiers", "falls"), [(("urgent", "soon"), "b10"), (("soon", "urgent"), "b20")]
)
def test_of_two_sided_bands_alone_the_more_urgent_side_is_the_worse_one(
    tmp_path: Path, tiers: tuple[str, str], falls: str
) -> None:
    sided = [two_sided(low, tier) for low, tier in zip((10, 20), tiers, strict=True)]
    found = [e.rule for e in lints(write(tmp_path, *USUAL, *sided)) if e.id == "CDS301"]
    assert found == [falls]


def test_the_widest_value_of_a_summary_is_that_of_the_limits_of_the_possible(
    tmp_path: Path,
) -> None:
    def found(letters: int) -> list[Lint]:
        text = "x" * letters
        return lints(write(tmp_path, change=(RULE_FILE, "Potassium low at", text)))

    # " <=15.0 mmol/L" and " and 99 more" stand behind it, and 139 letters fit.
    room = 139 - len(" <=15.0 mmol/L") - len(" and 99 more")
    assert found(room) == []
    assert [e.id for e in found(room + 1)] == ["CDS701"]


def test_words_of_a_folder_add_to_the_shipped_ones(tmp_path: Path) -> None:
    words = "phrases: [{words: [ask your aunt], why: she is no doctor}]\nabbreviations: [ECG]\n"
    folder = write(
        tmp_path,
        lint=words,
        change=(RULE_FILE, FEW_DAYS, f"{FEW_DAYS} Ask your aunt. You need an ECG."),
    )
    assert "she is no doctor" in only(folder, "CDS805").message


# ------------------------------------------------------------ check digits


@pytest.mark.parametrize("code", ["2823-3", "98979-8", "LA33-6", "LA15173-0", "LP31755-9"])
def test_published_loinc_codes_have_the_check_digit_that_is_computed(code: str) -> None:
    body, _, digit = code.partition("-")
    assert loinc_digit(body) == int(digit)


@pytest.mark.parametrize("code", ["82470000", "26544005", "1141007", "419284004"])
@pytest.mark.parametrize("place", range(6))
def test_a_mistyped_snomed_code_is_seen(code: str, place: int) -> None:
    assert snomed_digit_holds(code)
    other = str((int(code[place]) + 1) % 10)
    assert not snomed_digit_holds(code[:place] + other + code[place + 1 :])
    if code[place] != code[place + 1]:
        swapped = code[:place] + code[place + 1] + code[place] + code[place + 2 :]
        assert not snomed_digit_holds(swapped)


# ------------------------------------------------------------ the table of ids


def test_every_id_says_what_it_is_why_and_how_to_repair_it() -> None:
    for id_, v in validators().items():
        assert id_ == v.id
        assert v.title
        assert v.fix
        assert len(v.why) > 40, id_
