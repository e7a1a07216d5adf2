"""Medicines: from what was read to facts by class, and when each was started or stopped.

A use is of all ingredients of its product. Which they are is said by its codes, else by its text;
where both speak and disagree, neither counts. What a set of medicines asks for beyond ingredients
(a route, no company in the product) stands in the value set. The uses of one ingredient are
courses: a refill, a statement beside a request, and another product of it are no new start.

Facts, for a set that rules ask for:

* ``medication/<set>``: one is taken. ``since``: seconds since the newest course began (`FOREVER`
  where unknown); ``changed``: since the newest known begin or raise of a dose; ``longest``: for
  how long the longest known course has run (0 where unknown); ``count``: ingredients taken.
* ``stopped/<set>``: one was stopped that is not taken now. ``ago``: seconds since the newest known
  stop; ``lasted``: how long that course had run (0 where unknown).
* ``ordered/<set>``: a draft order names one. ``age``: seconds since it was written (0: undated).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Final, NamedTuple

from cds.formulary import SYSTEMIC
from cds.model import Coding, Doubt, Fact, Instant, MedicationUse, Problem, Source
from cds.program import FOREVER
from cds.results import DAY, Normalized, future
from cds.terminology import SYSTEMS, Terminology, ValueSet
from cds.units import ucum_of, unit_of

__all__ = ["Courses", "Medicines"]

# FHIR R4 and R5: MedicationStatement.status, MedicationRequest.status and .intent.
_IN_USE: Final = frozenset({"active", "recorded", "unknown"})
_ENDED: Final = frozenset({"completed", "ended"})
_HALTED: Final = frozenset({"stopped", "on-hold"})
_NOT_USED: Final = frozenset({"not-taken", "intended", "draft", "cancelled", "entered-in-error"})
_STATUSES: Final = _IN_USE | _ENDED | _HALTED | _NOT_USED
_NOT_ORDERS: Final = frozenset({"proposal", "plan", "option"})
_MANY: Final = 2_048  # more distinct medicines than most senders use; keeps the memory bounded

_OWN: Final = frozenset({SYSTEMS["rxnorm"], SYSTEMS["medicine"]})
_UNKNOWN: Final = "?"  # begins the name of an ingredient that no table knows

_Event = tuple[Instant | None, str]


@dataclass(frozen=True, slots=True)
class Courses:
    """For each set of medicines when one was started or stopped, with the resource.

    `starts` are of the courses that run now; `stops` of ingredients that are not taken now. None
    where it is known that it happened, but not when.
    """

    starts: Mapping[str, tuple[_Event, ...]] = field(default_factory=dict)
    stops: Mapping[str, tuple[_Event, ...]] = field(default_factory=dict)


class _Member(NamedTuple):
    """One ingredient of a product, the sets that it makes the use be of, and what is doubtful.

    `listed` are the sets that name it itself, asked for or not: what rules ask must not decide
    which records speak of the same medicine.
    """

    ingredient: str
    listed: tuple[str, ...]
    sets: tuple[str, ...]
    doubtful: frozenset[str]  # sets for which the route is only supposed


@dataclass(frozen=True, slots=True)
class _Drug:
    """What one combination of codes, text and route is.

    `concerned` are the sets of a code and a text that contradict each other, None where they do
    not. `known` says that rules can see it, `in_use` that its text does not deny its use.
    """

    members: tuple[_Member, ...]
    known: bool
    by_name: bool = False
    in_use: bool = True
    concerned: tuple[str, ...] | None = None


class _Use(NamedTuple):
    """One use of one ingredient, with the times that are known of it."""

    use: MedicationUse
    doubtful: frozenset[str]
    by_name: bool
    start: Instant | None
    stop: Instant | None
    own: Instant | None  # the time that the record speaks of


class _Span(NamedTuple):
    """A time in which an ingredient is known to have been taken, by one use of it."""

    start: int
    stop: int
    begin: Instant
    stopped: Instant | None
    use: MedicationUse


class _Taken(NamedTuple):
    """What is said of a set of medicines that are taken; `doubtful`: sources differ by set."""

    props: Mapping[str, int]
    begins: tuple[_Event, ...]
    sources: tuple[Source, ...]
    doubtful: bool


@dataclass(slots=True)
class _Group:
    """The uses of one ingredient by the same routes, by what they say of it now."""

    ingredient: str
    sets: tuple[str, ...]
    taken: list[_Use] = field(default_factory=list)
    halted: list[_Use] = field(default_factory=list)
    ended: list[_Use] = field(default_factory=list)
    denied: list[_Use] = field(default_factory=list)
    spans: list[_Span] = field(default_factory=list)
    course: list[_Span] = field(default_factory=list)  # the one that runs, once it is looked for


class Medicines:
    """Reads the medicines of one patient; build once, use for every patient.

    Args:
        terminology: value sets and formulary.
        keys: the fact keys that rules mention.
        wanted_courses: sets whose starts and stops are asked for, whether or not rules ask more.
    """

    def __init__(
        self, terminology: Terminology, keys: frozenset[str], wanted_courses: frozenset[str]
    ) -> None:
        self.terminology, self.formulary = terminology, terminology.formulary
        asked: dict[str, set[str]] = {"medication": set(), "stopped": set(), "ordered": set()}
        for key in keys:
            kind, _, name = key.partition("/")
            if kind in asked:
                asked[kind].add(name)
        self._asked = {kind: frozenset(names) for kind, names in asked.items()}
        self._lost = {
            kind: tuple(sorted(names if kind == "ordered" else names | wanted_courses))
            for kind, names in asked.items()
        }
        self._keys = keys
        self._wanted = wanted_courses.union(*asked.values())
        value_sets = terminology.value_sets
        self._above = self._containers(value_sets)
        self._every = tuple(v for v in value_sets.values() if v.every_medicine)
        self._listed = self._pairs(value_sets)
        self._coded = frozenset(
            self._ingredient(SYSTEMS[code.system], code.code)
            for value_set in value_sets.values()
            for code in value_set.codes
            if code.system == "rxnorm"
        )
        self._drugs: dict[tuple[tuple[Coding, ...], str, Coding | None], _Drug] = {}

    def _containers(self, value_sets: Mapping[str, ValueSet]) -> dict[str, tuple[str, ...]]:
        """For each set of medicines itself and those that include it, as far as asked for."""
        above: dict[str, list[str]] = {}
        for name, value_set in value_sets.items():
            if value_set.kind == "medication" and name in self._wanted:
                for inner in (name, *self.terminology.included(name)):
                    above.setdefault(inner, []).append(name)
        return {name: tuple(sorted(names)) for name, names in above.items()}

    def _pairs(self, value_sets: Mapping[str, ValueSet]) -> dict[str, tuple[ValueSet, ...]]:
        """For each ingredient the sets that list it, under any code that stands for it."""
        listed: dict[str, dict[str, ValueSet]] = {}
        for name, value_set in value_sets.items():
            if value_set.kind == "medication":
                for code in value_set.codes:
                    ingredient = self._ingredient(SYSTEMS[code.system], code.code)
                    listed.setdefault(ingredient, {})[name] = value_set
        return {ingredient: tuple(sets.values()) for ingredient, sets in listed.items()}

    def _ingredient(self, system: str, code: str) -> str:
        """The name under which an ingredient is kept: one for all codes of the same substance."""
        own = code if system in _OWN else f"{system}|{code}"
        return self.formulary.same_as.get(own, own)

    # ------------------------------------------------------------ reading

    def read(self, uses: Sequence[MedicationUse], as_of: int, out: Normalized) -> Courses:
        """Assert the facts about medicines, and return when they were started and stopped."""
        groups: dict[tuple[str, tuple[str, ...]], _Group] = {}
        orders: dict[str, list[_Use]] = {}
        for use in sorted(uses, key=_order):
            role = _role(use, as_of)
            if role is None:
                self._keep_why(use, as_of, out)
                continue
            if use.unresolved:
                # Nobody knows what it is: no medicine can be said not to be taken.
                for kind in _LEAVES_OPEN[role]:
                    for name in self._lost[kind]:
                        out.reject(f"{kind}/{name}", "reference", use.resource)
                continue
            drug = self._drug_of(use)
            if drug.concerned is not None:
                self._contradiction(use, role, drug, out)
                continue
            if role == "taken" and not drug.known:
                _say_unknown(use, drug, out)
            for member in drug.members:
                if member.sets:
                    one = _times(use, member, drug.by_name, role, as_of)
                    if role == "ordered":
                        for name in member.sets:
                            orders.setdefault(name, []).append(one)
                    else:
                        key = (member.ingredient, member.listed)
                        group = groups.setdefault(key, _Group(member.ingredient, member.sets))
                        getattr(group, role).append(one)
        for name in sorted(self._asked["ordered"].intersection(orders)):
            ages = [max(0, as_of - use.own.start) if use.own else 0 for use in orders[name]]
            sources = self._sources(name, orders[name])
            out.facts.append(Fact(f"ordered/{name}", "ordered", name, {"age": min(ages)}, sources))
        return self._conclude([groups[key] for key in sorted(groups)], as_of, out)

    def _keep_why(self, use: MedicationUse, as_of: int, out: Normalized) -> None:
        """Keep why a use that may be one of today says nothing that can be used."""
        reason = _why_open(use, as_of)
        if reason is not None and not use.unresolved:
            for name in sorted({name for m in self._drug_of(use).members for name in m.sets}):
                out.reject(f"medication/{name}", reason, use.resource)

    def _contradiction(self, use: MedicationUse, role: str, drug: _Drug, out: Normalized) -> None:
        """Keep that a code and its text name different medicines; neither is believed."""
        out.problems.append(
            Problem(
                "warning",
                "medication-code-text-conflict",
                use.resource,
                "medication",
                "its code and its text name different medicines; neither is used. Find out which "
                "is taken",
            )
        )
        for kind in _LEAVES_OPEN[role]:
            for name in drug.concerned or ():
                out.reject(f"{kind}/{name}", "conflict", use.resource)
        if "quality/medication-conflict" in self._keys:
            source = Source(resource=use.resource, effective=_when(use))
            out.faults.setdefault("quality/medication-conflict", []).append(source)

    # ------------------------------------------------------------ what it is

    def _drug_of(self, use: MedicationUse) -> _Drug:
        key = (use.codings, use.text, use.route)
        drug = self._drugs.get(key)
        if drug is None:
            if len(self._drugs) >= _MANY:
                self._drugs.clear()
            drug = self._drugs[key] = self._recognize(*key)
        return drug

    def _recognize(self, codings: tuple[Coding, ...], text: str, route: Coding | None) -> _Drug:
        formulary = self.formulary
        coded: set[str] = set()
        product = ""
        for coding in codings:
            way, ingredients = self._of_code(coding)
            coded.update(ingredients)
            product = product or way
        texts = dict.fromkeys(t for t in (text, *(c.display for c in codings)) if t)
        said = [formulary.named(each) for each in texts]
        named = frozenset[str]().union(*(s.ingredients for s in said))
        branded = frozenset[str]().union(*(s.brands for s in said))
        way = next((s.route for s in said if s.route), "")
        sent = (route.system, route.code, route.display) if route else ("", "", "")
        way = formulary.route(*sent, product, way)
        if coded and any(self._contradicts(coded, s.ingredients, s.brands) for s in said):
            # Whatever it is and by whichever route: it may be of each of these sets.
            open_ = [v for i in coded | named | branded for v in self._listed.get(i, ())]
            concerned = {n for v in (*open_, *self._every) for n in self._above.get(v.id, ())}
            return _Drug((), known=True, concerned=tuple(sorted(concerned)))
        found = coded or named | branded
        in_use = bool(coded or found) or all(s.in_use for s in said)
        members = self._members(found, way) if in_use else ()
        known = any(self._listed.get(i) for i in found)
        if in_use and not found and self._every:
            name = _UNKNOWN + (f"{codings[0].system}|{codings[0].code}" if codings else text)
            local = any(s.local for s in said)
            members = () if local else self._members({name.casefold()}, way)
        return _Drug(members, known, by_name=not coded, in_use=in_use)

    def _of_code(self, coding: Coding) -> tuple[str, tuple[str, ...]]:
        """The route of the product and the ingredients that a code stands for."""
        if coding.system == SYSTEMS["rxnorm"] and coding.code in self.formulary.products:
            return self.formulary.products[coding.code]
        ingredient = self._ingredient(coding.system, coding.code)
        own = coding.system in _OWN and coding.code in self.formulary.same_as
        return "", (ingredient,) if own or ingredient in self._listed else ()

    def _contradicts(self, coded: set[str], named: frozenset[str], branded: frozenset[str]) -> bool:
        """Whether a text is of another medicine than the code, or of more than the code has.

        A brand may be of several products, and a text may name a part of them. Of what has no
        code of its own nobody knows which products have it.
        """
        said = named | branded
        if not said:
            return False
        return coded.isdisjoint(said) or any(i in self._coded for i in named - coded)

    def _members(self, ingredients: Iterable[str], route: str) -> tuple[_Member, ...]:
        known = sorted(ingredients)
        beside = {value_set.id for i in known for value_set in self._listed.get(i, ())}
        return tuple(self._member(i, route, beside) for i in known)

    def _member(self, ingredient: str, route: str, beside: set[str]) -> _Member:
        sets: set[str] = set()
        doubtful: set[str] = set()
        listed: list[str] = []
        routes = self.formulary.routes_of(ingredient)
        for value_set in (*self._listed.get(ingredient, ()), *self._every):
            if not _by(value_set, route):
                continue
            if value_set.not_with and beside.intersection(value_set.not_with):
                continue
            listed.append(value_set.id)
            names = self._above.get(value_set.id, ())
            if not route and not routes <= set(value_set.routes):
                doubtful.update(set(names) - sets)
            else:
                doubtful.difference_update(names)
            sets.update(names)
        return _Member(ingredient, tuple(sorted(listed)), tuple(sorted(sets)), frozenset(doubtful))

    # ------------------------------------------------------------ what follows

    def _conclude(self, groups: Sequence[_Group], as_of: int, out: Normalized) -> Courses:
        by_set: dict[str, list[_Group]] = {}
        for group in groups:
            _settle(group, as_of, out)
            for name in group.sets:
                by_set.setdefault(name, []).append(group)
        starts: dict[str, tuple[_Event, ...]] = {}
        stops: dict[str, tuple[_Event, ...]] = {}
        alike: dict[tuple[int, ...], _Taken] = {}  # many sets hold the same medicines of a patient
        for name in sorted(by_set):
            taken = [group for group in by_set[name] if group.taken]
            if taken:
                same = tuple(map(id, taken))
                found = alike[same] = alike.get(same) or self._taken(taken, as_of)
                starts[name] = found.begins
                if name in self._asked["medication"]:
                    sources = found.sources
                    if found.doubtful:
                        sources = self._sources(name, [u for g in taken for u in g.taken])
                    key = f"medication/{name}"
                    out.facts.append(Fact(key, "medication", name, found.props, sources))
            if len(taken) == len(by_set[name]):
                continue
            here = {group.ingredient for group in taken}
            gone = [group for group in by_set[name] if group.ingredient not in here]
            events = self._stopped(name, gone, as_of, out)
            if events:
                stops[name] = events
        return Courses(starts, stops)

    def _taken(self, groups: Sequence[_Group], as_of: int) -> _Taken:
        """Return what there is to say of a set of which these medicines are taken."""
        begins: list[_Event] = []
        known: list[int] = []
        changes: list[int] = []
        for group in groups:
            if all(one.start is None for one in group.taken):
                begins.append((None, min(one.use.resource for one in group.taken)))
                continue
            course = group.course = group.course or self._course(group, as_of)
            begins.append((course[0].begin, course[0].use.resource))
            known.append(max(0, as_of - course[0].start))
            changes += [known[-1], *(max(0, as_of - raised) for raised in _raises(course))]
        props = {
            "since": min(known, default=FOREVER),
            "longest": max(known, default=0),
            "changed": min(changes, default=FOREVER),
            "count": len({group.ingredient for group in groups}),
        }
        uses = [use for group in groups for use in group.taken]
        doubtful = any(use.doubtful for use in uses)
        sources = () if doubtful else self._sources("", uses)
        return _Taken(props, _in_order(begins), sources, doubtful)

    def _stopped(
        self, name: str, groups: Sequence[_Group], as_of: int, out: Normalized
    ) -> tuple[_Event, ...]:
        """Assert that medicines of a set were stopped; returns when, the newest time of each."""
        events: list[_Event] = []
        best: tuple[int, int] | None = None
        uses: list[_Use] = []
        for group in groups:
            stopped = [span for span in group.spans if span.stopped is not None]
            over = [*group.halted, *group.ended]
            uses += over
            if not stopped:
                events += [(None, one.use.resource) for one in over]
                for one in over:
                    out.reject(f"stopped/{name}", "date", one.use.resource)
                continue
            last = max(stopped, key=lambda span: (span.stop, span.use.resource))
            events.append((last.stopped, last.use.resource))
            lasted = last.stop - self._course(group, last.stop)[0].start
            ago = max(0, as_of - last.stop)
            if best is None or (ago, -lasted) < (best[0], -best[1]):
                best = (ago, lasted)
        if best is not None and name in self._asked["stopped"]:
            props = {"ago": best[0], "lasted": best[1]}
            sources = self._sources(name, uses)
            out.facts.append(Fact(f"stopped/{name}", "stopped", name, props, sources))
        return _in_order(events)

    def _course(self, group: _Group, last: int) -> list[_Span]:
        """The spans up to that instant with no longer gap than a refill has, by their start."""
        course: list[_Span] = []
        start = last
        for span in sorted(group.spans, key=lambda s: -s.stop):
            # An order that is over, and does not say since when, lasted until the next one.
            open_end = span.stopped is None and span.stop == span.start
            gap = self.formulary.order_gap if open_end else self.formulary.refill_gap
            gap = gap if course else 0
            if span.start <= last and span.stop + gap >= start:
                course.append(span)
                start = min(start, span.start)
        return sorted(course, key=lambda s: (s.start, s.use.resource))

    def _sources(self, name: str, uses: Iterable[_Use]) -> tuple[Source, ...]:
        found: dict[Source, None] = {}
        for one in sorted(uses, key=lambda u: (-u.own.start if u.own else 0, u.use.resource)):
            doubts: list[Doubt] = []
            if one.by_name:
                doubts.append(self._doubt("named-only"))
            if name in one.doubtful:
                doubts.append(self._doubt("route-unknown"))
            when = _when(one.use)
            found.setdefault(Source(one.use.resource, effective=when, doubts=tuple(doubts)))
        return tuple(found)

    def _doubt(self, code: str) -> Doubt:
        return Doubt(code, self.terminology.doubts[code])


def _order(use: MedicationUse) -> tuple[str | int, ...]:
    """An order of uses that their order in the record does not matter for.

    Resources of one id that differ are possible; what tells them apart must stand here.
    """
    period = (use.period.text, use.period.start) if use.period else ("", 0)
    authored = (use.authored.text, use.authored.start) if use.authored else ("", 0)
    codes = " ".join(coding.code for coding in use.codings)
    way = use.route.code + use.route.display if use.route else ""
    dose = use.dose.text if use.dose else ""
    return (use.resource, use.status, use.intent, *period, *authored, codes, use.text, way, dose)


def _role(use: MedicationUse, as_of: int) -> str | None:
    """What a use says now: taken, halted, ended, denied, ordered, or None for nothing.

    Taken means: status active (R5: recorded) or unknown, an order rather than a proposal, and
    a period that covers `as_of`. With one time in the past, "active" still says that it is taken;
    whether it goes on is open with another status (`_why_open`).
    """
    if use.status == "draft":
        return "ordered" if use.request else None
    start = use.period or use.authored
    if use.intent in _NOT_ORDERS or (start is not None and future(start, as_of)):
        return None
    if use.status in _IN_USE:
        period = use.period
        if period is None or period.open or period.end >= as_of:
            return "taken"
        if "/" in period.text:
            return "ended"
        return "taken" if use.status == "active" else None
    if use.status in _ENDED:
        return "ended"
    if use.status in _HALTED:
        return "halted"
    return "denied" if use.status == "not-taken" else None


def _why_open(use: MedicationUse, as_of: int) -> str | None:
    """Why it is open whether a use without a role goes on; None where its status says no."""
    if use.status not in _STATUSES:
        return "status"
    if use.status not in _IN_USE or use.intent in _NOT_ORDERS:
        return None
    start = use.period or use.authored
    return "future" if start is not None and future(start, as_of) else "date"


# What a use of each role leaves open where nobody knows what it is of.
_LEAVES_OPEN: Final[dict[str, tuple[str, ...]]] = {
    "taken": ("medication",),
    "halted": ("stopped",),
    "ended": ("stopped",),
    "denied": (),
    "ordered": ("ordered",),
}


def _times(use: MedicationUse, member: _Member, by_name: bool, role: str, as_of: int) -> _Use:
    period = use.period
    start = use.authored if use.request else None
    stop: Instant | None = None
    if period is not None:
        begin, slash, end = period.text.partition("/")
        if not slash:
            # In use at that time; when it was begun is not said.
            start = None if role == "taken" else period
            stop = period if role in ("ended", "halted") else None
        else:
            # The end of a period that goes on is that of its first day, else of its last one.
            last = period.end if period.open else period.start
            start = Instant(period.start, last, begin) if begin else None
            if not period.open and role != "taken" and period.end < as_of + DAY:
                stop = Instant(min(period.end, as_of), min(period.end, as_of), end)
    own = stop or use.authored or start or period
    return _Use(use, member.doubtful, by_name, start, stop, own)


def _settle(group: _Group, as_of: int, out: Normalized) -> None:
    """Let the newer of two records count where one says taken and another not; make the spans."""
    against = [*group.halted, *group.denied]
    if group.taken and against:
        newest = max(against, key=lambda n: (n.own.start if n.own else -FOREVER, n.use.resource))
        kept = [one for one in group.taken if not _before(one.own, newest.own)]
        unclear = any(not _before(no.own, yes.own) for no in against for yes in kept)
        if unclear or not kept:
            counts = "'taken' counts" if kept else "the newer record, not taken, counts"
            problem = Problem(
                "warning",
                "conflict",
                newest.use.resource,
                "status",
                f"not taken by this record and taken by another of the same medicine; {counts}",
            )
            if problem not in out.problems:
                out.problems.append(problem)
        if not kept:
            for name in group.sets:
                out.reject(f"medication/{name}", "conflict", newest.use.resource)
        for one in group.taken:
            if one not in kept and one.start is not None and newest.own is not None:
                last = max(one.start.start, newest.own.start)
                group.spans.append(_Span(one.start.start, last, one.start, None, one.use))
        group.taken = kept
    for one in group.taken:
        if one.start is not None:
            first = min(one.start.start, as_of)  # at another place on earth it is tomorrow
            group.spans.append(_Span(first, as_of, one.start, None, one.use))
    for one in (*group.halted, *group.ended):
        begin = one.start or one.stop
        if begin is not None:
            first = min(begin.start, as_of)
            last = max(first, min(one.stop.end, as_of)) if one.stop else first
            group.spans.append(_Span(first, last, begin, one.stop, one.use))


def _before(one: Instant | None, other: Instant | None) -> bool:
    """Whether a time surely lies before another."""
    return one is not None and other is not None and one.end < other.start


def _raises(course: Sequence[_Span]) -> list[int]:
    """When a daily dose began that is higher than the one before it, in the same unit.

    A number of tablets says something only of the same tablets.
    """
    doses: dict[tuple[object, ...], dict[int, Fraction]] = {}
    for span in course:
        dose = span.use.dose
        if dose is not None:
            unit = ucum_of(dose.code, dose.unit)
            mass = unit is not None and unit_of(unit).kind == "mass"
            key = (unit,) if mass else (dose.code, dose.unit, span.use.codings, span.use.text)
            at = doses.setdefault(key, {})
            at[span.start] = max(at.get(span.start, Fraction(0)), Fraction(dose.value))
    found: list[int] = []
    for at in doses.values():
        starts = sorted(at)
        found += [later for earlier, later in pairwise(starts) if at[later] > at[earlier]]
    return found


def _in_order(events: Iterable[_Event]) -> tuple[_Event, ...]:
    return tuple(sorted(dict.fromkeys(events), key=lambda e: (e[0].start if e[0] else 0, e[1])))


def _when(use: MedicationUse) -> str | None:
    when = use.period or use.authored
    return when.text if when else None


def _by(value_set: ValueSet, route: str) -> bool:
    """Whether a use by that route, "" for an unknown one, is of a set."""
    if route:
        return route in value_set.routes
    return SYSTEMIC in value_set.routes and not value_set.route_must_be_known


def _say_unknown(use: MedicationUse, drug: _Drug, out: Normalized) -> None:
    if drug.in_use:
        code = "medication-not-recognized"
        how = "its codes stand" if use.codings else "it is named only in text, which stands"
        message = f"a medicine in use that no rule can see: {how} in no value set"
    else:
        code = "medication-not-in-use"
        message = "its text says that it is not taken; not used"
    out.problems.append(Problem("info", code, use.resource, "medication", message))
