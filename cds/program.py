"""The program that engines run: rules compiled to tests of flat facts with whole numbers.

Numbers reach the engine as *grid codes* (`grid_code`): whole numbers that keep the order of
exact values against every threshold, so that no binary fraction is ever compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Any

from cds.errors import RuleError, RuleErrors
from cds.model import Tier
from cds.rulefile import (
    AgeCriterion,
    AllCriterion,
    AnyCriterion,
    Bound,
    FindingCriterion,
    HistoryCriterion,
    LabCriterion,
    MedicationCriterion,
    NoResultCriterion,
    PresenceCriterion,
    QualityCriterion,
    RatioCriterion,
    RiseCriterion,
    Rule,
    Ruleset,
    SexCriterion,
    Shape,
)
from cds.terminology import Analyte, Terminology, seconds_of
from cds.yamlmodel import nearest

__all__ = [
    "FOREVER",
    "GRID",
    "AllOf",
    "AnyOf",
    "Atom",
    "CompiledRule",
    "Leaf",
    "Need",
    "Node",
    "Program",
    "Sequel",
    "Test",
    "compile_program",
    "compile_rule",
    "grid_code",
    "leaves",
    "need_of",
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

    criterion: Shape
    key: str
    atoms: tuple[Atom, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[Node, ...]


Node = Leaf | AllOf | AnyOf


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

    `seconds` is the window (rise, ratio: between the two results; no-result: back from now, or
    `FOREVER` with `window` "since/<medicine>").
    """

    kind: str
    concept: str
    window: str
    seconds: int

    @property
    def key(self) -> str:
        """Key of the fact."""
        return f"{self.kind}/{self.concept}/{self.window}"

    @property
    def medicine(self) -> str | None:
        """The medicines since whose start the absence counts, or None."""
        return self.window[6:] if self.window.startswith("since/") else None


def need_of(c: RiseCriterion | RatioCriterion | NoResultCriterion) -> Need:
    """Return the fact that such a criterion asks for."""
    if isinstance(c, RiseCriterion):
        return Need("rise", c.rise, c.over, seconds_of(c.over))
    if isinstance(c, RatioCriterion):
        return Need("ratio", c.ratio, c.over, seconds_of(c.over))
    if c.within:
        return Need("no-result", c.no_result, c.within, seconds_of(c.within))
    return Need("no-result", c.no_result, f"since/{c.since_start_of}", FOREVER)


@dataclass(frozen=True, slots=True)
class Sequel:
    """A fact that takes computing: that something began after a medicine's start or stop.

    `concept` says what began, `event` is "start" or "stop" of a medicine of the value set
    `medicine`.
    """

    concept: str
    event: str
    medicine: str

    @property
    def key(self) -> str:
        """Key of the fact."""
        return f"after/{self.concept}/{self.event}/{self.medicine}"


@dataclass(frozen=True, repr=False)
class Program:
    """Everything an engine needs: rules in file order, and the fact keys they ask for."""

    rules: tuple[CompiledRule, ...]
    keys: frozenset[str]
    needs: tuple[Need, ...]

    def __repr__(self) -> str:
        """Count the rules: all of them would fill a terminal or a log."""
        return f"<Program of {len(self.rules)} rules>"

    @cached_property
    def sequels(self) -> tuple[Sequel, ...]:
        """What is asked for of things that began after a medicine's start or stop, by key."""
        return tuple(
            Sequel(*key.split("/")[1:]) for key in sorted(self.keys) if key.startswith("after/")
        )

    @cached_property
    def by_id(self) -> Mapping[str, CompiledRule]:
        """Rules by id."""
        return {r.rule.id: r for r in self.rules}

    @cached_property
    def makers(self) -> Mapping[str, tuple[CompiledRule, ...]]:
        """For each key of a finding the rules that assert it."""
        table: dict[str, list[CompiledRule]] = {}
        for rule in self.rules:
            table.setdefault(rule.finding_key, []).append(rule)
        return {key: tuple(rules) for key, rules in table.items()}

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

    def rule(self, rule: Rule, group: str) -> CompiledRule:
        when = self.tree(rule.when)
        unless = AnyOf(tuple(self.node(c) for c in rule.unless)) if rule.unless else None
        return CompiledRule(rule, group, f"finding/{rule.finding_id}", 0, when, unless)

    def tree(self, criteria: Sequence[Any]) -> Node:
        if not criteria:
            return AnyOf(())  # nothing to hold: never fires (a rule that stands in for others)
        parts = tuple(self.node(c) for c in criteria)
        return parts[0] if len(parts) == 1 else AllOf(parts)

    def node(self, c: Any) -> Node:
        if isinstance(c, AnyCriterion):
            return AnyOf(tuple(self.node(part) for part in c.any))
        if isinstance(c, AllCriterion):
            return AllOf(tuple(self.node(part) for part in c.all))
        return self.leaf(c)

    def leaf(self, c: Any) -> Leaf:
        if isinstance(c, LabCriterion):
            return self.lab(c)
        if isinstance(c, (RiseCriterion, RatioCriterion)):
            return self.change(c)
        if isinstance(c, PresenceCriterion):
            return self.presence(c)
        if isinstance(c, HistoryCriterion):
            self.concept(c.history, None)
            return _leaf(c, f"history/{c.history}", [])
        if isinstance(c, MedicationCriterion):
            return self.medication(c)
        if isinstance(c, NoResultCriterion):
            return self.no_result(c)
        if isinstance(c, SexCriterion):
            return _leaf(c, f"sex/{c.sex}", [])
        if isinstance(c, AgeCriterion):
            op, value = _required_bound(c)
            return _leaf(c, "patient/age", [Test("years", op, int(value))])
        if isinstance(c, QualityCriterion):
            return _leaf(c, f"quality/{c.quality}" + (f"/{c.lab}" if c.lab else ""), [])
        assert isinstance(c, FindingCriterion)  # noqa: S101 - the union has no other member
        return _leaf(c, f"finding/{c.finding}", [])

    def presence(self, c: PresenceCriterion) -> Leaf:
        self.concept(c.concept, c.kind)
        key = f"{c.kind}/{c.concept}"
        tests = [
            Test(prop, op, seconds_of(span))
            for prop, op, span in (
                ("newest", "le", c.within),
                ("oldest", "gt", c.longer_than),
                ("onset", "le", c.onset_within),
                ("seen", "le", c.seen_within),
            )
            if span
        ]
        if c.onset:
            tests.append(Test("onset", "ge", FOREVER))
        tests += [
            Test(prop, "ge", number)
            for prop, number in (("days", c.times), ("sites", c.sites))
            if number
        ]
        if c.severity:
            tests.append(Test("severe", "ge", 1))
        if c.medicine is None:
            if c.delay:
                raise ValueError("'delay' needs 'after_start_of' or 'after_stop_of'")
            return _leaf(c, key, tests)
        if tests or (c.after_start_of and c.after_stop_of):
            raise ValueError("'after_start_of' or 'after_stop_of' takes no other key but 'delay'")
        event, medicine = c.medicine
        self.concept(medicine, "medication")
        late = [Test("delay", "le", seconds_of(c.delay))] if c.delay else []
        return _leaf(c, Sequel(c.concept, event, medicine).key, late)

    def medication(self, c: MedicationCriterion) -> Leaf:
        self.concept(c.medication, "medication")
        given = c.model_fields_set - {"medication"}
        if c.being_ordered:
            if given != {"being_ordered"}:
                raise ValueError("'being_ordered' stands alone")
            return _leaf(c, f"ordered/{c.medication}", [])
        if c.stopped_within:
            if not given <= {"stopped_within", "lasted"}:
                raise ValueError("'stopped_within' takes no other key but 'lasted'")
            tests = [Test("ago", "le", seconds_of(c.stopped_within))]
            if c.lasted:
                tests.append(Test("lasted", "ge", seconds_of(c.lasted)))
            return _leaf(c, f"stopped/{c.medication}", tests)
        if c.lasted:
            raise ValueError("'lasted' needs 'stopped_within'; use 'longer_than'")
        tests = [
            Test(prop, op, seconds_of(span))
            for prop, op, span in (
                ("since", "le", c.started_within),
                ("changed", "le", c.changed_within),
                ("longest", "gt", c.longer_than),
            )
            if span
        ]
        if c.at_least:
            tests.append(Test("count", "ge", c.at_least))
        return _leaf(c, f"medication/{c.medication}", tests)

    def no_result(self, c: NoResultCriterion) -> Leaf:
        self.analyte(c.no_result)
        if (c.within is None) == (c.since_start_of is None):
            raise ValueError("'no_result' needs one of 'within' and 'since_start_of'")
        if c.since_start_of:
            self.concept(c.since_start_of, "medication")
        need = need_of(c)
        self.needs[need.key] = need
        return _leaf(c, need.key, [])

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
        need = need_of(c)
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
    return f"unknown {what} '{name}'{nearest(name, names)}"


def _required_bound(c: Bound) -> tuple[str, Decimal]:
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


def _leaf(c: Shape, key: str, tests: Sequence[Test]) -> Leaf:
    return Leaf(c, key, (Atom(key, tuple(tests)),))


def compile_rule(
    rule: Rule, group: str, terminology: Terminology
) -> tuple[CompiledRule, tuple[Need, ...]]:
    """Compile one rule by itself, in stratum 0; also return which of its facts take computing.

    Raises: ValueError that says what is wrong with a criterion.
    """
    compiler = _Compiler(terminology)
    return compiler.rule(rule, group), tuple(compiler.needs.values())


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
            if rule.yields_to and rule.tier_value is Tier.emergency:
                fail("an emergency yields to nothing: remove 'yields_to'")
                continue
            try:
                compiled.append(compiler.rule(rule, file.group))
            except ValueError as error:
                fail(str(error))
    asserted = {r.finding_key for r in compiled}
    keys: set[str] = set()
    for r in compiled:
        for finding in r.rule.yields_to:
            if f"finding/{finding}" not in asserted:
                message = _unknown("finding", finding, {k[8:]: 0 for k in asserted})
                errors.append(_located(files, r, message + " (no rule asserts it)"))
        named = [leaf.key for leaf in (*leaves(r.when), *leaves(r.unless))]
        for key in named:
            if key.startswith("finding/") and key not in asserted:
                message = _unknown("finding", key[8:], {k[8:]: 0 for k in asserted})
                errors.append(_located(files, r, message + " (no rule asserts it)"))
        keys.update(named)
    errors += _yielding_in_a_circle(compiled, files)
    if errors:
        raise RuleErrors(errors)
    ordered = _stratify(compiled, files)
    needs = tuple(compiler.needs[key] for key in sorted(compiler.needs))
    return Program(tuple(ordered), frozenset(keys), needs)


def _located(files: Sequence[Ruleset], r: CompiledRule, message: str) -> RuleError:
    file = next(f for f in files if f.group == r.group and r.rule in f.rules)
    return RuleError(message, path=file.path, line=file.line_of.get(r.rule.id), rule=r.rule.id)


def _yielding_in_a_circle(
    rules: Sequence[CompiledRule], files: Sequence[Ruleset]
) -> Iterator[RuleError]:
    """Yield a fault for each finding that yields to itself in the end: nobody would be shown it."""
    above: dict[str, set[str]] = {}
    for r in rules:
        above.setdefault(r.rule.finding_id, set()).update(r.rule.yields_to)
    for r in rules:
        reached, waiting = set[str](), list(r.rule.yields_to)
        while waiting:
            new = above.get(waiting.pop(), set()) - reached
            reached |= new
            waiting += new
        if r.rule.finding_id in reached | set(r.rule.yields_to):
            yield _located(files, r, "yields to itself, perhaps through others: a circle")


def _stratify(rules: list[CompiledRule], files: Sequence[Ruleset]) -> list[CompiledRule]:
    """Put each rule behind all rules whose findings its `unless` names (stratified negation)."""
    makers: dict[str, list[int]] = {}
    for i, r in enumerate(rules):
        makers.setdefault(r.finding_key, []).append(i)
    strata = [0] * len(rules)
    # What each rule has to stand behind: the makers of the findings that it names.
    behind = [
        (i, j, step)
        for i, r in enumerate(rules)
        for node, step in ((r.when, 0), (r.unless, 1))
        for leaf in leaves(node)
        for j in makers.get(leaf.key, ())
    ]
    for _ in range(len(rules) + 1):
        changed = False
        for i, j, step in behind:
            if strata[i] < strata[j] + step:
                strata[i] = strata[j] + step
                changed = True
        if not changed:
            return [replace(r, stratum=s) if s else r for r, s in zip(rules, strata, strict=True)]
    worst = rules[max(range(len(rules)), key=lambda i: strata[i])]
    raise RuleErrors([_located(files, worst, "stands in a cycle through 'unless'")])
