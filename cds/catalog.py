"""Rules as plain values: criteria in words, the catalog, why one fired or not.

What `report.py` lays out for people and the commands print as JSON. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from cds.cards import because, change_json
from cds.evaluate import LeafTrace, NodeTrace, RuleTrace
from cds.facts import iso
from cds.model import Change, Evaluation
from cds.program import GRID
from cds.rulefile import (
    AgeCriterion,
    AllCriterion,
    AnyCriterion,
    FindingCriterion,
    HistoryCriterion,
    LabCriterion,
    MedicationCriterion,
    NoResultCriterion,
    PresenceCriterion,
    QualityCriterion,
    RatioCriterion,
    RiseCriterion,
    SexCriterion,
)
from cds.rules import Rulesets
from cds.terminology import seconds_of
from cds.wording import Wording

__all__ = [
    "catalog",
    "concept_name",
    "criterion_text",
    "explanation_dict",
    "span_text",
]

_SIGNS: Final = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_FLAGS: Final = {0: "normal", 2: "out of range", 3: "critical"}  # facts: low_flag, high_flag


# ---------------------------------------------------------------- criteria in words


def criterion_text(criterion: Any, rulesets: Rulesets) -> str:
    """Return one criterion in words ("potassium < 2.5 mmol/L, at most 7 days old").

    Args:
        criterion: any criterion of `rules` but `any` and `all`.
        rulesets: where the names of analytes, value sets and findings are from.

    A window that the rule leaves to the analyte is said too.
    """
    c = criterion
    window = {word: span_text(seconds) for word, seconds in _windows(c, rulesets).items()}
    within = window.get("within")
    match c:
        case LabCriterion():
            return f"{concept_name(c.lab, rulesets)} {_lab_text(c)}, {_age_text(window)}"
        case RiseCriterion():
            name = concept_name(c.rise, rulesets)
            return (
                f"{name} rose by {_bound_text(c)} within {window['over']}, "
                f"latest result {_age_text(window)}"
            )
        case RatioCriterion():
            name = concept_name(c.ratio, rulesets)
            return (
                f"{name} {_bound_text(c)} times the lowest of the {window['over']} before, "
                f"latest result {_age_text(window)}"
            )
        case PresenceCriterion():
            name = concept_name(c.concept, rulesets)
            return f"{c.kind}: {name}" + "".join(_presence_text(c, window, rulesets))
        case HistoryCriterion():
            return f"in the family: {concept_name(c.history, rulesets)}"
        case MedicationCriterion():
            return _medication_text(c, window, rulesets)
        case NoResultCriterion():
            name = concept_name(c.no_result, rulesets)
            if c.since_start_of:
                started = concept_name(c.since_start_of, rulesets)
                return f"no usable result since {started} was started: {name}"
            return f"no usable result within {within}: {name}"
        case SexCriterion():
            return "sex: " + ("not recorded, or other" if c.sex == "unknown" else c.sex)
        case AgeCriterion():
            return f"age {_bound_text(c)} years"
        case QualityCriterion():
            of = f" of {concept_name(c.lab, rulesets)}" if c.lab else ""
            return f"data in doubt: {concept_name(c.quality, rulesets)} value{of}"
        case FindingCriterion():
            return f"finding: {_finding_name(c.finding, rulesets)}"
    raise TypeError(f"no words for {type(c).__name__}")


def _presence_text(
    c: PresenceCriterion, window: Mapping[str, str], rulesets: Rulesets
) -> Iterator[str]:
    """Yield what narrows which records of it count."""
    for name, words in (
        ("within", "not known to be older than {}"),
        ("longer_than", "for more than {}"),
        ("onset_within", "known to have begun within {}"),
        ("seen_within", "recorded within {}"),
    ):
        if name in window:
            yield f", {words.format(window[name])}"
    if c.onset:
        yield ", not known when it began"
    if c.times:
        yield f", recorded on {c.times} days or more"
    if c.sites:
        yield f", at {c.sites} places of the body or more"
    if c.severity:
        yield f", {c.severity}"
    if c.medicine is not None:
        event, medicine = c.medicine
        late = f" within {window['delay']}" if "delay" in window else ""
        yield f", begun{late} after the {event} of {concept_name(medicine, rulesets)}"


def _medication_text(c: MedicationCriterion, window: Mapping[str, str], rulesets: Rulesets) -> str:
    name = concept_name(c.medication, rulesets)
    if c.being_ordered:
        return f"being ordered: {name}"
    if c.stopped_within:
        lasted = f", taken for {window['lasted']} or more before" if c.lasted else ""
        return f"stopped within {window['stopped_within']}: {name}{lasted}"
    text = f"takes: {name}"
    if c.at_least:
        text += f", {c.at_least} ingredients or more"
    for key, words in (
        ("started_within", "started within {}"),
        ("changed_within", "started, or dose raised, within {}"),
        ("longer_than", "for more than {}"),
    ):
        if key in window:
            text += f", {words.format(window[key])}"
    return text


def _lab_text(c: LabCriterion) -> str:
    if c.laboratory:
        return {
            "below": "below the laboratory's own range",
            "above": "above the laboratory's own range",
            "critical-low": "flagged critically low (LL) by the laboratory",
            "critical-high": "flagged critically high (HH) by the laboratory",
        }[c.laboratory]
    low = c.lt is not None or c.le is not None
    side, flag = ("below", "LL") if low else ("above", "HH")
    text = _bound_text(c)
    if c.critical_flag:
        text += f" or flagged {flag} by the laboratory"
    if c.first_band:
        text += (
            f" and not normal by the laboratory's own range, or {side} the laboratory's own range"
        )
    return text


def _bound_text(c: Any) -> str:
    op, value = c.bound
    unit = getattr(c, "unit", None)
    return f"{_SIGNS[op]} {_number(value)}" + (f" {unit}" if unit and unit != "1" else "")


def _age_text(window: Mapping[str, str]) -> str:
    newer = f"more than {window['older_than']} and " if "older_than" in window else ""
    return f"{newer}at most {window['within']} old"


def _number(value: Decimal) -> str:
    return format(value, "f")


def _windows(c: Any, rulesets: Rulesets) -> dict[str, int]:
    """Return the durations of a criterion by name, in seconds, with the analyte's default."""
    names = (
        *("within", "older_than", "over", "longer_than", "onset_within", "seen_within", "delay"),
        *("started_within", "changed_within", "stopped_within", "lasted"),
    )
    windows = {n: seconds_of(text) for n in names if (text := getattr(c, n, None))}
    if "within" not in windows and isinstance(c, (LabCriterion, RiseCriterion, RatioCriterion)):
        analyte = next(getattr(c, n) for n in ("lab", "rise", "ratio") if hasattr(c, n))
        windows["within"] = rulesets.terminology.analytes[analyte].fresh
    return windows


def _iso_windows(c: Any, rulesets: Rulesets) -> dict[str, str]:
    hours = {name: seconds // 3600 for name, seconds in _windows(c, rulesets).items()}
    return {n: f"PT{h}H" if h % 24 else f"P{h // 24}D" for n, h in hours.items()}


def span_text(seconds: int) -> str:
    """Return a window in words: whole days, up to 48 hours in hours ("7 days", "48 hours")."""
    hours = seconds // 3600
    count, unit = (hours // 24, "day") if hours % 24 == 0 and hours > 48 else (hours, "hour")
    return f"{count} {unit}" + ("" if count == 1 else "s")


def concept_name(concept: str, rulesets: Rulesets) -> str:
    """Return what people call an analyte or value set; a word of ours as it is."""
    terminology = rulesets.terminology
    known = terminology.analytes.get(concept) or terminology.value_sets.get(concept)
    return str(known.name) if known is not None else concept.replace("-", " ")


def _finding_name(finding: str, rulesets: Rulesets) -> str:
    key = f"finding/{finding}"
    titles = (r.rule.title for r in rulesets.program.rules if r.finding_key == key)
    return f"{next(titles, 'asserted by no rule')} ({finding})"


def _threshold(c: Any) -> dict[str, Any] | None:
    bound = getattr(c, "bound", None)
    if bound is None:
        return None
    op, value = bound
    unit = "years" if isinstance(c, AgeCriterion) else getattr(c, "unit", None) or "1"
    return {"comparator": op, "value": _json(value), "unit": unit}


def _json(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


# ---------------------------------------------------------------- why a rule fired or not


def explanation_dict(
    trace: RuleTrace,
    evaluation: Evaluation,
    rulesets: Rulesets,
    changes: Sequence[Change] | None = None,
) -> dict[str, Any]:
    """Return why a rule fired or did not, JSON-ready.

    `when` and `unless` are trees: ``{"state", "of": "all"|"any", "parts"}`` over criteria with
    `state` ("yes", "no", "unknown"), `criterion` in words, `threshold` with comparator word
    and UCUM unit, `window` (ISO 8601 durations), `reason` (why unknown) with `needs`, and
    `observed`: each result with value as converted, `sent`, `effective` and `resource`.
    `counterfactuals` are the `changes`, where they were looked for, each also as `text`, and
    `open_criteria` how many criteria at least keep the rule from firing.
    """
    from cds.counterfactual import open_criteria  # only an explanation needs it

    rule = trace.rule.rule
    wording = Wording(evaluation, rulesets)
    found = [{**change_json(c), "text": wording.change(c)} for c in changes or ()]
    looked = {} if changes is None else {"counterfactuals": found}
    return {
        "patient": evaluation.patient,
        "as_of": iso(evaluation.as_of),
        "rule": _rule_dict(trace.rule.group, rule, rulesets),
        "fired": trace.fired,
        "outcome": trace.outcome,
        "when": _trace_dict(trace.when, evaluation, rulesets),
        "unless": _trace_dict(trace.unless, evaluation, rulesets) if trace.unless else None,
        "open_criteria": 0 if trace.fired else open_criteria(trace),
        **looked,
    }


def _trace_dict(
    trace: NodeTrace | LeafTrace, evaluation: Evaluation, rulesets: Rulesets
) -> dict[str, Any]:
    if isinstance(trace, NodeTrace):
        parts = [_trace_dict(part, evaluation, rulesets) for part in trace.parts]
        return {"state": trace.state, "of": trace.word, "parts": parts}
    c = trace.leaf.criterion
    kind, concept = trace.leaf.key.split("/")[:2]
    reasons = rulesets.texts.not_evaluated
    return {
        "state": trace.state,
        "criterion": criterion_text(c, rulesets),
        "kind": kind,
        "concept": concept,
        "threshold": _threshold(c),
        "window": _iso_windows(c, rulesets) or None,
        "reason": trace.reason or None,
        "reason_text": reasons.get(trace.reason, trace.reason) or None,
        "needs": trace.needs or None,
        "resource": trace.resource,
        **_observed(trace, evaluation),
    }


def _observed(trace: LeafTrace, evaluation: Evaluation) -> dict[str, Any]:
    """Return what was seen: `observed` entries, and what was computed from them."""
    fact = trace.fact
    if fact is None:
        return {"observed": []}
    props = fact.props
    sides = {t.prop for atom in trace.leaf.atoms for t in atom.tests if t.prop.endswith("_flag")}
    amount = Decimal(props["amount"]) / (2 * GRID) if "amount" in props else props.get("years")
    more = {
        "computed": _json(Decimal(amount)) if amount is not None else None,
        "hours_old": props["age"] // 3600 if "age" in props else None,
        "laboratory_says": next((_FLAGS.get(props[side]) for side in sorted(sides)), None),
    }
    return {
        "observed": because(evaluation, [fact.key]),
        **{name: value for name, value in more.items() if value is not None},
        "cautions": list(dict.fromkeys(d.text for s in fact.sources for d in s.doubts)),
    }


# ---------------------------------------------------------------- the catalog


def catalog(rulesets: Rulesets) -> list[dict[str, Any]]:
    """Return every rule in file order, JSON-ready: criteria in words, thresholds, evidence.

    `when` and `unless` are lists of words, or ``{"any": [...]}``, ``{"all": [...]}``. With a
    site's profile each entry has `site_changes`, what the site changed of the rule, in words, and
    `not_run`, None or why the site does not run it; these rules come last.
    """
    entries = [_rule_dict(f.group, rule, rulesets) for f in rulesets.files for rule in f.rules]
    site = rulesets.site
    if site is None:
        return entries
    for entry in entries:
        entry |= {"site_changes": list(site.changes.get(entry["id"], ())), "not_run": None}
    return entries + [
        {
            **_rule_dict(left_out.group, left_out.rule, rulesets, left_out.version),
            "site_changes": [],
            "not_run": left_out.reason,
        }
        for left_out in site.not_run.values()
    ]


def _rule_dict(
    group: str, rule: Any, rulesets: Rulesets, version: str | None = None
) -> dict[str, Any]:
    """Return one rule; `version` is that of its file, None to look it up."""
    version = version or next(
        f.version for f in rulesets.files if f.group == group and rule in f.rules
    )
    criteria = list(_criteria((*rule.when, *rule.unless)))
    return {
        "id": rule.id,
        "title": rule.title,
        "group": group,
        "version": version,
        "tier": rule.tier,
        "review": rule.review,
        "last_reviewed": rule.last_reviewed,
        "population": rule.population,
        "finding": rule.finding_id,
        "family": rule.family,
        "step": rule.step,
        "caveat_for": list(rule.caveat_for),
        "stands_in_from": rule.stands_in_from,
        "when": _words(rule.when, rulesets),
        "unless": _words(rule.unless, rulesets),
        "missing": rule.missing,
        "thresholds": [
            {"criterion": criterion_text(c, rulesets), **bound, "window": _iso_windows(c, rulesets)}
            for c in criteria
            if (bound := _threshold(c))
        ],
        "evidence": [e.model_dump(mode="json") for e in rule.evidence],
        "covers": list(rule.covers),
        "note": rule.note,
        "card": rule.card.model_dump(mode="json") if rule.card else None,
    }


def _criteria(criteria: Iterable[Any]) -> Iterator[Any]:
    for c in criteria:
        if isinstance(c, (AnyCriterion, AllCriterion)):
            yield from _criteria(c.any if isinstance(c, AnyCriterion) else c.all)
        else:
            yield c


def _words(criteria: Iterable[Any], rulesets: Rulesets) -> list[Any]:
    return [
        {"any": _words(c.any, rulesets)}
        if isinstance(c, AnyCriterion)
        else {"all": _words(c.all, rulesets)}
        if isinstance(c, AllCriterion)
        else criterion_text(c, rulesets)
        for c in criteria
    ]
