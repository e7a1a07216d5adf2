"""The profile of an institution: what it changes, what it may not, and how that is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from builders import AS_OF, SNOMED, Json, ago, bundle, card_text, lab, patient, symptom
from cds import Screener, cli, load_rulesets
from cds.catalog import catalog
from cds.errors import RuleErrors, UsageError
from cds.rules import Rulesets

HEAD = "site: st-elsewhere\ntitle: St. Elsewhere Hospital\nversion: 1.0.0\n"
HEAD_LINES = 3


@pytest.fixture(scope="module")
def shipped() -> Rulesets:
    return load_rulesets()


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return tmp_path / "st-elsewhere.yaml"


def at(rulesets: Rulesets, profile: Path, text: str) -> Rulesets:
    profile.write_text(HEAD + text, encoding="utf-8")
    return rulesets.at_site(profile)


def refused(rulesets: Rulesets, profile: Path, text: str) -> list[str]:
    """What is said of a profile that is refused; lines are counted behind the head."""
    with pytest.raises(RuleErrors) as error:
        at(rulesets, profile, text)
    assert all(e.path == str(profile) for e in error.value.errors)
    return [f"{(e.line or 0) - HEAD_LINES}: {e.message}" for e in error.value.errors]


def screen(rulesets: Rulesets, *resources: Json) -> Json:
    screener = Screener(rulesets, "reference")
    return screener.screen(bundle(patient(), *resources), AS_OF).to_dict()


def ids(assessment: Json) -> set[str]:
    return {finding["id"] for finding in assessment["findings"]}


def entry(rulesets: Rulesets, rule_id: str) -> dict[str, Any]:
    return next(e for e in catalog(rulesets) if e["id"] == rule_id)


def said(code: str, *, present: bool, days: float) -> Json:
    """A symptom under a SNOMED code, said to be present or absent."""
    seen = symptom("cramp", present=present, when=ago(days=days), id=f"{code}-{days}")
    return {**seen, "code": {"coding": [{"system": SNOMED, "code": code}]}}


def run(profile: Path, *arguments: str) -> Result:
    options = ["--site", str(profile)]
    return CliRunner().invoke(cli.main, [*arguments, *options], prog_name="cds")


@pytest.fixture
def low(tmp_path: Path) -> str:
    path = tmp_path / "high.json"
    path.write_bytes(orjson.dumps(bundle(patient(), lab("sodium", "157"))))
    return str(path)


# ------------------------------------------------------------ a rule is disabled

DISABLE = """\
disable:
  - {rule: hypernatremia-severe, reason: The ward has its own protocol., by: Dr. Example}
"""


def test_a_disabled_rule_makes_no_finding_and_its_companion_neither(
    shipped: Rulesets, profile: Path
) -> None:
    site = at(shipped, profile, DISABLE)
    fresh, old = lab("sodium", "157"), lab("sodium", "157", when=ago(days=20))
    assert ids(screen(shipped, fresh)) == {"hypernatremia-severe"}
    assert ids(screen(site, fresh)) == set()
    assert ids(screen(shipped, old)) == {"hypernatremia-severe-recheck"}
    assert ids(screen(site, old)) == set()


def test_the_catalog_says_that_a_rule_is_not_run_why_and_who_decided_it(
    shipped: Rulesets, profile: Path
) -> None:
    site = at(shipped, profile, DISABLE)
    why = "disabled by site 'st-elsewhere': The ward has its own protocol. (Dr. Example)"
    assert entry(site, "hypernatremia-severe")["not_run"] == why
    assert entry(site, "hypernatremia-severe-recheck")["not_run"] == why
    assert entry(site, "hypokalemia-severe")["not_run"] is None
    assert len(catalog(site)) == len(catalog(shipped))
    assert "not_run" not in entry(shipped, "hypernatremia-severe")


def test_a_disabled_rule_cannot_be_explained_and_that_is_said(
    shipped: Rulesets, profile: Path
) -> None:
    site = at(shipped, profile, DISABLE)
    assessment = Screener(site, "reference").screen(bundle(patient()), AS_OF)
    with pytest.raises(UsageError, match="is not run: disabled by site 'st-elsewhere'"):
        assessment.explain("hypernatremia-severe")


def test_a_rule_that_a_disabled_one_kept_from_firing_is_no_more_kept(
    shipped: Rulesets, profile: Path
) -> None:
    text = "disable:\n  - {rule: electrolyte-panel-missing, reason: Ordered at admission.}\n"
    site = at(shipped, profile, text)
    twitching = symptom("twitching")
    assert "further-tests-missing" not in ids(screen(shipped, twitching))
    assert "further-tests-missing" in ids(screen(site, twitching))
    (change,) = entry(site, "further-tests-missing")["site_changes"]
    assert change == "looks no more for 'electrolyte-panel-missing', which no rule makes here"


# ------------------------------------------------------------ a value set is changed

ADD = """\
value_sets:
  {set}:
    add:
      - {{system: snomed, code: "900001", display: Local cramp, reason: Our own code.}}
"""


def test_an_added_code_counts_for_its_set_and_for_those_that_include_it(
    shipped: Rulesets, profile: Path
) -> None:
    site = at(shipped, profile, ADD.format(set="cramp"))
    record = lab("potassium", "3.2"), said("900001", present=True, days=1)
    assert ids(screen(shipped, *record)) == set()
    assert "hypokalemia-mild" in ids(screen(site, *record))
    text = "value set 'cramp' with snomed 900001 (Local cramp): Our own code."
    assert entry(site, "twitching-related-symptom")["site_changes"] == [text]


def test_a_removed_code_counts_no_more(shipped: Rulesets, profile: Path) -> None:
    smoking = shipped.terminology.value_sets["smoking"].codes
    removed = next(c for c in smoking if c.system == "snomed" and c.code == "110483000")
    text = """\
value_sets:
  smoking:
    remove: [{system: snomed, code: "110483000", reason: Chewing is coded like this here.}]
"""
    site = at(shipped, profile, text)
    record = symptom("twitching"), said("110483000", present=True, days=1)
    assert "smoking" in ids(screen(shipped, *record))
    assert "smoking" not in ids(screen(site, *record))
    (change, *_) = entry(site, "smoking")["site_changes"]
    assert change.startswith(f"value set 'smoking' without snomed 110483000 ({removed.display}): ")


def test_an_added_code_is_denied_like_any_other_where_no_emergency_rests_on_its_set(
    shipped: Rulesets, profile: Path
) -> None:
    site = at(shipped, profile, ADD.format(set="smoking"))
    yes, no = said("900001", present=True, days=5), said("900001", present=False, days=1)
    assert "smoking" in ids(screen(site, symptom("twitching"), yes))
    assert "smoking" not in ids(screen(site, symptom("twitching"), yes, no))


def test_the_denial_of_an_added_code_takes_back_nothing_that_an_emergency_rests_on(
    shipped: Rulesets, profile: Path
) -> None:
    site = at(shipped, profile, ADD.format(set="seizure"))
    record = lab("glucose", "2.8"), symptom("seizure", when=ago(days=5))
    denied = said("900001", present=False, days=1)
    assert screen(shipped, *record, denied)["tier"] == "emergency"
    assert screen(site, *record, denied)["tier"] == "emergency"
    present = said("900001", present=True, days=1)
    assert screen(site, lab("glucose", "2.8"), present)["tier"] == "emergency"


def test_a_yes_beside_an_added_code_is_still_heard(shipped: Rulesets, profile: Path) -> None:
    site = at(shipped, profile, ADD.format(set="cramp"))
    coding = [{"system": SNOMED, "code": code} for code in ("900001", "373066001")]
    seizure = {**symptom("seizure"), "valueCodeableConcept": {"coding": coding}}
    del seizure["valueBoolean"]
    record = lab("glucose", "2.8"), seizure
    assert screen(shipped, *record)["tier"] == "emergency"
    assert screen(site, *record)["tier"] == "emergency"


# ------------------------------------------------------------ a tier is raised

RAISE = """\
tiers:
  hypokalemia-moderate:
    tier: emergency
    reason: There is no telemetry on the wards.
    summary: "Potassium {potassium}: send to the emergency department now"
    patient: The potassium in your blood is too low. Call your local emergency number now.
"""


def test_a_raised_tier_is_that_of_the_finding_and_its_texts_go_with_it(
    shipped: Rulesets, profile: Path
) -> None:
    site = at(shipped, profile, RAISE)
    low = lab("potassium", "2.8")
    assert screen(shipped, low)["tier"] == "urgent"
    assert screen(site, low)["tier"] == "emergency"
    assert "send to the emergency department now" in card_text(screen(site, low))
    screener = Screener(site, "reference")
    cards = screener.screen(bundle(patient(), low), AS_OF).cards("patient")
    assert "too low. Call your local emergency number now." in cards[0]["detail"]
    assert entry(site, "hypokalemia-moderate")["site_changes"] == [
        "tier raised from urgent to emergency: There is no telemetry on the wards."
    ]


def test_a_raised_rule_does_not_take_the_place_of_one_that_had_that_tier(
    shipped: Rulesets, profile: Path
) -> None:
    site = at(shipped, profile, RAISE)
    assert ids(screen(site, lab("potassium", "2.4"))) == {"hypokalemia-severe"}


def test_the_companion_of_a_raised_rule_is_derived_again(shipped: Rulesets, profile: Path) -> None:
    text = "tiers:\n  bicarbonate-low: {tier: urgent, reason: r, patient: Call a doctor today.}\n"
    site = at(shipped, profile, text)
    assert entry(shipped, "bicarbonate-low-recheck")["tier"] == "routine"
    assert entry(site, "bicarbonate-low-recheck")["tier"] == "soon"


def test_a_rule_that_is_raised_to_an_emergency_yields_to_nothing(
    shipped: Rulesets, profile: Path
) -> None:
    site = at(shipped, profile, RAISE.replace("hypokalemia-moderate", "smoking"))
    assert shipped.program.by_id["smoking"].rule.yields_to
    assert site.program.by_id["smoking"].rule.yields_to == ()
    (change, *_) = entry(site, "smoking")["site_changes"]
    assert change.endswith("; as an emergency it yields to no other finding")


def test_a_rule_yields_no_more_to_what_no_rule_finds(shipped: Rulesets, profile: Path) -> None:
    finding = "illness-anxiety-plan"
    site = at(shipped, profile, f"disable: [{{rule: {finding}, reason: r}}]")
    assert finding in shipped.program.by_id["stress"].rule.yields_to
    assert finding not in site.program.by_id["stress"].rule.yields_to
    (change,) = entry(site, "stress")["site_changes"]
    assert change == f"looks no more for '{finding}', which no rule makes here"


# ------------------------------------------------------------ lookbacks


def test_fresh_decides_how_old_a_result_may_be_for_its_full_tier(
    shipped: Rulesets, profile: Path
) -> None:
    text = "lookbacks:\n  potassium: {fresh: P14D, reason: Drawn every two weeks.}\n"
    site = at(shipped, profile, text)
    old = lab("potassium", "2.4", when=ago(days=12))
    assert ids(screen(shipped, old)) == {"hypokalemia-severe-recheck"}
    assert ids(screen(site, old)) == {"hypokalemia-severe"}
    (change,) = entry(site, "hypokalemia-severe")["site_changes"]
    assert change == "results of potassium: 'fresh' P14D: Drawn every two weeks."


def test_the_wording_for_older_results_names_the_age_that_the_site_set(
    tmp_path: Path, profile: Path
) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "rules.yaml").write_text(OLD_RESULTS, encoding="utf-8")
    rules = load_rulesets(tmp_path / "rules")
    assert entry(rules, "low-recheck")["title"] == "Low (result more than 7 days old)"
    site = at(rules, profile, "lookbacks: {bicarbonate: {fresh: PT36H, reason: r}}")
    assert entry(site, "low-recheck")["title"] == "Low (result more than 36 hours old)"


OLD_RESULTS = """\
group: trial
title: Rules for trying
version: 1.0.0
recheck:
  title: "{title} (result more than {fresh} old)"
  summary: Old result
  detail: Repeat it.
  patient: Ask for a new test.
  evidence: [{source: S, statement: s}]
rules:
  - id: low
    title: Low
    tier: soon
    review: draft
    recheck: true
    when: [{lab: bicarbonate, lt: 20, unit: mmol/L}]
    evidence: [{source: S, statement: s}]
    card: {summary: Low, detail: Low., patient: Soon.}
"""


def test_context_decides_how_old_a_result_may_be_at_all(shipped: Rulesets, profile: Path) -> None:
    text = "lookbacks:\n  tsh: {context: P90D, reason: Older ones are misleading.}\n"
    site = at(shipped, profile, text)
    record = lab("tsh", "12", when=ago(days=100)), symptom("twitching")
    assert "tsh-high-recheck" in ids(screen(shipped, *record))
    assert "tsh-high-recheck" not in ids(screen(site, *record))


def test_within_of_a_rule_can_be_changed_where_the_rule_writes_it(
    shipped: Rulesets, profile: Path
) -> None:
    text = "lookbacks:\n  electrolyte-panel-missing: {of: potassium, within: P10D, reason: r}\n"
    site = at(shipped, profile, text)
    panel = [lab(name, 1.2, when=ago(days=50)) for name in ("calcium", "magnesium")]
    record = lab("potassium", "4.0", when=ago(days=50)), *panel, symptom("twitching")
    assert "electrolyte-panel-missing" not in ids(screen(shipped, *record))
    assert "electrolyte-panel-missing" in ids(screen(site, *record))
    (change,) = entry(site, "electrolyte-panel-missing")["site_changes"]
    assert change == "potassium within P10D instead of P90D: r"


# ------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # nothing lowers an emergency
        ("disable: [{rule: hypokalemia-severe, reason: r}]", "is an emergency rule; a site cannot"),
        (
            "disable: [{rule: new-weakness, reason: r}]",
            "the emergency rule 'hypokalemia-with-danger-signs' rests on 'new-weakness'",
        ),
        (
            "disable: [{rule: twitching, reason: r}]",
            "the emergency rule 'cholinergic-crisis' rests on 'twitching'",
        ),
        ("disable: [{rule: acute-kidney-injury, reason: r}]", "'creatine-kinase-with-danger-signs"),
        ("disable: [{rule: pediatric-advice-needed, reason: r}]", "is what a child gets in place"),
        (
            'value_sets: {seizure: {remove: [{system: snomed, code: "91175000", reason: r}]}}',
            "no code of 'seizure' can be removed: the emergency rule",
        ),
        # a sequence rests on what began and on the medicine, and on how its code is read
        (
            'value_sets: {baclofen: {remove: [{system: rxnorm, code: "1292", reason: r}]}}',
            "no code of 'baclofen' can be removed: the emergency rule",
        ),
        (
            "value_sets: {statin: {add: [{system: rxnorm, code: x, display: d, reason: r}]}}",
            "no code can be added to 'statin': the emergency rule",
        ),
        (
            "lookbacks: {potassium: {fresh: P6D, reason: r}}",
            "'fresh' of potassium cannot become P6D: the emergency rule 'hypokalemia-severe'",
        ),
        ("lookbacks: {egfr: {context: P80D, reason: r}}", "'context' of egfr cannot become P80D"),
        ("lookbacks: {albumin: {context: P99D, reason: r}}", "the emergency rule 'hypocalcemia-"),
        ("lookbacks: {new-weakness: {within: P20D, reason: r}}", "'within' of 'new-weakness' can"),
        (
            "tiers: {hypokalemia-severe: {tier: urgent, reason: r}}",
            "'hypokalemia-severe' is emergency; a site can only raise that, not lower it",
        ),
        # names that are not known
        (
            "disable: [{rule: hypokalemia-mid, reason: r}]",
            "there is no rule 'hypokalemia-mid'; did you mean 'hypokalemia-mild'?",
        ),
        (
            "disable: [{rule: tsh-high-recheck, reason: r}]",
            "'tsh-high-recheck' is made from the rule 'tsh-high'; name that one",
        ),
        (
            'value_sets: {cramps: {remove: [{system: snomed, code: "1", reason: r}]}}',
            "there is no value set 'cramps'; did you mean 'cramp'?",
        ),
        (
            'value_sets: {cramp: {remove: [{system: snomed, code: "55300004", reason: r}]}}',
            "snomed 55300004 is not listed in 'cramp'; did you mean '55300003'?",
        ),
        (
            'value_sets: {twitching: {remove: [{system: snomed, code: "82470000", reason: r}]}}',
            "snomed 82470000 is not listed in 'twitching'; it comes with '",
        ),
        (
            "lookbacks: {potasium: {fresh: P9D, reason: r}}",
            "there is no analyte 'potasium'; did you mean 'potassium'?",
        ),
        ("tiers: {tsh-hihg: {tier: soon, reason: r}}", "did you mean 'tsh-high'?"),
        ("disabled: []", "unknown key 'disabled'; did you mean 'disable'?"),
        # what makes no sense
        ("tiers: {twitching: {tier: soon, reason: r}}", "'twitching' is an intermediate step"),
        ("tiers: {caveat-edta: {tier: soon, reason: r}}", "'caveat-edta' is a caveat"),
        ("tiers: {tsh-high: {tier: routine, reason: r}}", "'tsh-high' is routine already"),
        ("tiers: {tsh-high: {tier: soon, reason: r}}", "needs 'patient': the text of 'tsh-high'"),
        ("lookbacks: {tsh: {fresh: P400D, reason: r}}", "would be longer than its 'context'"),
        (
            "lookbacks: {tsh-high: {within: P9D, reason: r}}",
            "the rule 'tsh-high' writes no 'within'",
        ),
        ("lookbacks: {tsh: {reason: r}}", "needs 'within' for a rule"),
        ("value_sets: {cramp: {}}", "needs 'add' or 'remove'"),
        (
            "disable: [{rule: hypokalemia-moderate, reason: r}]",
            "without the disabled rules, these can never hold: 'medicine-hypokalemia-moderate' "
            "(builds on 'hypokalemia-moderate'); disable them as well, each with its reason",
        ),
        (
            "disable: [{rule: tsh-high, reason: r}, {rule: tsh-high, reason: r}]",
            "'tsh-high' is disabled by this profile already",
        ),
        ("disable: [{rule: tsh-high}]", "disable.0: key 'reason' is missing"),
        ("require_review: aproved", "did you mean 'approved'?"),
    ],
)
def test_a_profile_that_cannot_be_is_refused_with_its_line(
    shipped: Rulesets, profile: Path, text: str, message: str
) -> None:
    (found,) = refused(shipped, profile, text)
    assert found.startswith("1: ")
    assert message in found


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("system: icd10, code: R25.2", "there is no code system 'icd10'; did you mean 'icd10cm'?"),
        ("system: icd10cm, code: R252", "'R252' is no code of icd10cm; write it as R25.3"),
        ("system: loinc, code: 2823-3", "loinc 2823-3 is a result ('potassium'), not a finding"),
        ('system: snomed, code: "373066001"', "is an answer to any question, not a finding"),
        ('system: snomed, code: "55300003"', "is listed in 'cramp' already"),
        ('system: snomed, code: "900001", match: prefix', "only codes of icd10cm match by prefix"),
    ],
)
def test_a_code_that_cannot_be_added_is_refused(
    shipped: Rulesets, profile: Path, code: str, message: str
) -> None:
    text = f"value_sets:\n  cramp:\n    add:\n      - {{{code}, display: d, reason: r}}\n"
    (found,) = refused(shipped, profile, text)
    assert found.startswith("4: ")
    assert message in found


def test_every_fault_of_a_profile_is_named_at_once(shipped: Rulesets, profile: Path) -> None:
    text = """\
disable:
  - {rule: hypokalemia-severe, reason: r}
value_sets:
  cramps: {}
tiers:
  twitching: {tier: soon, reason: r}
lookbacks:
  potassium: {fresh: P1D, reason: r}
"""
    assert [f.split(":")[0] for f in refused(shipped, profile, text)] == ["2", "4", "6", "8"]


def test_a_longer_context_of_an_input_could_turn_an_adjusted_value_into_an_unadjusted_one(
    shipped: Rulesets, profile: Path
) -> None:
    """Why the context of eGFR is not to be changed where emergencies rest on calcium."""
    record = [
        lab("calcium-total", "1.85"),  # adjusted for albumin: 2.05
        lab("albumin", "30"),
        lab("egfr", "40", when=ago(days=300)),
    ]
    assert screen(shipped, *record)["tier"] == "emergency"  # poor kidneys: judged as it is
    assert screen(shipped, *record[:2])["tier"] != "emergency"
    text = "lookbacks: {egfr: {context: P200D, reason: r}}"
    assert "the emergency rule 'hypocalcemia-" in refused(shipped, profile, text)[0]


# ------------------------------------------------------------ emergencies that can be prevented

RULES = """\
group: trial
title: Rules for trying
version: 1.0.0
rules:
  - id: low
    title: Low
    tier: emergency
    review: {low}
    when: [{{lab: potassium, lt: 3.0, unit: mmol/L}}]
    unless: [{{finding: harmless}}, {{symptom: shared-a}}, {{no_result: magnesium, within: P9D}}]
    evidence: [{{source: S, statement: s}}]
    card: {{summary: Low, detail: Low., patient: Call your local emergency number now.}}
  - id: harmless
    title: Harmless
    tier: info
    review: {harmless}
    step: true
    when: [{{symptom: cramp, within: P20D}}]
    evidence: [{{source: S, statement: s}}]
  - id: other
    title: Other
    tier: info
    review: {other}
    when: [{{any: [{{symptom: shared-b}}, {{finding: harmless}}]}}]
    evidence: [{{source: S, statement: s}}]
    card: {{summary: Other, detail: Other., patient: At your next visit.}}
  - id: last
    title: Last
    tier: soon
    review: {last}
    when: [{{finding: harmless}}]
    evidence: [{{source: S, statement: s}}]
    card: {{summary: Last, detail: Last., patient: In the next few days.}}
"""
SETS = """\
version: 1.0.0
source: nowhere
retrieved: "2026-11-01"
license: none
value_sets:
  - {id: shared-a, kind: symptom, name: A, codes: [{system: snomed, code: "900011", display: a}]}
  - id: shared-b
    kind: symptom
    name: B
    codes:
      - {system: snomed, code: "900011", display: a}
      - {system: snomed, code: "900012", display: b}
"""


def trial(tmp_path: Path, **review: str) -> Rulesets:
    states = {name: "draft" for name in ("low", "harmless", "other", "last")} | review
    folder = tmp_path / "rules" / "trial"
    (folder.parent / "valuesets").mkdir(parents=True)
    folder.mkdir()
    (folder / "rules.yaml").write_text(RULES.format(**states), encoding="utf-8")
    (folder.parent / "valuesets" / "shared.yaml").write_text(SETS, encoding="utf-8")
    return load_rulesets(folder.parent)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "value_sets: {cramp: {add: [{system: snomed, code: x, display: d, reason: r}]}}",
            "no code can be added to 'cramp': the emergency rule 'low' depends on it through",
        ),
        (
            "lookbacks: {harmless: {within: P30D, reason: r}}",
            "'within' of 'harmless' cannot become P30D: the emergency rule 'low' depends on it",
        ),
        (
            "lookbacks: {low: {within: P8D, reason: r}}",
            "'within' of 'low' cannot become P8D: the emergency rule 'low' depends on it through",
        ),
        # a denial of 900012 denies B, and so a record of 900011, which then prevents nothing
        (
            'value_sets: {shared-b: {remove: [{system: snomed, code: "900012", reason: r}]}}',
            "no code of 'shared-b' can be removed: the emergency rule 'low' depends on it through",
        ),
        ("disable: [{rule: other, reason: r}]", "the emergency rule 'low' rests on 'other'"),
    ],
)
def test_what_could_prevent_an_emergency_more_often_is_refused(
    tmp_path: Path, profile: Path, text: str, message: str
) -> None:
    (found,) = refused(trial(tmp_path), profile, text)
    assert message in found


UNDATED = """\
group: trial
title: Rules for trying
version: 1.0.0
rules:
  - id: sudden
    title: Sudden
    tier: emergency
    review: draft
    when: [{CRITERION}]
    evidence: [{source: S, statement: s}]
    card: {summary: Sudden, detail: Sudden., patient: Call your local emergency number now.}
"""


@pytest.mark.parametrize(
    "criterion",
    ["symptom: cramp, onset: unknown", "medication: statin, stopped_within: P4W, lasted: P4W"],
)
def test_a_code_whose_records_could_undo_what_an_emergency_rests_on_is_not_added(
    tmp_path: Path, profile: Path, criterion: str
) -> None:
    """A known beginning beside an unknown one; a later stop, after a shorter time."""
    (tmp_path / "rules").mkdir()
    text = UNDATED.replace("CRITERION", criterion)
    (tmp_path / "rules" / "rules.yaml").write_text(text, encoding="utf-8")
    rules, name = load_rulesets(tmp_path / "rules"), criterion.split()[1].rstrip(",")
    (found,) = refused(rules, profile, ADD.format(set=name))
    assert f"no code can be added to '{name}': the emergency rule 'sudden' rests on it" in found


def test_what_prevents_an_emergency_less_often_is_allowed(tmp_path: Path, profile: Path) -> None:
    rules = trial(tmp_path)
    record = lab("potassium", "2.8"), lab("magnesium", "0.8"), symptom("cramp", when=ago(days=15))
    assert screen(rules, *record)["tier"] != "emergency"
    shorter = at(rules, profile, "lookbacks: {harmless: {within: P10D, reason: r}}")
    assert screen(shorter, *record)["tier"] == "emergency"
    both = "disable: [{rule: harmless, reason: r}, {rule: last, reason: r}]"
    gone = at(rules, profile, both)
    assert screen(gone, *record)["tier"] == "emergency"
    assert entry(gone, "other")["when"] == [{"any": ["symptom: B"]}]


# ------------------------------------------------------------ only reviewed rules


def test_where_all_rules_are_drafts_a_site_that_wants_signed_ones_runs_nothing_and_is_told(
    shipped: Rulesets, profile: Path
) -> None:
    (found,) = refused(shipped, profile, "require_review: approved\n")
    rules = sum(r.rule.recheck_of is None for r in shipped.program.rules)
    assert found == (
        f"1: 'approved' leaves out {rules} rules, and what remains finds nothing at all "
        f"(of the rules loaded, {rules} draft)"
    )


def test_steps_alone_are_nothing_that_could_be_found(tmp_path: Path, profile: Path) -> None:
    rules = trial(tmp_path, harmless="approved")
    assert "finds nothing at all" in refused(rules, profile, "require_review: approved")[0]


def test_only_rules_of_the_wanted_state_are_run(tmp_path: Path, profile: Path) -> None:
    rules = trial(tmp_path, low="approved", harmless="approved", last="under-review")
    approved = at(rules, profile, "require_review: approved")
    assert set(approved.program.by_id) == {"low", "harmless"}
    looser = at(rules, profile, "require_review: under-review")
    assert set(looser.program.by_id) == {"low", "harmless", "last"}
    assert entry(approved, "last")["not_run"] == (
        "site 'st-elsewhere' runs only rules that are approved; this one is under-review"
    )


def test_a_signed_rule_that_builds_on_an_unsigned_one_is_not_run(
    tmp_path: Path, profile: Path
) -> None:
    rules = trial(tmp_path, low="approved", last="approved")
    site = at(rules, profile, "require_review: approved")
    assert set(site.program.by_id) == {"low"}
    assert entry(site, "last")["not_run"] == (
        "site 'st-elsewhere' runs only rules that are approved; no such rule makes 'harmless'"
    )


def test_nobody_can_take_the_silence_of_unsigned_rules_for_nothing_found(
    tmp_path: Path, profile: Path
) -> None:
    rules = trial(tmp_path, other="approved")
    site = at(rules, profile, "require_review: approved")
    low = lab("potassium", "2.4"), lab("magnesium", "0.8")
    assert screen(rules, *low)["tier"] == "emergency"
    assessment = screen(site, *low)
    assert assessment["tier"] is None
    (problem,) = [p for p in assessment["problems"] if p["code"] == "rules-not-run"]
    assert problem["severity"] == "warning"
    assert problem["path"] == "site st-elsewhere"
    assert problem["message"] == (
        "only rules that are approved are run: 3 of 4 are not, among them 1 emergency rule (low); "
        "what they would find is not found"
    )


@pytest.mark.parametrize("audience", ["clinician", "patient"])
def test_who_reads_that_there_is_no_finding_reads_first_that_not_all_rules_were_run(
    tmp_path: Path, profile: Path, low: str, audience: str
) -> None:
    trial(tmp_path, other="approved")
    profile.write_text(HEAD + "require_review: approved\n")
    rules = str(tmp_path / "rules")
    result = run(profile, "screen", low, "--rulesets", rules, "--audience", audience)
    text = " ".join(result.stdout.split())
    incomplete = "Not all rules were run here, so what follows is not complete."
    assert f"{incomplete} There is no finding." in text


def test_a_rule_that_the_site_changed_is_nobodys_signed_rule_any_more(
    tmp_path: Path, profile: Path
) -> None:
    rules = trial(tmp_path, other="approved", low="approved")
    text = "require_review: approved\ntiers: {other: {tier: soon, reason: r, patient: Soon.}}\n"
    site = at(rules, profile, text)
    assert entry(site, "other")["review"] == "draft"
    assert entry(site, "low")["review"] == "approved"


# ------------------------------------------------------------ digest and assessment


def test_the_profile_is_part_of_every_digest(shipped: Rulesets, profile: Path) -> None:
    text = "lookbacks: {potassium: {fresh: P14D, reason: r}}\n"
    first, again = at(shipped, profile, text), at(shipped, profile, text)
    other = at(shipped, profile, text.replace("P14D", "P15D"))
    assert first.digest == again.digest
    assert len({shipped.digest, first.digest, other.digest}) == 3
    files = [screen(r)["rulesets"][0] for r in (shipped, first)]
    assert files[0]["version"] == files[1]["version"]
    assert files[0]["digest"] != files[1]["digest"]


def test_an_assessment_names_the_site_and_none_without_one(
    shipped: Rulesets, profile: Path
) -> None:
    site = at(shipped, profile, DISABLE)
    assert site.site is not None
    named = {"id": "st-elsewhere", "version": "1.0.0", "digest": site.site.digest}
    assert screen(site)["site"] == named
    assert "site" not in screen(shipped)


def test_rules_are_changed_by_one_site_only(shipped: Rulesets, profile: Path) -> None:
    site = at(shipped, profile, DISABLE)
    with pytest.raises(UsageError, match="site 'st-elsewhere' has changed these rules already"):
        site.at_site(profile)


def test_loading_with_a_profile_is_loading_and_then_applying_it(
    shipped: Rulesets, profile: Path
) -> None:
    applied = at(shipped, profile, DISABLE)
    loaded = load_rulesets(site=profile)
    assert loaded.digest == applied.digest
    assert loaded.program.by_id.keys() == applied.program.by_id.keys()


# ------------------------------------------------------------ the commands


def test_the_commands_take_a_profile(profile: Path, low: str) -> None:
    profile.write_text(HEAD + DISABLE + RAISE.replace("hypokalemia-moderate", "tsh-high"))
    screened = run(profile, "screen", low, "--as-of", AS_OF, "--format", "json")
    assert orjson.loads(screened.stdout)[0]["tier"] is None
    rules = " ".join(run(profile, "rules").stdout.split())
    head = "St. Elsewhere Hospital (site st-elsewhere 1.0.0): rules changed: 2; rules not run: 2"
    assert head in rules
    assert "NOT RUN: disabled by site 'st-elsewhere': The ward has its own protocol." in rules
    assert "Changed here: tier raised from routine to emergency: There is no telemetry" in rules
    assert "2 of them not run at this site" in rules
    markdown = run(profile, "rules", "--format", "md").stdout
    assert "- NOT RUN: disabled by site" in markdown


@pytest.mark.parametrize("rule", ["hypernatremia-severe", "hypernatremia-severe-recheck"])
def test_explain_says_of_a_disabled_rule_that_the_site_disabled_it(
    profile: Path, low: str, rule: str
) -> None:
    profile.write_text(HEAD + DISABLE)
    text = run(profile, "explain", low, "--rule", rule)
    assert text.exit_code == 0
    assert "NOT RUN: disabled by site 'st-elsewhere': The ward has" in text.stdout
    values = orjson.loads(run(profile, "explain", low, "--rule", rule, "--format", "json").stdout)
    assert (values["rule"]["id"], values["fired"]) == (rule, False)
    assert values["outcome"].startswith("disabled by site 'st-elsewhere': ")


def test_a_profile_that_is_refused_ends_with_2_and_says_file_and_line(
    profile: Path, low: str
) -> None:
    profile.write_text(HEAD + "disable: [{rule: hypokalemia-severe, reason: r}]\n")
    result = run(profile, "screen", low)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{profile}:4: 'hypokalemia-severe' is an emergency rule" in result.stderr
    assert run(profile.with_name("gone.yaml"), "rules").exit_code == 2
