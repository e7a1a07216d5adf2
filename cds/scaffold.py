"""The skeleton of a new rule: what `cds new-rule` writes for an author to fill in.

A rule that loads and fires, with evidence and texts to be written (each such text begins with
TODO, which lint refuses), and cases that ask what must happen at the bound, beside it, and where
something is missing. They fail until the author has answered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import permutations
from pathlib import Path
from typing import Any, Final

from cds.bounds import STEP
from cds.errors import RuleError, UsageError
from cds.forms import Form, Lab, Presence, Takes, ago, scalar
from cds.program import GRID
from cds.rulefile import OPS
from cds.rules import Rulesets, load_rulesets, shared_folders
from cds.terminology import Terminology, load_terminology
from cds.yamlfile import load_yaml, parse_yaml
from cds.yamlmodel import ID, nearest

__all__ = ["PRESENT", "Draft", "LabTest", "NewRule", "Skeleton", "skeleton"]

AS_OF: Final = "2026-11-01T00:00:00Z"
"""The instant of judgment of new files of cases; any would do, since cases count back from it."""

PRESENT: Final = ("symptom", "condition", "lifestyle", "medication")
"""The kinds of value sets that a skeleton can ask for."""

_LOW: Final = ("lt", "le")
_WORDS: Final = {"lt": "below", "le": "at most", "gt": "above", "ge": "at least"}


@dataclass(frozen=True, slots=True)
class LabTest:
    """A result compared with a number: `op` is lt, le, gt or ge, `value` in the analyte's unit."""

    analyte: str
    op: str
    value: Decimal


@dataclass(frozen=True, slots=True)
class NewRule:
    """What an author says of a rule that is not there yet.

    `present` are what must be recorded too: pairs of kind (`PRESENT`) and value set. `title` ""
    is left to be written.
    """

    id: str
    group: str
    tier: str
    lab: LabTest | None = None
    present: tuple[tuple[str, str], ...] = ()
    title: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """One file as it is to be: `text` is the whole, `line` where the new part begins.

    `old` is what it held before, None for a new file.
    """

    path: Path
    text: bytes
    line: int
    old: bytes | None


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The two files, and the version that a change of `rules` has to raise ("" in a new file)."""

    rules: Draft
    cases: Draft
    case_count: int
    version: str


def skeleton(new: NewRule, folder: Path) -> Skeleton:
    """Return the files of a ruleset folder with the skeleton of a new rule; nothing is written.

    Args:
        new: the rule.
        folder: the ruleset folder, with `<group>/rules.yaml` and `cases.yaml`; it, the group and
            the files may be new.

    Raises: UsageError where the rule cannot be made as said: an id that is no id or is used
    already in the folder or in the installed rules, a name that nobody knows, a number that no
    rule can hold, a file to which nothing can be appended; RuleErrors and TerminologyError where
    the folder does not load.
    """
    own, terminology = _loaded(folder)
    _check_ids(new, [rulesets for rulesets in (own, load_rulesets()) if rulesets])
    _check_criteria(new, terminology)
    rules, cases = (folder / new.group / name for name in ("rules.yaml", "cases.yaml"))
    found = list(_cases(new, terminology))
    version = ""
    if rules.exists():
        data = _mapping(rules)
        if data.get("group") != new.group:
            raise UsageError(
                f"{rules} is of the group '{data.get('group')}'; use --group {data.get('group')}"
                " with the folder of that name"
            )
        version = str(data.get("version", ""))
        rules_draft = _appended(rules, "rules", _rule_lines(new, terminology))
    else:
        rules_draft = _begun(rules, _RULES_HEAD.format(group=new.group, title=_title(new.group)))
        rules_draft = _with(rules_draft, _rule_lines(new, terminology))
    if cases.exists():
        dated = _mapping(cases).get("as_of") is not None
        cases_draft = _appended(cases, "cases", _case_lines(new, found, dated=dated))
    else:
        cases_draft = _with(_begun(cases, _CASES_HEAD), _case_lines(new, found, dated=True))
    return Skeleton(rules_draft, cases_draft, len(found), version)


def _loaded(folder: Path) -> tuple[Rulesets | None, Terminology]:
    """Return the rules of the folder, None where it has none yet, and what it can name."""
    if (folder / "rules.yaml").is_file():
        raise UsageError(f"{folder} is one group of rules; name the folder above it")
    if any(folder.glob("*/rules.yaml")):
        rulesets = load_rulesets(folder)
        return rulesets, rulesets.terminology
    return None, load_terminology(*shared_folders([folder]))


# ---------------------------------------------------------------- what an author may say


def _check_ids(new: NewRule, known: Sequence[Rulesets]) -> None:
    for what, name in (("rule", new.id), ("group", new.group)):
        if re.fullmatch(ID, name) is None:
            raise UsageError(
                f"'{name}' cannot be the id of a {what}; write small letters, digits and hyphens, "
                "a letter first"
            )
    for rulesets in known:
        for file in rulesets.files:
            for rule in file.rules:
                ids = (rule.id, f"{rule.id}-recheck")
                if new.id in (*ids, rule.finding_id):
                    what = "id" if new.id in ids else "finding"
                    place = f"{file.path}:{file.line_of.get(rule.id, 0)}"
                    raise UsageError(
                        f"'{new.id}' is already the {what} of rule '{rule.id}' ({place}); ids are "
                        "for ever and unique, so choose another"
                    )


def _check_criteria(new: NewRule, terminology: Terminology) -> None:
    if new.lab is None and not new.present:
        raise UsageError("say what the rule looks for: a result, or something recorded")
    if new.lab is not None:
        _check_lab(new.lab, terminology)
    for kind, name in new.present:
        sets = {id_: s for id_, s in terminology.value_sets.items() if s.kind == kind}
        if name not in sets:
            other = terminology.value_sets.get(name)
            why = f"is of kind {other.kind}" if other else f"is none{nearest(name, sets)}"
            raise UsageError(f"value set of kind {kind}: '{name}' {why}")
    if len(set(new.present)) < len(new.present):
        raise UsageError("the same value set is named twice")
    for (_, part), (_, whole) in permutations(new.present, 2):
        if part in terminology.included(whole):
            raise UsageError(f"'{whole}' holds all that '{part}' holds; name only '{part}'")


def _check_lab(lab: LabTest, terminology: Terminology) -> None:
    analyte = terminology.analytes.get(lab.analyte)
    if analyte is None:
        hint = nearest(lab.analyte, terminology.analytes)
        raise UsageError(f"there is no analyte '{lab.analyte}'{hint}")
    if lab.op not in OPS:
        raise UsageError(f"'{lab.op}' is no comparator; use one of {', '.join(OPS)}")
    if not lab.value.is_finite() or lab.value * GRID % 1:
        raise UsageError(
            f"{lab.value} cannot be a limit; write a number with four decimals at most"
        )
    low, high = lab.value - STEP, lab.value + STEP
    if analyte.plausible and not (analyte.plausible.hold(low) and analyte.plausible.hold(high)):
        raise UsageError(
            f"{lab.value:f} {analyte.unit} lies outside what is possible for {analyte.name}; the "
            f"limit is in {analyte.unit}"
        )


# ---------------------------------------------------------------- the rule

_RULES_HEAD: Final = """\
# Every rule is a draft until a clinician has signed it.

group: {group}
title: {title}
version: 1.0.0

rules:
"""


def _title(group: str) -> str:
    return group[0].upper() + group[1:].replace("-", " ")


def _rule_lines(new: NewRule, terminology: Terminology) -> list[str]:
    lab = new.lab
    value = f" at {{{lab.analyte}}}" if lab else ""
    when = []
    if lab is not None:
        unit = scalar(terminology.analytes[lab.analyte].unit, flow=True)
        when.append(f"{{lab: {lab.analyte}, {lab.op}: {lab.value:f}, unit: {unit}}}")
    when += [f"{{{kind}: {name}}}" for kind, name in new.present]
    texts = {
        "source": "TODO name of the guideline, article or site",
        "statement": "TODO what it says about this rule, in your own words",
        "summary": f"TODO one line: what was found{value}",
        "detail": "TODO what to look for, and what to do next",
        "patient": "TODO what to do, and by when, in short plain sentences",
    }
    title = new.title or "TODO what was found, in a few words that are true in every case"
    return [
        f"- id: {new.id}",
        f"  title: {scalar(title)}",
        f"  tier: {new.tier}",
        "  when:",
        *(f"    - {criterion}" for criterion in when),
        "  evidence:",
        f"    - source: {scalar(texts['source'])}",
        f"      statement: {scalar(texts['statement'])}",
        "  review: draft",
        "  card:",
        *(f"    {key}: {scalar(texts[key])}" for key in ("summary", "detail", "patient")),
    ]


# ---------------------------------------------------------------- its cases

_CASES_HEAD: Final = f"""\
# Each case is a patient in a few lines, with what must be found.

as_of: {AS_OF}

cases:
"""


@dataclass(frozen=True, slots=True)
class _Question:
    """A patient near the rule: what is asked, and what is recorded."""

    about: str
    forms: tuple[Form, ...]


def _cases(new: NewRule, terminology: Terminology) -> Iterator[_Question]:
    """Yield the patient for whom everything holds, then those where one thing is otherwise."""
    present = tuple(_recorded(kind, name) for kind, name in new.present)
    names = [terminology.value_sets[name].name for _, name in new.present]
    lab = new.lab
    if lab is None:
        yield _Question(" and ".join(names), present)
    else:
        analyte = terminology.analytes[lab.analyte]
        step = -STEP if lab.op in _LOW else STEP
        at, beside = lab.value, lab.value + (step if lab.op in ("lt", "gt") else -step)
        inside, outside = (beside, at) if lab.op in ("lt", "gt") else (at, beside)
        unit = "" if analyte.unit == "1" else analyte.unit
        fresh, stale = ago(analyte.fresh), ago(analyte.fresh + 1)

        def measured(value: Decimal, when: Any = fresh) -> tuple[Form, ...]:
            return (Lab(lab.analyte, value, unit, when), *present)

        def said(value: Decimal) -> str:
            return f"{analyte.name} of {value:f} {unit}".rstrip()

        yield _Question(f"{said(inside)}, {fresh}", measured(inside))
        yield _Question(f"{said(outside)}, {fresh}", measured(outside))
        yield _Question(f"{said(inside)}, {stale}", measured(inside, stale))
        yield _Question(f"no {analyte.name}", present)
    known = () if lab is None else measured(inside)[:1]
    for number, (kind, name) in enumerate(new.present):
        others = (*known, *present[:number], *present[number + 1 :])
        yield _Question(f"no record of {names[number]}", others)
        denial = Presence("denies", name)
        if kind != "medication" and _can_be_said(denial, terminology):
            yield _Question(f"{names[number]} denied", (*others, denial))


def _recorded(kind: str, name: str) -> Form:
    return Takes(name) if kind == "medication" else Presence(kind, name)


def _can_be_said(form: Form, terminology: Terminology) -> bool:
    try:
        return bool(form.resources(terminology, 0, "x", "Patient/x"))
    except ValueError:
        return False


def _case_lines(new: NewRule, cases: Sequence[_Question], *, dated: bool) -> list[str]:
    lines = [
        f"# Does {new.id} fire here? Write `fires` or, where it must not, `not`; then put a",
        "# sentence that says so in the place of the name, and remove this comment.",
    ]
    for number, case in enumerate(cases):
        name = f"TODO {new.id}: {case.about}"
        lines.append(f"- name: {scalar(name)}")
        if not dated:
            lines.append(f"  as_of: {AS_OF}")
        lines.append("  data:" if case.forms else "  data: []")
        lines += [f"    {form.line()}" for form in case.forms]
        more = f", tier: {new.tier}, card: [TODO words of the card]" if number == 0 else ""
        lines.append(f"  expect: {{fires: [{new.id}]{more}}}")
    return lines


# ---------------------------------------------------------------- files


def _mapping(path: Path) -> Mapping[str, Any]:
    data, _ = load_yaml(path)
    if not isinstance(data, dict):
        raise RuleError("must be keys with values (key: value)", path=str(path))
    return data


def _begun(path: Path, head: str) -> Draft:
    return Draft(path, head.encode(), head.count("\n") + 1, None)


def _with(draft: Draft, lines: Iterable[str]) -> Draft:
    text = draft.text + _joined(lines, "  ", "\n")
    return Draft(draft.path, text, draft.line, draft.old)


def _joined(lines: Iterable[str], indent: str, end: str) -> bytes:
    return "".join(f"{indent}{line}{end}" for line in lines).encode()


def _appended(path: Path, key: str, lines: Sequence[str]) -> Draft:
    """Return a file with the lines as further items of its last list; the rest stays as it is.

    Raises: UsageError where the list is not the end of the file, or is written in brackets.
    """
    old = path.read_bytes()
    data, places = load_yaml(path)
    items = data.get(key) if isinstance(data, dict) else None
    end = "\r\n" if b"\r\n" in old else "\n"
    between = b"" if old.endswith(b"\n") else end.encode()
    if isinstance(items, list) and items:
        last = old.decode("utf-8").splitlines()[places.of((key, len(items) - 1)) - 1]
        indent = last[: len(last) - len(last.lstrip(" "))]
        head = old + between + end.encode()
        text = head + _joined(lines, indent, end)
        if last.lstrip(" ").startswith("- ") and _holds(text, path, key, items, lines):
            return Draft(path, text, head.count(b"\n") + 1, old)
    raise UsageError(
        f"{path}: nothing can be appended, because the list '{key}' is not in lines of its own at "
        "the end of the file; put it there, or begin another group"
    )


def _holds(text: bytes, path: Path, key: str, items: Sequence[Any], lines: Sequence[str]) -> bool:
    """Whether the new text says what the old one said, and the new items."""
    before, _ = load_yaml(path)
    try:
        after, _ = parse_yaml(text.decode("utf-8"))
        added, _ = parse_yaml(_joined(lines, "", "\n").decode("utf-8"))
    except RuleError:
        return False
    if not isinstance(before, dict) or not isinstance(added, list):
        return False
    return after == {**before, key: [*items, *added]}
