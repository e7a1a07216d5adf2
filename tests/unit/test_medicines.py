"""Medicines in use: by code, by name, by route; when started, stopped, raised and ordered."""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cds.formulary import Named
from cds.medicines import Courses, Medicines
from cds.model import Coding, Fact, Instant, MedicationUse, Problem, Quantity
from cds.program import FOREVER
from cds.results import Normalized
from cds.shipped import shipped
from cds.terminology import Terminology, load_terminology

RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
SNOMED = "http://snomed.info/sct"
NOW = datetime(2026, 11, 1, tzinfo=UTC)
AS_OF = int(NOW.timestamp())
DAY = 86_400

TERMS = load_terminology(shipped("rulesets"))
MEDICINES = sorted(n for n, v in TERMS.value_sets.items() if v.kind == "medication")
KEYS = frozenset(
    [f"{kind}/{name}" for kind in ("medication", "stopped", "ordered") for name in MEDICINES]
    + ["quality/medication-conflict"]
)
READER = Medicines(TERMS, KEYS, frozenset())


def day(days_ago: float, *, date: bool = False) -> Instant:
    """The instant, or the calendar day, that many days before the assessment."""
    when = NOW - timedelta(days=days_ago)
    if date:
        first = int(when.replace(hour=0, minute=0, second=0).timestamp())
        return Instant(first, first + DAY - 1, when.strftime("%Y-%m-%d"))
    seconds = int(when.timestamp())
    return Instant(seconds, seconds, when.strftime("%Y-%m-%dT%H:%M:%SZ"))


def period(start: float | None, end: float | None = None) -> Instant:
    """A Period from and to so many days ago, as it is read."""
    first = day(start) if start is not None else None
    last = day(end) if end is not None else None
    begin = first.start if first else -62_135_596_800
    text = f"{first.text if first else ''}/{last.text if last else ''}"
    return Instant(begin, last.end if last else begin, text, open=last is None)


def use(
    *codes: str,
    text: str = "",
    display: str = "",
    status: str = "active",
    intent: str = "order",
    since: float | None = None,
    until: float | None = None,
    authored: float | None = None,
    route: Coding | None = None,
    resource: str = "",
    dose: Quantity | None = None,
    request: bool = False,
    unresolved: str | None = None,
) -> MedicationUse:
    codings = tuple(Coding(RXNORM, code, display) for code in codes)
    spans = since is not None or until is not None
    return MedicationUse(
        resource or f"MedicationStatement/{'-'.join(codes) or 'text'}",
        codings,
        text or display,
        status,
        intent if request else "",
        period(since, until) if spans else None,
        day(authored) if authored is not None else None,
        route,
        unresolved,
        request,
        dose,
    )


def mg(amount: str, unit: str = "mg") -> Quantity:
    return Quantity(Decimal(amount), None, unit, unit, f"{amount} {unit}")


def routed(code: str, name: str = "") -> Coding:
    return Coding(SNOMED, code, name)


class Read:
    """What a list of uses comes to."""

    def __init__(self, *uses: MedicationUse, reader: Medicines = READER) -> None:
        self.out = Normalized()
        self.courses: Courses = reader.read(uses, AS_OF, self.out)

    def fact(self, key: str) -> Fact | None:
        found = [fact for fact in self.out.facts if fact.key == key]
        assert len(found) < 2
        return found[0] if found else None

    def takes(self, name: str) -> bool:
        return self.fact(f"medication/{name}") is not None

    def props(self, key: str) -> dict[str, int]:
        fact = self.fact(key)
        assert fact is not None, sorted(f.key for f in self.out.facts)
        return dict(fact.props)

    def doubts(self, key: str) -> set[str]:
        fact = self.fact(key)
        assert fact is not None
        return {doubt.code for source in fact.sources for doubt in source.doubts}

    @property
    def codes(self) -> list[str]:
        return [problem.code for problem in self.out.problems]

    def lost(self, key: str) -> list[str]:
        return [lost.reason for lost in self.out.unusable.get(key, ())]


# ---------------------------------------------------------------- by code


def test_a_product_counts_as_all_its_ingredients() -> None:
    read = Read(use("197885", display="lisinopril 10 MG / hydrochlorothiazide 12.5 MG Oral Tablet"))
    assert read.takes("ace-inhibitor")
    assert read.takes("thiazide-diuretic")
    assert read.doubts("medication/thiazide-diuretic") == set()


def test_an_ingredient_code_is_of_its_class_and_of_the_groups_above() -> None:
    read = Read(use("4603"))
    assert read.takes("loop-diuretic")
    assert read.takes("potassium-losing-drug")
    assert not read.takes("thiazide-diuretic")
    assert read.out.problems == []


def test_codes_of_one_substance_are_one_ingredient() -> None:
    read = Read(use("6448"), use("42351"), use("52105"))
    assert read.props("medication/lithium")["count"] == 1


def test_different_ingredients_of_a_set_are_counted() -> None:
    read = Read(use("36437"), use("10737"), use("10689"))
    assert read.props("medication/serotonergic-drug")["count"] == 3


def test_a_bowel_preparation_is_no_potassium_supplement() -> None:
    read = Read(use("8591", "221147"), use("8591", resource="MedicationStatement/own"))
    fact = read.fact("medication/potassium-supplement")
    assert fact is not None
    assert [s.resource for s in fact.sources] == ["MedicationStatement/own"]


def test_a_medicine_that_no_rule_can_see_is_said() -> None:
    read = Read(use("308136", display="amlodipine 2.5 MG Oral Tablet"))
    assert read.codes == ["medication-not-recognized"]


# ---------------------------------------------------------------- by route

PRODUCTS = {
    "inhaler": "745679",  # 200 ACTUAT Albuterol 0.09 MG/ACTUAT Metered Dose Inhaler
    "nebulizer": "630208",  # albuterol 0.83 MG/ML Inhalation Solution
    "syrup": "755497",  # Albuterol 0.4 MG/ML Oral Solution
}


@pytest.mark.parametrize(
    ("form", "strict"), [("inhaler", False), ("nebulizer", True), ("syrup", True)]
)
def test_an_inhaler_is_no_systemic_beta_agonist(form: str, strict: bool) -> None:
    read = Read(use(PRODUCTS[form]))
    assert read.takes("beta2-agonist")
    assert read.takes("beta2-agonist-systemic") is strict


def test_a_route_that_nobody_says_is_systemic_with_a_doubt_unless_it_must_be_known() -> None:
    read = Read(use("8638"), use("435"))
    assert read.doubts("medication/corticosteroid") == {"route-unknown"}
    assert read.takes("beta2-agonist")
    assert not read.takes("beta2-agonist-systemic")


def test_a_medicine_of_which_only_systemic_products_are_known_makes_no_doubt() -> None:
    assert Read(use("4603")).doubts("medication/loop-diuretic") == set()


@pytest.mark.parametrize("code", ["6064005", "54485002", "10547007", "46713006", "16857009"])
def test_a_local_steroid_is_no_systemic_one(code: str) -> None:
    assert not Read(use("8638", route=routed(code))).takes("corticosteroid")
    assert Read(use("8638", route=routed("26643006"))).takes("corticosteroid")


def test_a_route_may_come_as_words() -> None:
    assert not Read(use("3355", route=Coding("", "", "apply topically"))).takes("nsaid")
    assert Read(use("3355", route=Coding("", "", "by mouth"))).takes("nsaid")
    assert not Read(use("8638", text="prednisolone eye drops")).takes("corticosteroid")


def test_what_is_sent_as_injection_may_be_a_pump() -> None:
    pump = use("1292", text="baclofen intrathecal pump", route=routed("47625008"))
    assert Read(pump).takes("baclofen-intrathecal")
    assert not Read(use("1292")).takes("baclofen-intrathecal")
    assert Read(pump).takes("baclofen")


def test_a_nebulized_medicine_is_sent_as_inhaled() -> None:
    read = Read(use(PRODUCTS["nebulizer"], route=routed("447694001")))
    assert read.takes("beta2-agonist-systemic")


def test_a_nicotine_patch_is_systemic() -> None:
    assert Read(use("7407", route=routed("45890007"))).takes("nicotine")


@pytest.mark.parametrize(("code", "route"), [("37418", "46713006"), ("3251", "46713006")])
def test_a_nasal_spray_that_acts_in_the_body_counts(code: str, route: str) -> None:
    name = {"37418": "triptan", "3251": "desmopressin"}[code]
    assert Read(use(code, route=routed(route))).takes(name)


# ---------------------------------------------------------------- by name


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("frusemide 40 mg", {"loop-diuretic"}),
        ("Zestoretic 20/12.5", {"ace-inhibitor", "thiazide-diuretic"}),
        ("HCTZ 25 mg daily", {"thiazide-diuretic"}),
        ("TMP-SMX DS", {"trimethoprim"}),
        ("St John's wort 300 mg", {"st-johns-wort"}),
        ("ST. JOHN’S WORT", {"st-johns-wort"}),
        ("salbutamol 100 mcg inhaler", {"beta2-agonist"}),
        ("calcium 600 mg tablet", {"calcium-supplement"}),
        ("calcium with vitamin D3", {"calcium-supplement", "vitamin-d-supplement"}),
        ("Potassium 20 mEq ER daily", {"potassium-supplement"}),
        ("insulin", {"insulin"}),
        ("etelcalcetide 5 mg IV", {"calcimimetic"}),
        ("finerenone 10 mg", {"mineralocorticoid-antagonist"}),
        ("Entresto 49/51 mg", {"arb", "arni"}),
        ("T4 100 mcg", {"levothyroxine"}),
    ],
)
def test_a_text_names_medicines(text: str, names: set[str]) -> None:
    read = Read(use(text=text))
    for name in names:
        assert read.takes(name), name
        assert "named-only" in read.doubts(f"medication/{name}")


@pytest.mark.parametrize(
    "text",
    [
        "water tablet",
        "blood pressure tablet",
        "low potassium diet",
        "penicillin V potassium 500 MG",
        "atorvastatin calcium",
        "amlodipine (calcium channel blocker)",
        "iron / calcium multivitamin",
        "lithium battery ingestion",
        "Lamisil (terbinafine)",
        "clonidine 0.1 MG",
        "furosemid",  # an unknown spelling is not guessed
        "Tylenol with codein (T3)",
        "insulin syringe 1 mL",
        "",
    ],
)
def test_a_text_that_only_looks_like_a_medicine_names_none(text: str) -> None:
    quiet = {"calcium-supplement", "potassium-supplement", "lithium", "loop-diuretic", "insulin"}
    read = Read(use(text=text or "-"))
    assert not any(read.takes(name) for name in quiet | {"liothyronine", "benzodiazepine"})


@pytest.mark.parametrize(
    "text",
    [
        "stopped furosemide 2 years ago",
        "furosemide, stopped 2019",
        "furosemide (discontinued)",
        "allergy: furosemide",
        "furosemide allergy",
        "furosemide level",
        "do not give furosemide",
        "family history: mother takes furosemide",
        "no longer taking furosemide",
    ],
)
def test_a_text_that_denies_a_medicine_is_no_use_of_it(text: str) -> None:
    read = Read(use(text=text))
    assert not read.takes("loop-diuretic")
    assert not read.takes("any-systemic-medicine")
    assert read.codes == ["medication-not-in-use"]


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("codeine allergy, takes tramadol", "tramadol"),
        ("furosemide 40 mg (avoid ibuprofen)", "loop-diuretic"),
        ("stopped bumetanide, now on furosemide", "loop-diuretic"),
        ("furosemide 40 mg; test strips", "loop-diuretic"),
        ("furosemide via PEG tube", "loop-diuretic"),
    ],
)
def test_what_a_text_says_of_one_medicine_is_not_said_of_another(text: str, taken: str) -> None:
    read = Read(use(text=text))
    assert read.takes(taken)
    assert not read.takes("nsaid")
    assert not read.takes("opioid") or taken == "tramadol"


def test_no_problem_repeats_a_text() -> None:
    read = Read(use(text="Jane Doe 555"), use("4603", text="Jane Doe tramadol"))
    assert all("Jane" not in problem.message for problem in read.out.problems)


def test_a_text_beside_an_unknown_code_is_read() -> None:
    local = MedicationUse(
        "MedicationRequest/1",
        (Coding("http://hospital.example/drugs", "77", "Furosemide 40 mg tablets"),),
        "",
        "active",
        "order",
        None,
        None,
    )
    assert Read(local).doubts("medication/loop-diuretic") == {"named-only"}


# ---------------------------------------------------------------- code against text


@pytest.mark.parametrize(
    ("code", "text", "sets"),
    [
        ("4603", "Tramadol 50 mg", {"loop-diuretic", "opioid"}),
        ("4603", "Celexa", {"loop-diuretic", "ssri"}),
        ("5487", "lisinopril / hydrochlorothiazide", {"thiazide-diuretic", "ace-inhibitor"}),
        ("999998", "Leronlimab 700 MG Injection", {"arb", "thiazide-diuretic"}),
        ("1049221", "Acetaminophen 325 MG Oral Tablet", {"opioid"}),
        ("106892", "Insulin Lispro 100 UNT/ML Injectable Solution [Humalog]", {"insulin"}),
        ("197361", "Lisinopril 10 MG", {"ace-inhibitor"}),
        ("833036", "Captopril 25 MG Oral Tablet", {"opioid", "ace-inhibitor"}),
        ("435", "baclofen pump", {"beta2-agonist-systemic", "baclofen-intrathecal"}),
    ],
)
def test_a_code_and_a_text_that_disagree_are_not_used(code: str, text: str, sets: set[str]) -> None:
    read = Read(use(code, display=text))
    assert read.codes == ["medication-code-text-conflict"]
    assert [fact.key for fact in read.out.facts] == []
    assert set(read.out.faults) == {"quality/medication-conflict"}
    for name in sets:
        assert read.lost(f"medication/{name}") == ["conflict"], name
    assert read.lost("medication/any-systemic-medicine") == ["conflict"]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("4603", "Lasix 40 mg"),
        ("4603", ""),
        ("4603", "water tablet"),
        ("197885", "lisinopril"),
        ("1886", "Excedrin"),
        ("40254", "divalproex sodium 500 mg"),
        ("1049221", "Acetaminophen 325 MG / oxyCODONE Hydrochloride 5 MG Comprimé oral"),
    ],
)
def test_a_brand_a_synonym_a_part_or_nothing_is_no_disagreement(code: str, text: str) -> None:
    read = Read(use(code, display=text))
    assert "medication-code-text-conflict" not in read.codes
    assert any(fact.key.startswith("medication/") for fact in read.out.facts)


def test_every_product_agrees_with_its_own_name(clinical_data: Path) -> None:
    with (clinical_data / "scd_to_ingredient.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    read = [(row, Read(use(row["rxcui"], display=row["display"]))) for row in rows]
    assert [row["display"] for row, r in read if r.codes] == []
    by_text = [(row, TERMS.formulary.named(row["display"])) for row in rows]
    missed = [
        row["display"]
        for row, named in by_text
        if not set(TERMS.formulary.products[row["rxcui"]][1]) & (named.ingredients | named.brands)
    ]
    assert missed == []


# ---------------------------------------------------------------- the table of traps


def _ids() -> dict[str, str]:
    with (shipped("rulesets") / "medicines" / "ingredients.csv").open(encoding="utf-8") as file:
        return {row["name"]: row["same_as"] or row["id"] for row in csv.DictReader(file)}


CLASSES = {
    "cisplatin": "platinum-drug",
    "dopaminergic_and_motor_neurone": "dopaminergic-or-riluzole",
    "nicotine": "nicotine-or-varenicline",
}


def test_no_text_of_the_table_of_traps_is_misread(clinical_data: Path) -> None:
    with (clinical_data / "medication_text_traps.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ids, wrong = _ids(), []
    for row in rows:
        named: Named = TERMS.formulary.named(row["text"])
        found, read = named.ingredients | named.brands, Read(use(text=row["text"]))
        for name in filter(None, row["must_match_ingredients"].split(";")):
            if ids[name] not in found:
                wrong.append((row["text"], "missed", name))
        for name in filter(None, row["must_not_match_ingredients"].split(";")):
            kind, _, group = name.partition(":")
            if name == "class:*":
                seen = bool(found)
            elif kind == "class":
                seen = read.takes(CLASSES.get(group, group.replace("_", "-")))
            else:  # an ingredient that nothing can name is never found
                seen = ids.get(name) in found
            if seen:
                wrong.append((row["text"], "found", name))
    assert len(rows) > 100
    assert wrong == []


def test_every_synonym_is_read_as_its_ingredient(clinical_data: Path) -> None:
    with (clinical_data / "medication_name_synonyms.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ids = _ids()
    wrong = []
    for row in rows:
        for text in (row["synonym"], f"{row['synonym'].upper()} 10 mg daily"):
            named = TERMS.formulary.named(text)
            if ids[row["ingredient"]] not in named.ingredients | named.brands:
                wrong.append(text)
    assert len(rows) > 600
    assert wrong == []


def test_every_ingredient_is_read_from_its_name_as_from_its_code(clinical_data: Path) -> None:
    with (clinical_data / "medication_codes.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["rxnorm_ingredient_code"]]
    wrong = []
    for row in rows:
        name = re.sub(r" \((legacy|NPH)\)", "", row["ingredient"])
        coded, named = Read(use(row["rxnorm_ingredient_code"])), Read(use(text=name))
        sets = [
            {f.key: f.props["count"] for f in r.out.facts if f.kind == "medication"}
            for r in (coded, named)
        ]
        if sets[0] != sets[1]:
            wrong.append((name, sets[0].keys() ^ sets[1].keys()))
    assert len(rows) > 350
    assert wrong == []


# ---------------------------------------------------------------- status and time


@pytest.mark.parametrize("status", ["active", "recorded", "unknown"])
def test_what_is_in_use_is_taken(status: str) -> None:
    assert Read(use("4603", status=status)).takes("loop-diuretic")


@pytest.mark.parametrize(
    "status",
    ["on-hold", "stopped", "completed", "ended", "not-taken", "intended", "draft", "cancelled", ""],
)
def test_what_is_not_in_use_is_not_taken(status: str) -> None:
    read = Read(use("4603", status=status))
    assert not read.takes("loop-diuretic")


@pytest.mark.parametrize("intent", ["proposal", "plan", "option"])
def test_a_plan_is_no_use(intent: str) -> None:
    assert not Read(use("4603", intent=intent, request=True)).takes("loop-diuretic")


def test_a_period_that_is_over_is_a_stop_and_one_to_come_is_nothing() -> None:
    over = Read(use("4603", since=30, until=10))
    assert over.props("stopped/loop-diuretic") == {"ago": 10 * DAY, "lasted": 20 * DAY}
    assert not over.takes("loop-diuretic")
    assert Read(use("4603", since=-5)).out.facts == []


@pytest.mark.parametrize("status", ["stopped", "completed", "ended", "on-hold"])
def test_a_stop_is_known_with_its_time(status: str) -> None:
    read = Read(use("6470", status=status, since=60, until=7))
    assert read.props("stopped/benzodiazepine") == {"ago": 7 * DAY, "lasted": 53 * DAY}
    ((when, resource),) = read.courses.stops["benzodiazepine"]
    assert when is not None
    assert (when.start, resource) == (day(7).start, "MedicationStatement/6470")


def test_a_stop_without_a_time_is_not_usable() -> None:
    read = Read(use("6470", status="stopped", since=60))
    assert read.fact("stopped/benzodiazepine") is None
    assert read.lost("stopped/benzodiazepine") == ["date"]
    assert read.courses.stops["benzodiazepine"] == ((None, "MedicationStatement/6470"),)


@pytest.mark.parametrize("status", ["not-taken", "intended", "cancelled"])
def test_what_was_never_taken_was_not_stopped(status: str) -> None:
    read = Read(use("6470", status=status, since=60, until=7))
    assert read.out.facts == []
    assert read.out.unusable == {}
    assert read.courses == Courses({}, {})


def test_a_medicine_that_is_taken_again_is_not_stopped() -> None:
    read = Read(
        use("6470", status="stopped", since=200, until=100, resource="MedicationRequest/old"),
        use("6470", since=10, resource="MedicationRequest/new"),
    )
    assert read.fact("stopped/benzodiazepine") is None
    assert read.props("medication/benzodiazepine")["since"] == 10 * DAY
    assert read.out.problems == []


def test_another_medicine_of_the_set_does_not_hide_a_stop() -> None:
    read = Read(use("6470", status="stopped", since=60, until=7), use("3322", since=90))
    assert read.props("stopped/benzodiazepine")["ago"] == 7 * DAY
    assert read.props("medication/benzodiazepine")["count"] == 1


def test_a_draft_order_is_ordered_and_not_taken() -> None:
    read = Read(use("10829", status="draft", request=True, authored=2))
    assert read.props("ordered/trimethoprim") == {"age": 2 * DAY}
    assert not read.takes("trimethoprim")
    undated = Read(use("10829", status="draft", request=True))
    assert undated.props("ordered/trimethoprim") == {"age": 0}
    assert Read(use("10829", status="draft")).out.facts == []  # no draft of a statement is an order


# ---------------------------------------------------------------- several records of one medicine


def test_a_statement_and_its_request_count_once() -> None:
    read = Read(
        use("4603", since=90, resource="MedicationStatement/s"),
        use("4603", authored=90, request=True, resource="MedicationRequest/r"),
    )
    fact = read.fact("medication/loop-diuretic")
    assert fact is not None
    assert fact.props["count"] == 1
    assert {s.resource for s in fact.sources} == {"MedicationStatement/s", "MedicationRequest/r"}


@pytest.mark.parametrize(("gap", "since"), [(0, 400), (29, 400), (30, 400), (31, 10), (300, 10)])
def test_a_refill_is_no_new_start(gap: int, since: int) -> None:
    read = Read(
        use("4603", status="completed", since=400, until=10 + gap, resource="MedicationRequest/1"),
        use("4603", since=10, resource="MedicationRequest/2"),
    )
    props = read.props("medication/loop-diuretic")
    assert props["since"] == props["longest"] == since * DAY
    ((when, _),) = read.courses.starts["loop-diuretic"]
    assert when is not None
    assert when.start == day(since).start


def test_the_newest_and_the_longest_course_of_a_set() -> None:
    props = Read(use("4603", since=400), use("1808", since=10)).props("medication/loop-diuretic")
    assert (props["since"], props["longest"], props["count"]) == (10 * DAY, 400 * DAY, 2)


def test_an_unknown_start_is_forever_ago() -> None:
    read = Read(use("4603"))
    assert read.props("medication/loop-diuretic") == {
        "since": FOREVER,
        "longest": 0,
        "changed": FOREVER,
        "count": 1,
    }
    assert read.courses.starts["loop-diuretic"] == ((None, "MedicationStatement/4603"),)


def test_when_a_statement_was_made_is_not_when_the_medicine_was_started() -> None:
    assert Read(use("4603", authored=1)).props("medication/loop-diuretic")["since"] == FOREVER
    ordered = use("4603", authored=1, request=True)
    assert Read(ordered).props("medication/loop-diuretic")["since"] == DAY


@pytest.mark.parametrize("status", ["stopped", "on-hold", "not-taken"])
def test_the_newer_of_two_records_counts(status: str) -> None:
    taken = use("4603", authored=100, request=True, resource="MedicationRequest/taken")
    newer = use("4603", status=status, authored=5, resource="MedicationStatement/not")
    older = use("4603", status=status, authored=300, resource="MedicationStatement/not")
    gone = Read(taken, newer)
    assert not gone.takes("loop-diuretic")
    assert gone.lost("medication/loop-diuretic") == ["conflict"]
    assert gone.codes == ["conflict"]
    still = Read(taken, older)
    assert still.takes("loop-diuretic")
    assert still.out.problems == []


@pytest.mark.parametrize("status", ["stopped", "on-hold", "not-taken"])
def test_without_dates_taken_counts_and_it_is_said(status: str) -> None:
    read = Read(
        use("4603", resource="MedicationStatement/yes"),
        use("4603", status=status, resource="MedicationStatement/no"),
    )
    assert read.takes("loop-diuretic")
    assert [(p.severity, p.code) for p in read.out.problems] == [("warning", "conflict")]


def test_a_cream_that_was_stopped_says_nothing_of_the_tablets() -> None:
    read = Read(
        use("5492", since=100, route=routed("26643006"), resource="MedicationStatement/oral"),
        use("5492", status="stopped", authored=1, route=routed("6064005")),
    )
    assert read.takes("corticosteroid")
    assert read.out.problems == []


def test_what_rules_ask_does_not_decide_which_records_are_of_one_medicine() -> None:
    records = (
        use(PRODUCTS["syrup"], since=100),
        use(PRODUCTS["inhaler"], status="stopped", authored=1),
    )
    few = Medicines(TERMS, frozenset({"medication/beta2-agonist"}), frozenset())
    assert Read(*records).takes("beta2-agonist")
    assert Read(*records, reader=few).takes("beta2-agonist")


# ---------------------------------------------------------------- dose


def test_a_higher_daily_dose_is_a_change() -> None:
    read = Read(
        use("36437", since=400, dose=mg("50"), resource="MedicationRequest/1"),
        use("36437", since=20, dose=mg("100"), resource="MedicationRequest/2"),
    )
    props = read.props("medication/ssri")
    assert (props["since"], props["changed"]) == (400 * DAY, 20 * DAY)


@pytest.mark.parametrize(
    "later",
    [mg("50"), mg("25"), mg("2", "g/L"), Quantity(Decimal(60), None, "drops", None, "60 drops")],
)
def test_an_equal_a_lower_and_an_unlike_dose_are_no_raise(later: Quantity) -> None:
    read = Read(
        use("36437", since=400, dose=mg("50"), resource="MedicationRequest/1"),
        use("36437", since=20, dose=later, resource="MedicationRequest/2"),
    )
    assert read.props("medication/ssri")["changed"] == 400 * DAY


def test_more_tablets_of_another_strength_are_no_raise() -> None:
    one, two = mg("1", "{tbl}"), mg("2", "{tbl}")
    strong = use("312938", since=400, dose=one, resource="MedicationRequest/1")  # 100 mg
    weak = use("312940", since=20, dose=two, resource="MedicationRequest/2")  # 25 mg
    same = use("312938", since=20, dose=two, resource="MedicationRequest/3")
    assert Read(strong, weak).props("medication/ssri")["changed"] == 400 * DAY
    assert Read(strong, same).props("medication/ssri")["changed"] == 20 * DAY


# ---------------------------------------------------------------- what is not known


def test_a_medication_that_is_not_there_leaves_every_medicine_open() -> None:
    read = Read(use(unresolved="Medication/x"))
    assert {key for key in read.out.unusable if key.startswith("medication/")} == {
        f"medication/{name}" for name in MEDICINES
    }
    assert not any(key.startswith("stopped/") for key in read.out.unusable)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("water tablet", True),
        ("some new medicine 5 mg", True),
        ("furosemide", True),
        ("influenza vaccine", False),
        ("hydrating cream", False),
        ("eye drops", False),
        ("test strips", False),
        ("no known medications", False),
    ],
)
def test_any_medicine_that_is_not_plainly_local_may_be_a_new_one(text: str, counts: bool) -> None:
    read = Read(use(text=text, since=3))
    assert read.takes("any-systemic-medicine") is counts
    if counts:
        assert read.props("medication/any-systemic-medicine")["since"] == 3 * DAY


def test_a_refill_of_an_unknown_medicine_is_no_new_one() -> None:
    read = Read(
        use("308136", status="completed", since=300, until=12, resource="MedicationRequest/1"),
        use("308136", since=10, resource="MedicationRequest/2"),
    )
    assert read.props("medication/any-systemic-medicine")["since"] == 300 * DAY


def test_courses_are_told_of_sets_that_no_rule_asks_about_otherwise() -> None:
    reader = Medicines(TERMS, frozenset(), frozenset({"ssri", "benzodiazepine"}))
    read = Read(
        use("36437", since=9), use("6470", status="stopped", since=60, until=7), reader=reader
    )
    assert set(read.courses.starts) == {"ssri"}
    assert set(read.courses.stops) == {"benzodiazepine"}
    assert read.out.facts == []


# ---------------------------------------------------------------- properties

CODES = [
    "4603",
    "5487",
    "36437",
    "6470",
    "1292",
    "435",
    "8638",
    "6448",
    "42351",
    "197885",
    "308136",
]
TEXTS = ["", "furosemide", "Lasix", "sertraline 50 mg", "water tablet", "prednisolone eye drops"]
STATUSES = ["active", "stopped", "completed", "on-hold", "not-taken", "draft", "unknown"]


@st.composite
def uses(draw: st.DrawFn) -> MedicationUse:
    start = draw(st.none() | st.integers(1, 500))
    end = draw(st.none() | st.integers(0, start or 500))
    return use(
        *draw(st.lists(st.sampled_from(CODES), max_size=2)),
        text=draw(st.sampled_from(TEXTS)),
        status=draw(st.sampled_from(STATUSES)),
        since=start,
        until=end if start is not None else None,
        authored=draw(st.none() | st.integers(0, 500)),
        route=draw(st.none() | st.sampled_from([routed("26643006"), routed("6064005")])),
        request=draw(st.booleans()),
        dose=draw(st.none() | st.sampled_from([mg("10"), mg("20"), mg("2", "{tbl}")])),
        resource=f"MedicationRequest/{draw(st.integers(0, 5))}",
    )


def _all(read: Read) -> tuple[object, ...]:
    problems: list[Problem] = sorted(
        read.out.problems, key=lambda p: (p.code, p.resource or "", p.message)
    )
    facts = sorted((f.key, sorted(f.props.items()), f.sources) for f in read.out.facts)
    lost = {
        key: sorted((u.reason, u.resource or "") for u in unusable)
        for key, unusable in read.out.unusable.items()
    }
    return facts, problems, lost, read.courses


@given(st.lists(uses(), max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_records_never_matters(records: list[MedicationUse], random: object) -> None:
    shuffled = list(records)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert _all(Read(*records)) == _all(Read(*shuffled))


@given(st.lists(uses(), max_size=5))
def test_an_unrelated_medicine_changes_nothing_about_other_sets(
    records: list[MedicationUse],
) -> None:
    colchicine = use(text="colchicine 0.5 mg", since=30, resource="MedicationRequest/other")
    ours = {"any-systemic-medicine"}

    def rest(read: Read) -> list[tuple[str, dict[str, int]]]:
        facts = [f for f in read.out.facts if f.concept not in ours]
        return sorted((f.key, dict(f.props)) for f in facts)

    assert rest(Read(*records)) == rest(Read(*records, colchicine))


@given(st.lists(uses(), max_size=5))
def test_times_are_never_negative_and_ages_fit_together(records: list[MedicationUse]) -> None:
    for fact in Read(*records).out.facts:
        assert all(value >= 0 for value in fact.props.values())
        if fact.kind == "medication":
            assert fact.props["changed"] <= fact.props["since"]
            assert fact.props["longest"] >= (
                fact.props["since"] if fact.props["since"] < FOREVER else 0
            )
            assert fact.props["count"] >= 1


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    TERMS.formulary.named(text)
    Read(use(text=text or "-"))


def test_the_terminology_of_the_shipped_rules_is_used(clinical_data: Path) -> None:
    assert isinstance(TERMS, Terminology)
    with (clinical_data / "scd_to_ingredient.csv").open(encoding="utf-8") as file:
        codes = {row["rxcui"] for row in csv.DictReader(file)}
    assert codes <= set(TERMS.formulary.products)
