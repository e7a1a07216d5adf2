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
from operator import ge, gt, le, lt

from cds.medicines import Courses, Medicines
from cds.model import (
    Doubt,
    Fact,
    Instant,
    Measurement,
    Presence,
    Problem,
    Record,
    Source,
)
from cds.program import FOREVER, Leaf, Need, Program, Sequel, leaves
from cds.results import Normalized, Result, Results, engine_number, future
from cds.terminology import SYSTEMS, Terminology
from cds.units import ucum_of

__all__ = ["Normalizer", "iso"]


_DAY = 86_400
_COMPARE = {"lt": lt, "le": le, "gt": gt, "ge": ge}
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
        self._absent = {
            need.key: Fact(need.key, "absence", need.concept, {})
            for need in program.needs
            if need.kind == "no-result"
        }
        self._since = [(need, need.medicine) for need in program.needs if need.medicine is not None]
        # By analyte, what holds where there is no result at all: of most analytes of a patient.
        self._all_absent: dict[str, list[Fact]] = {}
        for need in program.needs:
            if need.kind == "no-result" and need.medicine is None:
                self._all_absent.setdefault(need.concept, []).append(self._absent[need.key])
        self._series = self._with_inputs(self._asked)
        self._horizon = {name: self._horizon_of(name) for name in self._series}
        self._medicines = Medicines(
            terminology,
            program.keys,
            frozenset(
                [s.medicine for s in program.sequels]
                + [n.medicine for n in program.needs if n.medicine is not None]
            ),
        )
        self._presence_keys: dict[str, list[str]] = {}
        for key in sorted(program.keys):
            kind, concept = key.split("/")[:2]
            if kind in ("symptom", "condition", "lifestyle", "history"):
                self._presence_keys.setdefault(concept, []).append(key)
        # For each set those asked for that include it: who denies the one may deny the other.
        self._above: dict[str, set[str]] = {}
        # What is asked of things that began after a medicine, with the keys of both.
        self._after: list[tuple[Sequel, str, str]] = []
        for sequel in program.sequels:
            own = f"{terminology.kind_of(sequel.concept)}/{sequel.concept}"
            medicine = "medication" if sequel.event == "start" else "stopped"
            self._after.append((sequel, own, f"{medicine}/{sequel.medicine}"))
            if own not in self._presence_keys.setdefault(sequel.concept, []):
                self._presence_keys[sequel.concept].append(own)
        for concept in self._presence_keys:
            for inner in (concept, *terminology.included(concept)):
                self._above.setdefault(inner, set()).add(concept)

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
        at_sites = self.terminology.sites.items()
        sets |= {finding for (finding, _, _), (_, holds) in at_sites if not sets.isdisjoint(holds)}
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

    def lookback(self, analyte: str) -> int:
        """How far back, in seconds, a result of a wanted analyte can still decide something."""
        return self._horizon[analyte]

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

    def normalize(self, record: Record, as_of: int, *, all_results: bool = True) -> Normalized:
        """Return the facts of one patient at `as_of` (seconds since the epoch).

        `all_results` is False where results may be missing that the sender has: then nothing
        is concluded from there being none.
        """
        out = Normalized()
        self._patient(record, as_of, out)
        self._death(record, as_of, out)
        courses = self._medicines.read(record.medications, as_of, out)
        self._labs(record.measurements, courses, as_of, out)
        held = self._presences(record.presences, record.sex, as_of, out)
        self._sequels(held, courses, as_of, out)
        if not all_results:
            out.facts = [fact for fact in out.facts if fact.kind != "absence"]
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

    def _death(self, record: Record, as_of: int, out: Normalized) -> None:
        """Say that the patient is recorded as deceased, and whether to believe it.

        Findings of the deceased are not shown. A result or sign dated after the death shows that
        one of the two is wrong; then the patient is judged as living.
        """
        death = record.deceased
        if death is None or death is False or (death is not True and death.start > as_of):
            return
        times = [m.effective for m in record.measurements]
        times += [p.recorded for p in record.presences if not p.relative]
        since = death is not True and any(
            t is not None and t.start > death.end and not future(t, as_of) for t in times
        )
        out.deceased = not since
        what = (
            "recorded as deceased, yet results or signs are dated later; judged as living"
            if since
            else "recorded as deceased; findings are listed as not shown"
        )
        out.problems.append(Problem("warning", "deceased", record.patient, "deceased", what))

    # ------------------------------------------------------------ laboratory

    def _labs(
        self, measurements: Sequence[Measurement], courses: Courses, as_of: int, out: Normalized
    ) -> None:
        sent: dict[str, list[Measurement]] = {}
        for m in measurements:
            if m.analyte in self._series:
                sent.setdefault(m.analyte, []).append(m)
        series = {name: self._usable_of(name, ms, as_of, out) for name, ms in sent.items()}
        self._judged_calcium(series, as_of, out)
        self._derived(series, out)
        for name in sorted(self._asked.intersection(series)):
            if series[name]:
                results = sorted(series[name], key=lambda r: (r.start, r.measurement.resource))
                self._latest(name, results, as_of, out)
                for need in self._needs.get(name, ()):
                    if need.medicine is None:
                        self._need(need, results, as_of, out)
        for name, facts in self._all_absent.items():
            if not series.get(name):
                out.facts += facts
        for need, medicine in self._since:
            self._since_start(need, medicine, series.get(need.concept, ()), courses, out)

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
        if any(map(_answered, results)):
            self._answered_otherwise(name, results, latest, out)

    def _answered_otherwise(
        self, name: str, results: Sequence[Result], latest: Result, out: Normalized
    ) -> None:
        """Say so where an answer to a questionnaire means something else to a rule than a result.

        Only the newest of the other kind counts, and only as long as it would be fresh.
        """
        fresh = self.terminology.analytes[name].fresh
        others = [r for r in results if _answered(r) != _answered(latest)]
        if not others or latest.start - others[-1].start > fresh:
            return
        for rule in self.program.rules:
            for leaf in (*leaves(rule.when), *leaves(rule.unless)):
                if leaf.key == f"lab/{name}" and _meets(leaf, latest) != _meets(leaf, others[-1]):
                    message = "an answer and a result that differ for a rule; the newer one counts"
                    resource = latest.measurement.resource
                    out.problems.append(Problem("info", "conflict", resource, "", message))
                    return

    def _newer_unusable(self, key: str, latest: Result, out: Normalized) -> bool:
        return any(
            u.reason in ("unit", "implausible") and u.start is not None and u.start > latest.start
            for u in out.unusable.get(key, ())
        )

    def _need(self, need: Need, results: Sequence[Result], as_of: int, out: Normalized) -> None:
        if need.kind == "no-result":
            if not any(as_of - r.start <= need.seconds for r in results):
                out.facts.append(self._absent[need.key])
        elif len(results) > 1:
            self._change(need, results, as_of, out)

    def _since_start(
        self,
        need: Need,
        medicine: str,
        results: Sequence[Result],
        courses: Courses,
        out: Normalized,
    ) -> None:
        """Assert that there is no result since the newest known start of a medicine."""
        known = [start.start for start, _ in courses.starts.get(medicine, ()) if start]
        if known and not any(r.end >= max(known) for r in results):
            out.facts.append(self._absent[need.key])

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

    def _contradicted(
        self, presences: Sequence[Presence], sex: str | None, out: Normalized
    ) -> None:
        """Say what does not go together; it is judged as recorded all the same.

        An ended condition beside a present one of the same code: another episode, so the present
        one counts. What only the other sex can have: administrative gender decides nothing here.
        """
        ended = {(p.concept, p.coding.code): p.resource for p in presences if p.status in _ENDED}
        for p in presences:
            value_set = self.terminology.value_sets.get(p.concept)
            if not p.present or p.relative or value_set is None:
                continue
            texts = []
            if sex is not None and value_set.contradicts_sex == sex:
                texts.append("recorded of a patient of the other sex; counts as recorded")
            other = ended.get((p.concept, p.coding.code)) if p.lasting else None
            if other is not None and other != p.resource:
                texts.append("recorded as ended elsewhere and as present here; present counts")
            for text in texts:
                problem = Problem("warning", "conflict", p.resource, "", text)
                if problem not in out.problems:
                    out.problems.append(problem)

    def _presences(
        self, presences: Sequence[Presence], sex: str | None, as_of: int, out: Normalized
    ) -> dict[str, list[Presence]]:
        """Assert what is recorded; return, by key, the records that count."""
        found: dict[str, list[Presence]] = {}
        denials = _denials(presences, as_of)
        self._absences(presences, as_of, out)
        self._contradicted(presences, sex, out)
        by_concept: dict[str, list[Presence]] = {}
        for p in presences:
            if p.concept in self._presence_keys:
                by_concept.setdefault(p.concept, []).append(p)
        for concept in sorted(by_concept):
            for key in self._presence_keys[concept]:
                relative = key.startswith("history/")
                # "History of thyroidectomy" is a record of the patient's own.
                past = relative and self.terminology.kind_of(concept) == "history"
                own = [p for p in by_concept[concept] if past or p.relative == relative]
                found[key] = self._presence(key, own, {} if relative else denials, as_of, out)
        return found

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

        known: dict[str, str | None] = {}

        def absent(concept: str) -> str | None:
            if concept not in known:
                value_set = self.terminology.value_sets.get(concept)
                known[concept] = said.get(concept)
                if concept not in said and value_set and value_set.includes and not value_set.codes:
                    inner = [absent(name) for name in value_set.includes]
                    known[concept] = None if None in inner else inner[0]
            return known[concept]

        for concept in sorted({above for name in said for above in self._above.get(name, ())}):
            resource = absent(concept)
            if resource is not None:
                keys = self._presence_keys[concept]
                out.denied.update((k, resource) for k in keys if not k.startswith("history/"))

    def _presence(
        self,
        key: str,
        presences: Sequence[Presence],
        denials: Mapping[str, tuple[int, str]],
        as_of: int,
        out: Normalized,
    ) -> list[Presence]:
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
            return []
        undated = any(p.recorded is None and p.onset is None for p in held)
        ages = [max(0, as_of - w.start) for p in held if (w := p.onset or p.recorded)]
        seen = [w for p in held if (w := p.recorded or p.onset)]
        props = {
            "newest": 0 if undated or not ages else min(ages),
            "oldest": max(ages, default=0),
            "onset": min((max(0, as_of - p.onset.start) for p in held if p.onset), default=FOREVER),
            "seen": min((as_of - _last(w, as_of) for w in seen), default=FOREVER),
            "days": len({_last(w, as_of) // _DAY for w in seen}),
            "sites": len({(site.system, site.code) for p in held for site in p.sites}),
            "severe": int(any(p.severity == "severe" for p in held)),
        }
        sources = tuple(_source_of(p) for p in sorted(held, key=lambda p: p.resource))
        sources = tuple(dict.fromkeys(sources))
        out.facts.append(Fact(key, kind, concept, props, sources))
        return held

    def _sequels(
        self, held: Mapping[str, list[Presence]], courses: Courses, as_of: int, out: Normalized
    ) -> None:
        """Assert what began after a medicine was started or stopped, and how long after.

        What has no date counts as beginning now, what was only seen as beginning then; a medicine
        whose start is unknown as taken since long before.
        """
        for sequel, own, medicine in self._after:
            presences = held.get(own, ())
            events = (courses.starts if sequel.event == "start" else courses.stops).get(
                sequel.medicine, ()
            )
            for key in (own, medicine):
                for lost in out.unusable.get(key, ()):
                    out.reject(sequel.key, lost.reason, lost.resource)
            if not presences or not events:
                if own in out.denied:
                    out.denied[sequel.key] = out.denied[own]
                continue
            best: tuple[int, Presence, tuple[Instant | None, str]] | None = None
            for p in presences:
                begun = p.onset or p.recorded
                for event in events:
                    delay = _delay(event[0], begun, as_of, known=sequel.event == "stop")
                    if delay is not None and (best is None or delay < best[0]):
                        best = (delay, p, event)
            if best is None:
                out.denied[sequel.key] = presences[0].resource
                continue
            delay, p, (start, resource) = best
            taken = Source(resource=resource, effective=start.text if start else None)
            sources = (_source_of(p), taken)
            aspect = {"delay": delay}
            out.facts.append(Fact(sequel.key, "sequel", sequel.concept, aspect, sources))

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
        value_set = self.terminology.value_sets[concept]
        limit = value_set.counts_for
        if limit is None:
            if p.lasting or value_set.kind == "history":
                return True
            limit = self.terminology.symptom_window
        when = p.recorded or p.onset
        if when is None:
            if p.lasting:
                return True
            if out is not None:
                out.reject(key, "date", p.resource)
            return False
        if as_of - _last(when, as_of) > limit:
            if out is not None:
                out.reject(key, "stale", p.resource)
            return False
        return True


def _delay(event: Instant | None, begun: Instant | None, as_of: int, *, known: bool) -> int | None:
    """How long after an event something began, in seconds; None where it was there before."""
    if event is None:
        return None if known else FOREVER
    if begun is None:
        return max(0, as_of - event.start)
    return max(0, begun.start - event.start) if event.start <= begun.end else None


def _source_of(p: Presence) -> Source:
    when = p.onset or p.recorded
    return Source(resource=p.resource, effective=when.text if when else None)


def _last(when: Instant, as_of: int) -> int:
    """When something was seen last: the end of a period up to now, else its earliest instant."""
    return min(max(when.start, when.end if "/" in when.text else when.start), as_of)


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


def _answered(result: Result) -> bool:
    """Whether a number is an answer to a questionnaire."""
    return result.measurement.coding.system == SYSTEMS["concept"]


def _meets(leaf: Leaf, result: Result) -> bool:
    """Whether the value alone, whatever its age, is what a criterion asks for."""
    props = {"low": result.hi_code, "high": result.lo_code}
    tests = [[t for t in atom.tests if t.prop in props] for atom in leaf.atoms]
    return any(all(_COMPARE[t.op](props[t.prop], t.value) for t in each) for each in tests if each)


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
