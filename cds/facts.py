"""Normalize: from what was read of one patient to flat facts that rules can test.

Everything that needs arithmetic or time happens here: unit to canonical unit, effective time
to age at `as_of`, the latest result, rises, adjusted calcium, active medicines, absence as a
positive fact, data quality. Which of these are computed follows from the loaded rules
(`program.Program`). What cannot be used is kept with its reason, never dropped.

Values are exact (`Fraction`); a comparator or a range makes an interval. A *lab* fact carries,
as grid codes (`program.grid_code`):

* ``low``/``low_min``: the lowest candidate's upper and lower end; ``value < t`` is sure when
  ``low < t`` and excluded when ``low_min >= t``;
* ``high``/``high_max``: the highest candidate's lower and upper end, likewise for ``value > t``;
* ``age``: seconds from the latest result to `as_of`;
* ``low_flag``/``high_flag``: what the laboratory itself says of that side: 0 not out of its
  range, 1 no opinion, 2 out of range, 3 critical (LL, HH).

There are several candidates only where imprecise times overlap, so that nobody knows which
result is the latest; then the more severe one counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from itertools import groupby

from cds.model import (
    Doubt,
    Fact,
    Instant,
    Measurement,
    MedicationUse,
    Presence,
    Problem,
    Record,
    Source,
)
from cds.program import FOREVER, Need, Program
from cds.results import Normalized, Result, Results, engine_number, future
from cds.terminology import Terminology
from cds.units import ucum_of

__all__ = ["Normalizer", "iso"]


_IN_USE = frozenset({"active", "recorded", "unknown"})
_NOT_ORDERS = frozenset({"proposal", "plan", "option"})
_ENDED = frozenset({"resolved", "inactive", "remission"})


def iso(seconds: int) -> str:
    """Return seconds since the epoch as an ISO 8601 time in UTC ("2026-11-01T00:00:00Z")."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Normalizer:
    """Turns records into facts for one program; build once, use for every patient."""

    def __init__(self, program: Program, terminology: Terminology) -> None:
        self.program, self.terminology = program, terminology
        self._needs: dict[str, list[Need]] = {}
        for need in program.needs:
            self._needs.setdefault(need.concept, []).append(need)
        self._results = Results(terminology, program.keys, self._keys_of)
        asked = {key.split("/")[1] for key in program.keys if key.startswith("lab/")}
        self._asked = frozenset(asked | self._needs.keys())
        self._series = self._with_inputs(self._asked)
        self._horizon = {name: self._horizon_of(name) for name in self._series}
        self._medication_keys = sorted(k for k in program.keys if k.startswith("medication/"))
        self._presence_keys: dict[str, list[str]] = {}
        for key in sorted(program.keys):
            kind, concept = key.split("/")[:2]
            if kind in ("symptom", "condition", "lifestyle", "history"):
                self._presence_keys.setdefault(concept, []).append(key)

    @property
    def wanted(self) -> frozenset[str]:
        """What the loaded rules ask for: analytes, and value sets with those that they include.

        Medicines are always read.
        """
        sets = set(self._presence_keys)
        waiting = list(sets)
        while waiting:
            inner = set(self.terminology.value_sets[waiting.pop()].includes) - sets
            sets |= inner
            waiting += inner
        return self._series | sets

    def _with_inputs(self, asked: frozenset[str]) -> frozenset[str]:
        """The analytes to read: those asked for and those that they are computed from."""
        adjusted, derived = self.terminology.adjusted_calcium, self.terminology.derived
        more = set(asked)
        for name in asked:
            if name in derived:
                more.add(derived[name].of)
        if adjusted.id in asked:
            more |= {adjusted.result, adjusted.ionized, adjusted.total, adjusted.albumin}
            more.add(adjusted.egfr)
        return frozenset(more)

    def _horizon_of(self, analyte: str) -> int:
        """How far back, in seconds, a result of this analyte can still decide something."""
        context = self.terminology.analytes[analyte].context
        windows = [
            need.seconds + context
            for name in self._computed_from(analyte)
            for need in self._needs.get(name, ())
        ]
        return max(context, *windows, 0)

    def _computed_from(self, analyte: str) -> list[str]:
        """The analyte itself and those that are computed from its results."""
        adjusted = self.terminology.adjusted_calcium
        names = [analyte]
        names += [name for name, d in self.terminology.derived.items() if d.of == analyte]
        if analyte in (adjusted.total, adjusted.result):
            names.append(adjusted.id)
        return names

    def normalize(self, record: Record, as_of: int) -> Normalized:
        """Return the facts of one patient at `as_of` (seconds since the epoch)."""
        out = Normalized()
        self._patient(record, as_of, out)
        self._labs(record.measurements, as_of, out)
        self._presences(record.presences, as_of, out)
        self._medications(record.medications, as_of, out)
        for key, sources in out.faults.items():
            out.facts.append(Fact(key, "quality", key.split("/")[1], {}, tuple(sources)))
        out.facts.sort(key=lambda fact: fact.key)
        return out

    # ------------------------------------------------------------ patient

    def _patient(self, record: Record, as_of: int, out: Normalized) -> None:
        source = (Source(resource=record.patient),)
        birth = record.birth
        if birth is not None and birth.start > as_of:
            out.problems.append(
                Problem(
                    "warning",
                    "birth-in-future",
                    record.patient,
                    "birthDate",
                    "the birth date lies after the date of assessment; age counts as unknown",
                )
            )
            birth = None
        if birth is not None:
            oldest, youngest = _years(birth.start, as_of), _years(min(birth.end, as_of), as_of)
            out.child = oldest < 18
            if (oldest < 18) == (youngest < 18):
                out.age_years = youngest
        if out.age_years is not None:
            out.facts.append(
                Fact("patient/age", "demographic", "age", {"years": out.age_years}, source)
            )
        elif not out.child:
            out.problems.append(
                Problem(
                    "info",
                    "age-unknown",
                    record.patient,
                    "birthDate",
                    "no birth date that says the age; judged as an adult",
                )
            )
        sex = record.sex if record.sex in ("male", "female") else "unknown"
        out.facts.append(Fact(f"sex/{sex}", "demographic", "sex", {}, source))

    # ------------------------------------------------------------ laboratory

    def _labs(self, measurements: Sequence[Measurement], as_of: int, out: Normalized) -> None:
        sent: dict[str, list[Measurement]] = {}
        for m in measurements:
            if m.analyte in self._series:
                sent.setdefault(m.analyte, []).append(m)
        series = {name: self._usable_of(name, ms, as_of, out) for name, ms in sent.items()}
        self._judged_calcium(series, as_of, out)
        self._derived(series, out)
        for name in sorted(self._asked):
            results = sorted(series.get(name, ()), key=lambda r: (r.start, r.measurement.resource))
            if results:
                self._latest(name, results, as_of, out)
            for need in self._needs.get(name, ()):
                self._need(need, results, as_of, out)

    def _usable_of(
        self, name: str, sent: list[Measurement], as_of: int, out: Normalized
    ) -> list[Result]:
        """Check and convert the results of one analyte, newest first.

        Beyond what any rule looks back to, only the newest usable result is wanted, to be able
        to say that what there is is too old; what lies behind it cannot change anything any more.
        """
        horizon = self._horizon[name]
        sent.sort(key=lambda m: (-m.effective.start if m.effective else 0, m.resource, m.path))
        results: list[Result] = []
        for m in sent:
            past = m.effective is not None and as_of - m.effective.end > horizon
            if past and results:
                continue
            result = self._results.read(m, as_of, out)
            if result is not None:
                results.append(result)
        return results

    def _keys_of(self, analyte: str) -> list[str]:
        """The fact keys that an unusable result of this analyte leaves undecided."""
        names = self._computed_from(analyte)
        keys = [f"lab/{name}" for name in names]
        return keys + [n.key for name in names for n in self._needs.get(name, ())]

    def _judged_calcium(self, series: dict[str, list[Result]], as_of: int, out: Normalized) -> None:
        """Build the series that calcium rules judge: adjusted (by the laboratory or us), or total.

        A total is not judged where an adjusted or ionized value of the same specimen, or one at
        most that much later, speaks for it; an older one of another specimen never silences it.
        Formula, limits and the time that makes one draw: `analytes.yaml`.
        """
        spec = self.terminology.adjusted_calcium
        if spec.id not in self._asked:
            return
        adjusted, ionized = series.get(spec.result, []), series.get(spec.ionized, [])
        albumins = series.get(spec.albumin, [])
        window = spec.same_draw_within
        judged = list(adjusted)
        poor_kidney = self._below(
            series.get(spec.egfr, []), Fraction(spec.unreliable_egfr_lt), as_of
        )
        for total in series.get(spec.total, ()):
            if _same_draw(total, _not_before(total, adjusted), window):
                continue
            if _same_draw(total, _not_before(total, ionized), window):
                out.problems.append(
                    Problem(
                        "info",
                        "total-not-judged",
                        total.measurement.resource,
                        "",
                        "the ionized value of the same draw is judged instead of this total",
                    )
                )
                continue
            albumin = _same_draw(total, albumins, window)
            value, gram = total.exact, albumin.exact if albumin else None
            if (
                not poor_kidney
                and albumin is not None
                and value is not None
                and gram is not None
                and spec.albumin_range.hold(gram)
            ):
                missing = Fraction(spec.reference_albumin) - gram
                sum_ = value + Fraction(spec.coefficient) * missing
                # The range sent belongs to the total; only a critical flag still speaks.
                low, high = (flag if flag == 3 else 1 for flag in total.flags)
                doubts = (
                    *total.doubts,
                    *albumin.doubts,
                    self._results.doubt("calculated"),
                )
                judged.append(
                    replace(
                        total,
                        lo=sum_,
                        hi=sum_,
                        flags=(low, high),
                        doubts=doubts,
                        sent=f"{total.sent}, albumin {albumin.sent}",
                    )
                )
            else:
                doubt = self._results.doubt("unadjusted")
                judged.append(replace(total, doubts=(*total.doubts, doubt)))
        if judged:
            series[spec.id] = judged

    def _below(self, results: Sequence[Result], limit: Fraction, as_of: int) -> bool:
        """Whether the latest result is surely below the limit and not older than its context."""
        if not results:
            return False
        latest = max(results, key=lambda r: (r.start, r.measurement.resource))
        context = self.terminology.analytes[latest.measurement.analyte].context
        if as_of - latest.start > context:
            return False
        return latest.hi is not None and latest.hi < limit

    def _derived(self, series: dict[str, list[Result]], out: Normalized) -> None:
        """Build series of results as a multiple of the laboratory's upper limit."""
        for name, spec in self.terminology.derived.items():
            if name not in self._asked:
                continue
            analyte = self.terminology.analytes[spec.of]
            for result in series.get(spec.of, ()):
                m = result.measurement
                unit = ucum_of(m.value.code, m.value.unit) if m.value else None
                limit = self._results.limit(m, m.high, unit or analyte.unit, analyte)
                doubts = result.doubts
                if limit is None or limit <= 0:
                    limit = Fraction(spec.default)
                    doubts = (*doubts, self._results.doubt("upper-limit-assumed"))
                series.setdefault(name, []).append(
                    replace(
                        result,
                        lo=None if result.lo is None else result.lo / limit,
                        hi=None if result.hi is None else result.hi / limit,
                        doubts=doubts,
                    )
                )

    def _latest(self, name: str, results: Sequence[Result], as_of: int, out: Normalized) -> None:
        """Assert the fact of the latest result; `results` stand in order of time."""
        latest = results[-1]
        candidates = [r for r in results if r.end >= latest.start]
        lowest = min(candidates, key=lambda r: (r.hi_code, r.lo_code, r.measurement.resource))
        highest = max(candidates, key=lambda r: (r.lo_code, r.hi_code, r.measurement.resource))
        props = {
            "low": lowest.hi_code,
            "low_min": min(r.lo_code for r in candidates),
            "high": highest.lo_code,
            "high_max": max(r.hi_code for r in candidates),
            "age": as_of - latest.start,
            # "Normal" is believed of the candidate that counts, an alarm of any candidate.
            "low_flag": max(r.flags[0] for r in candidates if r is lowest or r.flags[0] > 1),
            "high_flag": max(r.flags[1] for r in candidates if r is highest or r.flags[1] > 1),
        }
        doubts: tuple[Doubt, ...] = ()
        if len(candidates) > 1 and len({(r.lo_code, r.hi_code) for r in candidates}) > 1:
            doubts = (self._results.doubt("time-ambiguous"),)
        key = f"lab/{name}"
        newer = self._newer_unusable(key, latest, out)
        if newer:
            doubts = (*doubts, self._results.doubt("newer-unusable"))
        chosen = [lowest] if lowest is highest else [lowest, highest]
        sources = tuple(self._results.source(name, r, doubts) for r in chosen)
        out.facts.append(Fact(key, "lab", name, props, sources))

    def _newer_unusable(self, key: str, latest: Result, out: Normalized) -> bool:
        return any(
            u.reason in ("unit", "implausible") and u.start is not None and u.start > latest.start
            for u in out.unusable.get(key, ())
        )

    def _need(self, need: Need, results: Sequence[Result], as_of: int, out: Normalized) -> None:
        if need.kind == "no-result":
            if not any(as_of - r.start <= need.seconds for r in results):
                out.facts.append(Fact(need.key, "absence", need.concept, {}))
        elif len(results) > 1:
            self._change(need, results, as_of, out)

    def _change(self, need: Need, results: Sequence[Result], as_of: int, out: Normalized) -> None:
        """Assert the largest rise (or ratio) that the latest result has not undone.

        Two results count when they lie at most the window apart and the time of each is known
        to within that window. Only rises that ended within the analyte's fresh time before the
        latest result count: an old one that settled is history.
        """
        if self.terminology.analytes[need.concept].compare_within_code:
            code = results[-1].measurement.coding.code
            results = [r for r in results if r.measurement.coding.code == code]
        timed = [r for r in results if r.end - r.start <= need.seconds]
        ends = [r for r in timed if r.start == results[-1].start and r.lo is not None]
        if not ends:
            return
        # Of results of the same instant the more severe counts.
        latest = max(ends, key=lambda r: (r.lo_code, r.measurement.resource))
        fresh = self.terminology.analytes[need.concept].fresh
        best: tuple[Fraction, Result, Result] | None = None
        window: deque[Result] = deque()  # candidates for the lowest earlier value, rising
        for start, same_time in groupby(timed, key=lambda r: r.start):
            group = list(same_time)
            while window and start - window[0].start > need.seconds:
                window.popleft()
            if window and latest.start - start <= fresh:
                before = window[0]
                for r in group:
                    amount = _grown(before, r, latest, need.kind)
                    if amount is not None and (best is None or amount > best[0]):
                        best = (amount, before, r)
            for r in group:
                if r.hi is not None:
                    while window and window[-1].hi is not None and window[-1].hi >= r.hi:
                        window.pop()
                    window.append(r)
        if best is None:
            return
        # Not having risen is known as well: then the amount is 0 at most.
        amount, before, top_result = best
        rows = dict.fromkeys((before, top_result, latest))
        sources = tuple(self._results.source(need.concept, r, ()) for r in rows)
        out.facts.append(
            Fact(
                need.key,
                "trend",
                need.concept,
                {"amount": engine_number(amount), "age": as_of - latest.start},
                sources,
            )
        )

    # ------------------------------------------------------------ presences

    def _presences(self, presences: Sequence[Presence], as_of: int, out: Normalized) -> None:
        denials = _denials(presences, as_of)
        self._absences(presences, as_of, out)
        by_concept: dict[str, list[Presence]] = {}
        for p in presences:
            if p.concept in self._presence_keys:
                by_concept.setdefault(p.concept, []).append(p)
        for concept in sorted(by_concept):
            for key in self._presence_keys[concept]:
                relative = key.startswith("history/")
                own = [p for p in by_concept[concept] if p.relative == relative]
                self._presence(key, own, {} if relative else denials, as_of, out)

    def _absences(self, presences: Sequence[Presence], as_of: int, out: Normalized) -> None:
        """Keep what was explicitly said to be absent, for as long as a presence would count.

        A set of other sets is absent only where each of them is; an ended condition says nothing
        of another episode.
        """
        said: dict[str, str] = {}
        for p in presences:
            if p.present is False and p.status not in _ENDED and not p.relative:
                when = p.recorded or p.onset
                usable = when is None or not future(when, as_of)
                if usable and self._counts(p, p.concept, as_of, None, ""):
                    said.setdefault(p.concept, p.resource)
        if not said:
            return

        def absent(concept: str) -> str | None:
            value_set = self.terminology.value_sets.get(concept)
            if concept in said or value_set is None or value_set.codes or not value_set.includes:
                return said.get(concept)
            inner = [absent(name) for name in value_set.includes]
            return None if None in inner else inner[0]

        for concept, keys in self._presence_keys.items():
            resource = absent(concept)
            if resource is not None:
                out.denied.update((k, resource) for k in keys if not k.startswith("history/"))

    def _presence(
        self,
        key: str,
        presences: Sequence[Presence],
        denials: Mapping[str, tuple[int, str]],
        as_of: int,
        out: Normalized,
    ) -> None:
        """Assert that a finding is recorded, on those records that nobody denied since."""
        kind, concept = key.split("/")
        held: list[Presence] = []
        for p in presences:
            when = p.recorded or p.onset
            if p.present is None:
                out.reject(key, "status", p.resource)
            elif when is not None and future(when, as_of):
                out.reject(key, "future", p.resource)
            elif p.present and self._counts(p, concept, as_of, out, key):
                if not self._denied(p, when, denials, key, out):
                    held.append(p)
        if not held:
            return
        undated = any(p.recorded is None and p.onset is None for p in held)
        ages = [max(0, as_of - w.start) for p in held if (w := p.onset or p.recorded)]
        props = {
            "newest": 0 if undated or not ages else min(ages),
            "oldest": max(ages, default=0),
        }
        sources = tuple(
            dict.fromkeys(
                Source(
                    resource=p.resource,
                    effective=w.text if (w := p.onset or p.recorded) else None,
                )
                for p in sorted(held, key=lambda p: p.resource)
            )
        )
        out.facts.append(Fact(key, kind, concept, props, sources))

    def _denied(
        self,
        p: Presence,
        when: Instant | None,
        denials: Mapping[str, tuple[int, str]],
        key: str,
        out: Normalized,
    ) -> bool:
        """Whether a newer record denies what this one says; any denial is said as a conflict.

        Who denies a fasciculation denies the twitch that was recorded under its code as well.
        """
        if not denials:
            return False
        own = self.terminology.own_concepts_of(p.coding.system, p.coding.code)
        against = [denials[name] for name in {p.concept, *own} if name in denials]
        if not against:
            return False
        start, denier = max(against)
        gone = when is not None and start > when.end
        counts = "the newer record, absent, counts" if gone else "present counts"
        problem = Problem(
            "warning",
            "conflict",
            denier,
            "",
            f"recorded as absent here and as present elsewhere; {counts}",
        )
        if problem not in out.problems:
            out.problems.append(problem)
        if gone:
            out.reject(key, "conflict", denier)
        return gone

    def _counts(
        self, p: Presence, concept: str, as_of: int, out: Normalized | None, key: str
    ) -> bool:
        """Whether a recorded finding still counts: conditions for good, symptoms for a time.

        Where it does not, `out` (if given) keeps why.
        """
        limit = self.terminology.value_sets[concept].counts_for
        if limit is None:
            if p.lasting:
                return True
            limit = self.terminology.symptom_window
        when = p.recorded or p.onset
        if when is None:
            if p.lasting:
                return True
            if out is not None:
                out.reject(key, "date", p.resource)
            return False
        if as_of - when.start > limit:
            if out is not None:
                out.reject(key, "stale", p.resource)
            return False
        return True

    # ------------------------------------------------------------ medicines

    def _medications(self, uses: Sequence[MedicationUse], as_of: int, out: Normalized) -> None:
        taken: dict[str, list[tuple[MedicationUse, int]]] = {}
        for use in uses:
            since = _since(use, as_of)
            if since is None:
                continue
            if use.unresolved:
                # Nobody knows what it is: no medicine can be said not to be taken.
                for key in self._medication_keys:
                    out.reject(key, "reference", use.resource)
                continue
            codes = [self.terminology.concepts_of(c.system, c.code) for c in use.codings]
            concepts = {concept for found in codes for concept in found}
            for concept in concepts:
                if f"medication/{concept}" in self.program.keys:
                    taken.setdefault(concept, []).append((use, since))
            if not concepts:
                how = "its codes stand" if use.codings else "it is named only in text, which stands"
                out.problems.append(
                    Problem(
                        "info",
                        "medication-not-recognized",
                        use.resource,
                        "medication",
                        f"a medicine in use that no rule can see: {how} in no value set",
                    )
                )
        for concept in sorted(taken):
            entries = sorted(taken[concept], key=lambda e: (e[1], e[0].resource))
            sources = tuple(
                dict.fromkeys(
                    Source(
                        resource=use.resource,
                        effective=w.text if (w := use.period or use.authored) else None,
                    )
                    for use, _ in entries
                )
            )
            out.facts.append(
                Fact(
                    f"medication/{concept}",
                    "medication",
                    concept,
                    {"since": entries[0][1]},
                    sources,
                )
            )


def _denials(presences: Sequence[Presence], as_of: int) -> dict[str, tuple[int, str]]:
    """Return when each finding was last said to be absent, and by which resource.

    A condition that ended is no denial: it says nothing of another episode.
    """
    found: dict[str, tuple[int, str]] = {}
    for p in presences:
        when = p.recorded or p.onset
        if p.present is False and p.status not in _ENDED and not p.relative and when is not None:
            if not future(when, as_of):
                said = (when.start, p.resource)
                found[p.concept] = max(said, found.get(p.concept, said))
    return found


def _since(use: MedicationUse, as_of: int) -> int | None:
    """Seconds since the medicine was started, or None where it is not being taken.

    Taken means: status active (R5: recorded) or unknown, an order rather than a proposal, and
    a period that covers `as_of`. Source: FHIR R4 MedicationStatement.status, MedicationRequest
    .status and .intent. `program.FOREVER` where the start is not known.
    """
    if use.status not in _IN_USE or use.intent in _NOT_ORDERS:
        return None
    start = use.period or use.authored
    if use.period is not None and not use.period.open and use.period.end < as_of:
        return None
    if start is None:
        return FOREVER
    return None if future(start, as_of) else max(0, as_of - start.start)


def _same_draw(result: Result, others: Iterable[Result], window: int) -> Result | None:
    """The other result of the same specimen, else the nearest in time within the window."""
    mine = result.measurement.specimen
    best: tuple[tuple[int, int, str], Result] | None = None
    for other in others:
        distance = abs(other.start - result.start)
        same = mine is not None and other.measurement.specimen == mine
        if same or distance <= window:
            rank = (0 if same else 1, distance, other.measurement.resource)
            if best is None or rank < best[0]:
                best = (rank, other)
    return best[1] if best else None


def _grown(before: Result, r: Result, latest: Result, kind: str) -> Fraction | None:
    """By how much (or how many times) a value surely rose and still stands; None if not known."""
    if before.hi is None or r.lo is None or latest.lo is None:
        return None
    top = min(r.lo, latest.lo)
    if kind == "rise":
        return top - before.hi
    return top / before.hi if before.hi > 0 else None


def _not_before(result: Result, others: Iterable[Result]) -> list[Result]:
    """The other results that may speak for this one: not older, or of the same specimen."""
    mine = result.measurement.specimen
    return [
        other
        for other in others
        if other.start >= result.start or (mine and other.measurement.specimen == mine)
    ]


def _years(birth: int, as_of: int) -> int:
    """Completed years between two instants, by the calendar (UTC)."""
    b, now = datetime.fromtimestamp(birth, UTC), datetime.fromtimestamp(as_of, UTC)
    return now.year - b.year - ((now.month, now.day) < (b.month, b.day))
