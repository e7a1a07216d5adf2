"""Mutants of rules: which there are, which cases notice them, and cases for all others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cds import Screener, mutation
from cds.cases import Case, load_cases_file
from cds.errors import EngineError
from cds.harness import run, run_case
from cds.mutation import MutationReport
from cds.rules import Rulesets, load_rulesets
from trial_rules import all_mutants, expecting, loaded, mutated, patient, rule

LOW = "{lab: potassium, lt: 3.5, unit: mmol/L}"
STEP = "\n    step: true"


@pytest.fixture(scope="module")
def shipped() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="module")
def everything(shipped: Rulesets) -> MutationReport:
    """All mutants of shipped rules: there is no case that could notice any."""
    return mutation.test_mutants(Screener(shipped), [], groups=["electrolyte"])


def report(
    rulesets: Rulesets, *cases: Case, workers: int = 1, progress: object = None
) -> MutationReport:
    screener = Screener(rulesets)
    return mutation.test_mutants(
        screener,
        list(run(screener, cases)),
        workers=workers,
        progress=progress,  # type: ignore[arg-type]
    )


def alive(found: MutationReport, rule_id: str = "trial") -> dict[str, str]:
    """The surviving mutants of a rule, without its id, and what is wrong with each."""
    own = [s for s in found.survivors if s.id.startswith(f"{rule_id}/")]
    return {s.id.removeprefix(f"{rule_id}/"): s.description for s in own}


def mutants(shipped: Rulesets, *criteria: str, more: str = STEP) -> dict[str, str]:
    """All mutants of a rule: no case notices any."""
    return alive(report(loaded(shipped, rule("trial", *criteria, tier="info", more=more))))


# ---------------------------------------------------------------- the mutants


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (
            LOW,
            {
                "lt+step": "lt 3.5001 instead of 3.5",
                "lt-step": "lt 3.4999 instead of 3.5",
                "lt+last": "lt 3.6 instead of 3.5",
                "lt-last": "lt 3.4 instead of 3.5",
                "lt-to-le": "le instead of lt",
                "lt-to-gt": "gt instead of lt",
                "unit-mg/dL": "3.5 mmol/L taken as mg/dL: lt 0.8952",
            },
        ),
        (
            "{lab: tsh, laboratory: above}",
            {
                "laboratory-to-below": "the laboratory's below instead of above",
                "laboratory-to-critical-high": "the laboratory's critical-high instead of above",
            },
        ),
        (
            "{age: years, ge: 65}",
            {
                "ge+step": "ge 66 instead of 65",
                "ge-step": "ge 64 instead of 65",
                "ge-to-gt": "gt instead of ge",
                "ge-to-le": "le instead of ge",
            },
        ),
        (
            "{rise: creatinine, ge: 26, unit: umol/L, over: PT12H}",
            {
                "ge+step": "ge 26.0001 instead of 26",
                "ge-step": "ge 25.9999 instead of 26",
                "ge+last": "ge 27 instead of 26",
                "ge-last": "ge 25 instead of 26",
                "ge-to-gt": "gt instead of ge",
                "unit-mg/L": "26 umol/L taken as mg/L: ge 229.8485",
                "over+1h": "over 13 hours instead of 12 hours",
                "over-1h": "over 11 hours instead of 12 hours",
            },
        ),
        (
            "{ratio: creatinine, ge: 1.5, over: P7D, within: P2D}",
            {
                "ge+step": "ge 1.5001 instead of 1.5",
                "ge-step": "ge 1.4999 instead of 1.5",
                "ge+last": "ge 1.6 instead of 1.5",
                "ge-last": "ge 1.4 instead of 1.5",
                "ge-to-gt": "gt instead of ge",
                "over+1d": "over 8 days instead of 7 days",
                "over-1d": "over 6 days instead of 7 days",
                "within+1d": "within 3 days instead of 2 days",
                "within-1d": "within 1 day instead of 2 days",
            },
        ),
        (
            "{symptom: cramp, longer_than: P2W}",
            {
                "longer_than+1d": "longer_than 15 days instead of 14 days",
                "longer_than-1d": "longer_than 13 days instead of 14 days",
                "longer_than-removed": "without longer_than",
                "swapped": "dark-urine instead of cramp",
                "emptied": "cramp without any code",
            },
        ),
        (
            "{symptom: cramp, sites: 2, severity: severe, onset: unknown}",
            {
                "sites+1": "sites 3 instead of 2",
                "sites-1": "without sites",
                "severity-removed": "without severity",
                "onset-removed": "without onset",
                "swapped": "dark-urine instead of cramp",
                "emptied": "cramp without any code",
            },
        ),
        (
            "{symptom: cramp, after_start_of: ssri, delay: P2W}",
            {
                "delay+1d": "delay 15 days instead of 14 days",
                "delay-1d": "delay 13 days instead of 14 days",
                "delay-removed": "without delay",
                "swapped": "dark-urine instead of cramp",
                "emptied": "cramp without any code",
            },
        ),
        (
            "{medication: ssri, stopped_within: P2W, lasted: P4W}",
            {
                "stopped_within+1d": "stopped_within 15 days instead of 14 days",
                "stopped_within-1d": "stopped_within 13 days instead of 14 days",
                "lasted+1d": "lasted 29 days instead of 28 days",
                "lasted-1d": "lasted 27 days instead of 28 days",
                "lasted-removed": "without lasted",
                "swapped": "st-johns-wort instead of ssri",
                "emptied": "ssri without any code",
            },
        ),
        (
            "{sex: male}",
            {
                "sex-to-female": "sex female instead of male",
                "sex-to-unknown": "sex unknown instead of male",
            },
        ),
        (
            "{no_result: magnesium, within: PT24H}",
            {
                "within+1h": "within 25 hours instead of 1 day",
                "within-1h": "within 23 hours instead of 1 day",
            },
        ),
    ],
)
def test_each_criterion_has_its_mutants(
    shipped: Rulesets, criterion: str, expected: dict[str, str]
) -> None:
    found = mutants(shipped, criterion)
    assert found == {f"when.0/{op}": text for op, text in expected.items()}


def test_flags_of_a_criterion_can_be_forgotten(shipped: Rulesets) -> None:
    flags = "first_band: true, critical_flag: true"
    found = mutants(shipped, "{lab: potassium, lt: 3.5, unit: mmol/L, " + flags + "}")
    assert {"when.0/first_band-removed", "when.0/critical_flag-removed"} <= set(found)


def test_a_value_set_is_swapped_for_one_that_has_nothing_to_do_with_it(shipped: Rulesets) -> None:
    sets = shipped.terminology.value_sets
    text = mutants(shipped, "{symptom: weakness}")["when.0/swapped"]
    other = text.partition(" instead")[0]
    assert sets[other].kind == "symptom"
    assert other not in sets["weakness"].includes
    assert "weakness" not in sets[other].includes


def test_the_words_around_criteria_have_their_mutants(shipped: Rulesets) -> None:
    cramp, tremor = "{symptom: cramp}", "{symptom: tremor}"
    more = f"\n    unless:\n      - {{condition: pregnancy}}\n      - {LOW}{STEP}"
    found = mutants(shipped, f"any: [{cramp}, all: [{tremor}, {LOW}]]", "{sex: male}", more=more)
    around = {id_ for id_ in found if re.search("removed|-to-a[nl][yl]$|emptied", id_)}
    assert around == {
        "when/all-to-any",
        "when.0/any-to-all",
        "when.0/removed",
        "when.0.any.0/emptied",  # the same as without it, which is therefore left out
        "when.0.any.1/all-to-any",
        "when.0.any.1.all.0/removed",
        "when.0.any.1.all.0/emptied",  # likewise the same as without the whole of it
        "when.0.any.1.all.1/removed",
        "when.1/removed",
        "unless/any-to-all",
        "unless/removed",
        "unless.0/emptied",
        "unless.1/removed",
    }


def test_the_tier_and_the_family_of_what_is_shown_have_their_mutants(shipped: Rulesets) -> None:
    rules = loaded(
        shipped,
        rule("trial", LOW, tier="soon", more="\n    family: low"),
        rule("other", "{lab: potassium, lt: 3.0, unit: mmol/L}", more="\n    family: low"),
        rule("alone", "{symptom: cramp}", tier="emergency", more="\n    family: alone"),
        rule("warning", "{symptom: tremor}", tier="info", more="\n    caveat_for: [low]"),
    )
    found = report(rules)
    of_the_whole = {s.id for s in found.survivors if s.id.count("/") == 1}
    assert of_the_whole == {
        "trial/tier+1",
        "trial/tier-1",
        "trial/family-removed",
        "other/tier+1",
        "other/tier-1",
        "other/family-removed",
        "alone/tier-1",  # nothing is more urgent, and nothing else is of its family
        "warning/caveat_for-emptied",
    }


def test_windows_that_the_table_of_analytes_holds_have_their_mutants(shipped: Rulesets) -> None:
    more = "\n    recheck: true"
    found = report(loaded(shipped, rule("trial", LOW, more=more)))
    own = [s for s in found.survivors if s.id.startswith("analytes/")]
    assert {s.id: s.description for s in own} == {
        "analytes/potassium/fresh+1d": "fresh 8 days instead of 7 days",
        "analytes/potassium/fresh-1d": "fresh 6 days instead of 7 days",
        "analytes/potassium/context+1d": "context 91 days instead of 90 days",
        "analytes/potassium/context-1d": "context 89 days instead of 90 days",
    }
    assert Path(own[0].path).name == "analytes.yaml"
    assert "potassium" in Path(own[0].path).read_text().splitlines()[own[0].line - 1]


def test_a_window_that_no_rule_looks_to_has_none(shipped: Rulesets) -> None:
    criterion = "{lab: potassium, lt: 3.5, unit: mmol/L, within: P30D}"
    assert not [
        s for s in report(loaded(shipped, rule("trial", criterion))).survivors if not s.rule
    ]


def test_every_id_of_the_shipped_rules_is_unique_and_names_a_place(
    everything: MutationReport,
) -> None:
    ids = [s.id for s in everything.survivors]
    assert len(set(ids)) == len(ids) == everything.total
    for survivor in everything.survivors:
        assert survivor.id.partition("/")[0] in (survivor.rule, "analytes")
        assert Path(survivor.path).is_file()
        assert survivor.line > 0


def test_what_means_the_same_is_counted_and_left_out(shipped: Rulesets) -> None:
    # A value set without codes among alternatives: the same as if it were not there.
    found = report(loaded(shipped, rule("trial", "any: [{symptom: cramp}, {symptom: tremor}]")))
    assert found.left_out == 2
    assert {"when.0.any.0/emptied", "when.0.any.1/emptied"} <= set(alive(found))
    assert not {"when.0.any.0/removed", "when.0.any.1/removed"} & set(alive(found))


# ---------------------------------------------------------------- who notices

BAND = rule("trial", "{lab: potassium, lt: 3.5, unit: mmol/L, critical_flag: true}")
AT = patient("lab: potassium 3.5 mmol/L", name="at", expect=expecting(not_=["trial"]))
BELOW = patient("lab: potassium 3.4999 mmol/L", name="below", expect=expecting(fires=["trial"]))


def test_cases_at_the_bound_and_one_step_below_it_notice_every_wrong_number(
    shipped: Rulesets,
) -> None:
    rules = loaded(shipped, BAND)
    assert {"when.0/lt+step", "when.0/lt-to-le"} <= set(alive(report(rules, BELOW)))
    assert {"when.0/lt-step", "when.0/lt-last"} <= set(alive(report(rules, AT)))
    left = alive(report(rules, AT, BELOW))
    assert set(left) == {"when.0/critical_flag-removed", "tier+1", "tier-1"}


def test_the_figures_of_a_report_add_up(shipped: Rulesets) -> None:
    found = report(loaded(shipped, BAND), AT, BELOW)
    assert found.total == found.killed + found.accepted + len(found.survivors)
    assert found.killed > 0
    assert found.evaluations >= found.total
    assert found.seconds > 0


def test_a_case_that_fails_does_not_take_part(shipped: Rulesets) -> None:
    rules = loaded(shipped, BAND)
    failing = patient("lab: potassium 3.4999 mmol/L", expect=expecting(not_=["trial"]))
    unknown = patient("lab: unheard-of 1 mmol/L", expect=expecting(not_=["trial"]))
    found = report(rules, failing, unknown)
    assert (found.killed, found.evaluations) == (0, 0)


@pytest.mark.parametrize(
    ("expect", "noticed"),
    [
        ({"tier": "urgent"}, {"tier+1", "tier-1"}),
        ({"shows": ["trial"]}, set()),
        ({"card": ["A summary"]}, set()),
    ],
)
def test_a_wrong_tier_is_noticed_by_who_expects_a_tier(
    shipped: Rulesets, expect: dict[str, object], noticed: set[str]
) -> None:
    case = patient("lab: potassium 3.4 mmol/L", expect=expecting(**expect))
    left = alive(report(loaded(shipped, BAND), case))
    assert {"tier+1", "tier-1"} - set(left) == noticed


def test_a_card_that_tells_another_limit_is_noticed_though_the_same_is_found(
    shipped: Rulesets,
) -> None:
    rules = loaded(shipped, BAND)
    lines = ("lab: potassium 3.4 mmol/L",)
    of_the_limit = patient(*lines, expect=expecting(card=["stops at potassium 3.5 mmol/L"]))
    assert "when.0/lt+last" not in alive(report(rules, of_the_limit))
    of_the_finding = patient(*lines, expect=expecting(card=["A summary"]))
    assert "when.0/lt+last" in alive(report(rules, of_the_finding))


def test_a_lost_family_is_noticed_by_who_expects_all_that_is_shown(shipped: Rulesets) -> None:
    rules = loaded(
        shipped,
        rule("trial", LOW, tier="soon", more="\n    family: low"),
        rule("worse", "{lab: potassium, lt: 3.0, unit: mmol/L}", more="\n    family: low"),
    )
    lines = ("lab: potassium 2.9 mmol/L",)
    assert "family-removed" in alive(
        report(rules, patient(*lines, expect=expecting(fires=["trial"])))
    )
    assert "family-removed" not in alive(
        report(rules, patient(*lines, expect=expecting(shows=["worse"])))
    )


def test_a_caveat_that_became_a_finding_is_noticed(shipped: Rulesets) -> None:
    rules = loaded(
        shipped,
        rule("low", LOW, more="\n    family: low"),
        rule("trial", "{symptom: cramp}", tier="info", more="\n    caveat_for: [low]"),
    )
    lines = ("lab: potassium 3.4 mmol/L", "symptom: cramp")
    emptied = "caveat_for-emptied"
    assert emptied not in alive(report(rules, patient(*lines, expect=expecting(shows=["low"]))))
    assert emptied in alive(report(rules, patient(*lines, expect=expecting(tier="urgent"))))


def test_what_waits_for_a_test_that_is_missing_is_noticed(shipped: Rulesets) -> None:
    rules = loaded(shipped, rule("trial", LOW, "{symptom: cramp}"))
    case = patient("symptom: cramp", expect=expecting(missing={"trial": "potassium"}))
    left = set(alive(report(rules, case)))
    assert "when.0/removed" not in left  # without it, nothing is waited for
    assert "when.1/emptied" not in left  # a rule that cannot hold waits for nothing
    assert "when.0/lt+step" in left


def test_the_companion_for_older_results_changes_with_its_rule(shipped: Rulesets) -> None:
    rules = loaded(shipped, rule("trial", LOW, more="\n    recheck: true"))
    old = "lab: potassium {} mmol/L 30 days ago"
    at = patient(old.format("3.5"), expect=expecting(not_=["trial-recheck"]))
    below = patient(old.format("3.4999"), expect=expecting(fires=["trial-recheck"]))
    assert not [id_ for id_ in alive(report(rules, at, below)) if "lt" in id_]


def test_a_step_is_noticed_through_what_builds_on_it(shipped: Rulesets) -> None:
    rules = loaded(
        shipped,
        rule("trial", "any: [{symptom: cramp}, {symptom: tremor}]", tier="info", more=STEP),
        rule("end", "{finding: trial}", LOW),
    )
    data = ("lab: potassium 3.4 mmol/L", "symptom: cramp")
    left = alive(report(rules, patient(*data, expect=expecting(fires=["end"]))))
    assert "when.0.any.0/emptied" not in left
    assert "when.0.any.1/emptied" in left


def test_a_window_of_the_table_of_analytes_is_noticed_at_its_end(shipped: Rulesets) -> None:
    rules = loaded(shipped, BAND)
    result = "lab: potassium 3.4 mmol/L {} days ago"
    seven = patient(result.format(7), expect=expecting(fires=["trial"]))
    eight = patient(result.format(8), expect=expecting(not_=["trial"]))
    left = {s.id for s in report(rules, seven, eight).survivors}
    assert not {id_ for id_ in left if "/fresh" in id_}


def test_the_report_is_the_same_however_many_processes_are_at_work(shipped: Rulesets) -> None:
    rules = loaded(shipped, *(rule(f"rule-{n}", LOW, "{symptom: cramp}") for n in range(12)))
    lines = ("lab: potassium 3.4 mmol/L", "symptom: cramp")
    case = patient(*lines, expect=expecting(fires=["rule-3", "rule-5"], tier="urgent"))
    told: list[tuple[int, int]] = []
    one = report(rules, case, workers=1)
    two = report(rules, case, workers=2, progress=lambda done, all_: told.append((done, all_)))
    assert one.killed > 0
    assert [s.id for s in one.survivors] == [s.id for s in two.survivors]
    assert (one.total, one.killed, one.evaluations) == (two.total, two.killed, two.evaluations)
    assert told == [(n, two.total) for n in range(1, two.total + 1)]


def test_a_mutant_that_cannot_be_tried_is_an_error_and_no_result(
    shipped: Rulesets, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = loaded(shipped, *(rule(f"rule-{n}", LOW, "{symptom: cramp}") for n in range(12)))
    monkeypatch.setattr("cds.mutation.trials.Trials.notices", lambda *_: 1 / 0)
    case = patient("symptom: cramp", expect=expecting(not_=["rule-3"]))
    with pytest.raises(EngineError, match=r"rule-\d+/.+: ZeroDivisionError"):
        report(rules, case, workers=2)


def test_only_the_rules_of_the_groups_asked_for_are_changed(shipped: Rulesets) -> None:
    screener = Screener(loaded(shipped, BAND))
    assert mutation.test_mutants(screener, [], groups=["another-group"]).total == 0
    own = mutation.test_mutants(screener, [], groups=["trial"])
    assert own.total == mutation.test_mutants(screener, []).total > 0


# ---------------------------------------------------------------- mutants that may live


def accepting(tmp_path: Path, text: str) -> str:
    """The path of a rule file with a list of accepted mutants beside it."""
    tmp_path.joinpath("mutants.yaml").write_text(text)
    return str(tmp_path / "rules.yaml")


def entry(mutant: str, reason: str = "Nobody can tell.") -> str:
    return f"  - mutant: {mutant}\n    reason: {reason}\n"


def test_a_listed_mutant_counts_as_accepted(shipped: Rulesets, tmp_path: Path) -> None:
    text = "accepted:\n" + entry("trial/tier+1") + entry("analytes/potassium/fresh+1d")
    rules = loaded(shipped, BAND, path=accepting(tmp_path, text + "    reviewed: 2026-11-01\n"))
    found = report(rules, AT, BELOW)
    assert (found.accepted, found.faults) == (2, ())
    assert found.total == found.killed + 2 + len(found.survivors)
    assert not {"trial/tier+1", "analytes/potassium/fresh+1d"} & {s.id for s in found.survivors}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            entry("trial/when.0/lt-to-le"),
            ":2: mutant trial/when.0/lt-to-le is noticed by a case; remove it from this list",
        ),
        (
            entry("trial/when.0/lt-to-lee"),
            ":2: there is no mutant trial/when.0/lt-to-lee; did you mean 'trial/when.0/lt-to-le'?",
        ),
        (
            entry("trial/tier+1") * 2,
            ":4: mutant trial/tier+1 is already listed in {}:2",
        ),
        ("  - mutant: trial/tier+1\n", ":2: accepted.0: key 'reason' is missing"),
        (entry("trial/tier+1") + "    reviewed: soon\n", "accepted.0.reviewed"),
        (entry("trial/tier+1") + "    because: x\n", "unknown key 'because'"),
    ],
)
def test_what_is_wrong_with_the_list_is_said_with_its_line(
    shipped: Rulesets, tmp_path: Path, text: str, said: str
) -> None:
    path = accepting(tmp_path, "accepted:\n" + text)
    (fault,) = report(loaded(shipped, BAND, path=path), AT, BELOW).faults
    assert said.format(tmp_path / "mutants.yaml") in str(fault)
    assert str(tmp_path / "mutants.yaml") in str(fault)


# ---------------------------------------------------------------- cases for the others


def test_the_case_suggested_for_a_mutant_is_at_its_very_limit(shipped: Rulesets) -> None:
    found = report(loaded(shipped, BAND))
    cases = {s.id: s.case for s in found.survivors}
    assert cases["trial/when.0/lt-step"] == (
        """\
  - name: trial fires with potassium 3.4999 mmol/L
    as_of: 2026-01-01T00:00:00Z
    data:
      - lab: potassium 3.4999 mmol/L now
    expect:
      fires: [trial]
      tier: urgent
"""
    )
    at = cases["trial/when.0/lt-to-le"]
    assert at is not None
    assert "potassium 3.5 mmol/L now" in at
    assert "not: [trial]" in at


@pytest.mark.slow
def test_every_case_suggested_passes_with_the_rules_and_fails_with_the_mutant(
    shipped: Rulesets, everything: MutationReport, tmp_path: Path
) -> None:
    found = everything.survivors
    unusual = [s for s in found if _unusual(s.id)]
    sample = [*found[::50], *unusual[::4]]
    texts = {s.id: s.case for s in sample}
    without = {id_ for id_, text in texts.items() if text is None}
    # High and low at once: only a flag and a value that contradict each other are both.
    assert without <= {i for i in texts if re.match(r"(bicarbonate|tsh)-.*/family-removed", i)}
    kept = {id_: text for id_, text in texts.items() if text}
    path = tmp_path / "cases.yaml"
    path.write_text("cases:\n" + "".join(_named(text, id_) for id_, text in kept.items()))
    cases = load_cases_file(path, "electrolyte", shipped)
    assert [str(f) for r in run(Screener(shipped), cases) for f in r.failures] == []
    mutants = all_mutants(shipped)
    for id_, case in zip(kept, cases, strict=True):
        assert not run_case(Screener(mutated(shipped, mutants[id_]), "reference"), case).passed, id_


def _unusual(id_: str) -> bool:
    return id_.endswith(("caveat_for-emptied", "family-removed")) or "stands_in" in id_


def _named(text: str, name: str) -> str:
    return re.sub(r"(?m)^  - name: .*$", lambda _: f'  - name: "{name}"', text)
