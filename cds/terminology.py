"""Value sets and the table of analytes: which concept a code stands for, and how it is measured.

Reads ``analytes.yaml`` and ``valuesets/*.yaml`` of one or more ruleset folders, refuses what
is wrong in them with file and line, and answers look-ups by one or two dict hits. All
clinical knowledge is in those files; here are only the shapes of it and the handling of code
systems. Nothing here looks at a patient.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import pydantic
from pydantic import AfterValidator, Field, PlainValidator

from cds.errors import RuleError, RuleErrors, TerminologyError, UnitError
from cds.formulary import SYSTEMIC, Formulary, MedicineFile, load_formulary
from cds.questionnaires import Questionnaire, QuestionnaireFile, faults_of
from cds.units import convert, unit_of
from cds.yamlfile import Lines, load_yaml
from cds.yamlmodel import ID, faults, nearest

__all__ = [
    "SYSTEMS",
    "AdjustedCalcium",
    "Analyte",
    "Answer",
    "CodeEntry",
    "Hemolysis",
    "LabCode",
    "Limits",
    "Question",
    "Ratio",
    "Slip",
    "Terminology",
    "ValueSet",
    "canonical_system",
    "load_terminology",
    "seconds_of",
    "stands_alone",
]

# ------------------------------------------------------------------------- code systems

SYSTEMS: Final[dict[str, str]] = {
    "snomed": "http://snomed.info/sct",
    "loinc": "http://loinc.org",
    "icd10cm": "http://hl7.org/fhir/sid/icd-10-cm",
    "hpo": "http://human-phenotype-ontology.org",
    "mondo": "http://purl.obolibrary.org/obo/mondo.owl",
    "rxnorm": "http://www.nlm.nih.gov/research/umls/rxnorm",
    "v2-0136": "http://terminology.hl7.org/CodeSystem/v2-0136",
    "v3-interpretation": "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation",
    "concept": "urn:cds-twitch:concept",
    "medicine": "urn:cds-twitch:medicine",
}
"""Short name in the files to FHIR URI (FHIR R4 section 4.3, "Using codes in resources")."""

_ICD: Final = SYSTEMS["icd10cm"]
_ALIASES: Final[dict[str, str]] = {
    **{uri: uri for uri in SYSTEMS.values()},
    "urn:oid:2.16.840.1.113883.6.96": SYSTEMS["snomed"],
    "urn:oid:2.16.840.1.113883.6.1": SYSTEMS["loinc"],
    "urn:oid:2.16.840.1.113883.6.90": _ICD,
    "urn:oid:2.16.840.1.113883.6.3": _ICD,
    "urn:oid:2.16.840.1.113883.6.88": SYSTEMS["rxnorm"],
    # The international edition: most of its codes are categories of the American one.
    "http://hl7.org/fhir/sid/icd-10": _ICD,
    "http://purl.obolibrary.org/obo/hp.owl": SYSTEMS["hpo"],
    "http://hl7.org/fhir/v2/0136": SYSTEMS["v2-0136"],
    "http://hl7.org/fhir/v3/ObservationInterpretation": SYSTEMS["v3-interpretation"],
}


def canonical_system(uri: str) -> str:
    """The FHIR URI of a code system sent as an OID, as an edition, or with small slips.

    An unknown system comes back as it is.

    >>> canonical_system("urn:oid:2.16.840.1.113883.6.1"), canonical_system("https://loinc.org/")
    ('http://loinc.org', 'http://loinc.org')
    """
    known = _ALIASES.get(uri)
    if known is not None:
        return known
    plain = uri.strip().partition("|")[0].rstrip("/")
    if plain.startswith("https:"):
        plain = "http:" + plain[6:]
    if plain.startswith("http://snomed.info/sct/"):
        return SYSTEMS["snomed"]
    return _ALIASES.get(plain, uri)


def _icd(code: str) -> str:
    """An ICD code in capitals and with its dot, which some senders leave out."""
    code = code.upper()
    return code if "." in code or len(code) < 4 else f"{code[:3]}.{code[3:]}"


# ------------------------------------------------------------------------- durations

_DURATION: Final = re.compile(r"P(?=.)(?:(\d{1,4})W|(?:(\d{1,5})D)?(?:T(\d{1,5})H)?)")


@cache
def seconds_of(duration: str) -> int:
    """The seconds of an ISO 8601 duration of weeks, or of days and hours.

    Raises:
        ValueError: it is none. Months and years have no fixed length.

    >>> seconds_of("P7D"), seconds_of("PT24H")
    (604800, 86400)
    """
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ValueError(f"'{duration}' is not a duration such as P7D, P42W or PT24H")
    weeks, days, hours = (int(part or 0) for part in match.groups())
    return ((weeks * 7 + days) * 24 + hours) * 3600


# ------------------------------------------------------------------------- shapes of the files
# What can be checked of one item alone is checked in __post_init__, so that pydantic reports it
# with its place.


def _fraction(value: object) -> Fraction:
    if not isinstance(value, Decimal):
        raise ValueError("must be a number")
    return Fraction(value)


def _system(name: str) -> str:
    if name not in SYSTEMS:
        raise ValueError(f"use one of {', '.join(SYSTEMS)}")
    return name


def _seconds(value: object) -> int:
    return seconds_of(str(value))


def _unit(text: str) -> str:
    try:
        return unit_of(text).code
    except UnitError as error:
        raise ValueError(str(error)) from error


_Text = Annotated[str, Field(min_length=1)]
_Id = Annotated[str, Field(pattern=ID)]
_Seconds = Annotated[int, PlainValidator(_seconds)]
_Unit = Annotated[str, AfterValidator(_unit)]
_System = Annotated[str, AfterValidator(_system)]
_Exact = Annotated[Fraction, PlainValidator(_fraction)]
_Positive = Annotated[Decimal, Field(gt=0)]
_KNOWN_KEYS_ONLY: Final = pydantic.ConfigDict(extra="forbid")
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A range of numbers; `row` names the row of ``sources/thresholds.yaml`` it comes from."""

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    ge: _Exact | None = None
    gt: _Exact | None = None
    le: _Exact | None = None
    lt: _Exact | None = None
    row: _Text | None = None

    def __post_init__(self) -> None:
        low = self.ge if self.gt is None else self.gt
        high = self.le if self.lt is None else self.lt
        if low is None and high is None:
            raise ValueError("no limit is given: use ge, gt, le or lt")
        if low is not None and high is not None and low > high:
            raise ValueError("no number fits: the lower limit is above the upper one")

    def hold(self, value: Decimal | Fraction) -> bool:
        """Whether `value` is inside."""
        exact = Fraction(value)
        return (
            (self.ge is None or exact >= self.ge)
            and (self.gt is None or exact > self.gt)
            and (self.le is None or exact <= self.le)
            and (self.lt is None or exact < self.lt)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slip:
    """Numbers that are likelier another unit or another analyte than their label says.

    `within` is in `unit`, the labeled one; `says` is the doubt shown on the card.
    """

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    kind: Literal["unit", "analyte"]
    unit: _Unit
    within: Limits
    says: _Text


@dataclass(frozen=True, slots=True, kw_only=True)
class LabCode:
    """One code of an analyte.

    `property` is the `cds.units.Unit.kind` that a value under this code should have ("mass",
    "substance", ...). `molar_mass` (g/mol) overrides the analyte's, where the code counts
    only a part of the molecule (urea nitrogen).
    """

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    code: _Text
    display: _Text
    property: _Text
    system: _System = "loinc"
    molar_mass: _Positive | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyte:
    """One thing that is measured, or computed from what is measured (then without codes).

    `unit` is the canonical UCUM unit of every value, `molar_mass` in g/mol, `valence` charges
    per particle, `decimals` how many are shown. `plausible` are the limits in `unit` (None: no
    limit). `fresh` and `context` are seconds: how old a result may be for its full tier, and to
    be used at all. `compare_within_code`: results under different codes (methods) are no rise.
    """

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    id: _Id
    name: _Text
    unit: _Unit
    decimals: Annotated[int, Field(ge=0, le=6)]
    fresh: _Seconds
    context: _Seconds
    molar_mass: _Positive | None = None
    valence: Annotated[int, Field(gt=0)] | None = None
    plausible: Limits | None = None
    slips: tuple[Slip, ...] = ()
    compare_within_code: bool = False
    codes: tuple[LabCode, ...] = ()

    def __post_init__(self) -> None:
        if self.plausible and (self.plausible.gt is not None or self.plausible.lt is not None):
            raise ValueError("both ends of 'plausible' are included: write ge and le")
        kinds = {unit_of(self.unit).kind}
        if self.molar_mass is not None:
            kinds |= {"mass", "substance"}
        for code in self.codes:
            if code.property not in kinds:
                fitting = " or ".join(sorted(kinds))
                raise ValueError(
                    f"property '{code.property}' of {code.code} does not convert into "
                    f"{self.unit}; use {fitting}"
                )

    def convert(self, value: Decimal, unit: str, code: LabCode | None = None) -> Fraction:
        """`value`, in the UCUM unit `unit` and sent under `code`, in this analyte's unit, exactly.

        Raises:
            UnitError: `unit` is unknown or does not convert for this analyte.
        """
        molar_mass = code.molar_mass if code and code.molar_mass else self.molar_mass
        return convert(value, unit, self.unit, molar_mass=molar_mass, valence=self.valence)

    def slip(self, value: Decimal, unit: str) -> Slip | None:
        """The slip that a value as sent, in the UCUM unit `unit`, looks like, or None."""
        for slip in self.slips:
            if slip.unit == unit and slip.within.hold(value):
                return slip
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeEntry:
    """One code of a value set; ``prefix`` (ICD only) also stands for every code below it."""

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    system: _System
    code: _Text
    display: _Text
    match: Literal["exact", "prefix"] = "exact"

    def __post_init__(self) -> None:
        if self.match == "prefix" and self.system != "icd10cm":
            raise ValueError("only codes of icd10cm match by prefix")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueSet:
    """The codes of one clinical concept; `includes` adds those of other sets, wholly.

    `counts_for` is for how many seconds a record of it counts, where that is its own. `uncoded`
    says why a set has no code of a published system: then only its own code (system "concept",
    code the id, which every set but one of medicines has) can say it. `ask` is the question to a
    person, `contradicts_sex` an administrative gender that makes a record of it doubtful.

    Of medicines only: `routes` by which one is of the set (a route that nobody says counts as
    systemic unless `route_must_be_known`), `not_with` are sets of medicines in whose company, in
    one product, it is not. `every_medicine`: every medicine by these routes, known or not.
    """

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    id: _Id
    kind: Literal["symptom", "condition", "lifestyle", "medication", "history"]
    name: _Text
    codes: tuple[CodeEntry, ...] = ()
    includes: tuple[_Id, ...] = ()
    counts_for: _Seconds | None = None
    uncoded: _Text | None = None
    ask: _Text | None = None
    contradicts_sex: Literal["male", "female"] | None = None
    routes: Annotated[tuple[_Id, ...], Field(min_length=1)] = (SYSTEMIC,)
    route_must_be_known: bool = False
    not_with: tuple[_Id, ...] = ()
    every_medicine: bool = False

    def __post_init__(self) -> None:
        special = self.route_must_be_known or self.not_with or self.every_medicine
        if self.kind != "medication" and (special or self.routes != (SYSTEMIC,)):
            raise ValueError(
                "'routes', 'route_must_be_known', 'not_with' and 'every_medicine' are for medicines"
            )

    @property
    def own_code(self) -> _Key | None:
        """Its code in this project's own system, or None for medicines and for what is empty."""
        says = self.codes or self.includes or self.uncoded
        return (SYSTEMS["concept"], self.id) if says and self.kind != "medication" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one coded answer says about a concept."""

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    system: _System
    code: _Text
    display: _Text
    concept: _Id
    present: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question (Observation.code) whose coded answers matter; other answers say nothing."""

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    question: CodeEntry
    when: Annotated[tuple[Answer, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AtSite:
    """A finding at a place of the body that makes it a more special one, in its stead."""

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    finding: _Id
    becomes: _Id
    codes: Annotated[tuple[CodeEntry, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Severity:
    """A code that says how severe something is."""

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    system: _System
    code: _Text
    display: _Text
    means: Literal["severe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class YesNo:
    """A code that says yes or no to any question."""

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    system: _System
    code: _Text
    display: _Text
    means: Literal["yes", "no"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustedCalcium:
    """How calcium is judged: adjusted for albumin where that can be trusted.

    ``total + coefficient * (reference_albumin - albumin)``, each in the unit of its analyte.
    `id` is the analyte that rules test, made from the laboratory's own adjusted `result`, from
    `total` and `albumin`, or from `total` alone: outside `albumin_range`, or with an `egfr`
    below `unreliable_egfr_lt`. `same_draw_within` is in seconds.
    """

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    id: _Id
    result: _Id
    ionized: _Id
    total: _Id
    albumin: _Id
    egfr: _Id
    coefficient: _Exact
    reference_albumin: _Exact
    albumin_range: Limits
    unreliable_egfr_lt: _Exact
    same_draw_within: _Seconds
    source: _Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A result divided by the laboratory's own upper limit, or by `default` if none was sent.

    `id` is the analyte that rules test, `of` the one measured; `default` is in its unit.
    """

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    id: _Id
    of: _Id
    divided_by: Literal["upper-limit"]
    default: _Positive
    source: _Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Hemolysis:
    """How a possibly hemolyzed specimen is recognized and which analytes it makes doubtful.

    `specimen_conditions` are codes of HL7 v2 table 0493, `words` whole words of a note, and
    `negations` words that directly before them mean the opposite.
    """

    __pydantic_config__ = _KNOWN_KEYS_ONLY

    specimen_conditions: tuple[_Text, ...]
    words: tuple[_Text, ...]
    negations: tuple[_Text, ...]
    raises: tuple[_Id, ...]
    source: _Text


@dataclass(frozen=True, slots=True, kw_only=True)
class _AnalyteFile:
    __pydantic_config__ = _KNOWN_KEYS_ONLY

    version: _Text
    source: _Text
    retrieved: _Text
    license: _Text
    analytes: tuple[Analyte, ...] = ()
    adjusted_calcium: AdjustedCalcium | None = None
    derived: tuple[Ratio, ...] | None = None
    doubts: dict[_Id, _Text] | None = None
    hemolysis: Hemolysis | None = None
    symptom_window: _Seconds | None = None


# Of all files, exactly one has each of these.
_BLOCKS: Final = ("adjusted_calcium", "derived", "doubts", "hemolysis", "symptom_window")


@dataclass(frozen=True, slots=True, kw_only=True)
class _ValueSetFile:
    __pydantic_config__ = _KNOWN_KEYS_ONLY

    version: _Text
    source: _Text
    retrieved: _Text
    license: _Text
    value_sets: tuple[ValueSet, ...] = ()
    answers: tuple[Question, ...] = ()
    yes_no: tuple[YesNo, ...] = ()
    sites: tuple[AtSite, ...] = ()
    severities: tuple[Severity, ...] = ()


# ------------------------------------------------------------------------- what is loaded

_Said = tuple[tuple[str, bool], ...]
_Widen = Callable[[Iterable[str]], tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminology:
    """All value sets and analytes of the loaded folders; systems are canonical FHIR URIs.

    `analytes`, `value_sets` and `derived` are by id, `doubts` maps the code of a doubt to its
    clinical wording. `symptom_window` is in seconds. `questions` are the (system, code) pairs
    whose coded answers matter, `yes_no` those that say yes (True) or no whatever was asked.
    `severities` maps a code to "severe". `formulary` knows medicines by product and by name.
    `sites` maps (value set, system, code of a place of the body) to the sets that do not hold
    there and those that hold instead. `questionnaires` are by
    canonical URL, `nothing` the texts, in small letters, that name no medicine ("none").
    """

    analytes: Mapping[str, Analyte]
    value_sets: Mapping[str, ValueSet]
    adjusted_calcium: AdjustedCalcium
    derived: Mapping[str, Ratio]
    doubts: Mapping[str, str]
    hemolysis: Hemolysis
    symptom_window: int
    questions: frozenset[_Key]
    yes_no: Mapping[_Key, bool]
    severities: Mapping[_Key, str]
    formulary: Formulary
    sites: Mapping[tuple[str, str, str], tuple[frozenset[str], tuple[str, ...]]]
    questionnaires: Mapping[str, Questionnaire] = field(default_factory=dict)
    nothing: frozenset[str] = frozenset()
    _labs: Mapping[_Key, tuple[str, LabCode]] = field(repr=False)
    _concepts: Mapping[_Key, tuple[str, ...]] = field(repr=False)
    _categories: Mapping[str, tuple[str, ...]] = field(repr=False)
    _own: Mapping[_Key, tuple[str, ...]] = field(repr=False)
    _answers: Mapping[tuple[str, str, str, str], _Said] = field(repr=False)

    def canonical_system(self, uri: str) -> str:
        """See `canonical_system`."""
        return canonical_system(uri)

    def lab_code(self, system: str, code: str) -> LabCode | None:
        """The entry of a code that stands for an analyte, or None."""
        found = self._labs.get((system, code))
        return found[1] if found else None

    def analyte_of(self, system: str, code: str) -> str | None:
        """The id of the analyte that a code stands for, or None."""
        found = self._labs.get((system, code))
        return found[0] if found else None

    def coding_property(self, system: str, code: str) -> str | None:
        """The kind of unit (`cds.units.Unit.kind`) that belongs to a laboratory code, or None."""
        found = self._labs.get((system, code))
        return found[1].property if found else None

    def concepts_of(self, system: str, code: str) -> tuple[str, ...]:
        """The ids of every value set that a code stands in; empty where none knows it.

        First those that list it or, for ICD, a category above it (the nearest first), then those
        that include one of these.
        """
        found = self._concepts.get((system, code))
        if found is not None:
            return found
        return self._concepts_above(_icd(code)) if system == _ICD else ()

    def _concepts_above(self, code: str) -> tuple[str, ...]:
        found = self._concepts.get((_ICD, code))
        if found is not None:
            return found
        for end in range(len(code) - 1, 2, -1):
            found = self._categories.get(code[:end])
            if found is not None:
                return found
        return ()

    def own_concepts_of(self, system: str, code: str) -> tuple[str, ...]:
        """The ids of the value sets that list exactly this code.

        What a denial denies: that there is no eyelid twitch does not say that there is no twitch.
        """
        return self._own.get((system, _icd(code) if system == _ICD else code), ())

    def kind_of(self, concept: str) -> str:
        """The kind of a value set.

        Raises:
            KeyError: no value set has this id.
        """
        return self.value_sets[concept].kind

    def answer_of(
        self, question_system: str, question_code: str, answer_system: str, answer_code: str
    ) -> _Said:
        """What a coded answer says: pairs of concept and present; empty where nothing is known.

        A concept that is present brings the sets that include it; an absent one does not.
        """
        return self._answers.get((question_system, question_code, answer_system, answer_code), ())

    def answer_saying(self, concept: str, *, present: bool) -> tuple[_Key, _Key] | None:
        """The first question with an answer that says this of a concept, each (system, code)."""
        for (*asked, system, code), said in self._answers.items():
            if (concept, present) in said:
                return (asked[0], asked[1]), (system, code)
        return None

    @property
    def note_words(self) -> tuple[str, ...]:
        """Words of a note that make a specimen doubtful."""
        return self.hemolysis.words

    def included(self, concept: str) -> set[str]:
        """The ids of every value set that a set includes, at any depth."""
        return _included(concept, self.value_sets)

    def with_value_sets(
        self, changed: Iterable[ValueSet], silent: Collection[tuple[str, CodeEntry]] = ()
    ) -> Terminology:
        """The same with these sets in place of those of their ids.

        A code of `silent`, a pair of set and code, makes that set present but never absent.
        """
        value_sets = {**self.value_sets, **{v.id: v for v in changed}}
        by_code = _by_code(value_sets, _widening(value_sets), silent)
        return replace(self, value_sets=value_sets, **by_code)


def _included(name: str, value_sets: Mapping[str, ValueSet]) -> set[str]:
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        found = value_sets.get(waiting.pop())
        new = set(found.includes) - reached if found else set()
        reached |= new
        waiting += new
    return reached


def _widening(value_sets: Mapping[str, ValueSet]) -> _Widen:
    """Return what adds to some sets those that include one of them."""
    widened: dict[tuple[str, ...], tuple[str, ...]] = {}  # many codes stand in the same sets
    above: dict[str, list[str]] = {name: [] for name in value_sets}
    for name in value_sets:
        for inner in _included(name, value_sets):
            above[inner].append(name)

    def widen(names: Iterable[str]) -> tuple[str, ...]:
        own = tuple(names)
        if own not in widened:
            wider = sorted(a for name in own for a in above[name])
            widened[own] = tuple(dict.fromkeys([*own, *wider]))
        return widened[own]

    return widen


def _by_code(
    value_sets: Mapping[str, ValueSet],
    widen: _Widen,
    silent: Collection[tuple[str, CodeEntry]] = (),
) -> dict[str, Any]:
    """Return the look-ups from a code to its sets that a `Terminology` has."""
    listed: dict[_Key, list[str]] = {}
    own: dict[_Key, list[str]] = {}
    categories: dict[str, list[str]] = {}
    for name, value_set in value_sets.items():
        if value_set.own_code is not None:
            listed.setdefault(value_set.own_code, []).append(name)
            own.setdefault(value_set.own_code, []).append(name)
        for entry in value_set.codes:
            key = (SYSTEMS[entry.system], entry.code)
            listed.setdefault(key, []).append(name)
            if (name, entry) not in silent:
                own.setdefault(key, []).append(name)
            if entry.match == "prefix":
                categories.setdefault(entry.code, []).append(name)

    def with_categories(key: _Key) -> Iterator[str]:
        yield from listed.get(key, ())
        if key[0] == _ICD:
            for end in range(len(key[1]), 2, -1):
                yield from categories.get(key[1][:end], ())

    return {
        "_concepts": {key: widen(with_categories(key)) for key in listed},
        "_categories": {code: widen(with_categories((_ICD, code))) for code in categories},
        "_own": {key: tuple(names) for key, names in own.items()},
    }


# ------------------------------------------------------------------------- loading


def load_terminology(*dirs: Path) -> Terminology:
    """The value sets and analytes of one or more ruleset folders, together.

    Each folder may hold ``analytes.yaml``, ``valuesets/*.yaml`` and ``questionnaires.yaml``, one
    of them ``medicines.yaml`` with its ``medicines/*.csv``. An id may stand only once in all of
    them, and so may each of the other blocks of ``analytes.yaml``.

    Raises:
        TerminologyError: anything is wrong; every fault, one a line, with its file and line.
    """
    loader = _Loader()
    for folder in dirs:
        path = folder / "analytes.yaml"
        if path.is_file():
            loader.read_analytes(path)
        for path in sorted((folder / "valuesets").glob("*.yaml")):
            loader.read_value_sets(path)
        path = folder / "medicines.yaml"
        if path.is_file():
            loader.read_medicines(path)
        path = folder / "questionnaires.yaml"
        if path.is_file():
            loader.read_questionnaires(path)
    if not loader.faults:
        loader.check(", ".join(str(folder) for folder in dirs))
    if loader.faults:
        raise TerminologyError("\n".join(dict.fromkeys(map(str, RuleErrors(loader.faults).errors))))
    return loader.build()


def stands_alone(folder: Path) -> bool:
    """Whether a folder has a block that may stand only once, so that it cannot add to another.

    It is then a folder like the shipped one, perhaps of another version. Only looked for, not
    read: what is wrong in its files is for `load_terminology` to say.
    """
    path = folder / "analytes.yaml"
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    return re.search(rf"^({'|'.join(_BLOCKS)}):", text, re.MULTILINE) is not None


@dataclass(frozen=True, slots=True)
class _Place:
    """A key or item of one file, for messages."""

    path: str
    lines: Lines
    loc: tuple[str | int, ...] = ()

    def __truediv__(self, part: str | int) -> _Place:
        return _Place(self.path, self.lines, (*self.loc, part))

    def __str__(self) -> str:
        return f"{self.path}:{self.lines.of(self.loc)}"


_Seen = dict[_Key, tuple[str, _Place, int]]
"""For each system and code, what has it: its name, its place, and the number of the code."""


@cache
def _adapter(shape: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(shape)


class _Loader:
    """Reads all files, checks what concerns several items, builds; collects faults."""

    def __init__(self) -> None:
        self.faults: list[RuleError] = []
        self.analytes: dict[str, tuple[Analyte, _Place]] = {}
        self.value_sets: dict[str, tuple[ValueSet, _Place]] = {}
        self.questions: list[tuple[Question, _Place]] = []
        self.yes_no: dict[str, tuple[YesNo, _Place]] = {}
        self.sites: list[tuple[AtSite, _Place]] = []
        self.severities: dict[str, tuple[Severity, _Place]] = {}
        self.questionnaires: dict[str, tuple[Questionnaire, _Place]] = {}
        self.nothing: set[str] = set()
        self.blocks: dict[str, tuple[Any, _Place]] = {}
        self.formulary: dict[str, tuple[Formulary, _Place]] = {}

    def fault(self, place: _Place, text: str) -> None:
        self.faults.append(RuleError(text, path=place.path, line=place.lines.of(place.loc)))

    # -- read

    def read_analytes(self, path: Path) -> None:
        for file, top in self.read(path, _AnalyteFile):
            for number, analyte in enumerate(file.analytes):
                self.add(self.analytes, analyte.id, analyte, top / "analytes" / number)
            for name in _BLOCKS:
                if getattr(file, name) is not None:
                    self.add(self.blocks, name, getattr(file, name), top / name)

    def read_value_sets(self, path: Path) -> None:
        for file, top in self.read(path, _ValueSetFile):
            for number, value_set in enumerate(file.value_sets):
                self.add(self.value_sets, value_set.id, value_set, top / "value_sets" / number)
            for number, question in enumerate(file.answers):
                self.questions.append((question, top / "answers" / number))
            for number, word in enumerate(file.yes_no):
                name = f"{word.system} {word.code}"
                self.add(self.yes_no, name, word, top / "yes_no" / number)
            for number, at_site in enumerate(file.sites):
                self.sites.append((at_site, top / "sites" / number))
            for number, severity in enumerate(file.severities):
                name = f"{severity.system} {severity.code}"
                self.add(self.severities, name, severity, top / "severities" / number)

    def read_questionnaires(self, path: Path) -> None:
        for file, top in self.read(path, QuestionnaireFile):
            self.nothing |= {text.casefold() for text in file.nothing}
            for number, form in enumerate(file.questionnaires):
                self.add(self.questionnaires, form.url, form, top / "questionnaires" / number)

    def read_medicines(self, path: Path) -> None:
        for file, top in self.read(path, MedicineFile):
            found = load_formulary(path.parent, file, self.faults)
            self.add(self.formulary, path.name, found, top)

    def read(self, path: Path, shape: Any) -> Iterator[tuple[Any, _Place]]:
        """The content of one file, or nothing if it has a fault."""
        try:
            data, lines = load_yaml(path)
        except RuleError as error:
            self.faults.append(error)
            return
        try:
            yield _adapter(shape).validate_python(data), _Place(str(path), lines)
        except pydantic.ValidationError as error:
            for fault in faults(shape, error):
                name = fault.at[-1] if fault.at else "the file"
                text = fault.text if fault.names_key else f"'{name}': {fault.text}"
                self.fault(_Place(str(path), lines, fault.at), text)

    def add(self, known: dict[str, Any], name: str, item: object, place: _Place) -> None:
        if name in known:
            self.fault(place, f"'{name}' stands twice; first at {known[name][1]}")
        known.setdefault(name, (item, place))

    # -- check

    def check(self, where: str) -> None:
        for name in _BLOCKS:
            if name not in self.blocks:
                text = f"no analytes.yaml has the block '{name}'"
                self.faults.append(RuleError(text, path=where))
        if self.faults:
            return
        measured: _Seen = {}
        computed = self.check_blocks()
        for name, (analyte, place) in self.analytes.items():
            measured |= self.check_codes(measured, name, analyte.codes, place)
            if not analyte.codes and name not in computed:
                self.fault(place, f"analyte '{name}' has no codes and is not computed")
        answered = {answer.concept for question, _ in self.questions for answer in question.when}
        sets = {name: value_set for name, (value_set, _) in self.value_sets.items()}
        formulary = self.known_formulary()
        for name, (value_set, place) in self.value_sets.items():
            self.check_codes(measured, name, value_set.codes, place)
            for number, inner in enumerate(value_set.includes):
                self.known(inner, self.value_sets, "value set", place, "includes", number)
            if name in _included(name, sets):
                self.fault(place / "includes", f"value set '{name}' includes itself")
            says = value_set.codes or value_set.includes or value_set.uncoded
            if not says and not value_set.every_medicine and name not in answered:
                self.fault(place, f"value set '{name}' is empty: give it codes or leave it out")
            if value_set.uncoded and value_set.codes:
                self.fault(place / "uncoded", f"value set '{name}' has codes: leave 'uncoded' out")
            self.check_medicines(value_set, place, formulary)
        for at_site, place in self.sites:
            self.known(at_site.finding, self.value_sets, "value set", place, "finding")
            self.known(at_site.becomes, self.value_sets, "value set", place, "becomes")
        for question, place in self.questions:
            for number, answer in enumerate(question.when):
                parts = ("when", number, "concept")
                self.known(answer.concept, self.value_sets, "value set", place, *parts)
        self.check_questionnaires()

    def check_questionnaires(self) -> None:
        """Check what the questions name, and that their units convert."""
        concepts = {name for name, (each, _) in self.value_sets.items() if each.own_code}
        for form, place in self.questionnaires.values():
            for number, text in faults_of(form, concepts, self.analytes):
                self.fault(place / "questions" / number, text)
            for number, question in enumerate(form.questions):
                if question.measures in self.analytes and question.unit is not None:
                    try:
                        self.analytes[question.measures][0].convert(Decimal(1), question.unit)
                    except UnitError as error:
                        self.fault(place / "questions" / number / "unit", str(error))

    def known_formulary(self) -> Formulary:
        """The formulary of the one folder that has one; else one that knows nothing."""
        return next((found for found, _ in self.formulary.values()), None) or Formulary()

    def check_medicines(self, value_set: ValueSet, place: _Place, formulary: Formulary) -> None:
        for number, name in enumerate(value_set.not_with):
            self.known(name, self.value_sets, "value set", place, "not_with", number)
        for number, name in enumerate(value_set.routes):
            self.known(name, formulary.routes, "route", place, "routes", number)
        for number, code in enumerate(value_set.codes):
            if code.system == "medicine" and code.code not in formulary.same_as:
                text = f"there is no medicine '{code.code}' in medicines/ingredients.csv"
                self.fault(place / "codes" / number, text)

    def check_blocks(self) -> set[str]:
        """Check what the blocks name; returns the analytes that they compute."""
        calcium, place = self.blocks["adjusted_calcium"]
        for part in ("id", "result", "ionized", "total", "albumin", "egfr"):
            self.known(getattr(calcium, part), self.analytes, "analyte", place, part)
        hemolysis, place = self.blocks["hemolysis"]
        for number, name in enumerate(hemolysis.raises):
            self.known(name, self.analytes, "analyte", place, "raises", number)
        ratios, place = self.blocks["derived"]
        for number, ratio in enumerate(ratios):
            self.known(ratio.id, self.analytes, "analyte", place, number, "id")
            self.known(ratio.of, self.analytes, "analyte", place, number, "of")
        return {calcium.id, *(ratio.id for ratio in ratios)}

    def check_codes(self, seen: _Seen, name: str, codes: Any, place: _Place) -> _Seen:
        """Check that no code stands twice; returns those that were not seen before."""
        own: _Seen = {}
        for number, code in enumerate(codes):
            key = (code.system, code.code)
            found = seen.get(key) or own.get(key)
            if found is None:
                own[key] = (name, place, number)
            else:
                there = f"'{found[0]}' at {found[1] / 'codes' / found[2]}"
                self.fault(place / "codes" / number, f"code {code.code} stands already in {there}")
        return own

    def known(
        self, name: str, names: Collection[str], what: str, place: _Place, *parts: str | int
    ) -> None:
        """Check a name that stands at these parts of a place."""
        if name not in names:
            for part in parts:
                place = place / part
            self.fault(place, f"there is no {what} '{name}'{nearest(name, names)}")

    # -- build

    def build(self) -> Terminology:
        analytes = {name: analyte for name, (analyte, _) in sorted(self.analytes.items())}
        value_sets = {name: value_set for name, (value_set, _) in sorted(self.value_sets.items())}
        ratios = {ratio.id: ratio for ratio in self.blocks["derived"][0]}
        widen = _widening(value_sets)
        return Terminology(
            analytes=analytes,
            value_sets=value_sets,
            **{name: block for name, (block, _) in self.blocks.items()} | {"derived": ratios},
            questions=frozenset(
                (SYSTEMS[asked.question.system], asked.question.code) for asked, _ in self.questions
            ),
            yes_no={
                (SYSTEMS[word.system], word.code): word.means == "yes"
                for word, _ in self.yes_no.values()
            },
            _labs={
                (SYSTEMS[code.system], code.code): (name, code)
                for name, analyte in analytes.items()
                for code in analyte.codes
            },
            severities={
                (SYSTEMS[word.system], word.code): word.means
                for word, _ in self.severities.values()
            },
            sites=self.at_sites(widen),
            formulary=self.known_formulary(),
            questionnaires={url: form for url, (form, _) in self.questionnaires.items()},
            nothing=frozenset(self.nothing),
            **_by_code(value_sets, widen),
            _answers=self.answers(widen),
        )

    def at_sites(
        self, widen: _Widen
    ) -> dict[tuple[str, str, str], tuple[frozenset[str], tuple[str, ...]]]:
        found = {}
        for each, _ in self.sites:
            held, holds = widen([each.finding]), widen([each.becomes])
            for entry in each.codes:
                key = (each.finding, SYSTEMS[entry.system], entry.code)
                found[key] = (frozenset(held) - frozenset(holds), holds)
        return found

    def answers(self, widen: _Widen) -> dict[tuple[str, str, str, str], _Said]:
        said: dict[tuple[str, str, str, str], list[tuple[str, bool]]] = {}
        for asked, _ in self.questions:
            system, code = SYSTEMS[asked.question.system], asked.question.code
            for answer in asked.when:
                names = widen([answer.concept]) if answer.present else (answer.concept,)
                key = (system, code, SYSTEMS[answer.system], answer.code)
                said.setdefault(key, []).extend((name, answer.present) for name in names)
        return {key: tuple(dict.fromkeys(pairs)) for key, pairs in said.items()}
