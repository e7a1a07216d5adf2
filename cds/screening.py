"""The whole way, from FHIR to assessment: `Screener` and `Assessment`.

Nothing clinical and nothing of FHIR, engines or cards is decided here; this module only leads
one patient through read, normalize, chain, evaluate and render.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cds.cards import because, render
from cds.engine import make_engine
from cds.errors import FhirInputError, UsageError
from cds.evaluate import Evaluator, LeafTrace, RuleTrace
from cds.facts import Normalizer, iso
from cds.fhir import Reader, ReadLog
from cds.followup import follow_up
from cds.model import Change, Evaluation, Finding, Firing, NotEvaluated, Problem, Record, Tier
from cds.program import Leaf
from cds.results import Normalized
from cds.rules import Rulesets

if TYPE_CHECKING:
    from cds.counterfactual import Counterfactuals

__all__ = ["Assessment", "Audience", "Screener", "instant"]

Audience = Literal["clinician", "patient"]


def instant(as_of: str | datetime) -> int:
    """Return an aware datetime or an ISO 8601 text with offset as seconds since the epoch.

    Raises: UsageError where it is neither, or has no offset.

    >>> instant("1970-01-02T00:00:00Z")
    86400
    """
    if isinstance(as_of, str):
        try:
            as_of = datetime.fromisoformat(as_of)
        except ValueError:
            raise UsageError(
                f"as_of '{as_of}' is not a time such as 2026-11-01T00:00:00Z"
            ) from None
    if as_of.tzinfo is None:
        raise UsageError("as_of has no time zone; write for example 2026-11-01T00:00:00Z")
    return int(as_of.astimezone(UTC).timestamp())


class Assessment:
    """What is known of one patient at one instant, with its reasons.

    Made by `Screener`; `to_dict` is the JSON shape of the command ``cds screen``.
    """

    def __init__(
        self,
        screener: Screener,
        evaluation: Evaluation,
        normalized: Normalized,
        firings: Sequence[Firing],
        record: Record,
    ) -> None:
        self._screener, self._normalized, self._firings = screener, normalized, firings
        self._record, self.evaluation = record, evaluation

    def add_problems(self, problems: Sequence[Problem]) -> None:
        """Add problems of the input that belong to no patient."""
        together = (*self.evaluation.problems, *problems)
        self.evaluation = replace(self.evaluation, problems=together)

    @property
    def patient(self) -> str:
        """Reference of the patient ("Patient/123")."""
        return self.evaluation.patient

    @property
    def as_of(self) -> str:
        """The instant of judgment, ISO 8601 in UTC."""
        return iso(self.evaluation.as_of)

    @property
    def tier(self) -> Tier | None:
        """The highest tier of any finding; None where nothing was found."""
        return self.evaluation.tier

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings shown, most urgent first."""
        return self.evaluation.findings

    @property
    def record(self) -> Record:
        """What was read of the patient."""
        return self._record

    @property
    def normalized(self) -> Normalized:
        """The facts that were made of it, and what could not be used."""
        return self._normalized

    @property
    def firings(self) -> Sequence[Firing]:
        """What the engine found: each rule that holds, and why."""
        return self._firings

    @cached_property
    def fired(self) -> frozenset[str]:
        """The rules that hold, shown or not: also steps, caveats and superseded bands."""
        return frozenset(firing.rule for firing in self._firings)

    @cached_property
    def undecided(self) -> Sequence[NotEvaluated]:
        """Every rule that lacks a datum, also those that came nowhere near."""
        return self._screener.evaluator.everything_undecided(
            self.evaluation, self._normalized, self._firings
        )

    def cards(
        self,
        audience: Audience = "clinician",
        *,
        hook_instance: str | None = None,
        changes: bool = True,
    ) -> list[dict[str, Any]]:
        """Return the CDS Hooks 2.0 cards, most urgent first; [] where nothing was found.

        `changes` False leaves out what would change a finding: most of the work for a card.
        """
        return render(
            self.evaluation,
            self._screener.rulesets,
            audience=audience,
            hook_instance=hook_instance,
            changes=self._changes if changes and audience == "clinician" else {},
        )

    def judge(self) -> Callable[[Leaf], LeafTrace]:
        """Return the function that judges any criterion of the rules for this patient."""
        return self._screener.evaluator.judge_for(
            self.evaluation.facts, self._normalized, self._firings
        )

    def explain(self, rule_id: str) -> RuleTrace:
        """Return why the rule fired or did not. Raises: UsageError for an unknown rule."""
        site = self._screener.rulesets.site
        if site is not None and rule_id in site.not_run:
            raise UsageError(f"rule '{rule_id}' is not run: {site.not_run[rule_id].reason}")
        if rule_id not in self._screener.rulesets.program.by_id:
            raise UsageError(f"no rule '{rule_id}'; 'cds rules' lists them")
        return self._screener.evaluator.trace(
            rule_id, self.evaluation, self._normalized, self._firings
        )

    def changes(self, rule_id: str) -> tuple[Change, ...]:
        """Return the smallest changes of one input that would change what a rule says.

        Each was found true by assessing again: what makes it stop, or fire, and what gives its
        finding another tier. Empty where no single change does.

        Raises: UsageError for an unknown rule.
        """
        self.explain(rule_id)
        return self._screener.counterfactuals.of_rule(rule_id, self._record, self.evaluation)

    @cached_property
    def _changes(self) -> Mapping[str, tuple[Change, ...]]:
        """For each finding, which values would give it another tier."""
        return {
            f.id: self._screener.counterfactuals.of_finding(f, self._record, self.evaluation)
            for f in self.findings
        }

    def to_dict(
        self, *, audience: Audience = "clinician", everything: bool = False
    ) -> dict[str, Any]:
        """Return the assessment as JSON-ready values; `everything` lists all undecided rules."""
        found = self.trace(everything=everything)
        problems = found.pop("problems")
        return {**found, "cards": self.cards(audience), "problems": problems}

    def trace(self, *, everything: bool = False) -> dict[str, Any]:
        """Return what `to_dict` does, without the cards."""
        e = self.evaluation
        undecided = self.undecided if everything else e.not_evaluated
        return {
            "patient": e.patient,
            "as_of": iso(e.as_of),
            "rulesets": [
                {"id": f.group, "version": f.version, "digest": f.digest}
                for f in self._screener.rulesets.files
            ],
            **self._site(),
            **self._language(),
            "tier": e.tier.name if e.tier is not None else None,
            "findings": [self._finding(f) for f in e.findings],
            "steps": [{"id": id_, "because": because(e, keys)} for id_, keys in e.steps.items()],
            "suppressed": [{**self._finding(s.finding), "reason": s.reason} for s in e.suppressed],
            "not_evaluated": [
                {"rule": n.rule, "reason": n.reason, "needs": n.needs, "resource": n.resource}
                for n in undecided
            ],
            "follow_up": [
                {"question": f.question, "needs": f.needs or None, "rules": list(f.rules)}
                for f in follow_up(e, self._screener.rulesets)
            ],
            "problems": [
                {
                    "severity": p.severity,
                    "code": p.code,
                    "resource": p.resource,
                    "path": p.path,
                    "message": p.message,
                }
                for p in e.problems
            ],
        }

    def _site(self) -> dict[str, Any]:
        site = self._screener.rulesets.site
        if site is None:
            return {}
        return {"site": {"id": site.id, "version": site.version, "digest": site.digest}}

    def _language(self) -> dict[str, Any]:
        t = self._screener.rulesets.translation
        if t is None:
            return {}
        names = {"id": t.language, "version": t.version, "review": t.review, "digest": t.digest}
        return {"language": names}

    def _finding(self, finding: Finding) -> dict[str, Any]:
        result: dict[str, Any] = {
            "id": finding.id,
            "group": finding.group,
            "tier": finding.tier.name,
            "title": finding.title,
            "rules": list(finding.rules),
            "covers": list(finding.covers),
            "because": because(self.evaluation, finding.because),
        }
        if finding.caveats:
            result["caveats"] = [
                {
                    "id": c.id,
                    "title": c.title,
                    "text": c.text,
                    "rules": list(c.rules),
                    "because": because(self.evaluation, c.because),
                }
                for c in finding.caveats
            ]
        return result


class Screener:
    """Assesses patients against loaded rulesets.

    Args:
        rulesets: from `load_rulesets`.
        engine: "auto", "durable", "reference" or "verify".
        strict: validate every used resource wholly with fhir.resources.

    One screener serves one thread; build it once, it compiles the rules.
    """

    def __init__(self, rulesets: Rulesets, engine: str = "auto", *, strict: bool = False) -> None:
        self.rulesets = rulesets
        self.engine = make_engine(engine, rulesets.program)
        self.normalizer = Normalizer(rulesets.program, rulesets.terminology)
        self.evaluator = Evaluator(rulesets.program, rulesets.terminology)
        self.reader = Reader(rulesets.terminology, wanted=self.normalizer.wanted, strict=strict)

    @cached_property
    def counterfactuals(self) -> Counterfactuals:
        """Finds what would change an answer; made when the first patient has a finding."""
        from cds.counterfactual import Counterfactuals

        return Counterfactuals(self.rulesets)

    def screen(self, source: Any, as_of: str | datetime) -> Assessment:
        """Assess the one patient in `source`: bytes, dict, path, resources or their objects.

        Raises: UsageError where there is no patient or more than one, naming them;
        FhirInputError where nothing could be read.
        """
        found = list(self.screen_all(source, as_of))
        if len(found) != 1:
            names = ", ".join(a.patient for a in found) or "none"
            raise UsageError(f"expected exactly one patient, found {names}")
        return found[0]

    def screen_all(
        self, source: Any, as_of: str | datetime, *, log: ReadLog | None = None
    ) -> Iterator[Assessment]:
        """Assess every patient in `source`.

        What could not be read is added to `log`. Without one it stands among the problems of
        the last assessment (code "rejected").

        Raises: FhirInputError where there is no patient, no `log`, and something unreadable.
        """
        when = instant(as_of)
        if log is not None:
            for record in self.reader.read(source, log):
                yield self.assess(record, when)
            return
        log, last = ReadLog(), None
        for record in self.reader.read(source, log):
            if last is not None:
                yield last
            last = self.assess(record, when)
        lost = [Problem("error", "rejected", None, r.where, r.message) for r in log.rejected]
        if last is not None:
            last.add_problems([*log.problems, *lost])
            yield last
        elif lost:
            raise FhirInputError("; ".join(f"{p.path}: {p.message}" for p in lost))

    def screen_paths(
        self, paths: Iterable[str | Path], as_of: str | datetime, *, log: ReadLog
    ) -> Iterator[Assessment]:
        """Assess every patient in files and folders ("-" is standard input)."""
        when = instant(as_of)
        for record in self.reader.read_paths(list(paths), log):
            yield self.assess(record, when)

    def assess(self, record: Record, as_of: int, *, all_results: bool = True) -> Assessment:
        """Assess one patient as read; `as_of` in seconds since the epoch.

        `all_results` is False where the sender may have results that were not sent: then nothing
        but an alarm (urgent or above) is concluded from a result that is missing, and it counts as
        not sent ("not-sent").
        """
        normalized = self.normalizer.normalize(record, as_of)
        firings = self.engine.run(normalized.facts)
        evaluation = self.evaluator.evaluate(record, normalized, firings, as_of)
        if not all_results:
            known = self.normalizer.normalize(record, as_of, all_results=False)
            sure = self.evaluator.evaluate(record, known, self.engine.run(known.facts), as_of)
            evaluation = self._of_what_was_sent(evaluation, sure)
        site = self.rulesets.site
        if site is not None and site.notice:
            # Nobody is to take the silence of rules that were not run for "nothing found".
            said = Problem("warning", "rules-not-run", None, f"site {site.id}", site.notice)
            evaluation = replace(evaluation, problems=(said, *evaluation.problems))
        words = self.rulesets.translation
        if words is not None and words.notice:
            where = f"language {words.language}"
            said = Problem("warning", "not-translated", None, where, words.notice)
            evaluation = replace(evaluation, problems=(said, *evaluation.problems))
        return Assessment(self, evaluation, normalized, firings, record)

    def _of_what_was_sent(self, all_: Evaluation, sure: Evaluation) -> Evaluation:
        """Return what holds whatever was not sent, and the alarms that may hold.

        A result that was not sent must not silence an alarm over its absence: to measure it is
        what such an alarm asks for.
        """
        held = {(f.id, f.tier) for f in sure.findings}
        alarms = [f for f in all_.findings if f.tier >= Tier.urgent and (f.id, f.tier) not in held]
        taken = {f.id for f in alarms} | {f.family for f in alarms if f.family is not None}
        rest = [f for f in sure.findings if f.id not in taken and f.family not in taken]
        analytes = self.rulesets.terminology.analytes
        open_ = (
            replace(n, reason="not-sent")
            if n.reason == "missing" and n.needs.removeprefix("earlier ") in analytes
            else n
            for n in sure.not_evaluated
        )
        return replace(
            sure,
            facts=all_.facts,
            steps=all_.steps,
            findings=self.evaluator.ranked([*alarms, *rest]),
            not_evaluated=tuple(open_),
        )
