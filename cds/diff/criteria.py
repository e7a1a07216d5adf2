"""How two lists of criteria differ: thresholds and windows moved, criteria added and removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cds.catalog import concept_name, criterion_text, span_text
from cds.rulefile import KINDS, AllCriterion, AnyCriterion, LabCriterion
from cds.rules import Rulesets
from cds.terminology import seconds_of

__all__ = ["CriterionChange", "criteria_changes", "criterion_lines"]

_WINDOWS: Final = {
    "within": "at most {} old",
    "older_than": "more than {} old",
    "over": "compared over {}",
    "longer_than": "for more than {}",
    "onset_within": "begun within {}",
    "seen_within": "recorded within {}",
    "delay": "begun at most {} after",
    "started_within": "started within {}",
    "changed_within": "started or raised within {}",
    "stopped_within": "stopped within {}",
    "lasted": "taken before for {}",
}
_SIGNS: Final = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@dataclass(frozen=True, slots=True)
class CriterionChange:
    """One difference: `what` is "threshold", "window", "criterion", a flag, or their order.

    `where` is the place inside the list ("any of"), "" for the list itself. `old` and `new` are
    in words, None where there was or is nothing.
    """

    what: str
    old: str | None
    new: str | None
    where: str = ""


def criterion_lines(criteria: Sequence[Any], rulesets: Rulesets) -> list[str]:
    """Return each criterion in words; `any` and `all` in one line."""
    return [_words(c, rulesets) for c in criteria]


def _words(c: Any, rulesets: Rulesets) -> str:
    if isinstance(c, (AnyCriterion, AllCriterion)):
        return f"{_joint(c)} ({'; '.join(criterion_lines(_parts(c), rulesets))})"
    return criterion_text(c, rulesets)


def _joint(c: AnyCriterion | AllCriterion) -> str:
    return "any of" if isinstance(c, AnyCriterion) else "all of"


def _parts(c: AnyCriterion | AllCriterion) -> tuple[Any, ...]:
    return c.any if isinstance(c, AnyCriterion) else c.all


def criteria_changes(
    old: Sequence[Any], new: Sequence[Any], before: Rulesets, after: Rulesets, where: str = ""
) -> Iterator[CriterionChange]:
    """Yield how the criteria `old` of the rules `before` became `new` of the rules `after`."""
    gone = _without(old, new)
    come = _without(new, old)
    if not gone and not come:
        if list(old) != list(new):
            was, is_ = criterion_lines(old, before), criterion_lines(new, after)
            yield CriterionChange("order of criteria", "; ".join(was), "; ".join(is_), where)
        return
    for c, d in _pairs(gone, come):
        gone.remove(c)
        come.remove(d)
        if isinstance(c, (AnyCriterion, AllCriterion)):
            if type(c) is type(d):
                inner = ", ".join(part for part in (where, _joint(c)) if part)
                yield from criteria_changes(_parts(c), _parts(d), before, after, inner)
            else:
                yield CriterionChange("criterion", _words(c, before), _words(d, after), where)
        else:
            yield from _one(c, d, before, after, where)
    for c in gone:
        yield CriterionChange("criterion", _words(c, before), None, where)
    for c in come:
        yield CriterionChange("criterion", None, _words(c, after), where)


def _without(criteria: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    left, rest = list(others), []
    for c in criteria:
        if c in left:
            left.remove(c)
        else:
            rest.append(c)
    return rest


def _pairs(gone: Sequence[Any], come: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return what became what: the same test of the same thing, the most alike first."""
    alike: tuple[Callable[[Any], object], ...] = (_exactly, _subject, _inner)
    pairs: list[tuple[Any, Any]] = []
    left = list(come)
    for key in alike:
        for c in gone:
            if any(c is taken for taken, _ in pairs) or key(c) is None:
                continue
            same = [d for d in left if key(d) == key(c)]
            if same:
                pairs.append((c, max(same, key=lambda d: _in_common(c, d))))
                left.remove(pairs[-1][1])
    return pairs


def _in_common(c: Any, d: Any) -> int:
    if not isinstance(c, (AnyCriterion, AllCriterion)):
        return 0
    return sum(part in _parts(d) for part in _parts(c))


def _subject(c: Any) -> object:
    """Return what a criterion tests ("lab", "potassium"); None for `any` and `all`."""
    kind = next(name for name, shape in KINDS.items() if type(c) is shape)
    return None if kind in ("any", "all") else (kind, getattr(c, kind))


def _exactly(c: Any) -> object:
    """Return what a criterion tests and in which direction; of `any` and `all` only which."""
    if isinstance(c, (AnyCriterion, AllCriterion)):
        return type(c)
    low = isinstance(c, LabCriterion) and (c.lt is not None or c.le is not None)
    return _subject(c), low, getattr(c, "laboratory", None)


def _inner(c: Any) -> object:
    """Return the parts of `any` or `all`, so that one that became the other is seen."""
    return _parts(c) if isinstance(c, (AnyCriterion, AllCriterion)) else None


def _one(
    c: Any, d: Any, before: Rulesets, after: Rulesets, where: str
) -> Iterator[CriterionChange]:
    """Yield how one criterion changed; what it tests stayed the same."""
    fields = {name for name in type(c).model_fields if getattr(c, name) != getattr(d, name)}
    number = fields & {*_SIGNS, "unit"}
    if number and getattr(c, "bound", None) and getattr(d, "bound", None):
        yield CriterionChange("threshold", _bound(c, before), _bound(d, after), where)
        fields -= number
    for name in [name for name in _WINDOWS if name in fields]:
        yield CriterionChange("window", _window(c, name, before), _window(d, name, after), where)
        fields.remove(name)
    for name in sorted(fields & {"first_band", "critical_flag"}):
        was, is_ = ("yes" if getattr(e, name) else "no" for e in (c, d))
        about = _name(c, before)
        yield CriterionChange(name, f"{about}: {was}", f"{about}: {is_}", where)
        fields.remove(name)
    if fields:
        yield CriterionChange("criterion", _words(c, before), _words(d, after), where)


def _name(c: Any, rulesets: Rulesets) -> str:
    kind = next(name for name, shape in KINDS.items() if type(c) is shape)
    name = concept_name(getattr(c, kind), rulesets) if kind != "age" else "age"
    return f"{kind} of {name}" if kind in ("rise", "ratio") else name


def _bound(c: Any, rulesets: Rulesets) -> str:
    op, value = c.bound
    unit = "years" if hasattr(c, "age") else getattr(c, "unit", None) or "1"
    return f"{_name(c, rulesets)} {_SIGNS[op]} {value:f}" + ("" if unit == "1" else f" {unit}")


def _window(c: Any, name: str, rulesets: Rulesets) -> str | None:
    text = getattr(c, name)
    words = _WINDOWS[name]
    analytes = rulesets.terminology.analytes
    measured = next((getattr(c, k) for k in ("lab", "rise", "ratio") if hasattr(c, k)), None)
    if text:
        span = span_text(seconds_of(text))
    elif name == "within" and measured:
        span = span_text(analytes[measured].fresh)
        words += ", as every result of it"
    else:
        return None
    return f"{_name(c, rulesets)}: {words.format(span)}"
