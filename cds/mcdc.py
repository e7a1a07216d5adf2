"""Coverage by criterion: which criteria of the rules a set of cases has really tried.

Each criterion of each written rule must be seen holding, not holding and unknown, and seen
*deciding*: a case where it holds and without it the rule would come out otherwise, and a case
where it does not and with it the rule would (modified condition/decision coverage, in its
masking form: DO-178C, and Chilenski and Miller 1994). Companions that `recheck` makes are left
out: nobody wrote them. So are rules with `stands_in_from`, whose criteria no engine runs.

Only states that are possible are asked for. A sex, a fault of the data and the lack of a result
are never unknown. That a relative had something, or that a medicine is taken, is never denied
(unless the rule asks for a new medicine, and an old one is taken). A finding is unknown only where
one of its rules can wait for something recorded or measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from cds.cases import Case
from cds.catalog import criterion_text
from cds.evaluate import State
from cds.harness import CaseResult
from cds.program import AllOf, CompiledRule, Leaf, Node, Program, leaves
from cds.rules import Rulesets
from cds.screening import Assessment, Screener
from cds.synthesis import Goal, Place, Synthesizer, Want, Wanted, places

__all__ = ["Coverage", "OpenCriterion", "RuleCoverage", "measure", "suggest"]

Duty = Literal["yes", "no", "unknown", "decides-yes", "decides-not"]
"""What has to be seen of a criterion."""

_WORDS: Final[dict[Duty, str]] = {
    "yes": "never seen true",
    "no": "never seen false",
    "unknown": "never seen unknown",
    "decides-yes": "never decided while true",
    "decides-not": "never decided while not true",
}
_WANTS: Final[dict[Duty, Want]] = {
    "yes": "yes",
    "no": "no",
    "unknown": "unknown",
    "decides-yes": "yes",
    "decides-not": "not",
}
# What nobody waits for: known of everybody, or the lack of something, or not recorded at all.
_NEVER_AWAITED: Final = frozenset(
    "no-result sex quality patient medication stopped ordered".split()
)
_Vector = tuple[State, ...]  # one state for each criterion of a rule, `when` before `unless`


@dataclass(frozen=True, slots=True)
class OpenCriterion:
    """A criterion that the cases have not tried wholly.

    `where` is its place in the rule ("when.0.any.2"), `criterion` its words. `duties` are
    what is left to be seen.
    """

    rule: str
    path: str
    line: int
    where: str
    criterion: str
    duties: tuple[Duty, ...]

    @property
    def lacks(self) -> str:
        """What is left to be seen, in words."""
        return ", ".join(_WORDS[duty] for duty in self.duties)


@dataclass(frozen=True, slots=True)
class RuleCoverage:
    """How many criteria a rule has, and how many of them are tried wholly."""

    total: int
    covered: int


@dataclass(frozen=True)
class Coverage:
    """How many of all criteria are tried wholly; `open` are the others, in file order."""

    total: int
    covered: int
    open: tuple[OpenCriterion, ...]
    by_rule: Mapping[str, RuleCoverage]

    @property
    def percent(self) -> float:
        """Criteria tried wholly, of 100; 100 where there is none."""
        return 100 * self.covered / self.total if self.total else 100.0


def measure(results: Iterable[CaseResult], rulesets: Rulesets) -> Coverage:
    """Return what these cases have tried; a case that could not be assessed has tried nothing.

    Args:
        results: cases run with a screener for `rulesets`.
        rulesets: the rules to be covered.
    """
    watch = _Watch(rulesets.program)
    for result in results:
        if result.assessment is not None:
            watch.add(result.assessment)
    return _coverage(watch, rulesets)


def suggest(screener: Screener, open_: OpenCriterion, as_of: int) -> str | None:
    """Return cases in YAML, ready to paste, that try what is left of a criterion.

    Each was assessed and does what is missing. As few cases as needed are given; None where
    no patient was found for anything that is missing.

    Args:
        screener: for the rules that were measured.
        open_: from `Coverage.open`.
        as_of: the instant of judgment, seconds since the epoch.
    """
    synthesizer = _synthesizer(screener)
    rule = screener.rulesets.program.by_id[open_.rule]
    place = next(p for p in places(rule) if p.where == open_.where)
    index = [p.where for p in _criteria(rule)].index(open_.where)
    missing: set[Duty] = set(open_.duties)
    cases: list[str] = []
    for duty in open_.duties:
        if duty not in missing:
            continue

        def does(_: Case, assessment: Assessment, duty: Duty = duty) -> bool:
            return duty in _done(rule, _vector(rule, assessment))[index]

        goals = _goals(synthesizer, rule, place, duty)
        found = synthesizer.find(goals, as_of, does)
        if found is not None:
            forms, assessment = found
            missing -= _done(rule, _vector(rule, assessment))[index]
            cases.append(synthesizer.case(forms, assessment, rule.rule.id))
    return "".join(cases) or None


@lru_cache(maxsize=1)
def _synthesizer(screener: Screener) -> Synthesizer:
    return Synthesizer(screener)


def _goals(
    synthesizer: Synthesizer, rule: CompiledRule, place: Place, duty: Duty
) -> Iterator[Goal]:
    """Yield what may bring a duty about; where it can, the criterion decides as well."""
    leaf = place.node
    assert isinstance(leaf, Leaf)  # noqa: S101 - a criterion is a leaf
    wanted = Wanted(leaf, _WANTS[duty])
    for around in synthesizer.goals.deciding(rule, place):
        yield (wanted, *around)
    if not duty.startswith("decides"):
        yield (wanted,)


# ---------------------------------------------------------------- what is seen


def _written(program: Program) -> list[CompiledRule]:
    return [r for r in program.rules if not r.rule.recheck_of and not r.rule.stands_in_from]


def _criteria(rule: CompiledRule) -> list[Place]:
    """The criteria of a rule, in the order of `program.leaves`."""
    return [place for place in places(rule) if isinstance(place.node, Leaf)]


class _Watch:
    """Keeps every different combination of states that the criteria of a rule were seen in."""

    def __init__(self, program: Program) -> None:
        self.rules = _written(program)
        self.seen: dict[str, set[_Vector]] = {r.rule.id: set() for r in self.rules}
        # What is not touched by a patient has the same state for everybody.
        self._table = [
            (
                self.seen[rule.rule.id],
                [(leaf, leaf.key, _untouched(leaf)) for leaf in _leaves(rule)],
            )
            for rule in self.rules
        ]
        self._findings = {
            key: leaf
            for _, row in self._table
            for leaf, key, _ in row
            if key.startswith("finding/")
        }

    def add(self, assessment: Assessment) -> None:
        """Take up the states of one patient."""
        judge, normalized = assessment.judge(), assessment.normalized
        facts = assessment.evaluation.facts
        touched = {*facts, *normalized.unusable, *normalized.denied}
        findings = {key: judge(leaf).state for key, leaf in self._findings.items()}

        def state_of(leaf: Leaf, key: str, untouched: State) -> State:
            return judge(leaf).state if key in touched else findings.get(key, untouched)

        for seen, row in self._table:
            seen.add(tuple([state_of(*criterion) for criterion in row]))


def _leaves(rule: CompiledRule) -> tuple[Leaf, ...]:
    return (*leaves(rule.when), *leaves(rule.unless))


def _untouched(leaf: Leaf) -> State:
    """The state of a criterion of whose fact nothing was recorded (`evaluate`)."""
    return "no" if leaf.key.startswith(("no-result/", "sex/", "quality/")) else "unknown"


def _vector(rule: CompiledRule, assessment: Assessment) -> _Vector:
    judge = assessment.judge()
    return tuple(judge(leaf).state for leaf in _leaves(rule))


def _done(rule: CompiledRule, vector: _Vector) -> list[set[Duty]]:
    """Return, for each criterion, what one combination of states shows of it."""
    states = iter(enumerate(vector))
    when, deciding = _influence(rule.when, states)
    unless, blocking = _influence(rule.unless, states) if rule.unless else (False, set())
    decides = (set() if unless else deciding) | (blocking if when else set())
    done: list[set[Duty]] = []
    for index, state in enumerate(vector):
        duties: set[Duty] = {state}
        if index in decides:
            duties.add("decides-yes" if state == "yes" else "decides-not")
        done.append(duties)
    return done


def _influence(node: Node, states: Iterator[tuple[int, State]]) -> tuple[bool, set[int]]:
    """Return whether a tree holds, and the criteria that alone would turn it."""
    if isinstance(node, Leaf):
        index, state = next(states)
        return state == "yes", {index}
    parts = [_influence(part, states) for part in node.parts]
    neutral = isinstance(node, AllOf)
    others = [value for value, _ in parts if value != neutral]
    deciding: set[int] = set()
    for value, inner in parts:
        if len(others) - (value != neutral) == 0:
            deciding |= inner
    return (not others) if neutral else bool(others), deciding


# ---------------------------------------------------------------- what has to be seen


def _coverage(watch: _Watch, rulesets: Rulesets) -> Coverage:
    possible = _Possible(rulesets.program)
    lines = {
        rule.id: (file.path, file.line_of.get(rule.id, 0))
        for file in rulesets.files
        for rule in file.rules
    }
    open_: list[OpenCriterion] = []
    by_rule: dict[str, RuleCoverage] = {}
    for rule in watch.rules:
        found = _criteria(rule)
        done: list[set[Duty]] = [set() for _ in found]
        for vector in watch.seen[rule.rule.id]:
            for seen, new in zip(done, _done(rule, vector), strict=True):
                seen |= new
        covered = 0
        for place, seen in zip(found, done, strict=True):
            left = tuple(d for d in possible.duties(place.node) if d not in seen)
            if not left:
                covered += 1
                continue
            if "yes" in left:
                left = tuple(d for d in left if d != "decides-yes")
            path, line = lines[rule.rule.id]
            text = criterion_text(place.criterion, rulesets)
            open_.append(OpenCriterion(rule.rule.id, path, line, place.where, text, left))
        by_rule[rule.rule.id] = RuleCoverage(len(found), covered)
    return Coverage(
        sum(r.total for r in by_rule.values()),
        sum(r.covered for r in by_rule.values()),
        tuple(open_),
        by_rule,
    )


class _Possible:
    """Which states a criterion can be in; see the head of this module."""

    def __init__(self, program: Program) -> None:
        self._makers: dict[str, list[CompiledRule]] = {}
        for rule in program.rules:
            self._makers.setdefault(rule.finding_key, []).append(rule)

    def duties(self, node: Node) -> Sequence[Duty]:
        """What has to be seen of a criterion, in the order in which it is best shown."""
        assert isinstance(node, Leaf)  # noqa: S101 - a criterion is a leaf
        kind = node.key.partition("/")[0]
        duties: list[Duty] = ["yes", "decides-yes"]
        narrowed = kind == "medication" and any(atom.tests for atom in node.atoms)
        if kind not in ("history", "medication", "ordered") or narrowed:
            duties.append("no")
        if kind == "finding":
            unknown = self._waits(node.key, frozenset())
        else:
            unknown = kind not in ("no-result", "sex", "quality")
        if unknown:
            duties.append("unknown")
        return (*duties, "decides-not")

    def _waits(self, finding: str, above: frozenset[str]) -> bool:
        """Whether a finding can be unknown: `evaluate` says so of what it rests on."""
        for rule in self._makers.get(finding, ()):
            for leaf in leaves(rule.when):
                kind = leaf.key.partition("/")[0]
                if kind == "finding":
                    if leaf.key not in above and self._waits(leaf.key, above | {finding}):
                        return True
                elif kind not in _NEVER_AWAITED:
                    return True
        return False
