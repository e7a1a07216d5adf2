"""Goals: which criteria must hold, and which must not, for a rule to come out as wanted.

A goal is a conjunction of `Wanted` criteria. What a rule offers several ways to reach (`any`,
findings of several rules) comes as several goals, the shortest first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Final, Literal

from cds.program import AllOf, AnyOf, CompiledRule, Leaf, Node, Program, leaves
from cds.rulefile import AllCriterion, AnyCriterion, Shape

__all__ = ["NOTHING", "Goal", "Goals", "Place", "Want", "Wanted", "places"]

Want = Literal["yes", "not", "no", "unknown", "unusable"]
"""How a criterion must be judged. "not" is no or unknown; "unusable" is unknown although something
was recorded of it, so that a finding that rests on it is unknown too."""

Side = Literal["when", "unless"]
_SIDES: Final[tuple[Side, Side]] = ("when", "unless")

_BRANCHES: Final = 40
"""Ways to reach one finding that are tried at most."""

_RESULTS: Final = ("lab/", "rise/", "ratio/")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One criterion and how it must be judged."""

    leaf: Leaf
    want: Want


Goal = tuple[Wanted, ...]
NOTHING: Final[Goal] = ()
_Make = Callable[[Node], Iterator[Goal]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a rule: ``when.0.any.2``, as written and as compiled.

    `criterion` is None for `when` and `unless` themselves. `path` leads to `node` through the
    parts of the whole side, see `side_of`.
    """

    where: str
    side: Side
    path: tuple[int, ...]
    node: Node
    criterion: Shape | None


def side_of(rule: CompiledRule, side: Side) -> AllOf | AnyOf:
    """Return the whole of `when` (an `AllOf`) or `unless` (an `AnyOf`), also of one entry."""
    if side == "unless":
        return rule.unless if isinstance(rule.unless, AnyOf) else AnyOf(())
    entries = rule.rule.when
    if len(entries) > 1 and isinstance(rule.when, AllOf):
        return rule.when
    return AllOf((rule.when,) if entries else ())


def places(rule: CompiledRule) -> Iterator[Place]:
    """Yield each place of a rule, outer before inner, as written."""
    for side in _SIDES:
        written = rule.rule.when if side == "when" else rule.rule.unless
        if written:
            node = side_of(rule, side)
            yield Place(side, side, (), node, None)
            yield from _places(side, side, (), node, written)


def _places(
    side: Side, where: str, path: tuple[int, ...], node: AllOf | AnyOf, written: Sequence[Shape]
) -> Iterator[Place]:
    for index, (part, criterion) in enumerate(zip(node.parts, written, strict=True)):
        here, inner = f"{where}.{index}", (*path, index)
        yield Place(here, side, inner, part, criterion)
        if isinstance(criterion, AnyCriterion) and isinstance(part, AnyOf):
            yield from _places(side, f"{here}.any", inner, part, criterion.any)
        elif isinstance(criterion, AllCriterion) and isinstance(part, AllOf):
            yield from _places(side, f"{here}.all", inner, part, criterion.all)


class Goals:
    """What must be wanted of criteria so that the rules of one program come out as wanted."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._costs: dict[str, int] = {}

    @cached_property
    def _makers(self) -> dict[str, list[CompiledRule]]:
        makers: dict[str, list[CompiledRule]] = {}
        for rule in self.program.rules:
            if not rule.rule.stands_in_from:
                makers.setdefault(rule.finding_key, []).append(rule)
        return makers

    # ------------------------------------------------------------ whole rules

    def fires(self, rule: CompiledRule) -> Iterator[Goal]:
        """Yield goals with which the rule holds."""
        yield from self._together(
            [(self._true, rule.when), *([(self._false, rule.unless)] if rule.unless else [])]
        )

    def none_of(self, rules: Sequence[CompiledRule]) -> Iterator[Goal]:
        """Yield goals with which none of the rules holds, whatever their `unless`."""
        yield from self._together([(self._false, rule.when) for rule in rules])

    def deciding(self, rule: CompiledRule, place: Place) -> Iterator[Goal]:
        """Yield goals for all but the place, with which the place alone decides the rule."""
        other: list[tuple[_Make, Node]]
        if place.side == "when":
            other = [(self._false, rule.unless)] if rule.unless else []
        else:
            other = [(self._true, rule.when)]
        around = self._around(side_of(rule, place.side), place.path)
        yield from self._together([*around, *other])

    def _around(self, node: Node, path: tuple[int, ...]) -> Iterator[tuple[_Make, Node]]:
        """Yield what the siblings along a path must be: true under `all`, false under `any`."""
        if not path or isinstance(node, Leaf):
            return
        make: _Make = self._true if isinstance(node, AllOf) else self._false
        for index, part in enumerate(node.parts):
            if index != path[0]:
                yield make, part
        yield from self._around(node.parts[path[0]], path[1:])

    def split(self, node: Node) -> Iterator[Goal]:
        """Yield goals with which some, but not all parts of a node hold."""
        if isinstance(node, Leaf):
            return
        for index in sorted(range(len(node.parts)), key=lambda i: self._cost(node.parts[i])):
            rest: list[tuple[_Make, Node]] = [
                (self._false, part) for k, part in enumerate(node.parts) if k != index
            ]
            yield from self._together([(self._true, node.parts[index]), *rest])

    # ------------------------------------------------------------ trees

    def true(self, node: Node) -> Iterator[Goal]:
        """Yield goals with which a tree holds."""
        yield from self._true(node)

    def false(self, node: Node) -> Iterator[Goal]:
        """Yield goals with which a tree does not hold."""
        yield from self._false(node)

    def _true(self, node: Node) -> Iterator[Goal]:
        if isinstance(node, Leaf):
            yield (Wanted(node, "yes"),)
        elif isinstance(node, AllOf):
            yield from self._together([(self._true, part) for part in node.parts])
        else:
            for part in sorted(node.parts, key=self._cost):
                yield from self._true(part)

    def _false(self, node: Node) -> Iterator[Goal]:
        if isinstance(node, Leaf):
            yield (Wanted(node, "not"),)
        elif isinstance(node, AnyOf):
            yield from self._together([(self._false, part) for part in node.parts])
        else:
            # What is cheap to have is costly to lack: that there is no result, above all.
            for part in sorted(node.parts, key=self._cost, reverse=True):
                yield from self._false(part)

    def _together(self, jobs: Sequence[tuple[_Make, Node]]) -> Iterator[Goal]:
        """Yield every combination of one goal for each job."""
        if not jobs:
            yield NOTHING
            return
        (make, node), rest = jobs[0], jobs[1:]
        for first in make(node):
            for more in self._together(rest):
                yield first + more

    def _cost(self, node: Node) -> int:
        """How much has to be said of a patient so that a tree holds."""
        if isinstance(node, AllOf):
            return sum(self._cost(part) for part in node.parts)
        if isinstance(node, AnyOf):
            return min((self._cost(part) for part in node.parts), default=99)
        if not node.key.startswith("finding/"):
            kind = node.key.partition("/")[0]
            return {"no-result": 0, "rise": 3, "ratio": 3, "lab": 2, "quality": 2}.get(kind, 1)
        if node.key not in self._costs:
            self._costs[node.key] = 99  # against circles
            makers = self._makers.get(node.key, ())
            self._costs[node.key] = min((self._cost(r.when) for r in makers), default=99)
        return self._costs[node.key]

    # ------------------------------------------------------------ findings

    def flat(self, goal: Goal, possible: Callable[[Goal], bool] = lambda _: True) -> Iterator[Goal]:
        """Yield goals of facts alone: findings are made, or kept away, by their rules.

        What leaves no choice is settled first, and a choice that contradicts it is not followed:
        a finding that a hundred rules can make has more combinations than can ever be tried.

        Args:
            goal: what is wanted of facts and findings.
            possible: whether a part of a goal of facts can be had together.
        """
        jobs = [_Job(w.leaf, w.want, frozenset()) for w in goal]
        yield from self._settle(NOTHING, jobs, (), possible, Counter())

    def _settle(
        self,
        facts: Goal,
        jobs: Sequence[_Job],
        choices: tuple[_Choice, ...],
        possible: Callable[[Goal], bool],
        hard: Counter[_Name],
        chosen: _Name = (),
    ) -> Iterator[Goal]:
        """Yield every way to do the jobs and make the choices beside the facts.

        A choice of which ways were found impossible is made before the others: `hard` counts
        them, `chosen` is the choice that the jobs are a way of.
        """
        waiting, before = list(reversed(jobs)), facts
        while waiting:
            job = waiting.pop()
            if isinstance(job.node, Leaf) and not job.node.key.startswith("finding/"):
                wanted = Wanted(job.node, job.want)
                facts = facts if wanted in facts else (*facts, wanted)
                continue
            ways = self._ways(job)
            if not ways:
                return
            if len(ways) == 1:
                waiting += reversed(ways[0])
            else:
                choices = (*choices, ways)
        if len(facts) > len(before) and not possible(facts):
            hard[chosen] += 1
            return
        if not choices:
            yield facts
            return
        number = max(range(len(choices)), key=lambda n: hard[_named(choices[n])])
        choice, rest = choices[number], choices[:number] + choices[number + 1 :]
        for way in choice:
            yield from self._settle(facts, way, rest, possible, hard, _named(choice))

    def _ways(self, job: _Job) -> list[list[_Job]]:
        """Return the ways to do a job, the best first, each as the jobs that it takes."""
        want, node, above = job.want, job.node, job.above
        if isinstance(node, Leaf):
            if node.key in above:
                return []
            return self._finding(Wanted(node, want), above | {node.key})
        parts = [_Job(part, want, above) for part in node.parts]
        if isinstance(node, AllOf) == (want == "yes"):
            return [parts]
        # What is cheap to have is costly to lack: that there is no result, above all.
        parts.sort(key=lambda part: self._cost(part.node), reverse=want != "yes")
        return [[part] for part in parts]

    def _finding(self, wanted: Wanted, above: frozenset[str]) -> list[list[_Job]]:
        makers = self._makers.get(wanted.leaf.key, [])
        if wanted.want == "yes":
            return [
                [
                    _Job(r.when, "yes", above),
                    *([_Job(r.unless, "not", above)] if r.unless else []),
                ]
                for r in sorted(makers, key=lambda r: self._cost(r.when))
            ]
        if wanted.want == "not":
            return [[_Job(r.when, "not", above) for r in makers]]
        silent = list(islice(self.none_of(makers), _BRANCHES))
        found = [leaf for r in makers for leaf in leaves(r.when)]
        goals: list[Goal]
        if wanted.want == "no":
            known = tuple(
                Wanted(leaf, "no") for leaf in found if leaf.key.startswith((*_RESULTS, "finding/"))
            )
            goals = [_merged(goal, known) for goal in silent]
        else:
            goals = [
                _merged(
                    goal,
                    (Wanted(leaf, "unknown" if leaf.key.startswith(_RESULTS) else "unusable"),),
                )
                for leaf in found
                for goal in silent
            ]
        return [[_Job(w.leaf, w.want, above) for w in goal] for goal in goals[:_BRANCHES]]


@dataclass(frozen=True, slots=True)
class _Job:
    """Part of a rule and how it must be judged; `above` are the findings that it is part of."""

    node: Node
    want: Want
    above: frozenset[str]


_Choice = Sequence[Sequence[_Job]]
_Name = tuple[int, ...]


def _named(choice: _Choice) -> _Name:
    """Return what tells a choice from others: the parts of rules that its ways begin with."""
    return tuple(id(job.node) for way in choice for job in way[:1])


def _merged(goal: Goal, sharper: Goal) -> Goal:
    """Replace what a goal wants of criteria by something sharper."""
    keys = {wanted.leaf.key for wanted in sharper}
    return tuple(w for w in goal if w.leaf.key not in keys or w.want == "yes") + sharper
