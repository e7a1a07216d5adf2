"""What a rule author writes: the shapes of `rules.yaml` and `cards.yaml`.

Every key is typed, unknown keys are refused. The format is explained for clinicians in
`rulesets/README.md`; here stand its types, `Ruleset` for one file that was loaded, and nothing
that computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from cds.model import Tier
from cds.yamlmodel import DURATION, ID, VERSION

__all__ = [
    "KINDS",
    "OPS",
    "AgeCriterion",
    "AllCriterion",
    "AnyCriterion",
    "Bound",
    "CardText",
    "CardTexts",
    "CodeText",
    "ConditionCriterion",
    "Criterion",
    "Duration",
    "Evidence",
    "FindingCriterion",
    "HistoryCriterion",
    "Id",
    "LabCriterion",
    "LifestyleCriterion",
    "MedicationCriterion",
    "NoResultCriterion",
    "Order",
    "PatientMedicine",
    "PresenceCriterion",
    "QualityCriterion",
    "RatioCriterion",
    "RecheckText",
    "RiseCriterion",
    "Rule",
    "RuleFile",
    "Ruleset",
    "SexCriterion",
    "Shape",
    "Suggestion",
    "SymptomCriterion",
    "Text",
]


class Shape(BaseModel):
    """A part of a file: every key typed, unknown ones refused, nothing changed later."""

    # Most shapes are only ever read as part of a larger one: a validator of its own is not made
    # before it is asked for.
    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, defer_build=True
    )


Id = Annotated[str, Field(pattern=ID)]
Duration = Annotated[str, Field(pattern=DURATION)]
Text = Annotated[str, Field(min_length=1)]


class Bound(Shape):
    """One bound: a comparator word with a number."""

    lt: Decimal | None = None
    le: Decimal | None = None
    gt: Decimal | None = None
    ge: Decimal | None = None

    @property
    def bound(self) -> tuple[str, Decimal] | None:
        """The comparator word and its number, or None where no number is given."""
        given = [(op, v) for op in OPS if (v := getattr(self, op)) is not None]
        if len(given) > 1:
            raise ValueError(
                "one comparator word for each criterion, not " + " and ".join(op for op, _ in given)
            )
        return given[0] if given else None


class LabCriterion(Bound):
    """The latest result of an analyte against a bound or against the laboratory's own range.

    `within` (inclusive) is how old it may be, by default the analyte's `fresh`;
    `older_than` (exclusive) how old it must be. `first_band` lets the laboratory's own range
    decide: a value it calls normal does not count, one outside its range does.
    `critical_flag` counts a value flagged LL (HH) as well.
    """

    lab: Id
    unit: str | None = None
    within: Duration | None = None
    older_than: Duration | None = None
    first_band: bool = False
    critical_flag: bool = False
    laboratory: Literal["below", "above", "critical-low", "critical-high"] | None = None


class RiseCriterion(Bound):
    """The latest result is higher than an earlier one at most `over` before it."""

    rise: Id
    unit: str
    over: Duration
    within: Duration | None = None


class RatioCriterion(Bound):
    """The latest result divided by the lowest one at most `over` before it."""

    ratio: Id
    over: Duration
    within: Duration | None = None


class PresenceCriterion(Shape):
    """Something is recorded as present; every further key narrows which records count.

    `within`: it began, or where that is unknown was seen, at most so long ago, or has no date;
    `longer_than`: known to have lasted longer; `onset_within`: its beginning is known to be that
    new; `onset` unknown: no record says when it began; `seen_within`: recorded at most so long
    ago. `times` and `sites`: on that many days, at that many places of the body; `severity`.
    `after_start_of` or `after_stop_of`: it began after a medicine of that set was started or
    stopped, at most `delay` after where that is given.
    """

    within: Duration | None = None
    longer_than: Duration | None = None
    onset_within: Duration | None = None
    onset: Literal["unknown"] | None = None
    seen_within: Duration | None = None
    times: Annotated[int, Field(ge=2)] | None = None
    sites: Annotated[int, Field(ge=2)] | None = None
    severity: Literal["severe"] | None = None
    after_start_of: Id | None = None
    after_stop_of: Id | None = None
    delay: Duration | None = None

    @property
    def kind(self) -> str:
        """The word of the criterion: symptom, condition or lifestyle."""
        return _own_key(type(self))

    @property
    def concept(self) -> str:
        """The value set that it names."""
        return str(getattr(self, self.kind))

    @property
    def medicine(self) -> tuple[Literal["start", "stop"], str] | None:
        """The event and the medicines that it must have begun after, or None."""
        if self.after_start_of is not None:
            return "start", self.after_start_of
        return ("stop", self.after_stop_of) if self.after_stop_of is not None else None


@cache
def _own_key(shape: type[PresenceCriterion]) -> str:
    return next(iter(shape.model_fields.keys() - PresenceCriterion.model_fields.keys()))


class SymptomCriterion(PresenceCriterion):
    """A symptom is recorded as present."""

    symptom: Id


class ConditionCriterion(PresenceCriterion):
    """A condition is recorded as present."""

    condition: Id


class LifestyleCriterion(PresenceCriterion):
    """A circumstance of life is recorded as present."""

    lifestyle: Id


class HistoryCriterion(Shape):
    """A relative's condition is recorded."""

    history: Id


class MedicationCriterion(Shape):
    """A medicine of that value set is being taken.

    `started_within`: known to be that new; `changed_within`: that, or a higher dose since then;
    `longer_than`: known to be taken for longer; `at_least`: so many ingredients of the set.
    `stopped_within` instead: stopped that recently and not taken now, after having been taken
    for `lasted` or longer. `being_ordered` instead: a draft order names it.
    """

    medication: Id
    started_within: Duration | None = None
    changed_within: Duration | None = None
    longer_than: Duration | None = None
    at_least: Annotated[int, Field(ge=2)] | None = None
    stopped_within: Duration | None = None
    lasted: Duration | None = None
    being_ordered: Literal[True] | None = None


class NoResultCriterion(Shape):
    """No usable result of the analyte: absence as a positive fact.

    `within`: in that time; `since_start_of`: since a medicine of that set was started, where the
    start is known.
    """

    no_result: Id
    within: Duration | None = None
    since_start_of: Id | None = None


class SexCriterion(Shape):
    """Administrative gender; `unknown` also where it is other or not recorded."""

    sex: Literal["male", "female", "unknown"]


class AgeCriterion(Bound):
    """Age in completed years; unknown age never satisfies it."""

    age: Literal["years"]


class QualityCriterion(Shape):
    """Normalizing found a fault in the data ("implausible"), of any analyte or of `lab`."""

    quality: Id
    lab: Id | None = None


class FindingCriterion(Shape):
    """Another rule's finding holds."""

    finding: Id


class AnyCriterion(Shape):
    """At least one of them holds."""

    any: Annotated[tuple[Criterion, ...], Field(min_length=1)]


class AllCriterion(Shape):
    """Every one of them holds."""

    all: Annotated[tuple[Criterion, ...], Field(min_length=1)]


OPS = ("lt", "le", "gt", "ge")
KINDS: dict[str, type[Shape]] = {
    "lab": LabCriterion,
    "rise": RiseCriterion,
    "ratio": RatioCriterion,
    "symptom": SymptomCriterion,
    "condition": ConditionCriterion,
    "lifestyle": LifestyleCriterion,
    "history": HistoryCriterion,
    "medication": MedicationCriterion,
    "no_result": NoResultCriterion,
    "sex": SexCriterion,
    "age": AgeCriterion,
    "quality": QualityCriterion,
    "finding": FindingCriterion,
    "any": AnyCriterion,
    "all": AllCriterion,
}
_PRIORITY = ("no_result", "quality", *(k for k in KINDS if k not in ("no_result", "quality")))


def _criterion_kind(value: Any) -> str | None:
    keys = (
        value
        if isinstance(value, Mapping)
        else value.model_fields_set
        if isinstance(value, BaseModel)
        else ()
    )
    return next((kind for kind in _PRIORITY if kind in keys), None)


Criterion = Annotated[
    Annotated[LabCriterion, Tag("lab")]
    | Annotated[RiseCriterion, Tag("rise")]
    | Annotated[RatioCriterion, Tag("ratio")]
    | Annotated[SymptomCriterion, Tag("symptom")]
    | Annotated[ConditionCriterion, Tag("condition")]
    | Annotated[LifestyleCriterion, Tag("lifestyle")]
    | Annotated[HistoryCriterion, Tag("history")]
    | Annotated[MedicationCriterion, Tag("medication")]
    | Annotated[NoResultCriterion, Tag("no_result")]
    | Annotated[SexCriterion, Tag("sex")]
    | Annotated[AgeCriterion, Tag("age")]
    | Annotated[QualityCriterion, Tag("quality")]
    | Annotated[FindingCriterion, Tag("finding")]
    | Annotated[AnyCriterion, Tag("any")]
    | Annotated[AllCriterion, Tag("all")],
    Discriminator(
        _criterion_kind,
        custom_error_type="criterion_kind",
        custom_error_message="a criterion needs one of: " + ", ".join(KINDS),
    ),
]
"""One test inside a rule, or `any`/`all` over several."""


class Evidence(Shape):
    """Where a rule comes from. `from_knowledge`: a proposal without a source that was read."""

    source: Text
    statement: Text
    year: int | None = None
    section: str | None = None
    url: str | None = None
    from_knowledge: bool = False


class CardText(Shape):
    """What the card says of a finding; `{potassium}` stands for its value, unit and date.

    `summary` is for the one line of a clinician's card, `detail` for its body in GitHub
    Flavored Markdown, `patient` for the patient's card. `suggestions` are ids of
    `cards.yaml`.
    """

    summary: Text
    detail: Text
    patient: Text
    patient_summary: str | None = None
    suggestions: tuple[Id, ...] = ()


class Rule(Shape):
    """One rule: `when` (and not `unless`) then a finding. Identified for ever by `id`.

    `finding` is the id of the conclusion (by default the rule's own). Within a `family` only
    the most urgent finding is shown. A `step` is an intermediate conclusion that other rules
    build on and nobody is shown. A rule with `caveat_for` adds its text to the findings of
    these families. `population` adult: outside it, a finding of at least the tier named by a
    rule with `stands_in_from` is replaced by that rule's. `recheck` makes a companion rule
    `<id>-recheck` for results of the analyte's whole context window, where the rule itself does
    not hold; only such companions have `recheck_of`.
    `missing` says whether undecided criteria are listed in `not_evaluated`. `yields_to` names
    findings that explain this one: where one holds, it is not shown (never an emergency). `ask`
    are questions whose answers would sharpen the finding.
    """

    id: Id
    title: Text
    review: Literal["draft", "under-review", "approved"]
    last_reviewed: str | None = None
    tier: Literal["info", "routine", "soon", "urgent", "emergency"]
    finding: Id | None = None
    family: Id | None = None
    step: bool = False
    caveat_for: tuple[Id, ...] = ()
    recheck_of: Id | None = None
    population: Literal["adult", "any"] = "adult"
    stands_in_from: Literal["soon", "urgent", "emergency"] | None = None
    recheck: bool = False
    missing: Literal["report", "silent"] = "report"
    yields_to: tuple[Id, ...] = ()
    ask: tuple[Text, ...] = ()
    when: tuple[Criterion, ...] = ()
    unless: tuple[Criterion, ...] = ()
    covers: tuple[str, ...] = ()
    evidence: Annotated[tuple[Evidence, ...], Field(min_length=1)]
    note: str | None = None
    card: CardText | None = None

    @property
    def finding_id(self) -> str:
        """Id of the finding that this rule asserts."""
        return self.finding or self.id

    @property
    def tier_value(self) -> Tier:
        """The tier as a value that can be compared."""
        return Tier[self.tier]


class RecheckText(Shape):
    """Wording of the companion rules made by `recheck`.

    `{title}` is the rule's title, `{fresh}` how old a result may be for the rule itself ("7 days").
    """

    title: Text
    summary: Text
    detail: Text
    patient: Text
    patient_summary: str | None = None
    suggestions: tuple[Id, ...] = ()
    evidence: Annotated[tuple[Evidence, ...], Field(min_length=1)]


class RuleFile(Shape):
    """A whole `rules.yaml`."""

    group: Id
    title: Text
    version: Annotated[str, Field(pattern=VERSION)]
    recheck: RecheckText | None = None
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]


class CodeText(Shape):
    """A coding with the display that a person reads."""

    system: str
    code: str
    display: str


class Order(Shape):
    """One draft ServiceRequest of a suggestion."""

    code: CodeText
    description: Text
    category: CodeText | None = None


class Suggestion(Shape):
    """A suggestion on a card: a label and the draft orders that it creates together."""

    label: Text
    orders: Annotated[tuple[Order, ...], Field(min_length=1)]


class PatientMedicine(Shape):
    """What a patient's card says about medicines, where a finding is of one of these groups.

    `urgent` takes the place of `below_urgent` on cards of the tiers urgent and emergency.
    """

    groups: Annotated[tuple[Id, ...], Field(min_length=1)]
    below_urgent: Text
    urgent: Text


class ServiceTexts(Shape):
    """What the CDS Hooks service says of a call itself.

    `data` names the kinds of data by their id; ``{data}`` stands for those that were not there,
    ``{number}`` for a number of records. Texts that begin with `patient_` are for the patient.
    """

    label: Text
    as_if_started: Text
    patient_as_if_started: Text
    not_all_data_summary: Text
    not_all_data: Text
    patient_not_all_data_summary: Text
    patient_not_all_data: Text
    other_people: Text
    unreadable: Text
    data: Mapping[str, Text]
    failed_summary: Text
    failed: Text
    patient_failed_summary: Text
    patient_failed: Text
    not_recorded_summary: Text
    not_recorded: Text


class CardTexts(Shape):
    """`cards.yaml`: wording and codes that all cards share."""

    disclaimer: Text
    patient_disclaimer: Text
    patient_tiers: Mapping[str, str]
    tiers: Mapping[str, str]
    groups: Mapping[str, CodeText]
    source_url: str | None = None
    override_reasons: tuple[CodeText, ...] = ()
    suggestions: Mapping[Id, Suggestion] = {}
    age_unknown: Text
    ask_next: Text
    ask_result: Text
    not_evaluated: Mapping[str, str] = {}
    patient_medicine: PatientMedicine | None = None
    service: ServiceTexts | None = None


@dataclass(frozen=True)
class Ruleset:
    """One loaded rule file: `rules` includes the companions made by `recheck`."""

    group: str
    title: str
    version: str
    digest: str
    path: str
    rules: tuple[Rule, ...]
    line_of: Mapping[str, int]
    recheck: RecheckText | None = None
