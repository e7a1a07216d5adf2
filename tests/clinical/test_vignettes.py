"""Whole patients in a clinician's words, each inside an ordinary record of 20 to 300 resources.

The vignettes stand in `tests/vignettes`; `neurology.yaml` explains their keys. A vignette fails
where the tables of the sources are not met, whatever rule is at fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from builders import AS_OF, Json, bundle, highest, patient, rank
from cds import Assessment, Rulesets, Screener, load_rulesets
from cds.cases import Case, Expect
from cds.cases.files import entries_in, patient_of
from cds.forms import Patient, parse
from cds.harness import card_text, plain, waits_for
from cds.model import Finding
from cds.screening import instant
from clinical_records import PROFILES, RXNORM_OF, background

FOLDER = Path(__file__).resolve().parents[1] / "vignettes"
# What `expect` may say here beside `Expect` of a case, of which only these are of use.
OF_A_CASE = ("patient_tier", "missing", "card", "patient_card")
OWN = (
    *("covers", "not_covers", "suppressed", "groups", "no_group"),
    *("tier_at_most", "cards_at_most", "problems"),
)
ROWS = ("covers", "not_covers", "suppressed")
# What some vignette must find; RF32 only changes wording and RF13 only adds a line.
RED_FLAGS = {f"RF{n:02}" for n in range(1, 43)} - {"RF13", "RF32"}


@dataclass(frozen=True)
class Vignette:
    """One patient: what is special of them, what surrounds it, and what must be found."""

    name: str
    as_of: str
    data: tuple[Mapping[str, Any], ...]
    background: Mapping[str, Any]
    expect: Mapping[str, Any]
    path: Path

    def case(self) -> Case:
        """Return the complaint as a case, without what surrounds it."""
        files: list[Json] = []
        forms = []
        for entry in self.data:
            if "file" in entry:
                path = self.path.parent / entry["file"]
                files += entries_in(orjson.loads(path.read_bytes()), path.name)
            else:
                forms.append(parse({key: str(value) for key, value in entry.items()}))
        expect = Expect.model_validate({k: v for k, v in self.expect.items() if k in OF_A_CASE})
        return Case(
            self.name,
            instant(self.as_of),
            tuple(forms),
            expect,
            str(self.path),
            0,
            files=tuple(files),
            patient=patient_of(files),
        )

    def bundle(self, rulesets: Rulesets) -> Json:
        """Return the whole record as a Bundle."""
        case = self.case()
        made = case.bundle(rulesets.terminology)
        years = next((f.years for f in case.forms if isinstance(f, Patient) and f.years), 50)
        subject = case.patient or f"Patient/{case.slug}"
        around = background(
            self.background["profile"],
            self.background["resources"],
            subject,
            name=self.name,
            newest=self.background.get("newest", 40),
            years=years,
        )
        made["entry"] += [{"resource": resource} for resource in around]
        return made


def vignettes() -> Iterator[Vignette]:
    for path in sorted(FOLDER.glob("*.yaml")):
        file = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert set(file) == {"as_of", "vignettes"}, path
        for each in file["vignettes"]:
            unknown = set(each) - {"name", "background", "data", "expect", "note"}
            unknown |= set(each["expect"]) - {*OWN, *OF_A_CASE}
            unknown |= set(each["background"]) - {"profile", "resources", "newest"}
            assert not unknown, (path, each["name"], unknown)
            yield Vignette(
                each["name"],
                file["as_of"],
                tuple(each["data"]),
                each["background"],
                each["expect"],
                path,
            )


ALL = tuple(vignettes())


@pytest.fixture(scope="module")
def rulesets() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="module")
def screener(rulesets: Rulesets) -> Screener:
    return Screener(rulesets)


# ---------------------------------------------------------------- comparing


def tier_of(findings: Iterable[Finding]) -> str | None:
    """The highest tier of findings, None where there is none."""
    return highest(finding.tier.name for finding in findings)


def named(tier: str | None) -> str | None:
    """The tier that a vignette calls "none"."""
    return None if tier == "none" else tier


def differences(vignette: Vignette, found: Assessment) -> Iterator[str]:
    """Say where the assessment is not what the tables want."""
    yield from wrong_tiers(vignette.expect, found)
    yield from wrong_rows(vignette.expect, found)
    yield from wrong_texts(vignette, found)


def broken_promises(vignette: Vignette, found: Assessment) -> Iterator[str]:
    """Say what must hold of no patient (ground rules 3 and 9, rules for patient texts 7).

    Nothing in a background is new, so only a vignette that says so has a medicine that is.
    """
    new = [f.id for f in found.findings if "MED-016" in f.covers]
    if new and "MED-016" not in vignette.expect.get("covers", {}):
        yield "a medicine that was taken for years and is prescribed anew counts as a new one"
    text = card_text(found.cards("patient"))
    if tier_of(found.findings) == "emergency" and "emergency number" not in text:
        yield "an emergency whose patient text does not say to call the emergency number"
    referred = {"neurological-referral" == f.group for f in found.findings}
    isolated = {"RF31" in f.covers for f in found.findings if f.group != "neurological-referral"}
    if True in referred and True in isolated:
        yield "a referral beside the finding that the twitching is isolated"
    places = [(c["source"]["topic"]["code"], c["summary"]) for c in found.cards("clinician")]
    if len(places) != len({*places}):
        yield "two cards of one group say the same"
    faults = {p.code for p in found.evaluation.problems if p.severity == "error"}
    if faults - {"unit-unknown"}:
        yield f"the record could not be read: {sorted(faults)}"


def wrong_tiers(expect: Mapping[str, Any], found: Assessment) -> Iterator[str]:
    tier = tier_of(found.findings)
    if "patient_tier" in expect and tier != named(expect["patient_tier"]):
        yield f"the patient is {tier}, not {expect['patient_tier']}"
    if rank(tier) > rank(expect.get("tier_at_most", "emergency")):
        yield f"the patient is {tier}, more than {expect['tier_at_most']}"
    wanted = {**dict.fromkeys(expect.get("no_group", ()), "none"), **expect.get("groups", {})}
    for group, wish in wanted.items():
        tier = tier_of(f for f in found.findings if f.group == group)
        if tier != named(wish):
            yield f"group {group} is {tier}, not {wish}"


def wrong_rows(expect: Mapping[str, Any], found: Assessment) -> Iterator[str]:
    """Compare what is found under rows of the tables.

    What a more urgent finding of its family stands for is found as well; what something else
    explains is not.
    """
    hidden = found.evaluation.suppressed
    within = [s.finding for s in hidden if s.reason.startswith("superseded")]
    for row, wish in expect.get("covers", {}).items():
        tier = tier_of(f for f in (*found.findings, *within) if row in f.covers)
        if tier != wish:
            yield f"{row} is {tier}, not {wish}"
    for row in expect.get("not_covers", ()):
        shown = [f.id for f in found.findings if row in f.covers]
        if shown:
            yield f"{row} is shown: {', '.join(shown)}"
    for row in expect.get("suppressed", ()):
        if not any(row in s.finding.covers for s in hidden if s.finding not in within):
            yield f"{row} does not stand among what is explained otherwise"


def wrong_texts(vignette: Vignette, found: Assessment) -> Iterator[str]:
    expect, case = vignette.expect, vignette.case()
    cards = found.cards("clinician")
    if len(cards) > expect.get("cards_at_most", 99):
        yield f"{len(cards)} cards: " + "; ".join(card["summary"] for card in cards)
    for key, shown in (("card", cards), ("patient_card", found.cards("patient"))):
        said = card_text(shown).casefold()
        for text in expect.get(key, ()):
            if plain(text).casefold() not in said:
                yield f"no {key.replace('_', ' ')} says '{text}'"
    for needs in case.expect.missing:
        if not any(waits_for(n, needs) for n in found.evaluation.not_evaluated):
            yield f"no rule waits for {needs}"
    codes = {problem.code for problem in found.evaluation.problems}
    for code in expect.get("problems", ()):
        if code not in codes:
            yield f"the problem {code} is not among {sorted(codes)}"


@pytest.mark.parametrize("vignette", ALL, ids=lambda v: v.name)
def test_a_whole_patient_is_assessed_as_the_tables_say(
    vignette: Vignette, screener: Screener, rulesets: Rulesets
) -> None:
    found = screener.screen(vignette.bundle(rulesets), vignette.as_of)
    wrong = [*differences(vignette, found), *broken_promises(vignette, found)]
    shown = [f"{f.tier.name} {f.group}: {f.id} {list(f.covers)}" for f in found.findings]
    assert not wrong, "\n".join([*wrong, "found is:", *shown])


@pytest.mark.parametrize(
    ("key", "wish"),
    [
        ("patient_tier", "urgent"),
        ("tier_at_most", "urgent"),
        ("groups", {"electrolyte": "soon"}),
        ("no_group", ["electrolyte"]),
        ("covers", {"RF27": "soon"}),
        ("not_covers", ["RF27"]),
        ("suppressed", ["RF27"]),
        ("cards_at_most", 0),
        ("card", ["purple"]),
        ("patient_card", ["purple"]),
        ("missing", ["potassium"]),
        ("problems", ["conflict"]),
    ],
)
def test_what_is_not_as_a_vignette_says_is_noticed(
    key: str, wish: Any, screener: Screener, rulesets: Rulesets
) -> None:
    vignette = next(v for v in ALL if v.name.startswith("Potassium of 6.8 in a hemolyzed"))
    found = screener.screen(vignette.bundle(rulesets), vignette.as_of)
    assert [*differences(vignette, found)] == []
    assert len([*differences(replace(vignette, expect={key: wish}), found)]) == 1
    assert {*OWN, *OF_A_CASE} >= {key}


def test_there_are_vignettes_of_every_flag_and_of_plausible_size() -> None:
    assert len(ALL) >= 60
    assert len({v.name for v in ALL}) == len(ALL)
    assert RED_FLAGS - {row for v in ALL for row in v.expect.get("covers", ())} == set()
    sizes = [v.background["resources"] for v in ALL]
    assert 20 <= min(sizes) < 30
    assert 200 < max(sizes) <= 300
    assert {v.background["profile"] for v in ALL} == set(PROFILES)


def test_every_row_that_a_vignette_names_stands_in_the_tables(clinical_data: Path) -> None:
    known = set()
    for name in ("claims", "red_flags", "medication_rules"):
        lines = (clinical_data / f"{name}.csv").read_text(encoding="utf-8").splitlines()
        known |= {line.partition(",")[0] for line in lines}
    named = {row for v in ALL for key in ROWS for row in v.expect.get(key, ())}
    assert named - known == set()


# ---------------------------------------------------------------- the background


@pytest.mark.parametrize("size", [25, 120, 300])
@pytest.mark.parametrize("profile", PROFILES)
def test_an_ordinary_record_alone_makes_no_finding(
    profile: str, size: int, screener: Screener
) -> None:
    who = patient(birth="2016-03-01" if profile == "child" else "1956-03-01")
    years = 10 if profile == "child" else 70
    size = min(size, 120) if profile == "child" else size
    around = background(profile, size, "Patient/p1", years=years)
    found = screener.screen(bundle(who, *around), AS_OF)
    assert [f.id for f in found.findings] == []


def test_a_background_is_the_same_on_every_run_and_another_for_each_name() -> None:
    one = background("diabetes and hypertension", 150, "Patient/p1", name="a")
    assert one == background("diabetes and hypertension", 150, "Patient/p1", name="a")
    assert one != background("diabetes and hypertension", 150, "Patient/p1", name="b")
    assert len(one) == 150
    kinds = {resource["resourceType"] for resource in one}
    assert kinds >= {"Encounter", "Observation", "Condition", "MedicationRequest", "Immunization"}
    assert kinds >= {"FamilyMemberHistory", "DiagnosticReport", "CarePlan"}


def test_products_of_the_background_are_those_of_the_table(
    clinical_data: Path,
) -> None:
    text = (clinical_data / "scd_to_ingredient.csv").read_text(encoding="utf-8")
    products = {line.partition(",")[0]: line for line in text.splitlines()}
    for name, code in RXNORM_OF.items():
        assert not code or products[code].split(",")[1].casefold() == name.casefold()
