"""Rule files: the typed rule model, its loader, and the program that engines run.

A rule file (`<group>/rules.yaml`) is data that a clinician can read and sign; its format is
documented in `rulesets/README.md`. This module turns it into pydantic models (every key typed,
unknown and duplicate keys refused with file:line) and compiles these into a `Program`: tests
on flat facts with whole numbers, which any engine can run. It holds no clinical knowledge.

Numbers reach the engine as *grid codes* (`grid_code`): whole numbers that keep the order of
exact values against every threshold, so that no binary fraction is ever compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from cds.errors import RuleError, RuleErrors, TerminologyError
from cds.model import Tier
from cds.shipped import shipped
from cds.terminology import Analyte, Terminology, load_terminology, seconds_of
from cds.yamlfile import Lines, load_yaml

__all__ = [
    "GRID",
    "All",
    "Any_",
    "Atom",
    "CardText",
    "CardTexts",
    "CompiledRule",
    "Criterion",
    "Evidence",
    "Leaf",
    "Need",
    "Node",
    "Program",
    "Rule",
    "RuleFile",
    "Ruleset",
    "Rulesets",
    "Test",
    "compile_program",
    "grid_code",
    "load_rulesets",
]

GRID = 10_000
"""Steps per canonical unit; every threshold must be a whole number of steps."""

FOREVER = 1 << 50
"""The age, in seconds, of what has no date: older than any window."""


def grid_code(value: Fraction | Decimal) -> int:
    """Return the grid code of an exact value: even on a step, odd strictly between two.

    For any threshold `t` on the grid, ``value < t`` exactly when
    ``grid_code(value) < grid_code(t)``, and likewise for ``<=``, ``>`` and ``>=``.

    >>> grid_code(Decimal("3.5")), grid_code(Decimal("3.49999999"))
    (70000, 69999)
    """
    numerator, denominator = value.as_integer_ratio()
    steps, rest = divmod(numerator * GRID, denominator)
    return 2 * steps + (1 if rest else 0)


# ---------------------------------------------------------------- the rule file


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


Id = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")]
Duration = Annotated[str, Field(pattern=r"^P(\d+W|(\d+D)?(T\d+H)?)$")]
Text = Annotated[str, Field(min_length=1)]


class _Bound(_Model):
    """One bound: a comparator word with a number."""

    lt: Decimal | None = None
    le: Decimal | None = None
    gt: Decimal | None = None
    ge: Decimal | None = None

    @property
    def bound(self) -> tuple[str, Decimal] | None:
        """The comparator word and its number, or None where no number is given."""
        given = [(op, v) for op in _OPS if (v := getattr(self, op)) is not None]
        if len(given) > 1:
            raise ValueError(
                "one comparator word for each criterion, not " + " and ".join(op for op, _ in given)
            )
        return given[0] if given else None


class LabCriterion(_Bound):
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


class RiseCriterion(_Bound):
    """The latest result is higher than an earlier one at most `over` before it."""

    rise: Id
    unit: str
    over: Duration
    within: Duration | None = None


class RatioCriterion(_Bound):
    """The latest result divided by the lowest one at most `over` before it."""

    ratio: Id
    over: Duration
    within: Duration | None = None


class SymptomCriterion(_Model):
    """A symptom is recorded as present. `within`: not known to be older than that."""

    symptom: Id
    within: Duration | None = None
    longer_than: Duration | None = None


class ConditionCriterion(_Model):
    """A condition is recorded as present. `within`: not known to be older than that."""

    condition: Id
    within: Duration | None = None
    longer_than: Duration | None = None


class LifestyleCriterion(_Model):
    """A circumstance of life is recorded as present."""

    lifestyle: Id
    within: Duration | None = None


class HistoryCriterion(_Model):
    """A relative's condition is recorded."""

    history: Id


class MedicationCriterion(_Model):
    """A medicine of that value set is being taken. `started_within`: known to be that new."""

    medication: Id
    started_within: Duration | None = None


class NoResultCriterion(_Model):
    """No usable result of the analyte within that time: absence as a positive fact."""

    no_result: Id
    within: Duration


class SexCriterion(_Model):
    """Administrative gender; `unknown` also where it is other or not recorded."""

    sex: Literal["male", "female", "unknown"]


class AgeCriterion(_Bound):
    """Age in completed years; unknown age never satisfies it."""

    age: Literal["years"]


class QualityCriterion(_Model):
    """Normalizing found a fault in the data ("implausible"), of any analyte or of `lab`."""

    quality: Id
    lab: Id | None = None


class FindingCriterion(_Model):
    """Another rule's finding holds."""

    finding: Id


class AnyCriterion(_Model):
    """At least one of them holds."""

    any: Annotated[tuple[Criterion, ...], Field(min_length=1)]


class AllCriterion(_Model):
    """Every one of them holds."""

    all: Annotated[tuple[Criterion, ...], Field(min_length=1)]


_OPS = ("lt", "le", "gt", "ge")
_KINDS: dict[str, type[_Model]] = {
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
_PRIORITY = ("no_result", "quality", *(k for k in _KINDS if k not in ("no_result", "quality")))


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
        custom_error_message="a criterion needs one of: " + ", ".join(_KINDS),
    ),
]
"""One test inside a rule, or `any`/`all` over several."""


class Evidence(_Model):
    """Where a rule comes from. `from_knowledge`: a proposal without a source that was read."""

    source: Text
    statement: Text
    year: int | None = None
    section: str | None = None
    url: str | None = None
    from_knowledge: bool = False


class CardText(_Model):
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


class Rule(_Model):
    """One rule: `when` (and not `unless`) then a finding. Identified for ever by `id`.

    `finding` is the id of the conclusion (by default the rule's own). Within a `family` only
    the most urgent finding is shown. A `step` is an intermediate conclusion that other rules
    build on and nobody is shown. A rule with `caveat_for` adds its text to the findings of
    these families. `population` adult: outside it, a finding of at least the tier named by a
    rule with `stands_in_from` is replaced by that rule's. `recheck` makes a companion rule
    `<id>-recheck` for results of the analyte's whole context window, where the rule itself does
    not hold; only such companions have `recheck_of`.
    `missing` says whether undecided criteria are listed in `not_evaluated`.
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


class RecheckText(_Model):
    """Wording of the companion rules made by `recheck`; `{title}` is the rule's title."""

    title: Text
    summary: Text
    detail: Text
    patient: Text
    patient_summary: str | None = None
    suggestions: tuple[Id, ...] = ()
    evidence: Annotated[tuple[Evidence, ...], Field(min_length=1)]


class RuleFile(_Model):
    """A whole `rules.yaml`."""

    group: Id
    title: Text
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    recheck: RecheckText | None = None
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]


class CodeText(_Model):
    """A coding with the display that a person reads."""

    system: str
    code: str
    display: str


class Order(_Model):
    """One draft ServiceRequest of a suggestion."""

    code: CodeText
    description: Text
    category: CodeText | None = None


class Suggestion(_Model):
    """A suggestion on a card: a label and the draft orders that it creates together."""

    label: Text
    orders: Annotated[tuple[Order, ...], Field(min_length=1)]


class CardTexts(_Model):
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
    not_evaluated: Mapping[str, str] = {}


# ---------------------------------------------------------------- the program


@dataclass(frozen=True, slots=True)
class Test:
    """`prop` of a fact compared with a whole number; `op` is lt, le, gt or ge."""

    prop: str
    op: str
    value: int


@dataclass(frozen=True, slots=True)
class Atom:
    """A test of one fact: it has this key and passes every test."""

    key: str
    tests: tuple[Test, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One criterion: it holds when the fact with this key passes any of the alternatives."""

    criterion: _Model
    key: str
    atoms: tuple[Atom, ...]


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Any_:
    """At least one part holds; `Any` is a word of Python."""

    parts: tuple[Node, ...]


Node = Leaf | All | Any_


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule ready to run. `stratum` is 0 unless negation puts it behind other rules."""

    rule: Rule
    group: str
    finding_key: str
    stratum: int
    when: Node
    unless: Node | None


@dataclass(frozen=True, slots=True)
class Need:
    """A fact that takes computing: kind "rise", "ratio" or "no-result", for an analyte.

    `seconds` is the window (rise, ratio: between the two results; no-result: back from now).
    """

    kind: str
    concept: str
    window: str
    seconds: int

    @property
    def key(self) -> str:
        """Key of the fact."""
        return f"{self.kind}/{self.concept}/{self.window}"


@dataclass(frozen=True)
class Program:
    """Everything an engine needs: rules in file order, and the fact keys they ask for."""

    rules: tuple[CompiledRule, ...]
    keys: frozenset[str]
    needs: tuple[Need, ...]

    @cached_property
    def by_id(self) -> Mapping[str, CompiledRule]:
        """Rules by id."""
        return {r.rule.id: r for r in self.rules}

    @cached_property
    def leaves_by_key(self) -> Mapping[str, tuple[tuple[int, Leaf], ...]]:
        """For each fact key the positive criteria over it, with the index of their rule."""
        table: dict[str, list[tuple[int, Leaf]]] = {}
        for index, rule in enumerate(self.rules):
            for leaf in leaves(rule.when):
                table.setdefault(leaf.key, []).append((index, leaf))
        return {key: tuple(entries) for key, entries in table.items()}


def leaves(node: Node | None) -> Iterator[Leaf]:
    """Yield the criteria of a tree, left to right."""
    if isinstance(node, Leaf):
        yield node
    elif node is not None:
        for part in node.parts:
            yield from leaves(part)


class _Compiler:
    def __init__(self, terminology: Terminology) -> None:
        self.terminology = terminology
        self.needs: dict[str, Need] = {}

    def tree(self, criteria: Sequence[Any]) -> Node:
        if not criteria:
            return Any_(())  # nothing to hold: never fires (a rule that stands in for others)
        parts = tuple(self.node(c) for c in criteria)
        return parts[0] if len(parts) == 1 else All(parts)

    def node(self, c: Any) -> Node:
        if isinstance(c, AnyCriterion):
            return Any_(tuple(self.node(part) for part in c.any))
        if isinstance(c, AllCriterion):
            return All(tuple(self.node(part) for part in c.all))
        return self.leaf(c)

    def leaf(self, c: Any) -> Leaf:
        if isinstance(c, LabCriterion):
            return self.lab(c)
        if isinstance(c, (RiseCriterion, RatioCriterion)):
            return self.change(c)
        if isinstance(c, (SymptomCriterion, ConditionCriterion, LifestyleCriterion)):
            kind = (
                "symptom"
                if isinstance(c, SymptomCriterion)
                else "condition"
                if isinstance(c, ConditionCriterion)
                else "lifestyle"
            )
            concept = getattr(c, kind)
            self.concept(concept, kind)
            tests = []
            if c.within:
                tests.append(Test("newest", "le", seconds_of(c.within)))
            if not isinstance(c, LifestyleCriterion) and c.longer_than:
                tests.append(Test("oldest", "gt", seconds_of(c.longer_than)))
            return _leaf(c, f"{kind}/{concept}", tests)
        if isinstance(c, HistoryCriterion):
            self.concept(c.history, None)
            return _leaf(c, f"history/{c.history}", [])
        if isinstance(c, MedicationCriterion):
            self.concept(c.medication, "medication")
            new = [Test("since", "le", seconds_of(c.started_within))] if c.started_within else []
            return _leaf(c, f"medication/{c.medication}", new)
        if isinstance(c, NoResultCriterion):
            self.analyte(c.no_result)
            need = Need("no-result", c.no_result, c.within, seconds_of(c.within))
            self.needs[need.key] = need
            return _leaf(c, need.key, [])
        if isinstance(c, SexCriterion):
            return _leaf(c, f"sex/{c.sex}", [])
        if isinstance(c, AgeCriterion):
            op, value = _required_bound(c)
            return _leaf(c, "patient/age", [Test("years", op, int(value))])
        if isinstance(c, QualityCriterion):
            return _leaf(c, f"quality/{c.quality}" + (f"/{c.lab}" if c.lab else ""), [])
        assert isinstance(c, FindingCriterion)  # noqa: S101 - the union has no other member
        return _leaf(c, f"finding/{c.finding}", [])

    def lab(self, c: LabCriterion) -> Leaf:
        analyte = self.analyte(c.lab)
        age = [Test("age", "le", seconds_of(c.within) if c.within else analyte.fresh)]
        if c.older_than:
            age.append(Test("age", "gt", seconds_of(c.older_than)))
        key = f"lab/{c.lab}"
        if c.laboratory:
            if c.bound or c.first_band or c.critical_flag or c.unit:
                raise ValueError("'laboratory' stands alone, without number, unit or flags")
            side = "low" if c.laboratory in ("below", "critical-low") else "high"
            level = 3 if c.laboratory.startswith("critical") else 2
            return _leaf(c, key, _side(side, age, Test("flag", "ge", level)))
        op, value = _required_bound(c)
        if c.unit != analyte.unit:
            raise ValueError(f"write the threshold of {c.lab} in '{analyte.unit}', not '{c.unit}'")
        side = "low" if op in ("lt", "le") else "high"
        bound = Test(side, op, _threshold(value))
        alternatives = [_side(side, age, bound)]
        if c.first_band:
            alternatives = [
                _side(side, age, bound, Test("flag", "ge", 1)),
                _side(side, age, Test("flag", "ge", 2)),
            ]
        if c.critical_flag:
            alternatives.append(_side(side, age, Test("flag", "ge", 3)))
        return Leaf(c, key, tuple(Atom(key, tuple(tests)) for tests in alternatives))

    def change(self, c: RiseCriterion | RatioCriterion) -> Leaf:
        concept, kind = (c.rise, "rise") if isinstance(c, RiseCriterion) else (c.ratio, "ratio")
        analyte = self.analyte(concept)
        op, value = _required_bound(c)
        if op not in ("gt", "ge"):
            raise ValueError(f"'{kind}' is compared with gt or ge")
        if isinstance(c, RiseCriterion) and c.unit != analyte.unit:
            raise ValueError(f"write the rise of {concept} in '{analyte.unit}', not '{c.unit}'")
        need = Need(kind, concept, c.over, seconds_of(c.over))
        self.needs[need.key] = need
        within = seconds_of(c.within) if c.within else analyte.fresh
        return _leaf(
            c, need.key, [Test("amount", op, _threshold(value)), Test("age", "le", within)]
        )

    def analyte(self, concept: str) -> Analyte:
        known = self.terminology.analytes.get(concept)
        if known is None:
            raise ValueError(_unknown("analyte", concept, self.terminology.analytes))
        return known

    def concept(self, concept: str, kind: str | None) -> None:
        known = self.terminology.value_sets.get(concept)
        if known is None:
            raise ValueError(_unknown("value set", concept, self.terminology.value_sets))
        if kind is not None and known.kind != kind:
            raise ValueError(f"value set '{concept}' is of kind {known.kind}, not {kind}")


def _unknown(what: str, name: str, names: Mapping[str, Any]) -> str:
    import difflib  # only an error needs it

    near = difflib.get_close_matches(name, list(names), n=1)
    return f"unknown {what} '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")


def _required_bound(c: _Bound) -> tuple[str, Decimal]:
    bound = c.bound
    if bound is None:
        raise ValueError("needs one of lt, le, gt, ge with a number")
    return bound


def _threshold(value: Decimal) -> int:
    code = grid_code(value)
    if code % 2:
        raise ValueError(f"threshold {value} is finer than 1/{GRID}")
    return code


def _side(side: str, age: Sequence[Test], *tests: Test) -> list[Test]:
    """A lab fact keeps a flag for each side, of its lowest and of its highest candidate."""
    renamed = [replace(t, prop=f"{side}_flag") if t.prop == "flag" else t for t in (*age, *tests)]
    return sorted(renamed, key=lambda t: t.prop != side)


def _leaf(c: _Model, key: str, tests: Sequence[Test]) -> Leaf:
    return Leaf(c, key, (Atom(key, tuple(tests)),))


def compile_program(files: Sequence[Ruleset], terminology: Terminology) -> Program:
    """Compile rule files into one program.

    Raises: RuleErrors with every fault: unknown concepts, thresholds in another unit, ids
    used twice, findings that no rule asserts, and cycles through `unless`.
    """
    errors: list[RuleError] = []
    compiler = _Compiler(terminology)
    compiled: list[CompiledRule] = []
    seen: dict[str, str] = {}
    for file in files:
        for rule in file.rules:

            def fail(message: str, file: Ruleset = file, rule: Rule = rule) -> None:
                errors.append(
                    RuleError(message, path=file.path, line=file.line_of.get(rule.id), rule=rule.id)
                )

            if rule.id in seen:
                fail(f"the id is already used in {seen[rule.id]}; ids are for ever and unique")
                continue
            seen[rule.id] = file.path
            if not rule.when and rule.stands_in_from is None:
                fail("'when' needs at least one criterion")
                continue
            if not rule.step and rule.card is None:
                fail("needs 'card' (or 'step: true' if nobody is shown it)")
                continue
            try:
                when = compiler.tree(rule.when)
                unless = Any_(tuple(compiler.node(c) for c in rule.unless)) if rule.unless else None
            except ValueError as error:
                fail(str(error))
                continue
            compiled.append(
                CompiledRule(rule, file.group, f"finding/{rule.finding_id}", 0, when, unless)
            )
    asserted = {r.finding_key for r in compiled}
    for r in compiled:
        for leaf in (*leaves(r.when), *leaves(r.unless)):
            if leaf.key.startswith("finding/") and leaf.key not in asserted:
                message = _unknown("finding", leaf.key[8:], {k[8:]: 0 for k in asserted})
                errors.append(_located(files, r, message + " (no rule asserts it)"))
    if errors:
        raise RuleErrors(errors)
    ordered = _stratify(compiled, files)
    keys = {leaf.key for r in ordered for leaf in (*leaves(r.when), *leaves(r.unless))}
    needs = tuple(compiler.needs[key] for key in sorted(compiler.needs))
    return Program(tuple(ordered), frozenset(keys), needs)


def _located(files: Sequence[Ruleset], r: CompiledRule, message: str) -> RuleError:
    file = next(f for f in files if f.group == r.group and r.rule in f.rules)
    return RuleError(message, path=file.path, line=file.line_of.get(r.rule.id), rule=r.rule.id)


def _stratify(rules: list[CompiledRule], files: Sequence[Ruleset]) -> list[CompiledRule]:
    """Put each rule behind all rules whose findings its `unless` names (stratified negation)."""
    makers: dict[str, list[int]] = {}
    for i, r in enumerate(rules):
        makers.setdefault(r.finding_key, []).append(i)
    strata = [0] * len(rules)
    for _ in range(len(rules) + 1):
        changed = False
        for i, r in enumerate(rules):
            for node, step in ((r.when, 0), (r.unless, 1)):
                for leaf in leaves(node):
                    for j in makers.get(leaf.key, ()):
                        if strata[i] < strata[j] + step:
                            strata[i] = strata[j] + step
                            changed = True
        if not changed:
            return [replace(r, stratum=s) for r, s in zip(rules, strata, strict=True)]
    worst = rules[max(range(len(rules)), key=lambda i: strata[i])]
    raise RuleErrors([_located(files, worst, "stands in a cycle through 'unless'")])


# ---------------------------------------------------------------- loading


M = TypeVar("M", bound=_Model)


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


@dataclass(frozen=True)
class Rulesets:
    """All loaded rule files with the terminology, card texts and program they share."""

    files: tuple[Ruleset, ...]
    terminology: Terminology
    texts: CardTexts
    program: Program

    @cached_property
    def digest(self) -> str:
        """One digest over all files ("sha256:...")."""
        return _digest(f.digest.encode() for f in self.files)


def load_rulesets(*folders: str | Path) -> Rulesets:
    """Load the rule files of these folders; without argument the shipped ones.

    Each folder holds `<group>/rules.yaml`; `analytes.yaml`, `valuesets/` and `cards.yaml`
    are optional and add to the shipped ones.

    Raises: RuleErrors (every fault, with file and line), TerminologyError.
    """
    home = shipped("rulesets")
    roots = [Path(f) for f in folders] or [home]
    shared = [home, *(r for r in roots if r.resolve() != home.resolve())]
    terminology = load_terminology(*shared)
    errors: list[RuleError] = []
    texts = _load_texts(shared, errors)
    shared_bytes = [p.read_bytes() for root in shared for p in _shared_files(root)]
    files: list[Ruleset] = []
    for root in roots:
        paths = sorted(root.glob("*/rules.yaml")) or sorted(root.glob("rules.yaml"))
        if not paths:
            errors.append(RuleError("no <group>/rules.yaml in this folder", path=str(root)))
        for path in paths:
            file = _load_file(path, shared_bytes, terminology, errors)
            if file:
                files.append(file)
    if errors or texts is None:
        raise RuleErrors(errors)
    files = _Rechecks(files, terminology).add(files)
    return Rulesets(tuple(files), terminology, texts, compile_program(files, terminology))


def _shared_files(root: Path) -> list[Path]:
    return [
        *(p for p in (root / "analytes.yaml", root / "cards.yaml") if p.is_file()),
        *sorted((root / "valuesets").glob("*.yaml")),
    ]


def _load_texts(roots: Sequence[Path], errors: list[RuleError]) -> CardTexts | None:
    merged: CardTexts | None = None
    for path in (p for root in roots if (p := root / "cards.yaml").is_file()):
        data, lines = _yaml(path, errors)
        texts = _validate(CardTexts, data, lines, path, errors)
        if texts is not None:
            merged = (
                texts
                if merged is None
                else texts.model_copy(
                    update={"suggestions": {**merged.suggestions, **texts.suggestions}}
                )
            )
    if merged is None and not errors:
        errors.append(RuleError("no cards.yaml found", path=str(roots[0])))
    return merged


def _load_file(
    path: Path, shared: Sequence[bytes], terminology: Terminology, errors: list[RuleError]
) -> Ruleset | None:
    data, lines = _yaml(path, errors)
    file = _validate(RuleFile, data, lines, path, errors)
    if file is None:
        return None
    line_of: dict[str, int] = {}
    for index, rule in enumerate(file.rules):
        line = lines.of(("rules", index)) if lines else 0
        line_of.setdefault(rule.id, line)
        faults = []
        if rule.recheck_of:
            faults.append("'recheck_of' is set by 'recheck' alone")
        if rule.recheck and (file.recheck is None or rule.card is None):
            faults.append("'recheck' needs the file's 'recheck' texts and the rule's 'card'")
        errors += [RuleError(m, path=str(path), line=line, rule=rule.id) for m in faults]
    digest = _digest([path.read_bytes(), *shared])
    return Ruleset(
        file.group, file.title, file.version, digest, str(path), file.rules, line_of, file.recheck
    )


# ---------------------------------------------------------------- older results


class _Rechecks:
    """Makes the companions that judge results too old for their full tier.

    A companion has the criteria of its rule with every result up to its context window, and
    does not hold where the rule itself does. A step that such a rule builds on gets a wider
    companion too, so that "low potassium" may then be an old one.
    """

    def __init__(self, files: Sequence[Ruleset], terminology: Terminology) -> None:
        self.terminology = terminology
        self.makers: dict[str, list[Rule]] = {}
        for rule in (rule for file in files for rule in file.rules):
            self.makers.setdefault(rule.finding_id, []).append(rule)
        self.widened: dict[str, None] = {}  # findings of steps that need a wider companion

    def add(self, files: Sequence[Ruleset]) -> list[Ruleset]:
        """Return the files with the companions behind their rules."""
        made: dict[str, Rule] = {}
        for file in files:
            for rule in file.rules:
                if rule.recheck and file.recheck:
                    made[rule.id] = self.companion(rule, file.recheck)
        # Steps may need steps: `widened` grows while it is worked off.
        done: set[str] = set()
        while waiting := [f for f in self.widened if f not in done]:
            for finding in waiting:
                done.add(finding)
                for rule in self.makers[finding]:
                    if rule.step:
                        made[rule.id] = self.wider_step(rule)
        result = []
        for file in files:
            rules: list[Rule] = []
            lines = dict(file.line_of)
            for rule in file.rules:
                rules.append(rule)
                if rule.id in made:
                    rules.append(made[rule.id])
                    lines[made[rule.id].id] = file.line_of.get(rule.id, 0)
            result.append(replace(file, rules=tuple(rules), line_of=lines))
        return result

    def companion(self, rule: Rule, text: RecheckText) -> Rule:
        """Make the companion that is shown: milder, and only where the rule does not hold."""
        card = rule.card
        title = rule.title
        return rule.model_copy(
            update={
                "id": f"{rule.id}-recheck",
                "finding": f"{rule.finding}-recheck" if rule.finding else None,
                "title": text.title.replace("{title}", title),
                "tier": "soon" if rule.tier_value >= Tier.urgent else "routine",
                "recheck": False,
                "recheck_of": rule.id,
                "missing": "silent",
                "when": tuple(self.wide(c) for c in rule.when),
                "unless": (*rule.unless, FindingCriterion(finding=rule.finding_id)),
                "evidence": (*text.evidence, *rule.evidence),
                "card": CardText(
                    summary=text.summary.replace("{title}", title),
                    detail=text.detail.replace("{title}", title),
                    patient=text.patient,
                    patient_summary=text.patient_summary,
                    suggestions=text.suggestions or (card.suggestions if card else ()),
                ),
            }
        )

    def wider_step(self, rule: Rule) -> Rule:
        """Make the companion of a step: the same over results up to their context window."""
        return rule.model_copy(
            update={
                "id": f"{rule.id}-recheck",
                "finding": f"{rule.finding_id}-recheck",
                "recheck_of": rule.id,
                "missing": "silent",
                "when": tuple(self.wide(c) for c in rule.when),
            }
        )

    def wide(self, c: Any) -> Any:
        """Widen a criterion to results of the whole context window."""
        if isinstance(c, AnyCriterion):
            return c.model_copy(update={"any": tuple(self.wide(p) for p in c.any)})
        if isinstance(c, AllCriterion):
            return c.model_copy(update={"all": tuple(self.wide(p) for p in c.all)})
        concept = _measured(c)
        if concept and not c.within and concept in self.terminology.analytes:
            context = self.terminology.analytes[concept].context
            return c.model_copy(update={"within": _days(context)})
        if isinstance(c, FindingCriterion) and self.ages(c.finding, frozenset()):
            shown = any(r.recheck for r in self.makers[c.finding])
            if any(r.step for r in self.makers[c.finding]):
                self.widened[c.finding] = None
            elif not shown:
                return c
            old = FindingCriterion(finding=f"{c.finding}-recheck")
            return AnyCriterion(any=(c, old))
        return c

    def ages(self, finding: str, above: frozenset[str]) -> bool:
        """Whether a finding rests on results, directly or through other findings."""
        if finding in above:
            return False
        return any(
            bool(_measured(c))
            or (isinstance(c, FindingCriterion) and self.ages(c.finding, above | {finding}))
            for rule in self.makers.get(finding, ())
            for c in _flat(rule.when)
        )


def _measured(c: Any) -> str | None:
    """The analyte whose results a criterion tests, or None."""
    if isinstance(c, LabCriterion):
        return c.lab
    if isinstance(c, RiseCriterion):
        return c.rise
    return c.ratio if isinstance(c, RatioCriterion) else None


def _flat(criteria: Sequence[Any]) -> Iterator[Any]:
    """Yield the criteria without `any` and `all` around them."""
    for c in criteria:
        if isinstance(c, AnyCriterion):
            yield from _flat(c.any)
        elif isinstance(c, AllCriterion):
            yield from _flat(c.all)
        else:
            yield c


def _days(seconds: int) -> str:
    """Write seconds as an ISO 8601 duration, as rule files do."""
    days, rest = divmod(seconds, 86_400)
    return f"P{days}D" if not rest else f"PT{seconds // 3600}H"


def _yaml(path: Path, errors: list[RuleError]) -> tuple[Any, Lines | None]:
    try:
        return load_yaml(path)
    except (RuleError, TerminologyError) as error:
        errors.append(error if isinstance(error, RuleError) else RuleError(str(error)))
    except OSError as error:
        errors.append(RuleError(f"cannot be read: {error.strerror}", path=str(path)))
    return None, None


def _validate(
    model: type[M], data: Any, lines: Lines | None, path: Path, errors: list[RuleError]
) -> M | None:
    if lines is None:
        return None
    try:
        return model.model_validate(data)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False):
            loc = tuple(p for p in fault["loc"] if not (isinstance(p, str) and p in _KINDS))
            errors.append(RuleError(_fault_text(model, fault), path=str(path), line=lines.of(loc)))
        return None


def _fault_text(model: type[_Model], fault: Any) -> str:
    where = ".".join(str(p) for p in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    return f"{where}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _digest(parts: Any) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return "sha256:" + total.hexdigest()
