"""For every record and every profile that loads: a site never lowers an emergency."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from builders import AS_OF, SNOMED, Json, ago, bundle, lab, patient
from cds import Screener, Tier, load_rulesets
from cds.emergencies import analyte_of, sets_of
from cds.errors import RuleErrors
from cds.model import Evaluation
from cds.rules import Rulesets
from cds.terminology import SYSTEMS
from strategies import examples, numbered

# Rules whose emergencies rest on what the shipped ones do without: on `unless`, on the lack of
# a result, on data in doubt, and for children on rules of other tiers.
TRIAL = """\
group: trial
title: Rules for trying
version: 1.0.0
recheck:
  title: "{title}: old result"
  summary: Old result
  detail: Repeat it.
  patient: Ask for a new blood test.
  evidence: [{source: A guideline, statement: it is so}]
rules:
"""
SETS = """version: 1.0.0
source: nowhere
retrieved: "2026-11-01"
license: none
value_sets:
  - id: shared-a
    kind: symptom
    name: Shared A
    codes:
      - {system: snomed, code: "900011", display: in both}
  - id: shared-b
    kind: symptom
    name: Shared B
    codes:
      - {system: snomed, code: "900012", display: in B alone}
      - {system: snomed, code: "900011", display: in both}
"""
RULES: list[Json] = [
    # A denial of 900012 denies "shared B" and so a record of 900011, which then prevents nothing.
    {
        "id": "low-unless-shared",
        "tier": "emergency",
        "when": [{"lab": "potassium", "lt": 3.5, "unit": "mmol/L"}],
        "unless": [{"symptom": "shared-a"}],
    },
    {"id": "shared", "tier": "info", "when": [{"symptom": "shared-b"}]},
    {"id": "fainting", "tier": "info", "when": [{"symptom": "syncope"}]},
    {"id": "weak", "step": True, "when": [{"symptom": "weakness"}]},
    {
        "id": "low-and-weak",
        "tier": "emergency",
        "when": [
            {"lab": "potassium", "lt": 3.5, "unit": "mmol/L"},
            {"any": [{"finding": "weak"}, {"symptom": "seizure"}]},
        ],
    },
    {
        "id": "known-cause",
        "step": True,
        "when": [{"any": [{"symptom": "cramp"}, {"condition": "pregnancy"}, {"finding": "aside"}]}],
        "unless": [{"symptom": "tetany"}],
    },
    {"id": "aside", "step": True, "when": [{"symptom": "tremor", "within": "P20D"}]},
    {
        "id": "low-without-cause",
        "tier": "emergency",
        "family": "low",
        "when": [{"lab": "potassium", "lt": 3.5, "unit": "mmol/L"}],
        "unless": [{"finding": "known-cause"}, {"lab": "sodium", "lt": 140, "unit": "mmol/L"}],
    },
    {
        "id": "low",
        "tier": "urgent",
        "family": "low",
        "recheck": True,
        "when": [{"lab": "potassium", "lt": 3.5, "unit": "mmol/L"}],
    },
    {
        "id": "unmeasured",
        "tier": "emergency",
        "family": "low",
        "when": [
            {"symptom": "weakness", "within": "P20D"},
            {"no_result": "sodium", "within": "P7D"},
        ],
        "unless": [{"no_result": "magnesium", "within": "P30D"}],
    },
    {"id": "impossible", "tier": "emergency", "when": [{"quality": "implausible"}]},
    {
        "id": "old-and-low",
        "tier": "emergency",
        "when": [{"finding": "low-recheck"}, {"symptom": "seizure"}],
    },
    {
        "id": "rising",
        "tier": "emergency",
        "when": [{"rise": "creatinine", "gt": 10, "unit": "umol/L", "over": "P7D"}],
    },
    {"id": "glucose", "tier": "soon", "when": [{"lab": "glucose", "gt": 5, "unit": "mmol/L"}]},
    {
        "id": "for-children",
        "tier": "emergency",
        "population": "any",
        "stands_in_from": "urgent",
    },
]
COMMON: Json = {
    "title": "A rule",
    "tier": "info",
    "review": "draft",
    "evidence": [{"source": "A guideline", "statement": "it is so"}],
    "card": {"summary": "A", "detail": "A", "patient": "A"},
}

# Codes that no value set knows, and some that several or none of the emergencies rest on.
NEW = [("snomed", "900001"), ("snomed", "900002"), ("icd10cm", "R25.39"), ("icd10cm", "Z99.9")]
KNOWN = [
    ("snomed", "82470000"),  # fasciculation
    ("snomed", "55300003"),  # cramp
    ("snomed", "26079004"),  # tremor
    ("snomed", "26544005"),  # weakness
    ("snomed", "91175000"),  # seizure
    ("icd10cm", "R25.3"),
    ("icd10cm", "R29.0"),  # tetany
    ("snomed", "77386006"),  # pregnancy
    ("snomed", "80313002"),  # palpitations
    ("snomed", "286933003"),  # confusion
    ("snomed", "14669001"),  # acute kidney injury
    ("snomed", "900011"),
    ("snomed", "900012"),
]
CODES = [*NEW, *KNOWN]
SPANS = ["PT12H", "P2D", "P7D", "P10D", "P20D", "P40D", "P90D", "P200D", "P500D"]
TIERS = ["soon", "urgent", "urgent", "emergency"]
PATIENT_TEXT = "Call your local emergency number now."


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Rulesets:
    folder = tmp_path_factory.mktemp("rules") / "trial"
    folder.mkdir()
    text = TRIAL + "".join(f"  - {json.dumps({**COMMON, **rule})}\n" for rule in RULES)
    (folder / "rules.yaml").write_text(text, encoding="utf-8")
    (folder / "valuesets").mkdir()
    (folder / "valuesets" / "shared.yaml").write_text(SETS, encoding="utf-8")
    return load_rulesets(folder)


# ------------------------------------------------------------ profiles


def sets_used(rulesets: Rulesets) -> list[str]:
    """The value sets that some rule asks for, and those that these include."""
    asked = {name for key in rulesets.program.keys for name in sets_of(key)}
    return sorted({s for name in asked for s in (name, *rulesets.terminology.included(name))})


@st.composite
def profiles(draw: st.DrawFn, rulesets: Rulesets) -> dict[str, list[Any]]:
    """The entries of a profile, of which some will be refused."""
    rules = [r.rule.id for r in rulesets.program.rules if not r.rule.recheck_of]
    sets = sets_used(rulesets)
    adjusted = rulesets.terminology.adjusted_calcium
    analytes = {name for key in rulesets.program.keys if (name := analyte_of(key))}
    analytes |= {adjusted.total, adjusted.albumin, adjusted.egfr}
    code = st.sampled_from(CODES).map(lambda c: {"system": c[0], "code": c[1], "reason": "r"})
    span = st.sampled_from(SPANS)
    value_sets, lookbacks = {}, {}
    for name in draw(st.lists(st.sampled_from(sets), max_size=8, unique=True)):
        own = [(c.system, c.code) for c in rulesets.terminology.value_sets[name].codes]
        gone = [{"system": s, "code": c, "reason": "r"} for s, c in own[:1]]
        added = [{**draw(code), "display": "d"} for _ in range(draw(st.integers(1, 2)))]
        value_sets[name] = draw(st.sampled_from([{"add": added}, {"add": added}, {"remove": gone}]))
    for name in draw(st.lists(st.sampled_from(sorted(analytes)), max_size=8, unique=True)):
        window = draw(st.sampled_from(["fresh", "context"]))
        lookbacks[name] = {window: draw(span), "reason": "r"}
    for name in draw(st.lists(st.sampled_from(rules), max_size=5, unique=True)):
        lookbacks[name] = {"within": draw(span), "reason": "r"}
    tier = st.sampled_from(TIERS).map(lambda t: {"tier": t, "reason": "r", "patient": PATIENT_TEXT})
    tiers = draw(st.dictionaries(st.sampled_from(rules), tier, max_size=4))
    disabled = draw(st.lists(st.sampled_from(rules), max_size=8, unique=True))
    return {
        "disable": [{"rule": rule, "reason": "r"} for rule in disabled],
        "value_sets": list(value_sets.items()),
        "tiers": list(tiers.items()),
        "lookbacks": list(lookbacks.items()),
    }


def at_site(rulesets: Rulesets, profile: dict[str, list[Any]], path: Path) -> Rulesets | None:
    """The rules at a site with that part of the profile that is not refused; None for nothing.

    Each entry has a line of its own, so that a refusal names what to take out.
    """
    while any(profile.values()):
        lines = ["site: trial", "title: A trial", "version: 1.0.0"]
        entry_at: dict[int, tuple[str, Any]] = {}
        for key, entries in profile.items():
            lines.append(
                f"{key}:" if entries else f"{key}: " + ("[]" if key == "disable" else "{}")
            )
            entry_at[len(lines)] = (key, None)  # the list as a whole
            for entry in entries:
                shown = (
                    f"- {json.dumps(entry)}"
                    if key == "disable"
                    else f"{entry[0]}: {json.dumps(entry[1])}"
                )
                lines.append(f"  {shown}")
                entry_at[len(lines)] = (key, entry)
        path.write_text("\n".join(lines), encoding="utf-8")
        try:
            return rulesets.at_site(path)
        except RuleErrors as refused:
            for error in refused.errors:
                key, entry = entry_at[error.line or 0]
                gone = [entry] if entry else disabled_makers(rulesets, profile, error.message)
                profile[key] = [e for e in profile[key] if e not in gone]
    return None


def disabled_makers(
    rulesets: Rulesets, profile: dict[str, list[Any]], message: str
) -> list[dict[str, str]]:
    """The entries that took away the findings which, as is said, other rules build on."""
    lost = {f for made in re.findall(r"builds on ([^)]*)", message) for f in made.split("'")[1::2]}
    makers = {
        rule.rule.recheck_of or rule.rule.id
        for rule in rulesets.program.rules
        if rule.rule.finding_id in lost
    }
    # What no single entry is to blame for, goes with the last one.
    return [e for e in profile["disable"] if e["rule"] in makers] or profile["disable"][-1:]


# ------------------------------------------------------------ records

YES = {"system": SNOMED, "code": "373066001"}
NO = {"system": SNOMED, "code": "373067005"}
# Values at which a sign, or its absence, decides about an emergency, and some that decide alone.
HOT = [
    ("potassium", "2.9"),
    ("potassium", "3.4"),
    ("magnesium", "0.6"),
    ("calcium", "2.0"),
    ("calcium-total", "1.95"),
    ("albumin", "30"),
    ("egfr", "40"),
    ("sodium", "128"),
    ("sodium", "141"),
    ("glucose", "2.8"),
    ("creatinine", "90"),
    ("creatinine", "150"),
    ("creatine-kinase", "3000"),
    ("potassium", "99"),  # impossible
]
DAYS = [0.1, 1, 3, 6, 6.9, 7, 15, 25, 60, 100]
SAID: list[Json] = [{}] * 6 + [{"valueBoolean": True}, {"valueBoolean": False}]
SAID += [
    {"valueCodeableConcept": {"coding": [answer, *more]}}
    for answer in (YES, NO)
    for more in ([], [{"system": SNOMED, "code": "900001"}])
]


def statement(random: Random) -> Json:
    """A sign said to be present or absent, under one code or two."""
    codes = random.sample(CODES, random.choice([1, 1, 2]))
    coding = [{"system": SYSTEMS[system], "code": code} for system, code in codes]
    when = ago(days=random.choice(DAYS))
    common = {"code": {"coding": coding}, "subject": {"reference": "Patient/p1"}}
    if random.random() < 0.5:
        said = random.choice(SAID)
        return {
            "resourceType": "Observation",
            "status": "final",
            "effectiveDateTime": when,
            **common,
            **said,
        }
    system = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
    verification = random.choice(["confirmed"] * 3 + ["refuted"])
    return {
        "resourceType": "Condition",
        "recordedDate": when,
        "verificationStatus": {"coding": [{"system": system, "code": verification}]},
        **common,
    }


def drawn_record(random: Random) -> list[Json]:
    """A record in which emergencies are frequent and hang by a thread."""
    who = patient(birth=random.choice(["1970-05-01", "1970-05-01", "2016-05-01"]))
    labs = [
        lab(name, value, when=ago(days=random.choice(DAYS[:6] * 2 + DAYS)))
        for name, value in random.sample(HOT, random.choice([1, 2, 3, 4]))
    ]
    said = [statement(random) for _ in range(random.randint(0, 6))]
    return [who, *numbered([*labs, *said])]


Emergency = tuple[list[Json], set[str]]


def emergencies_of(rulesets: Rulesets) -> list[Emergency]:
    """Records of patients who are emergencies, each with its emergency findings."""
    random = Random(20261101)  # noqa: S311 - the same records on every run, not a secret
    screener = Screener(rulesets, "reference")
    found: list[Emergency] = []
    times: Counter[str] = Counter()
    for _ in range(500):
        record = drawn_record(random)
        shown, _ = emergencies(screener.screen(bundle(*record), AS_OF).evaluation)
        if any(times[finding] < 10 for finding in shown):
            times.update(shown)
            found.append((record, shown))
    assert len(times) > 5
    return found


@pytest.fixture(scope="module")
def shipped_emergencies(rulesets: Rulesets) -> list[Emergency]:
    return emergencies_of(rulesets)


@pytest.fixture(scope="module")
def trial_emergencies(trial: Rulesets) -> list[Emergency]:
    return emergencies_of(trial)


# ------------------------------------------------------------ the guarantee


def emergencies(evaluation: Evaluation) -> tuple[set[str], set[str]]:
    """The emergency findings that are shown, and those that another one supersedes."""
    shown = {f.id for f in evaluation.findings if f.tier is Tier.emergency}
    hidden = {s.finding.id for s in evaluation.suppressed if s.finding.tier is Tier.emergency}
    return shown, hidden


def check(
    rulesets: Rulesets, known: list[Emergency], data: st.DataObject, path: Path, each: int
) -> None:
    """Screen every `each`-th known emergency at a site with a drawn profile."""
    there = at_site(rulesets, data.draw(profiles(rulesets)), path)
    assume(there is not None)
    assert there is not None
    screener = Screener(there, "reference")
    for record, before in known[data.draw(st.integers(0, each - 1)) :: each]:
        shown, hidden = emergencies(screener.screen(bundle(*record), AS_OF).evaluation)
        assert before <= shown | hidden, path.read_text()
        assert shown


@examples(0.5)
@given(data=st.data())
def test_no_profile_of_a_site_lowers_an_emergency(
    rulesets: Rulesets,
    shipped_emergencies: list[Emergency],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.getbasetemp() / "site.yaml"
    check(rulesets, shipped_emergencies, data, path, each=10)


@examples(1)
@given(data=st.data())
def test_no_profile_lowers_an_emergency_that_other_findings_can_prevent(
    trial: Rulesets,
    trial_emergencies: list[Emergency],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.getbasetemp() / "site.yaml"
    check(trial, trial_emergencies, data, path, each=5)


# ------------------------------------------------------------ as far as a profile may go


WINDOWS = {
    "shorter": {"fresh": "PT12H"},
    "longer": {"fresh": "P60D"},
    "shorter context": {"context": "P8D"},
    "longer context": {"context": "P800D"},
}
CHANGES = ["disable", "remove", "add", "raise", *WINDOWS]


def everything(rulesets: Rulesets, change: str) -> dict[str, list[Any]]:
    """A profile that changes all there is in one way; what is refused falls out of it."""
    rules = [r.rule.id for r in rulesets.program.rules if not r.rule.recheck_of]
    profile: dict[str, list[Any]] = {"disable": [], "value_sets": [], "tiers": [], "lookbacks": []}
    match change:
        case "disable":
            profile["disable"] = [{"rule": rule, "reason": "r"} for rule in rules]
        case "remove":
            for name in sets_used(rulesets):
                codes = rulesets.terminology.value_sets[name].codes[1:]
                own = [{"system": c.system, "code": c.code, "reason": "r"} for c in codes]
                if own:
                    profile["value_sets"].append((name, {"remove": own}))
        case "add":
            new = [{"system": s, "code": c, "display": "d", "reason": "r"} for s, c in NEW]
            profile["value_sets"] = [(name, {"add": new}) for name in sets_used(rulesets)]
        case "raise":
            entry = {"tier": "emergency", "reason": "r", "patient": PATIENT_TEXT}
            profile["tiers"] = [(rule, entry) for rule in rules]
        case _:
            window = WINDOWS[change]
            profile["lookbacks"] = [
                (name, {**window, "reason": "r"}) for name in rulesets.terminology.analytes
            ]
            if "fresh" in window:
                within = {"within": window["fresh"], "reason": "r"}
                profile["lookbacks"] += [(rule, within) for rule in rules]
    return profile


@pytest.mark.parametrize(
    ("which", "change"),
    [("shipped", change) for change in CHANGES]
    # On data in doubt, every context decides: none of it may be changed.
    + [("trial", change) for change in CHANGES if "context" not in change],
)
def test_a_site_that_changes_all_that_it_may_lowers_no_emergency(
    which: str, change: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    rulesets = request.getfixturevalue("rulesets" if which == "shipped" else "trial")
    known = request.getfixturevalue(f"{which}_emergencies")
    there = at_site(rulesets, everything(rulesets, change), tmp_path / "site.yaml")
    assert there is not None, "nothing of the profile was accepted"
    screener = Screener(there, "reference")
    for record, before in known:
        shown, hidden = emergencies(screener.screen(bundle(*record), AS_OF).evaluation)
        assert before <= shown | hidden
        assert shown
