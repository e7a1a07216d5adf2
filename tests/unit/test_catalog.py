"""What `cds rules` and `cds explain` say of a rule, as plain values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from builders import AS_OF, ago, bundle, condition, lab, patient, statement
from cds import Rulesets, Screener, load_rulesets
from cds.catalog import catalog, criterion_text, explanation_dict
from cds.rulefile import HistoryCriterion

RULES = """\
group: trial
title: Rules for trying
version: 2.1.0
rules:
  - id: every-criterion
    title: One of each kind
    review: under-review
    last_reviewed: "2026-10-01"
    tier: urgent
    when:
      - any:
          - {lab: potassium, lt: 2.5, unit: mmol/L}
          - {lab: potassium, le: 3.50, unit: mmol/L, within: PT12H, older_than: PT1H}
          - {lab: potassium, lt: 3.5, unit: mmol/L, first_band: true}
          - {lab: potassium, ge: 6.0, unit: mmol/L, critical_flag: true}
          - {lab: potassium, laboratory: below}
          - {lab: potassium, laboratory: critical-high}
          - {lab: creatine-kinase-ratio, gt: 50, unit: "1"}
          - {rise: potassium, gt: 0.5, unit: mmol/L, over: PT12H}
          - {ratio: creatinine, ge: 1.5, over: P7D}
          - {symptom: cramp}
          - {symptom: muscle-weakness, within: P30D, longer_than: P2D}
          - {medication: loop-diuretic, started_within: P14D}
          - {no_result: magnesium, within: P90D}
          - {sex: unknown}
          - {sex: female}
          - {age: years, ge: 65}
          - {quality: implausible, lab: potassium}
          - {finding: a-step}
          - all:
              - {condition: pregnancy}
              - {condition: dialysis}
    unless:
      - {condition: alcohol-dependence}
    covers: [S0-01, TH-001]
    evidence:
      - {source: A guideline, year: 2024, section: "3.1", statement: it is so, url: "https://example.org/a"}
      - {source: Ourselves, statement: we think so, from_knowledge: true}
    note: Only to try the words.
    card:
      summary: "Potassium {potassium}"
      detail: Look.
      patient: Call today.
      suggestions: [ecg]

  - id: a-step
    title: A step on the way
    review: draft
    tier: info
    step: true
    population: any
    when:
      - {symptom: cramp}
    evidence: [{source: Ourselves, statement: we think so}]

  - id: worse-kidney
    title: Creatinine has risen
    review: draft
    tier: urgent
    when:
      - {ratio: creatinine, ge: 1.5, over: P7D}
      - {lab: potassium, ge: 5.5, unit: mmol/L, critical_flag: true}
      - {age: years, ge: 18}
    evidence: [{source: Ourselves, statement: we think so}]
    card: {summary: Kidney, detail: Look., patient: Call today.}
"""

WORDS = [
    "potassium < 2.5 mmol/L, at most 7 days old",
    "potassium <= 3.50 mmol/L, more than 1 hour and at most 12 hours old",
    "potassium < 3.5 mmol/L and not normal by the laboratory's own range, or below the "
    "laboratory's own range, at most 7 days old",
    "potassium >= 6.0 mmol/L or flagged HH by the laboratory, at most 7 days old",
    "potassium below the laboratory's own range, at most 7 days old",
    "potassium flagged critically high (HH) by the laboratory, at most 7 days old",
    "creatine kinase as a multiple of the upper limit > 50, at most 7 days old",
    "potassium rose by > 0.5 mmol/L within 12 hours, latest result at most 7 days old",
    "creatinine >= 1.5 times the lowest of the 7 days before, latest result at most 7 days old",
    "symptom: muscle cramp",
    "symptom: muscle weakness, not known to be older than 30 days, for more than 48 hours",
    "takes: loop diuretic, started within 14 days",
    "no usable result within 90 days: magnesium",
    "sex: not recorded, or other",
    "sex: female",
    "age >= 65 years",
    "data in doubt: implausible value of potassium",
    "finding: A step on the way (a-step)",
    {"all": ["condition: pregnancy", "condition: dialysis"]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rulesets")
    (folder / "trial").mkdir()
    (folder / "trial" / "rules.yaml").write_text(RULES, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def rulesets(folder: Path) -> Rulesets:
    return load_rulesets(folder)


def explain(rulesets: Rulesets, rule: str, *resources: Any) -> dict[str, Any]:
    found = Screener(rulesets).screen(bundle(*resources), AS_OF)
    explanation = explanation_dict(found.explain(rule), found.evaluation, rulesets)
    return orjson.loads(orjson.dumps(explanation))  # it is JSON as it stands


def criteria(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "parts" in node:
        for part in node["parts"]:
            yield from criteria(part)
    else:
        yield node


def test_every_kind_of_criterion_has_words_with_its_threshold_and_window(
    rulesets: Rulesets,
) -> None:
    rule = next(r for r in catalog(rulesets) if r["id"] == "every-criterion")
    assert rule["when"] == [{"any": WORDS}]
    assert rule["unless"] == ["condition: alcohol dependence"]


def test_every_shipped_criterion_has_words() -> None:
    shipped = load_rulesets()
    rules = catalog(shipped)
    assert len(rules) == len(shipped.program.rules)
    assert all(r["when"] or r["stands_in_from"] for r in rules)
    assert orjson.loads(orjson.dumps(rules)) == rules


def test_a_family_history_is_said_to_be_of_the_family(rulesets: Rulesets) -> None:
    assert (
        criterion_text(HistoryCriterion(history="motor-disease"), rulesets)
        == "in the family: motor disease"
    )


def test_a_thing_that_is_no_criterion_has_no_words(rulesets: Rulesets) -> None:
    with pytest.raises(TypeError, match="no words for str"):
        criterion_text("potassium", rulesets)


def test_the_catalog_gives_thresholds_as_numbers_with_comparator_word_and_unit(
    rulesets: Rulesets,
) -> None:
    rule = catalog(rulesets)[0]
    assert rule["thresholds"][0] == {
        "criterion": WORDS[0],
        "comparator": "lt",
        "value": 2.5,
        "unit": "mmol/L",
        "window": {"within": "P7D"},
    }
    assert rule["thresholds"][1]["window"] == {"within": "PT12H", "older_than": "PT1H"}
    by_unit = [(t["comparator"], t["value"], t["unit"]) for t in rule["thresholds"]]
    assert ("ge", 1.5, "1") in by_unit  # a ratio
    assert ("ge", 65, "years") in by_unit
    assert len(by_unit) == 8


def test_the_catalog_gives_what_a_reviewer_signs(rulesets: Rulesets) -> None:
    rule = catalog(rulesets)[0]
    assert {key: rule[key] for key in ("id", "group", "version", "tier", "review", "covers")} == {
        "id": "every-criterion",
        "group": "trial",
        "version": "2.1.0",
        "tier": "urgent",
        "review": "under-review",
        "covers": ["S0-01", "TH-001"],
    }
    assert rule["last_reviewed"] == "2026-10-01"
    assert [e["from_knowledge"] for e in rule["evidence"]] == [False, True]
    assert rule["card"]["patient"] == "Call today."


def test_an_explanation_shows_the_value_as_sent_and_as_converted(rulesets: Rulesets) -> None:
    sent = lab("potassium", "9.3", "mg/dL", when=ago(hours=5), low=13.7, high=19.9)
    found = explain(rulesets, "every-criterion", patient(), sent)
    first = next(criteria(found["when"]))
    assert found["fired"] is True
    assert found["outcome"] == "finding 'every-criterion', tier urgent"
    assert (first["state"], first["criterion"]) == ("yes", WORDS[0])
    assert first["threshold"] == {"comparator": "lt", "value": 2.5, "unit": "mmol/L"}
    (seen,) = first["observed"]
    assert seen["sent"] == "9.3 mg/dL"
    assert (round(seen["value"], 2), seen["unit"]) == (2.38, "mmol/L")
    assert seen["effective"] == ago(hours=5)
    assert seen["resource"] == "Observation/potassium"
    assert first["hours_old"] == 5


def test_an_explanation_tells_no_from_unknown_and_says_what_is_needed(
    rulesets: Rulesets,
) -> None:
    found = explain(rulesets, "worse-kidney", patient(), lab("potassium", 4.1))
    ratio, potassium, age = criteria(found["when"])
    assert found["fired"] is False
    assert (ratio["state"], ratio["reason"], ratio["needs"]) == ("unknown", "missing", "creatinine")
    assert ratio["observed"] == []
    assert (potassium["state"], potassium["reason"]) == ("no", None)
    assert (age["state"], age["computed"]) == ("yes", 56)
    assert found["unless"] is None


def test_an_explanation_shows_what_was_computed_from_several_results(rulesets: Rulesets) -> None:
    found = explain(
        rulesets,
        "worse-kidney",
        patient(),
        lab("creatinine", 80, id="before", when=ago(days=3)),
        lab("creatinine", 160, id="after", when=ago(days=1)),
    )
    ratio = next(criteria(found["when"]))
    assert (ratio["state"], ratio["computed"]) == ("yes", 2)
    assert [entry["resource"] for entry in ratio["observed"]] == [
        "Observation/before",
        "Observation/after",
    ]


def test_an_explanation_says_what_the_laboratory_itself_thought(rulesets: Rulesets) -> None:
    found = explain(rulesets, "worse-kidney", patient(), lab("potassium", 5.4, flag="HH"))
    potassium = list(criteria(found["when"]))[1]
    assert (potassium["state"], potassium["laboratory_says"]) == ("yes", "critical")


def test_an_explanation_shows_what_blocked_a_rule(rulesets: Rulesets) -> None:
    found = explain(
        rulesets,
        "every-criterion",
        patient(),
        lab("potassium", 2.0),
        condition("alcohol-dependence", id="c1"),
    )
    assert found["fired"] is False
    assert found["outcome"] == "blocked by 'unless'"
    (blocker,) = criteria(found["unless"])
    assert blocker["state"] == "yes"
    assert [entry["resource"] for entry in blocker["observed"]] == ["Condition/c1"]


def test_an_explanation_names_the_resource_that_could_not_be_used(rulesets: Rulesets) -> None:
    found = explain(rulesets, "worse-kidney", patient(), lab("potassium", 6, "furlong"))
    potassium = list(criteria(found["when"]))[1]
    assert (potassium["state"], potassium["reason"]) == ("unknown", "unit")
    assert potassium["resource"] == "Observation/potassium"
    assert "unit" in potassium["reason_text"]


def test_an_explanation_repeats_the_cautions_of_a_result(rulesets: Rulesets) -> None:
    found = explain(rulesets, "worse-kidney", patient(), lab("potassium", 6, status="preliminary"))
    potassium = list(criteria(found["when"]))[1]
    assert any("preliminary" in text.lower() for text in potassium["cautions"])


def test_a_medicine_is_shown_with_the_resource_that_names_it(rulesets: Rulesets) -> None:
    furosemide = "4603"
    found = explain(
        rulesets, "every-criterion", patient(), statement(furosemide, since=ago(days=3))
    )
    medicine = next(c for c in criteria(found["when"]) if c["kind"] == "medication")
    assert medicine["state"] == "yes"
    assert [entry["resource"] for entry in medicine["observed"]] == ["MedicationStatement/medicine"]
