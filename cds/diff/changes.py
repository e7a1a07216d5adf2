"""What changed between two versions of rules, part by part and in words.

Every field of a rule, analyte, value set or card text is compared, also one that nobody has
thought of here: what is not known to change only words or records counts as able to change who is
found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, Literal

from cds.catalog import span_text
from cds.diff.criteria import criteria_changes, criterion_lines
from cds.diff.users import Users
from cds.rulefile import Evidence, Rule, Ruleset
from cds.rules import Rulesets
from cds.terminology import Analyte, CodeEntry, LabCode, Limits, Terminology, ValueSet

__all__ = ["WEIGHTS", "Change", "Weight", "compare"]

Weight = Literal["found", "shown", "record"]

WEIGHTS: Final[Mapping[Weight, str]] = {
    "found": "What can change who is found",
    "shown": "What is said to people",
    "record": "What is known about the rules",
}

# What changes only words, or only what is known about a rule. All else can change who is found.
_RULE: Final[Mapping[str, Weight]] = {
    "title": "shown",
    "missing": "shown",
    "ask": "shown",
    "review": "record",
    "last_reviewed": "record",
    "covers": "record",
    "note": "record",
}
_ANALYTE: Final[Mapping[str, Weight]] = {"name": "shown", "decimals": "shown", "slips": "shown"}
_VALUE_SET: Final[Mapping[str, Weight]] = {"name": "shown", "ask": "shown", "uncoded": "record"}
_TERMINOLOGY: Final[Mapping[str, Weight]] = {"doubts": "shown", "hemolysis": "shown"}
# Of a terminology: compared item by item, or made from what is.
_APART: Final = frozenset(
    {"analytes", "value_sets", "questions", "formulary"}
    | {"_labs", "_concepts", "_categories", "_own"}
)
_SECONDS: Final = frozenset(
    {"fresh", "context", "counts_for", "symptom_window", "same_draw_within"}
)


@dataclass(frozen=True, slots=True)
class Change:
    """One difference, in words.

    Args:
        weight: "found" (it can change who is found), "shown" (only what is said of it) or
            "record" (only what is known about the rules).
        subject: "rule", "group", "value set", "analyte", "terminology" or "cards".
        id: which one.
        what: the part that changed ("tier", "threshold", "code", "detail").
        old: how it was; None where it was not there.
        new: how it is; None where it is gone.
        where: the place of the part ("when", "unless", "card"), or "".
        more: further lines, such as the criteria of a new rule.
        used_by: ids of the rules that a changed analyte or value set touches.
    """

    weight: Weight
    subject: str
    id: str
    what: str
    old: str | None
    new: str | None
    where: str = ""
    more: tuple[str, ...] = ()
    used_by: tuple[str, ...] = ()


def compare(old: Rulesets, new: Rulesets) -> list[Change]:
    """Return what changed from `old` to `new`: the weightiest first, rules before the rest."""
    changes = [*_rules(old, new), *_groups(old, new), *_terminology(old, new), *_cards(old, new)]
    order = list(WEIGHTS)
    return sorted(changes, key=lambda change: order.index(change.weight))


# ---------------------------------------------------------------- rules


def _written(rulesets: Rulesets) -> dict[str, tuple[str, Rule]]:
    """Return the rules that an author wrote by id, each with its group; no companions."""
    return {
        rule.id: (file.group, rule)
        for file in rulesets.files
        for rule in file.rules
        if not rule.recheck_of
    }


def _rules(old: Rulesets, new: Rulesets) -> Iterator[Change]:
    before, after = _written(old), _written(new)
    renamed = _renamed(before, after)
    for id_, (group, rule) in before.items():
        if id_ not in after and id_ not in renamed:
            lines = _rule_lines(rule, old)
            yield Change("found", "rule", id_, "rule", _head(group, rule), None, "", lines)
    was = {new_id: old_id for old_id, new_id in renamed.items()}
    for id_, (group, rule) in after.items():
        if id_ in was:
            yield Change("found", "rule", id_, "id", was[id_], id_)
        elif id_ not in before:
            lines = _rule_lines(rule, new)
            yield Change("found", "rule", id_, "rule", None, _head(group, rule), "", lines)
            continue
        old_group, old_rule = before[was.get(id_, id_)]
        if old_group != group:
            yield Change("shown", "rule", id_, "group", old_group, group)
        yield from _rule(id_, old_rule, rule, old, new)
    yield from _order(old, new)


def _renamed(
    before: Mapping[str, tuple[str, Rule]], after: Mapping[str, tuple[str, Rule]]
) -> dict[str, str]:
    """Return old id to new id of rules that decide the same under another id."""

    def decides(rule: Rule) -> str:
        # A finding that the rule itself names must not tell it apart from its former self.
        return repr((rule.tier, rule.step, rule.population, rule.when, rule.unless))

    gone = [(id_, decides(rule)) for id_, (_, rule) in before.items() if id_ not in after]
    come = [(id_, decides(rule)) for id_, (_, rule) in after.items() if id_ not in before]
    pairs = {}
    for id_, does in gone:
        same = [new_id for new_id, what in come if what == does]
        if len(same) == 1 and sum(what == does for _, what in gone) == 1:
            pairs[id_] = same[0]
    return pairs


def _head(group: str, rule: Rule) -> str:
    kind = "step" if rule.step else "caveat" if rule.caveat_for else rule.tier
    return f"{kind}: {rule.title} ({group})"


def _rule_lines(rule: Rule, rulesets: Rulesets) -> tuple[str, ...]:
    lines = [f"when {line}" for line in criterion_lines(rule.when, rulesets)]
    return (*lines, *(f"unless {line}" for line in criterion_lines(rule.unless, rulesets)))


def _rule(id_: str, old: Rule, new: Rule, before: Rulesets, after: Rulesets) -> Iterator[Change]:
    for name in Rule.model_fields:
        was, is_ = getattr(old, name), getattr(new, name)
        if was == is_ or name == "id":
            continue
        if name in ("when", "unless"):
            for c in criteria_changes(was, is_, before, after):
                where = ", ".join(part for part in (name, c.where) if part)
                yield Change("found", "rule", id_, c.what, c.old, c.new, where)
        elif name == "card":
            yield from _card(id_, old, new)
        elif name == "evidence":
            yield from _evidence("rule", id_, was, is_)
        elif name == "finding":
            yield from _values("found", "rule", id_, name, old.finding_id, new.finding_id)
        else:
            weight = _RULE.get(name, "found")
            yield from _values(weight, "rule", id_, name, was, is_)


def _card(id_: str, old: Rule, new: Rule) -> Iterator[Change]:
    if old.card is None or new.card is None:
        was = old.card.summary if old.card else None
        yield Change("shown", "rule", id_, "card", was, new.card.summary if new.card else None)
        return
    # What a caveat says is a text as well: it stands on the cards of others.
    for name in type(new.card).model_fields:
        was, is_ = getattr(old.card, name), getattr(new.card, name)
        yield from _values("shown", "rule", id_, name, was, is_, where="card")


def _evidence(
    subject: str, id_: str, old: Sequence[Evidence], new: Sequence[Evidence]
) -> Iterator[Change]:
    gone = [e for e in old if e not in new]
    come = [e for e in new if e not in old]
    for evidence in gone:
        other = next((e for e in come if e.source == evidence.source), None)
        if other is not None:
            come.remove(other)
        now = _citation(other) if other else None
        yield Change("record", subject, id_, "evidence", _citation(evidence), now)
    for evidence in come:
        yield Change("record", subject, id_, "evidence", None, _citation(evidence))


def _citation(e: Evidence) -> str:
    where = ", ".join(str(part) for part in (e.year, e.section, e.url) if part)
    proposal = "proposal, no source read: " if e.from_knowledge else ""
    return f"{proposal}{e.source}{f' ({where})' if where else ''}: {e.statement}"


def _order(old: Rulesets, new: Rulesets) -> Iterator[Change]:
    """Yield bands of one family and tier that changed places: of two, the first is shown."""

    def bands(rulesets: Rulesets) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for id_, (_, rule) in _written(rulesets).items():
            if rule.family and not rule.caveat_for:
                found.setdefault((rule.family, rule.tier), []).append(id_)
        return found

    before, after = bands(old), bands(new)
    for (family, tier), ids in after.items():
        was = [id_ for id_ in before.get((family, tier), ()) if id_ in ids]
        is_ = [id_ for id_ in ids if id_ in was]
        if was != is_:
            what = f"order of the {tier} bands of family {family}"
            yield Change("found", "rule", is_[0], what, ", ".join(was), ", ".join(is_))


# ---------------------------------------------------------------- groups and card texts


def _groups(old: Rulesets, new: Rulesets) -> Iterator[Change]:
    before, after = _by_group(old), _by_group(new)
    for group in [*before, *(g for g in after if g not in before)]:
        was, is_ = before.get(group), after.get(group)
        if was is None or is_ is None:
            texts = [f"{f.title} ({f.version})" if f else None for f in (was, is_)]
            yield Change("record", "group", group, "group", texts[0], texts[1])
            continue
        yield from _values("shown", "group", group, "title", was.title, is_.title)
        yield from _values("record", "group", group, "version", was.version, is_.version)
        if was.recheck is None or is_.recheck is None:
            texts = [f.recheck.title if f.recheck else None for f in (was, is_)]
            yield from _values("shown", "group", group, "recheck", texts[0], texts[1])
            continue
        for name in type(is_.recheck).model_fields:
            before_it, after_it = getattr(was.recheck, name), getattr(is_.recheck, name)
            if name == "evidence":
                yield from _evidence("group", group, before_it, after_it)
            else:
                yield from _values("shown", "group", group, name, before_it, after_it, "recheck")


def _by_group(rulesets: Rulesets) -> dict[str, Ruleset]:
    return {file.group: file for file in rulesets.files}


def _cards(old: Rulesets, new: Rulesets) -> Iterator[Change]:
    for name in type(new.texts).model_fields:
        was, is_ = getattr(old.texts, name), getattr(new.texts, name)
        yield from _values("shown", "cards", name, name, was, is_)


# ---------------------------------------------------------------- analytes and value sets


def _terminology(old: Rulesets, new: Rulesets) -> Iterator[Change]:
    before, after = old.terminology, new.terminology
    users = Users(old, new)
    for id_ in sorted({*before.value_sets, *after.value_sets}):
        sets = before.value_sets.get(id_), after.value_sets.get(id_)
        yield from _named(*sets, "value set", id_, users.of_value_set(id_), _value_set)
    for id_ in sorted({*before.analytes, *after.analytes}):
        tests = before.analytes.get(id_), after.analytes.get(id_)
        yield from _named(*tests, "analyte", id_, users.of_analyte(id_), _analyte)
    for what in ("file", "same_as", "products", "names"):
        was, is_ = getattr(before.formulary, what), getattr(after.formulary, what)
        yield from _values("found", "terminology", "medicines", what, was, is_)
    for field in dataclasses.fields(Terminology):
        if field.name not in _APART:
            was, is_ = getattr(before, field.name), getattr(after, field.name)
            weight = _TERMINOLOGY.get(field.name, "found")
            name = field.name.strip("_")
            yield from _values(weight, "terminology", name, name, was, is_)


def _named(
    old: Any,
    new: Any,
    subject: str,
    id_: str,
    used_by: tuple[str, ...],
    parts: Callable[[Any, Any, str], Iterator[Change]],
) -> Iterator[Change]:
    """Yield the changes of one item; what no rule uses cannot change who is found."""
    if old == new:
        return
    if old is None or new is None:
        names = [item.name if item else None for item in (old, new)]
        changes = iter([Change("found", subject, id_, subject, names[0], names[1])])
    else:
        changes = parts(old, new, id_)
    for change in changes:
        weight = "record" if change.weight == "found" and not used_by else change.weight
        yield dataclasses.replace(change, weight=weight, used_by=used_by)


def _value_set(old: ValueSet, new: ValueSet, id_: str) -> Iterator[Change]:
    yield from _codes("value set", id_, old.codes, new.codes)
    for name in _fields(new, but="codes"):
        was, is_ = getattr(old, name), getattr(new, name)
        yield from _values(_VALUE_SET.get(name, "found"), "value set", id_, name, was, is_)


def _analyte(old: Analyte, new: Analyte, id_: str) -> Iterator[Change]:
    yield from _codes("analyte", id_, old.codes, new.codes)
    for name in _fields(new, but="codes"):
        was, is_ = getattr(old, name), getattr(new, name)
        yield from _values(_ANALYTE.get(name, "found"), "analyte", id_, name, was, is_)


def _fields(item: Any, but: str) -> list[str]:
    return [field.name for field in dataclasses.fields(item) if field.name != but]


def _codes(
    subject: str, id_: str, old: Sequence[CodeEntry | LabCode], new: Sequence[CodeEntry | LabCode]
) -> Iterator[Change]:
    before = {(code.system, code.code): code for code in old}
    after = {(code.system, code.code): code for code in new}
    for key in [*before, *(key for key in after if key not in before)]:
        was, is_ = before.get(key), after.get(key)
        if was == is_:
            continue
        # A display is for people; with it left out, the rest decides what the code stands for.
        same = was and is_ and dataclasses.replace(was, display=is_.display) == is_
        weight: Weight = "record" if same else "found"
        texts = [_code_text(code) if code else None for code in (was, is_)]
        yield Change(weight, subject, id_, "code", texts[0], texts[1])


def _code_text(code: CodeEntry | LabCode) -> str:
    text = f"{code.system} {code.code} {code.display}"
    if isinstance(code, CodeEntry):
        return text + (" and every code below it" if code.match == "prefix" else "")
    mass = f", {code.molar_mass} g/mol" if code.molar_mass else ""
    return f"{text} ({code.property}{mass})"


# ---------------------------------------------------------------- any value


def _values(
    weight: Weight, subject: str, id_: str, what: str, old: Any, new: Any, where: str = ""
) -> Iterator[Change]:
    """Yield the change of one value, of a mapping or list one for each of its items."""
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            was, is_ = old.get(key), new.get(key)
            if was != is_:
                part = f"{_text(key)}" if what == id_ else f"{what} {_text(key)}"
                yield Change(weight, subject, id_, part, _text(was), _text(is_), where)
    elif isinstance(old, (tuple, frozenset)) and isinstance(new, (tuple, frozenset)):
        gone = [item for item in old if item not in new]
        come = [item for item in new if item not in old]
        if not gone and not come:
            yield Change(weight, subject, id_, f"order of {what}", _text(old), _text(new), where)
        for item in gone:
            yield Change(weight, subject, id_, what, _text(item), None, where)
        for item in come:
            yield Change(weight, subject, id_, what, None, _text(item), where)
    else:
        yield Change(weight, subject, id_, what, _text(old, what), _text(new, what), where)


def _text(value: Any, what: str = "") -> str | None:
    """Return a value in words; None for nothing."""
    if value is None or value == ():
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and what in _SECONDS:
        return span_text(value)
    if isinstance(value, Fraction):
        return format(Decimal(value.numerator) / value.denominator, "f")
    if isinstance(value, Limits):
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        bounds = ((sign, getattr(value, op)) for op, sign in signs.items())
        return ", ".join(f"{sign} {_text(bound)}" for sign, bound in bounds if bound is not None)
    if isinstance(value, (tuple, frozenset)):
        items = [_text(item) or "" for item in value]
        return ", ".join(sorted(items) if isinstance(value, frozenset) else items)
    if hasattr(value, "model_fields_set"):
        names: Sequence[str] = list(type(value).model_fields)
    elif dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    else:
        return str(value)
    given = ((name, _text(getattr(value, name), name)) for name in names)
    return "; ".join(f"{name} {text}" for name, text in given if text is not None)
