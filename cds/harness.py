"""The test harness: run cases against rules and say which criterion went the other way.

A case is assessed by the same `Screener` as a real record. A failure names the rule, each
criterion that was not as expected, and what was observed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cds.cases import Case
from cds.catalog import criterion_text
from cds.errors import CdsError, EngineError, UsageError
from cds.evaluate import LeafTrace, NodeTrace
from cds.fhir import ReadLog
from cds.model import Evaluation, Finding, NotEvaluated
from cds.rules import Rulesets
from cds.screening import Assessment, Screener
from cds.wording import Wording, when

__all__ = [
    "CaseResult",
    "Failure",
    "card_text",
    "own_findings",
    "plain",
    "run",
    "run_case",
    "tier_name",
    "waits_for",
]


@dataclass(frozen=True, slots=True)
class Failure:
    """One expectation that did not come true.

    `kind` is its key in `expect` ("fires"), or "error" where the case could not be assessed and
    "internal" where the engine failed. `subject` is the rule, finding or text it names. `why` are
    the criteria that went the other way, each with what was observed.
    """

    kind: str
    subject: str
    message: str
    why: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  {line}" for line in self.why)])


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What became of one case; `assessment` is None where it could not be assessed at all."""

    case: Case
    failures: tuple[Failure, ...]
    assessment: Assessment | None = None

    @property
    def passed(self) -> bool:
        """Whether every expectation came true."""
        return not self.failures


def run(screener: Screener, cases: Iterable[Case]) -> Iterator[CaseResult]:
    """Yield the result of each case; an error of one case is a failure of it, not of the run."""
    for case in cases:
        yield run_case(screener, case)


def run_case(screener: Screener, case: Case) -> CaseResult:
    """Assess the patient of one case and compare with what is expected."""
    try:
        bundle = case.bundle(screener.rulesets.terminology)
        log = ReadLog()
        records = list(screener.reader.read(bundle, log))
        if log.rejected or len(records) != 1:
            lost = "; ".join(f"{r.where}: {r.message}" for r in log.rejected)
            raise UsageError(lost or f"{len(records)} patients instead of one")
        assessment = screener.assess(records[0], case.as_of)
        failures = tuple(_failures(case, assessment, screener.rulesets))
    except EngineError as error:
        return CaseResult(case, (Failure("internal", "", f"internal error: {error}"),))
    except (CdsError, ValueError) as error:
        return CaseResult(case, (Failure("error", "", f"could not be assessed: {error}"),))
    return CaseResult(case, failures, assessment)


# ---------------------------------------------------------------- what was expected


def _failures(case: Case, assessment: Assessment, rulesets: Rulesets) -> Iterator[Failure]:
    expect, fired = case.expect, assessment.fired
    for rule in expect.fires:
        if rule not in fired:
            why = _why(assessment, rule, rulesets, wanted=True)
            yield Failure("fires", rule, f"{rule} should fire and does not", why)
    for rule in expect.not_:
        if rule in fired:
            why = _why(assessment, rule, rulesets, wanted=False)
            yield Failure("not", rule, f"{rule} should not fire and does", why)
    own = own_findings(case, assessment.findings)
    for kind, wanted, findings in (
        ("tier", expect.tier, own),
        ("patient_tier", expect.patient_tier, assessment.findings),
    ):
        tier = tier_name(findings)
        if wanted is not None and tier != wanted:
            message = f"the {kind.replace('_', ' ')} should be {wanted} and is {tier}"
            yield Failure(kind, wanted, message, _shown(assessment))
    if expect.shows is not None:
        shown = {finding.id for finding in own}
        wrong = [f"{name} should be shown" for name in sorted({*expect.shows} - shown)]
        wrong += [f"{name} should not be shown" for name in sorted(shown - {*expect.shows})]
        if wrong:
            yield Failure("shows", "", "other findings are shown", (*wrong, *_shown(assessment)))
    yield from _missing(case, assessment)
    for kind, fragments in (("card", expect.card), ("patient_card", expect.patient_card)):
        if fragments:
            text = _card_text(assessment, kind)
            for fragment in fragments:
                if plain(fragment) not in text:
                    message = f"no {kind.replace('_', ' ')} says '{fragment}'"
                    yield Failure(kind, fragment, message, _shown(assessment))


def own_findings(case: Case, findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings that a case speaks of: those of the group that it stands in.

    So a rule of another group never breaks it. A case without a group speaks of all. What its file
    sets aside (`beside`) is not spoken of, unless the case expects it to be shown.
    """
    aside = () if set(case.expect.shows or ()) & set(case.beside) else case.beside
    return [f for f in findings if case.group in ("", f.group) and f.id not in aside]


def tier_name(findings: Iterable[Finding]) -> str:
    """Return the highest tier of findings as a case expects it: "none" where there is none."""
    tier = max((f.tier for f in findings), default=None)
    return "none" if tier is None else tier.name


def _missing(case: Case, assessment: Assessment) -> Iterator[Failure]:
    expected, undecided = case.expect.missing, assessment.evaluation.not_evaluated
    pairs = [("", n) for n in expected] if isinstance(expected, tuple) else expected.items()
    for rule, needs in pairs:
        if not any(waits_for(n, needs) and rule in ("", n.rule) for n in undecided):
            who = rule or "some rule"
            message = f"{who} should wait for {needs} and does not"
            yield Failure("missing", needs, message, _waiting(undecided, rule))


def waits_for(entry: NotEvaluated, needs: str) -> bool:
    """Whether an undecided rule waits for this concept; "adult": it is for adults."""
    return entry.needs == needs or (entry.reason == "population" and needs == "adult")


def _waiting(undecided: Sequence[NotEvaluated], rule: str) -> tuple[str, ...]:
    lines = [f"{n.rule}: {n.needs} ({n.reason})" for n in undecided if rule in ("", n.rule)]
    return tuple(lines) or ("nothing is waited for",)


def _shown(assessment: Assessment) -> tuple[str, ...]:
    lines = [f"{f.tier.name}: {f.id} ({f.title})" for f in assessment.findings]
    return tuple(lines) or ("no finding is shown",)


def _card_text(assessment: Assessment, kind: str) -> str:
    return card_text(assessment.cards("patient" if kind == "patient_card" else "clinician"))


def card_text(cards: Iterable[Mapping[str, Any]]) -> str:
    """Return all that cards say, in the plain words that expected fragments are looked for in."""
    parts: list[str] = []
    for card in cards:
        parts += [card["summary"], card.get("detail", "")]
        parts += [suggestion["label"] for suggestion in card.get("suggestions", ())]
    return plain("\n".join(parts))


def plain(text: str) -> str:
    """Return the words without the markup and line breaks around them."""
    return " ".join(text.replace("`", "").replace("*", "").replace("\\", "").split())


# ---------------------------------------------------------------- why


def _why(assessment: Assessment, rule: str, rulesets: Rulesets, *, wanted: bool) -> tuple[str, ...]:
    """Return the criteria that kept a rule from firing, or made it fire."""
    if rulesets.site is not None and rule in rulesets.site.not_run:
        return (rulesets.site.not_run[rule].reason,)
    lines = tuple(_against(assessment, rule, rulesets, wanted=wanted))
    return lines or (assessment.explain(rule).outcome,)


def _against(
    assessment: Assessment,
    rule: str,
    rulesets: Rulesets,
    *,
    wanted: bool,
    above: tuple[str, ...] = (),
) -> Iterator[str]:
    """Yield the criteria that went the other way; under a finding, those of what makes it."""
    trace = assessment.explain(rule)
    nodes = [(trace.when, "", wanted)]
    if trace.unless is not None and (trace.unless.state == "yes") == wanted:
        nodes.append((trace.unless, "unless: ", not wanted))
    for node, label, expected in nodes:
        for leaf in _deciding(node, wanted=expected):
            yield label + _leaf_text(leaf, assessment.evaluation, rulesets)
            key = leaf.leaf.key
            if not key.startswith("finding/") or key in above:
                continue
            for maker in rulesets.program.rules:
                if maker.finding_key == key and (expected or maker.rule.id in assessment.fired):
                    lines = _against(
                        assessment, maker.rule.id, rulesets, wanted=expected, above=(*above, key)
                    )
                    yield from (f"  {maker.rule.id}: {line.lstrip()}" for line in lines)


def _deciding(trace: NodeTrace | LeafTrace, *, wanted: bool) -> Iterator[LeafTrace]:
    """Yield the criteria whose state is not as wanted, in the parts that matter."""
    if (trace.state == "yes") == wanted:
        return
    if isinstance(trace, LeafTrace):
        yield trace
    else:
        for part in trace.parts:
            yield from _deciding(part, wanted=wanted)


def _leaf_text(leaf: LeafTrace, evaluation: Evaluation, rulesets: Rulesets) -> str:
    text = f"{leaf.state.upper():7} {criterion_text(leaf.leaf.criterion, rulesets)}"
    if leaf.fact is not None and leaf.fact.sources:
        words, fact = Wording(evaluation, rulesets), leaf.fact
        seen = [f"{words.value(fact, s).text} {when(s.effective).text}" for s in fact.sources]
        return f"{text}: {'; '.join(part.strip() for part in seen)}"
    if leaf.state == "unknown":
        return f"{text}: {leaf.reason} ({leaf.needs})"
    return text
