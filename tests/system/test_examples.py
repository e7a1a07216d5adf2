"""The example patients that come with the package, and what they are expected to give."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import orjson
import pytest
import yaml
from fhir.resources.R4B.bundle import Bundle

from cds import Assessment, Screener, load_rulesets
from cds.fhir import ReadLog
from cds.shipped import shipped

Json = dict[str, Any]

FOLDER = shipped("fhir_examples")
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.json"))
REQUIRED = {"why", "as_of", "tier", "findings", "cards", "problems"}
OPTIONAL = {"cautions", "not_evaluated"}

# On the two sides of a limit; a boundary is only seen where both stand next to each other.
NEIGHBORS = [
    ("potassium-2-4-with-palpitations", "potassium-2-5-asymptomatic"),
    ("potassium-2-9-with-new-weakness", "potassium-3-0-with-twitching"),
    ("potassium-2-3-three-weeks-old", "potassium-2-3-four-months-old"),
    ("potassium-rising-from-5-1-to-5-6", "potassium-rising-from-4-9-to-5-6"),
    ("calcium-1-89-adjusted-with-twitching", "calcium-1-90-adjusted-with-twitching"),
    ("qtc-500-after-starting-citalopram", "qtc-501-after-starting-citalopram"),
    ("creatine-kinase-1949-limit-195-with-cramps", "creatine-kinase-1950-limit-195"),
]

each_example = pytest.mark.parametrize("name", EXAMPLES)


# ------------------------------------------------------------ reading examples


@cache
def example(name: str) -> Json:
    """The Bundle of an example; not to be changed."""
    bundle: Json = orjson.loads((FOLDER / f"{name}.json").read_bytes())
    return bundle


@cache
def expected(name: str) -> Json:
    """What a person wrote down beforehand."""
    text = (FOLDER / "expected" / f"{name}.yaml").read_text(encoding="utf-8")
    sheet: Json = yaml.safe_load(text)
    assert set(sheet) >= REQUIRED
    assert set(sheet) <= REQUIRED | OPTIONAL
    return sheet


def resources(bundle: Json) -> Iterator[Json]:
    """Every resource in a Bundle, those in inner Bundles and contained ones too."""
    for entry in bundle["entry"]:
        resource = entry["resource"]
        yield resource
        yield from resource.get("contained", ())
        if resource["resourceType"] == "Bundle":
            yield from resources(resource)


def everywhere(value: object, key: str) -> Iterator[Any]:
    """Every value of a key, however deep."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from everywhere(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from everywhere(inner, key)


@pytest.fixture(scope="module")
def screener() -> Screener:
    return Screener(load_rulesets())


@pytest.fixture(scope="module")
def strict() -> Screener:
    """Refuses what is not valid, also codes that FHIR binds and fhir.resources does not check."""
    return Screener(load_rulesets(), strict=True)


def screen(screener: Screener, name: str) -> Assessment:
    return screener.screen(example(name), as_of=expected(name)["as_of"])


def as_bytes(assessment: Assessment) -> bytes:
    return orjson.dumps(assessment.to_dict(everything=True))


# ------------------------------------------------------------ what comes out


def test_each_example_has_an_expected_result_and_none_is_left_over() -> None:
    assert len(EXAMPLES) >= 28
    assert sorted(path.stem for path in (FOLDER / "expected").glob("*.yaml")) == EXAMPLES


@each_example
def test_an_example_gives_what_was_written_down_for_it(screener: Screener, name: str) -> None:
    want, got = expected(name), screen(screener, name).to_dict()
    cautions = {c["id"] for f in got["findings"] for c in f.get("caveats", ())}
    cautions |= {d for f in got["findings"] for doubts in everywhere(f, "doubts") for d in doubts}
    assert got["tier"] == want["tier"]
    assert [f["id"] for f in got["findings"]] == want["findings"]
    assert sorted(cautions) == want.get("cautions", [])
    shown = [{key: card[key] for key in ("indicator", "summary")} for card in got["cards"]]
    assert shown == want["cards"]
    assert sorted(p["code"] for p in got["problems"]) == want["problems"]
    for entry in want.get("not_evaluated", ()):
        reasons = {n["reason"] for n in got["not_evaluated"] if n["rule"] == entry["rule"]}
        assert reasons == {entry["reason"]}


@each_example
def test_a_group_has_at_most_one_card_for_each_tier(screener: Screener, name: str) -> None:
    got = screen(screener, name).to_dict()
    places = {f["id"]: (f["group"], f["tier"]) for f in got["findings"]}
    cards: Counter[tuple[str, str]] = Counter()
    for card in got["cards"]:
        made_by = card["extension"]["org.cds-twitch.provenance"]["rules"]
        cards.update({places[r["finding"]] for r in made_by if r["finding"] in places})
    assert cards == Counter(set(places.values()))


@each_example
def test_a_second_run_gives_the_same_bytes_whatever_the_order(
    screener: Screener, name: str
) -> None:
    reversed_ = copy.deepcopy(example(name))
    for bundle in (reversed_, *resources(reversed_)):
        if bundle["resourceType"] == "Bundle":
            bundle["entry"].reverse()
    again = screener.screen(reversed_, as_of=expected(name)["as_of"])
    assert as_bytes(again) == as_bytes(screen(screener, name))


def test_the_examples_fire_a_rule_of_every_group(screener: Screener) -> None:
    groups = {r.group for r in screener.rulesets.program.rules}
    assert groups == {f.group for name in EXAMPLES for f in screen(screener, name).findings}


def test_the_examples_fire_a_rule_of_every_electrolyte_family(screener: Screener) -> None:
    """The other groups have too many families to show; their cases.yaml try each rule."""
    rules = [r.rule for r in screener.rulesets.program.rules if r.group == "electrolyte"]
    families = {rule.family for rule in rules if rule.family}
    assert families
    assert families <= {f.family for name in EXAMPLES for f in screen(screener, name).findings}


# ------------------------------------------------------------ what goes in


@each_example
def test_an_example_is_valid_fhir(strict: Screener, name: str) -> None:
    Bundle.model_validate_json((FOLDER / f"{name}.json").read_bytes())
    log = ReadLog()
    assert len(list(strict.screen_all(example(name), expected(name)["as_of"], log=log))) == 1
    assert log.rejected == []


@each_example
def test_an_example_is_an_invented_patient_whose_references_lead_somewhere(name: str) -> None:
    bundle = example(name)
    (patient,) = (r for r in resources(bundle) if r["resourceType"] == "Patient")
    assert [n["family"] for n in patient["name"]] == ["Example"]
    assert patient["identifier"][0]["value"].startswith("EX-")
    known = {f"{r['resourceType']}/{r['id']}" for r in resources(bundle) if "id" in r}
    known |= {f"#{r['id']}" for r in resources(bundle) if "id" in r}
    known |= set(everywhere(bundle, "fullUrl"))
    assert set(everywhere(bundle, "reference")) <= known


def test_the_examples_cover_what_senders_send() -> None:
    every = [r for name in EXAMPLES for r in resources(example(name))]
    assert {r["resourceType"] for r in every} >= {
        "Bundle",
        "Condition",
        "FamilyMemberHistory",
        "Medication",
        "MedicationRequest",
        "MedicationStatement",
        "Observation",
        "Patient",
        "QuestionnaireResponse",
        "Specimen",
    }
    assert {example(name)["type"] for name in EXAMPLES} >= {
        "collection",
        "searchset",
        "transaction",
    }
    assert {form(r) for r in every if r["resourceType"] == "MedicationStatement"} == {
        "coded",
        "referenced",
        "contained",
        "text only",
    }
    assert {"mmol/L", "mg/dL", "mEq/L"} <= set(everywhere(every, "unit"))
    assert "urn:uuid:" in str(example("many-critical-results")["entry"][-1]["resource"]["subject"])


def form(statement: Json) -> str:
    """How a MedicationStatement names its medicine."""
    if "medicationReference" in statement:
        local = statement["medicationReference"]["reference"].startswith("#")
        return "contained" if local else "referenced"
    return "coded" if "coding" in statement["medicationCodeableConcept"] else "text only"


# ------------------------------------------------------------ the README beside them


def test_the_readme_lists_every_example_with_its_tier() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (.+) \| (\w+) \|$", readme, re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == EXAMPLES
    assert {name: tier for name, _, tier in rows} == {
        name: expected(name)["tier"] or "none" for name in EXAMPLES
    }
    assert len({says for _, says, _ in rows}) == len(rows)


def test_the_readme_lists_neighbors_together() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", readme, re.MULTILINE)
    for below, above in NEIGHBORS:
        assert rows.index(above) - rows.index(below) == 1


def test_examples_point_to_code_systems_and_invented_hosts_only() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    hosts = set(re.findall(r"https?://([a-z0-9.-]+)", text))
    assert {host for host in hosts if not host.endswith(".example")} == {
        "hl7.org",
        "human-phenotype-ontology.org",
        "loinc.org",
        "snomed.info",
        "terminology.hl7.org",
        "unitsofmeasure.org",
        "www.nlm.nih.gov",
    }
