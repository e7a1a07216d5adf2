"""What follows from what: which rules can never hold, and which hold wherever another one does.

A rule's criteria are written out as *cases* (disjunctive normal form): each a set of facts that
together make the rule hold, with the range of numbers that each prop of a fact may have. Findings
are replaced by what makes them. The answers are sound, not complete: what is called impossible is
impossible, and what cannot be decided counts as possible. One fact has one value here; that two
results of one uncertain time may disagree is left out, because no rule should rest on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Final

from cds.program import AllOf, AnyOf, Atom, CompiledRule, Leaf, Node, Program, leaves
from cds.terminology import Terminology

__all__ = ["Case", "Logic", "TooManyCasesError", "always"]

Range = tuple[int, int]
Case = Mapping[str, Mapping[str, Range]]
"""Facts that must be there, by key, each with the inclusive ranges of its props."""

_LIMIT: Final = 600  # cases of one rule; above it findings are not written out, then nothing is
_LOWEST, _HIGHEST = -(1 << 60), 1 << 60
_ANY: Final[Range] = (_LOWEST, _HIGHEST)
_NOTHING: Final[Range] = (1, 0)
_TIMES: Final = (
    *("age", "newest", "oldest", "onset", "seen", "delay"),
    *("since", "changed", "longest", "ago", "lasted"),
)


class TooManyCasesError(Exception):
    """The criteria have more cases than are looked at."""


class Logic:
    """Answers for the rules of one program."""

    def __init__(self, program: Program, terminology: Terminology | None) -> None:
        self.program = program
        self.terminology = terminology
        self.makers: dict[str, list[CompiledRule]] = {}
        for rule in program.rules:
            self.makers.setdefault(rule.finding_key, []).append(rule)
        self._cases: dict[str, list[Case] | None] = {}
        self._windows = {
            need.key: (need.concept, need.seconds)
            for need in program.needs
            if need.kind == "no-result" and need.medicine is None
        }

    # ------------------------------------------------------------ can it hold?

    @cached_property
    def reachable(self) -> frozenset[str]:
        """Keys of the findings that some rule can make, beginning with those that need no other.

        Rules that only wait for each other are never reached, and nothing is by a rule that
        stands in for others, which no engine runs.
        """
        reached: set[str] = set()
        waiting = []
        for rule in self.program.rules:
            try:
                cases = [c for c in self._write(rule.when, frozenset(), 0) if not self._clash(c)]
            except TooManyCasesError:
                reached.add(rule.finding_key)
                continue
            if rule.unless is not None:
                cases = [c for c in cases if not self.entails(c, rule.unless)]
            wanted = [{key for key in c if key.startswith("finding/")} for c in cases]
            waiting.append((rule.finding_key, wanted))
        while True:
            new = {key for key, wanted in waiting if any(w <= reached for w in wanted)} - reached
            if not new:
                return frozenset(reached)
            reached |= new

    def never(self, rule: CompiledRule) -> str | None:
        """Why a rule can never hold, in words; None where it can, or where nobody knows."""
        written = None if rule.rule.stands_in_from else self._written(rule)
        if written is None:
            return None
        possible = [case for case in written if not self.contradiction(case)]
        if not possible:
            return _reasons(self.contradiction(case) for case in written)
        if rule.unless and all(self.entails(case, rule.unless) for case in possible):
            return "what 'unless' excludes holds wherever 'when' does"
        return None

    def never_part(self, rule: CompiledRule) -> Iterator[tuple[Leaf, str]]:
        """Yield the first criterion of each alternative that can never hold, and why."""
        for whole, part in _alternatives(rule.when, rule.when):
            try:
                written = self._write(whole, frozenset(), 0)
            except TooManyCasesError:
                continue
            reasons = [self.contradiction(case) for case in written]
            if all(reasons):
                yield next(leaves(part)), _reasons(reasons)

    def cases(self, rule: CompiledRule) -> list[Case] | None:
        """The possible cases of a rule; None where there are too many."""
        if rule.rule.id not in self._cases:
            written = self._written(rule)
            possible = written and [c for c in written if not self.contradiction(c)]
            self._cases[rule.rule.id] = possible
        return self._cases[rule.rule.id]

    def _written(self, rule: CompiledRule) -> list[Case] | None:
        """The cases of a rule, with findings written out where that gives not too many."""
        for depth in (4, 0):
            try:
                return list(self._write(rule.when, frozenset({rule.finding_key}), depth))
            except TooManyCasesError:
                continue
        return None

    def _write(self, node: Node, above: frozenset[str], depth: int) -> Sequence[Case]:
        if isinstance(node, Leaf):
            return [c for atom in node.atoms for c in self._atom(atom, above, depth)]
        if isinstance(node, AnyOf):
            return _few(chain.from_iterable(self._write(p, above, depth) for p in node.parts))
        cases: Sequence[Case] = [{}]
        for part in node.parts:
            more = self._write(part, above, depth)
            cases = _few(_both(a, b) for a in cases for b in more)
        return cases

    def _atom(self, atom: Atom, above: frozenset[str], depth: int) -> Sequence[Case]:
        case: Case = {atom.key: _ranges(atom)}
        if not depth or not atom.key.startswith("finding/") or atom.key in above:
            return [case]
        makers = [r for r in self.makers.get(atom.key, ()) if not r.rule.stands_in_from]
        inner = above | {atom.key}
        return _few(
            _both(case, c) for maker in makers for c in self._write(maker.when, inner, depth - 1)
        ) or [case]

    # ------------------------------------------------------------ contradictions

    def contradiction(self, case: Case) -> str | None:
        """Why the facts of a case cannot be together, or None."""
        for key in case:
            if key.startswith("finding/") and key not in self.reachable:
                return f"no rule can come to the finding '{key[8:]}'"
        return self._clash(case)

    def _clash(self, case: Case) -> str | None:
        """The same, whether or not some rule can come to the findings in it."""
        sexes = sorted(key[4:] for key in case if key.startswith("sex/"))
        if len(sexes) > 1:
            return f"the sex cannot be {' and '.join(sexes)} at once"
        for key, props in case.items():
            concept = key.split("/")[1]
            if any(low > high for low, high in props.values()):
                what = "times" if _empty(props, _TIMES) else "limits"
                return f"nothing fits the {what} asked of '{concept}'"
            if props.get("high", _ANY)[0] > props.get("low", _ANY)[1]:  # two ends of one value
                return f"nothing fits the limits asked of '{concept}'"
            if key in self._windows and self._has_result(case, *self._windows[key]):
                return f"a result of '{concept}' is asked for, and that there is none"
        return None

    def _has_result(self, case: Case, concept: str, seconds: int) -> bool:
        """Whether the case needs a result of the analyte that is at most that old."""
        return any(
            kind in ("lab", "rise", "ratio")
            and name == concept
            and props.get("age", _ANY)[1] <= seconds
            for (kind, name), props in ((key.split("/")[:2], p) for key, p in case.items())
        )

    # ------------------------------------------------------------ what follows

    def implies(self, a: CompiledRule, b: CompiledRule) -> bool:
        """Whether `b` surely holds wherever `a` does."""
        cases = self.cases(a)
        if not cases:
            return False
        absent = list(leaves(a.unless))
        return all(
            self.entails(case, b.when)
            and (b.unless is None or self._refuted(b.unless, case, absent))
            for case in cases
        )

    def entails(self, case: Case, node: Node, above: frozenset[str] = frozenset()) -> bool:
        """Whether a tree surely holds where the facts of the case are there."""
        if isinstance(node, AllOf):
            return all(self.entails(case, part, above) for part in node.parts)
        if isinstance(node, AnyOf):
            return any(self.entails(case, part, above) for part in node.parts)
        if any(self._passes(case, atom) for atom in node.atoms):
            return True
        if not node.key.startswith("finding/") or node.key in above:
            return False
        return any(
            maker.unless is None
            and not maker.rule.stands_in_from
            and self.entails(case, maker.when, above | {node.key})
            for maker in self.makers.get(node.key, ())
        )

    def _passes(self, case: Case, atom: Atom) -> bool:
        for key in self._stronger(atom.key, case):
            props = case[key]
            if all(_inside(props.get(prop, _ANY), r) for prop, r in _ranges(atom).items()):
                return True
        return False

    def _stronger(self, key: str, case: Case) -> Iterator[str]:
        """Keys in the case whose fact brings the fact of `key` with it, ranges included."""
        if key in case:
            yield key
        kind, _, rest = key.partition("/")
        if key in self._windows:
            concept, seconds = self._windows[key]
            for other, (its, longer) in self._windows.items():
                if other != key and other in case and its == concept and longer >= seconds:
                    yield other
        elif kind in ("symptom", "condition", "medication", "lifestyle"):
            for inner in self._included(rest):
                if f"{kind}/{inner}" in case:
                    yield f"{kind}/{inner}"

    def _included(self, name: str) -> Iterator[str]:
        """The value sets that this one includes and whose records count for it as long."""
        if self.terminology and name in self.terminology.value_sets:
            sets = self.terminology.value_sets
            own = sets[name].counts_for
            for inner in self.terminology.included(name):
                if own is None or sets[inner].counts_for == own:
                    yield inner

    def _refuted(self, node: Node, case: Case, absent: Sequence[Leaf]) -> bool:
        """Whether a tree surely does not hold: in the case, or because `absent` do not."""
        if isinstance(node, AllOf):
            return any(self._refuted(part, case, absent) for part in node.parts)
        if isinstance(node, AnyOf):
            return all(self._refuted(part, case, absent) for part in node.parts)
        return all(
            any(self.entails(alone, leaf) for leaf in absent)
            or self.contradiction(_both(case, alone)) is not None
            for alone in ({atom.key: _ranges(atom)} for atom in node.atoms)
        )

    def together(self, a: CompiledRule, b: CompiledRule) -> bool:
        """Whether one patient may satisfy both rules; True where nobody knows."""
        for one, other in ((a, b), (b, a)):
            cases = self.cases(one)
            if cases and other.unless and all(self.entails(c, other.unless) for c in cases):
                return False
        left, right = self.cases(a), self.cases(b)
        if left is None or right is None or len(left) * len(right) > _LIMIT * 10:
            return True
        return any(self.contradiction(_both(x, y)) is None for x in left for y in right)


def always(node: Node | None, makers: Mapping[str, Sequence[CompiledRule]]) -> frozenset[str]:
    """Keys of the facts without which a tree never holds, also behind findings."""
    return _always(node, makers, frozenset())


def _always(
    node: Node | None, makers: Mapping[str, Sequence[CompiledRule]], above: frozenset[str]
) -> frozenset[str]:
    if node is None:
        return frozenset()
    if isinstance(node, Leaf):
        keys = frozenset({node.key})
        behind = [m for m in makers.get(node.key, ()) if not m.rule.stands_in_from]
        if node.key in above or not behind:
            return keys
        inner = [_always(m.when, makers, above | {node.key}) for m in behind]
        return keys | frozenset.intersection(*inner)
    parts = [_always(part, makers, above) for part in node.parts]
    if not parts:
        return frozenset()
    return frozenset().union(*parts) if isinstance(node, AllOf) else frozenset.intersection(*parts)


def _ranges(atom: Atom) -> dict[str, Range]:
    ranges: dict[str, Range] = {}
    for test in atom.tests:
        low, high = ranges.get(test.prop, _ANY)
        match test.op:
            case "lt":
                high = min(high, test.value - 1)
            case "le":
                high = min(high, test.value)
            case "gt":
                low = max(low, test.value + 1)
            case _:
                low = max(low, test.value)
        ranges[test.prop] = (low, high)
    if ranges.get("oldest", _ANY)[0] > ranges.get("newest", _ANY)[1]:
        ranges["newest"] = _NOTHING  # one criterion, so one record is meant
    return ranges


def _both(a: Case, b: Case) -> Case:
    """The facts of two cases together."""
    merged = dict(a)
    for key, props in b.items():
        before = merged.get(key)
        if before is None:
            merged[key] = props
            continue
        ranges = dict(before)
        for prop, (low, high) in props.items():
            its_low, its_high = ranges.get(prop, _ANY)
            ranges[prop] = (max(low, its_low), min(high, its_high))
        merged[key] = ranges
    return merged


def _reasons(reasons: Iterable[str | None]) -> str:
    return "; ".join(dict.fromkeys(r for r in reasons if r))


def _few(cases: Iterable[Case]) -> list[Case]:
    found: list[Case] = []
    for case in cases:
        found.append(case)
        if len(found) > _LIMIT:
            raise TooManyCasesError
    return found


def _inside(inner: Range, outer: Range) -> bool:
    return inner[0] >= outer[0] and inner[1] <= outer[1]


def _empty(props: Mapping[str, Range], names: Sequence[str]) -> bool:
    return any(props[n][0] > props[n][1] for n in names if n in props)


def _alternatives(node: Node, root: Node) -> Iterator[tuple[Node, Node]]:
    """Yield, for each part of each `any`, the whole tree with only that part, and the part."""
    if isinstance(node, Leaf):
        return
    for part in node.parts:
        if isinstance(node, AnyOf) and len(node.parts) > 1:
            yield _with(root, node, part), part
        yield from _alternatives(part, root)


def _with(tree: Node, old: Node, new: Node) -> Node:
    """The tree with one node (this very object) replaced."""
    if tree is old:
        return new
    if isinstance(tree, Leaf):
        return tree
    parts = tuple(_with(part, old, new) for part in tree.parts)
    return AllOf(parts) if isinstance(tree, AllOf) else AnyOf(parts)
