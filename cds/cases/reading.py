"""Reading `cases.yaml`: every fault is found before anything is refused, each with its line."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
from pydantic import Field

from cds.cases.case import Case
from cds.cases.expect import Expect
from cds.cases.files import entries_in, patient_of
from cds.errors import RuleError, RuleErrors, UsageError
from cds.forms import Form, Patient, parse
from cds.program import leaves
from cds.rulefile import Shape
from cds.rules import Rulesets
from cds.screening import instant
from cds.units import UNITS
from cds.yamlfile import Lines
from cds.yamlmodel import check_model, load_model, nearest

__all__ = ["case_paths", "load_cases", "load_cases_file"]

Json = dict[str, Any]

_PLACEHOLDER: Final = re.compile(r"\{([a-z][a-z0-9_]*)\}", re.ASCII)
# Braces that are part of a unit ("{score}") are no placeholders.
_IN_UNITS: Final = frozenset(name for unit in UNITS for name in _PLACEHOLDER.findall(unit))


class _CaseShape(Shape):
    name: Annotated[str, Field(min_length=1)]
    as_of: str | None = None
    data: tuple[Mapping[str, Any], ...] = ()
    expect: Expect = Expect()
    each: tuple[Mapping[str, Any], ...] | None = None
    note: str | None = None


class _FileShape(Shape):
    as_of: str | None = None
    beside: tuple[str, ...] = ()
    cases: tuple[_CaseShape, ...]


# What is never unknown, or waits for what its makers wait for.
_DECIDED: Final = ("sex/", "quality/", "no-result/", "finding/")
_EXPECTED: Final = frozenset(
    field.alias or name for name, field in Expect.model_fields.items()
)  # the keys of a row of `each` that are no placeholders


def case_paths(rulesets: Rulesets) -> dict[str, Path]:
    """Return where the cases of each group stand: `cases.yaml` beside its `rules.yaml`."""
    return {f.group: Path(f.path).with_name("cases.yaml") for f in rulesets.files}


def load_cases(rulesets: Rulesets, groups: Collection[str] | None = None) -> list[Case]:
    """Return the cases of every loaded group, or of `groups`, in file order.

    A group may have none.

    Raises: RuleErrors with every fault, each with file and line.
    """
    errors: list[RuleError] = []
    cases: list[Case] = []
    for group, path in case_paths(rulesets).items():
        if path.is_file() and (groups is None or group in groups):
            cases += _read(path, group, rulesets, errors)
    if errors:
        raise RuleErrors(errors)
    return cases


def load_cases_file(path: Path, group: str, rulesets: Rulesets) -> list[Case]:
    """Return the cases of one file. Raises: RuleErrors, as `load_cases`."""
    errors: list[RuleError] = []
    cases = _read(path, group, rulesets, errors)
    if errors:
        raise RuleErrors(errors)
    return cases


def _read(path: Path, group: str, rulesets: Rulesets, errors: list[RuleError]) -> list[Case]:
    file, lines = load_model(_FileShape, path, errors)
    if file is None or lines is None:
        return []
    if not file.cases:
        errors.append(
            RuleError(
                "holds no case; write one, or remove the file",
                path=str(path),
                line=lines.of(("cases",)),
            )
        )
    reader = _Reader(path, group, rulesets, lines, errors)
    reader.beside = file.beside
    for name in file.beside:
        if name not in reader.findings:
            hint = nearest(name, reader.findings)
            reader.fault(lines.of(("beside",)), f"no rule comes to the finding '{name}'{hint}")
    cases: list[Case] = []
    names: dict[str, int] = {}
    for index, shape in enumerate(file.cases):
        for case in reader.cases(index, shape, file.as_of):
            if case.name in names:
                reader.fault(
                    case.line, f"the name is already used on line {names[case.name]}: {case.name}"
                )
            names.setdefault(case.name, case.line)
            cases.append(case)
    return cases


class _Reader:
    """Turns the shapes of one file into cases and collects what is wrong."""

    def __init__(
        self, path: Path, group: str, rulesets: Rulesets, lines: Lines, errors: list[RuleError]
    ) -> None:
        self.path, self.group, self.rulesets = path, group, rulesets
        self.lines, self.errors = lines, errors
        rules = rulesets.program.rules
        self.findings = {rule.finding_key.partition("/")[2] for rule in rules}
        keys = [leaf.key for rule in rules for leaf in leaves(rule.when)]
        needs = {key.split("/")[1] for key in keys if not key.startswith(_DECIDED)}
        self.needs = {*needs, *(f"earlier {name}" for name in needs), "adult"}
        self.read: dict[str, list[Json]] = {}  # FHIR files, each only once
        self.beside: tuple[str, ...] = ()

    def fault(self, line: int, message: str) -> None:
        error = RuleError(message, path=str(self.path), line=line)
        if str(error) not in map(str, self.errors):  # rows of one case have the same faults
            self.errors.append(error)

    def cases(self, index: int, shape: _CaseShape, as_of: str | None) -> Iterator[Case]:
        line = self.lines.of(("cases", index))
        when = self.instant(shape.as_of or as_of, index)
        if when is None:
            return
        if shape.each is None:
            yield from self.case(index, shape, shape.expect, {}, when, line)
            return
        if not shape.each:
            self.fault(self.lines.of(("cases", index, "each")), "'each' holds no row")
        for number, row in enumerate(shape.each):
            at = self.lines.of(("cases", index, "each", number))
            words = self.words({k: v for k, v in row.items() if k not in _EXPECTED}, at)
            said = {k: v for k, v in row.items() if k in _EXPECTED}
            faults: list[RuleError] = []
            more = check_model(Expect, said, self.lines, self.path, faults)
            for fault in faults:
                self.fault(at, fault.message)
            if more is None or words is None:
                continue
            try:
                expect = shape.expect.joined(more)
            except ValueError as error:
                self.fault(at, str(error))
                continue
            yield from self.case(index, shape, expect, words, when, at)

    def words(self, row: Mapping[str, object], line: int) -> dict[str, str] | None:
        """Return what fills the placeholders, or None where a value cannot."""
        words: dict[str, str] = {}
        for key, value in row.items():
            if key in _IN_UNITS:
                self.fault(line, f"{{{key}}} is part of a unit; give '{key}' another name")
            elif isinstance(value, Decimal):
                words[key] = format(value, "f")
            elif isinstance(value, str):
                words[key] = value
            else:
                hint = (
                    nearest(key, _EXPECTED) or "; a row fills {placeholders} with text or numbers"
                )
                self.fault(line, f"'{key}' must be text or a number{hint}")
        return words if len(words) == len(row) else None

    def case(
        self,
        index: int,
        shape: _CaseShape,
        expect: Expect,
        words: Mapping[str, str],
        as_of: int,
        line: int,
    ) -> Iterator[Case]:
        used: set[str] = set()

        def fill(text: str) -> str:
            used.update(name for name in _PLACEHOLDER.findall(text) if name not in _IN_UNITS)
            return _PLACEHOLDER.sub(lambda m: words.get(m[1], m[0]), text)

        name = " ".join(fill(shape.name).split())
        if not name:
            self.fault(line, "'name' says nothing; write a sentence that says what must hold")
        if words and not _PLACEHOLDER.search(shape.name):
            name += " (" + ", ".join(f"{k} {v}" for k, v in words.items()) + ")"
        if not expect:
            known = ", ".join(sorted(_EXPECTED))
            self.fault(line, f"expects nothing; write 'expect' with at least one of {known}")
        expect = expect.filled(fill)
        forms: list[Form] = []
        files: list[Json] = []
        for number, entry in enumerate(shape.data):
            at = self.lines.of(("cases", index, "data", number))
            filled = {k: fill(v) if isinstance(v, str) else v for k, v in entry.items()}
            try:
                if "file" in entry:
                    files += self.file(filled)
                else:
                    form = parse(filled)
                    form.resources(self.rulesets.terminology, as_of, "x", "Patient/x")
                    forms.append(form)
            except ValueError as error:
                unfilled = used - words.keys()
                if not any(f"{{{n}}}" in str(v) for n in unfilled for v in entry.values()):
                    self.fault(at, str(error))
        for placeholder in sorted(used - words.keys()):
            self.fault(
                line, f"nothing fills {{{placeholder}}}; give '{placeholder}' in a row of 'each'"
            )
        for word in sorted(words.keys() - used):
            hint = nearest(word, (*_EXPECTED, *(used - words.keys())))
            self.fault(
                line, f"'{word}' is neither used as {{{word}}} nor something to expect{hint}"
            )
        if not used - words.keys():
            self.known(expect, line)
        if sum(isinstance(form, Patient) for form in forms) > 1:
            self.fault(line, "a case has one patient")
        try:
            patient = patient_of(files)
        except ValueError as error:
            self.fault(line, str(error))
            return
        yield Case(
            name,
            as_of,
            tuple(forms),
            expect,
            str(self.path),
            line,
            self.group,
            tuple(files),
            patient,
            self.beside,
        )

    def instant(self, text: str | None, index: int) -> int | None:
        line = self.lines.of(("cases", index, "as_of"))
        if text is None:
            self.fault(line, "has no 'as_of', neither here nor at the head of the file")
            return None
        try:
            return instant(text if "T" in text else f"{text}T00:00:00Z")
        except (UsageError, OverflowError):
            hint = "write a day such as 2026-11-01, or a time with its zone: 2026-11-01T12:00:00Z"
            self.fault(line, f"as_of '{text}': {hint}")
            return None

    def file(self, entry: Mapping[str, Any]) -> list[Json]:
        """Return the resources of a FHIR file as entries of a Bundle. Raises: ValueError."""
        name = entry["file"]
        if set(entry) != {"file"} or not isinstance(name, str):
            raise ValueError("an entry with 'file' has nothing but the path of a FHIR JSON file")
        if name not in self.read:
            try:
                data = orjson.loads((self.path.parent / name).read_bytes())
            except OSError as error:
                raise ValueError(f"{name} cannot be read: {error.strerror}") from error
            except orjson.JSONDecodeError as error:
                raise ValueError(f"{name} is not JSON: {error}") from error
            self.read[name] = entries_in(data, name)
        return self.read[name]

    def known(self, expect: Expect, line: int) -> None:
        """Refuse what names no rule, finding or concept that is loaded."""
        rules, site = {*self.rulesets.program.by_id}, self.rulesets.site
        if site is not None:
            rules |= site.not_run.keys()
        waits = dict(expect.missing) if isinstance(expect.missing, Mapping) else {}
        needs = list(waits.values()) or list(expect.missing)
        for lost, names, known in (
            ("there is no rule '{}'", (*expect.fires, *expect.not_, *waits), rules),
            ("there is no finding '{}'", expect.shows or (), self.findings),
            ("no rule can wait for '{}'", needs, self.needs),
        ):
            for name in dict.fromkeys(names):
                if name not in known:
                    self.fault(line, lost.format(name) + nearest(name, known))
        for name in sorted({*expect.fires} & {*expect.not_}):
            self.fault(line, f"rule '{name}' stands in 'fires' and in 'not'")
