"""The durable engine: durable_rules does the matching, this module keeps to its safe path.

Three layers. `_Network` turns a program into *clauses*, conjunctions of at most three
messages. `_Memory` alone calls the library: it holds the compiled clauses and, while a patient
is judged, that patient's messages. `DurableEngine` chains.

durable_rules 2.0.28 silences alerts, crashes or hangs when it is used without care. This is
the care, and `tests/conformance/test_durable_rules_facts.py` shows each reason for it:

* Only the functions of its C extension are called. Its Python layer would start two timer
  threads, lose exceptions of actions, and take one unmatched fact for a failure.
* A batch with unmatched facts (code 1) is normal: the library has handled all others.
* The library tells messages apart by a 32-bit hash of their id, and props by one of their
  name. All ids and names here come from `_Names`, and no two hashes are alike.
* Numbers are whole, so no decimal point of a locale matters, and texts are never compared.
  Nothing of a patient but these numbers reaches the library.
* A prop is compared with constants only, never with a prop of another message.
* One message cannot fill two places of a clause: all tests of a key are one place.
* When the facts of a clause that fired are retracted, the library counts on past the end of
  that clause's messages (`deleteMessageFromFrame` of state.c). As long as a clause fires once
  for each patient, three messages cannot lead it out of its own memory; five can.
* Its fixed tables overflow or hang without a word; `_USES`, `_STACK` and `_GROUP` keep
  clear of their ends.
* Deleting a session before its first firing aborts the process: one session serves all
  patients, and a sentinel fires before it is deleted.
"""

from __future__ import annotations

import struct
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import Any, NamedTuple

import durable_rules_engine as library
import orjson

from cds.engine import MAX_NUMBER, Known, because, holds, taken_up
from cds.errors import EngineError
from cds.model import Fact, Firing
from cds.program import AnyOf, CompiledRule, Leaf, Node, Program, leaves

__all__ = ["DurableEngine"]

_PLACES = 3
"""Messages in a clause; see above."""

_CLAUSES = 4095
"""MAX_ACTIONS of rete.c, less the sentinel."""

_USES = 255
"""Clauses that share a place: BETA_LIST_LENGTH of rules.h, less the end mark that it needs."""

_STACK = 64
"""MAX_STACK_SIZE of events.c: tests that can wait at once while a message is matched."""

_PROPS = 250
"""Props of a message: MAX_OBJECT_PROPERTIES of state.h, less those that are always there. The
library drops a larger message of a batch, and all that follow it, without a word."""

_GROUP = 32
"""Keys that share their first test. The library tries tests one after another, at most 511."""

_MAX_THRESHOLD = min(MAX_NUMBER, 2 ** (8 * struct.calcsize("l") - 1) - 1)
"""The library reads numbers of rules as C long, and those of messages as long long."""

_DONE, _NOT_ALL_MATCHED = 0, 1
"""Codes of rules.h. Others: 2 for an id seen before, 3 for a deferred message."""

_OPERATORS = {"lt": "$lt", "le": "$lte", "gt": "$gt", "ge": "$gte"}

_Test = tuple[str, str, int]
_Place = tuple[str, tuple[_Test, ...]]
"""One message of a clause: its key, and the tests that it has to pass, sorted."""

_Clause = tuple[_Place, ...]
"""A conjunction: one place for each key, sorted."""

_NO_PROPS: Mapping[str, int] = {}
"""What findings and steps have."""


# ---------------------------------------------------------------- from program to clauses


@dataclass(slots=True)
class _Outcome:
    """What follows when a clause fires: steps, and rules (by index) that match or are blocked."""

    steps: list[str] = field(default_factory=list)
    matched: list[int] = field(default_factory=list)
    blocked: list[int] = field(default_factory=list)


class _Network:
    """The clauses of a program, with their outcomes.

    Alternatives inside a conjunction, and what is too long for one clause, become a *step*: a
    key of its own ("~3") that clauses assert and others build on. Equal ones are shared, so
    that the network grows with the text of the rules and not with the product of alternatives.

    Raises: EngineError where there are too many clauses, or a threshold is too large.
    """

    def __init__(self, program: Program) -> None:
        self.outcomes: dict[_Clause, _Outcome] = {}
        self._steps: dict[tuple[_Clause, ...], str] = {}
        for index, rule in enumerate(program.rules):
            if rule.rule.stands_in_from:
                continue
            _check_thresholds(rule)
            for outcome in self._asserting(self._alternatives(rule.when)):
                outcome.matched.append(index)
            if rule.unless is not None:
                for outcome in self._asserting(self._alternatives(rule.unless)):
                    outcome.blocked.append(index)
        if len(self.outcomes) > _CLAUSES:
            raise EngineError(
                f"the rules make {len(self.outcomes)} different conjunctions; "
                f"durable_rules takes {_CLAUSES}"
            )

    def _alternatives(self, node: Node) -> tuple[_Clause, ...]:
        """Return the conjunctions of which one must hold for the node to hold."""
        found: list[_Clause]
        if isinstance(node, Leaf):
            found = [
                ((node.key, tuple(sorted({(t.prop, t.op, t.value) for t in a.tests}))),)
                for a in node.atoms
            ]
        elif isinstance(node, AnyOf):
            found = [clause for part in node.parts for clause in self._alternatives(part)]
        else:
            parts = [self._alternatives(part) for part in node.parts]
            found = [_clause(place for part in parts for place in self._one(part))]
        return tuple(sorted(set(found))) if len(found) > 1 else tuple(found)

    def _one(self, alternatives: tuple[_Clause, ...]) -> _Clause:
        """Return one clause that holds when one of them does."""
        return alternatives[0] if len(alternatives) == 1 else ((self._step(alternatives), ()),)

    def _step(self, alternatives: tuple[_Clause, ...]) -> str:
        step = self._steps.get(alternatives)
        if step is None:
            step = self._steps[alternatives] = f"~{len(self._steps)}"
            for outcome in self._asserting(alternatives):
                outcome.steps.append(step)
        return step

    def _asserting(self, alternatives: tuple[_Clause, ...]) -> Iterator[_Outcome]:
        """Yield the outcomes of these clauses, short enough for the library."""
        for clause in alternatives:
            if not clause:
                raise EngineError("a conjunction without criteria cannot be run")
            while len(clause) > _PLACES:
                step = self._step((clause[:_PLACES],))
                clause = _clause([*clause[_PLACES:], (step, ())])
            yield self.outcomes.setdefault(clause, _Outcome())


def _clause(places: Iterable[_Place]) -> _Clause:
    tests: dict[str, set[_Test]] = {}
    for key, more in places:
        tests.setdefault(key, set()).update(more)
    return tuple(sorted((key, tuple(sorted(found))) for key, found in tests.items()))


def _check_thresholds(rule: CompiledRule) -> None:
    for leaf in (*leaves(rule.when), *leaves(rule.unless)):
        for test in (t for atom in leaf.atoms for t in atom.tests):
            if type(test.value) is not int or abs(test.value) > _MAX_THRESHOLD:
                raise EngineError(
                    f"rule '{rule.rule.id}': '{leaf.key}' is compared with {test.value}, which "
                    f"is no whole number within ±{_MAX_THRESHOLD}"
                )


# ---------------------------------------------------------------- the library


class _Names:
    """Names with no two FNV-1a hashes alike: by these alone the library tells names apart."""

    def __init__(self) -> None:
        # What the library itself puts into messages and sessions.
        own = ("id", "sid", "sid-0", "$s", "$pulse", "$forward")
        self._taken = {_fnv1a(name) for name in own}
        self._numbers = count()

    def new(self, prefix: str) -> str:
        """Return a name that was not given before."""
        while True:
            name = f"{prefix}{next(self._numbers)}"
            hashed = _fnv1a(name)
            if hashed not in self._taken:
                self._taken.add(hashed)
                return name


def _fnv1a(text: str) -> int:
    """Return the 32-bit FNV-1a hash of ASCII text (`fnv1Hash32` of state.c)."""
    hashed = 2166136261
    for byte in text.encode("ascii"):
        hashed = (hashed ^ byte) * 16777619 & 0xFFFFFFFF
    return hashed


class _Slot(NamedTuple):
    """How messages of one key are written: ``{"id":"i7","g0":0,"k8":0,"p3":70000}``.

    The group and the mark, which is always 0, say which key it is. `props` are those that
    some rule tests, each with the text that stands before its number.
    """

    group: int
    mark: str
    head: str
    props: tuple[tuple[str, str], ...]
    retraction: str


class _Memory:
    """The library with one network compiled, and the messages of one patient at a time."""

    def __init__(self, clauses: Sequence[_Clause]) -> None:
        self._names = _Names()
        self._group = self._names.new("g")
        self._slots = self._slots_for(clauses)
        end = orjson.dumps({"id": self._names.new("i"), self._group: -1}).decode()
        rules = {str(n): c for n, c in enumerate(self._conditions(clauses))}
        rules["end"] = {"all": [{"m": {self._group: -1}}]}
        try:
            self._handle = library.create_ruleset("cds", orjson.dumps(rules).decode())
        except (library.error, MemoryError) as error:
            raise EngineError(f"durable_rules refused the rules: {error}") from error
        self._freed = weakref.finalize(self, _free, self._handle, end)
        self._freed.atexit = False
        self._stored: list[str] = []

    def _slots_for(self, clauses: Sequence[_Clause]) -> dict[str, _Slot]:
        tested: dict[str, set[str]] = {}
        for key, tests in (place for clause in clauses for place in clause):
            tested.setdefault(key, set()).update(prop for prop, _, _ in tests)
        if any(len(props) > _PROPS for props in tested.values()):
            raise EngineError(f"durable_rules takes at most {_PROPS} different props of a fact")
        self._props = {p: self._names.new("p") for p in sorted(set().union(*tested.values()))}
        slots = {}
        for number, key in enumerate(sorted(tested)):
            group, mark, id_ = number // _GROUP, self._names.new("k"), self._names.new("i")
            slots[key] = _Slot(
                group,
                mark,
                f'{{"id":"{id_}","{self._group}":{group},"{mark}":0',
                tuple((prop, f',"{self._props[prop]}":') for prop in sorted(tested[key])),
                f'{{"id":"{id_}"}}',
            )
        return slots

    def _conditions(self, clauses: Sequence[_Clause]) -> Iterator[dict[str, Any]]:
        """Yield each clause as the library wants it. Raises: EngineError beyond `_STACK`."""
        uses: dict[_Place, int] = {}
        written: dict[_Place, list[dict[str, Any]]] = {}
        paths: dict[str, set[tuple[_Test, ...]]] = {}
        for clause in clauses:
            for place in clause:
                before = uses.get(place, 0)
                uses[place] = before + 1
                copy, others = divmod(before, _USES)
                if others:
                    continue
                key, tests = place
                slot = self._slots[key]
                path = tuple((self._props[prop], op, value) for prop, op, value in tests)
                if copy:
                    # Always true, but not the same test: the library keeps a list for each.
                    path += ((slot.mark, "ge", -copy),)
                paths.setdefault(key, set()).add(path)
                written[place] = [
                    {self._group: slot.group},
                    {"$ex": {slot.mark: 1}},
                    *({_OPERATORS[op]: {prop: value}} for prop, op, value in path),
                ]
            yield {"all": [{f"m{n}": {"$and": written[place]}} for n, place in enumerate(clause)]}
        for key, different in paths.items():
            if _most_waiting(different) > _STACK:
                raise EngineError(
                    f"the rules test '{key}' in more different ways than durable_rules can "
                    f"follow at once ({_STACK}); let them share thresholds"
                )

    def add(self, messages: Known) -> list[int]:
        """Add messages; return the numbers of the clauses that fire because of them."""
        texts = []
        for key, props in messages.items():
            slot = self._slots.get(key)
            if slot is not None:
                values = [f"{text}{props[prop]}" for prop, text in slot.props if prop in props]
                texts.append(f"{slot.head}{''.join(values)}}}")
                self._stored.append(slot.retraction)
        if not texts:  # an empty batch would give back a session that does not exist
            return []
        code, session = library.assert_facts(self._handle, f"[{','.join(texts)}]")
        if code not in (_DONE, _NOT_ALL_MATCHED):
            raise EngineError(f"durable_rules refused the facts of a patient (code {code})")
        fired = []
        started = library.start_action_for_state(self._handle, session)
        firing = started[1] if started else None
        while firing:  # {"<number of the clause>": {"m0": ...}}
            fired.append(int(firing[2 : firing.index('"', 2)]))
            firing = library.complete_and_start_action(self._handle, session)
        return fired

    def clear(self) -> None:
        """Forget the patient. Raises: EngineError where the library did not."""
        if self._stored:
            code, _ = library.retract_facts(self._handle, f"[{','.join(self._stored)}]")
            if code != _DONE or library.get_facts(self._handle, None) != "[]":
                raise EngineError("durable_rules did not forget the facts of a patient")
            self._stored.clear()

    def abandon(self) -> None:
        """Never free what the library holds: after a failure nobody knows its state."""
        self._freed.detach()


def _most_waiting(paths: Iterable[tuple[_Test, ...]]) -> int:
    """Return how many tests can wait at once while a message that passes all is matched."""
    branches: dict[_Test, list[tuple[_Test, ...]]] = {}
    for path in paths:
        if path:
            branches.setdefault(path[0], []).append(path[1:])
    behind = [_most_waiting(rest) for rest in branches.values()]
    return len(branches) + max((more - 1 for more in behind if more), default=0)


def _free(handle: int, end: str) -> None:
    _, session = library.assert_fact(handle, end)
    library.start_action_for_state(handle, session)
    library.complete_and_start_action(handle, session)
    library.delete_state(handle, None)
    library.delete_ruleset(handle)


# ---------------------------------------------------------------- chaining


class _Uses:
    """What each clause needs and brings about, which clauses wait for a key, and which make it.

    A clause waits for one of its keys, the one that fewest others ask for: what everybody has
    (an age, the lack of a result) then costs nothing.
    """

    def __init__(self, clauses: Sequence[_Clause], outcomes: Sequence[_Outcome]) -> None:
        self.keys = [tuple(dict.fromkeys(key for key, _ in clause)) for clause in clauses]
        self.outcomes = outcomes
        asked = Counter(key for keys in self.keys for key in keys)
        self.waiting: dict[str, list[int]] = {}
        self.makers: dict[str, list[int]] = {}
        for number, (keys, outcome) in enumerate(zip(self.keys, outcomes, strict=True)):
            self.waiting.setdefault(min(keys, key=asked.__getitem__), []).append(number)
            for step in outcome.steps:
                self.makers.setdefault(step, []).append(number)


class _Demand:
    """Which messages of one patient can decide anything, and so have to be sent.

    A clause that lacks one of its messages cannot fire, whatever the others say, and a step is of
    no use where no rule that builds on it has all that it needs. Most clauses of most patients are
    such, and every message costs the library a match, every clause that fires a call.
    """

    def __init__(self, uses: _Uses) -> None:
        self._uses = uses
        self._known: set[str] = set()  # messages, and steps that may follow from them
        self._waiting: dict[str, list[int]] = {}  # clauses that wait for another key by now
        self._whole: set[int] = set()  # clauses with all messages, or steps that may follow
        self._sought: set[int] = set()  # those of them that can decide a rule
        self._steps: set[str] = set()  # what these build on
        self._held: dict[str, Mapping[str, int]] = {}
        self._sent: dict[str, Mapping[str, int]] = {}

    def of(self, new: Known) -> Known:
        """Take up messages; return those, old ones too, that can decide something by now."""
        uses, known = self._uses, self._known
        self._held.update(new)
        self._sent = {}
        known.update(new)
        arrived = list(new)
        while arrived:
            key = arrived.pop()
            for number in (*uses.waiting.get(key, ()), *self._waiting.pop(key, ())):
                for needed in uses.keys[number]:
                    if needed not in known:
                        self._waiting.setdefault(needed, []).append(number)
                        break
                else:
                    arrived += self._complete(number)
        return self._sent

    def _complete(self, number: int) -> list[str]:
        """Take up a clause that has all that it needs; return the steps that may follow now."""
        outcome = self._uses.outcomes[number]
        self._whole.add(number)
        if outcome.matched or outcome.blocked or self._steps.intersection(outcome.steps):
            self._seek(number)
        steps = [step for step in outcome.steps if step not in self._known]
        self._known.update(steps)
        return steps

    def _seek(self, number: int) -> None:
        """Send what a clause needs, and what makes the steps that it needs."""
        if number in self._sought:
            return
        self._sought.add(number)
        for key in self._uses.keys[number]:
            if key in self._held:
                self._sent[key] = self._held.pop(key)
            elif key in self._uses.makers and key not in self._steps:
                self._steps.add(key)
                for maker in self._uses.makers[key]:
                    if maker in self._whole:
                        self._seek(maker)


class DurableEngine:
    """Forward chaining over durable_rules, one patient at a time: other threads wait.

    Raises: EngineError where the library cannot hold the program.
    """

    name = "durable"

    def __init__(self, program: Program) -> None:
        network = _Network(program)
        self._program = program
        self._strata = sorted({r.stratum for r in program.rules})
        self._clauses = list(network.outcomes)
        self._outcomes = list(network.outcomes.values())
        self._uses = _Uses(self._clauses, self._outcomes)
        self._memory: _Memory | None = _Memory(self._clauses)
        self._lock = Lock()

    def run(self, facts: Sequence[Fact]) -> list[Firing]:
        """Return the rules that hold; see `Engine.run`."""
        known = taken_up(self._program, facts)
        with self._lock:
            memory = self._memory or _Memory(self._clauses)
            self._memory = None  # given back only when it is clean again
            try:
                fired = self._chain(memory, known)
                memory.clear()
            except (library.error, MemoryError) as error:
                memory.abandon()
                raise EngineError(f"durable_rules failed: {error}") from error
            except BaseException:
                memory.abandon()
                raise
            self._memory = memory
        return [self._firing(index, known) for index in fired]

    def _chain(self, memory: _Memory, known: dict[str, Mapping[str, int]]) -> list[int]:
        """Return the rules that hold, by index; add their findings to `known`."""
        matched: set[int] = set()
        blocked: set[int] = set()
        steps: set[str] = set()
        demand = _Demand(self._uses)

        def add(new: Known) -> None:
            """Add messages, then the steps that follow from them until there are no more."""
            new = demand.of(new)
            while new:
                reached: set[str] = set()
                for number in memory.add(new):
                    outcome = self._outcomes[number]
                    matched.update(outcome.matched)
                    blocked.update(outcome.blocked)
                    reached.update(outcome.steps)
                new = dict.fromkeys(sorted(reached - steps), _NO_PROPS)
                steps.update(new)

        add(known)
        for stratum in self._strata:
            # All that an `unless` of this stratum can name is known by now.
            while new := {
                key: _NO_PROPS
                for rule in (self._program.rules[index] for index in matched - blocked)
                if rule.stratum == stratum and (key := rule.finding_key) not in known
            }:
                known.update(new)
                add(new)
        return sorted(matched - blocked)

    def _firing(self, index: int, known: Known) -> Firing:
        rule = self._program.rules[index]
        if not holds(rule.when, known) or (rule.unless and holds(rule.unless, known)):
            raise EngineError(f"durable_rules fired rule '{rule.rule.id}', which does not hold")
        return Firing(rule.rule.id, because(rule, known))
