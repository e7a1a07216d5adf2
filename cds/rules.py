"""Loading: rule files, terminology and card texts become one `Rulesets`.

Every fault of every file is found before anything is refused, each with file and line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from cds.errors import RuleError, RuleErrors, TerminologyError
from cds.program import Program, compile_program
from cds.rechecks import Rechecks
from cds.rulefile import KINDS, CardTexts, RuleFile, Ruleset, Shape
from cds.shipped import shipped
from cds.terminology import Terminology, load_terminology
from cds.yamlfile import Lines, load_yaml

__all__ = ["Rulesets", "load_rulesets"]

M = TypeVar("M", bound=Shape)


@dataclass(frozen=True)
class Rulesets:
    """All loaded rule files with the terminology, card texts and program they share."""

    files: tuple[Ruleset, ...]
    terminology: Terminology
    texts: CardTexts
    program: Program

    @cached_property
    def digest(self) -> str:
        """One digest over all files ("sha256:...")."""
        return _digest(f.digest.encode() for f in self.files)


def load_rulesets(*folders: str | Path) -> Rulesets:
    """Load the rule files of these folders; without argument the shipped ones.

    Each folder holds `<group>/rules.yaml`; `analytes.yaml`, `valuesets/` and `cards.yaml`
    are optional and add to the shipped ones.

    Raises: RuleErrors (every fault, with file and line), TerminologyError.
    """
    home = shipped("rulesets")
    roots = [Path(f) for f in folders] or [home]
    shared = [home, *(r for r in roots if r.resolve() != home.resolve())]
    terminology = load_terminology(*shared)
    errors: list[RuleError] = []
    texts = _load_texts(shared, errors)
    shared_bytes = [p.read_bytes() for root in shared for p in _shared_files(root)]
    files: list[Ruleset] = []
    for root in roots:
        paths = sorted(root.glob("*/rules.yaml")) or sorted(root.glob("rules.yaml"))
        if not paths:
            errors.append(RuleError("no <group>/rules.yaml in this folder", path=str(root)))
        for path in paths:
            file = _load_file(path, shared_bytes, terminology, errors)
            if file:
                files.append(file)
    if errors or texts is None:
        raise RuleErrors(errors)
    files = Rechecks(files, terminology).add(files)
    return Rulesets(tuple(files), terminology, texts, compile_program(files, terminology))


def _shared_files(root: Path) -> list[Path]:
    return [
        *(p for p in (root / "analytes.yaml", root / "cards.yaml") if p.is_file()),
        *sorted((root / "valuesets").glob("*.yaml")),
    ]


def _load_texts(roots: Sequence[Path], errors: list[RuleError]) -> CardTexts | None:
    merged: CardTexts | None = None
    for path in (p for root in roots if (p := root / "cards.yaml").is_file()):
        data, lines = _yaml(path, errors)
        texts = _validate(CardTexts, data, lines, path, errors)
        if texts is not None:
            merged = (
                texts
                if merged is None
                else texts.model_copy(
                    update={"suggestions": {**merged.suggestions, **texts.suggestions}}
                )
            )
    if merged is None and not errors:
        errors.append(RuleError("no cards.yaml found", path=str(roots[0])))
    return merged


def _load_file(
    path: Path, shared: Sequence[bytes], terminology: Terminology, errors: list[RuleError]
) -> Ruleset | None:
    data, lines = _yaml(path, errors)
    file = _validate(RuleFile, data, lines, path, errors)
    if file is None:
        return None
    line_of: dict[str, int] = {}
    for index, rule in enumerate(file.rules):
        line = lines.of(("rules", index)) if lines else 0
        line_of.setdefault(rule.id, line)
        faults = []
        if rule.recheck_of:
            faults.append("'recheck_of' is set by 'recheck' alone")
        if rule.recheck and (file.recheck is None or rule.card is None):
            faults.append("'recheck' needs the file's 'recheck' texts and the rule's 'card'")
        errors += [RuleError(m, path=str(path), line=line, rule=rule.id) for m in faults]
    digest = _digest([path.read_bytes(), *shared])
    return Ruleset(
        file.group, file.title, file.version, digest, str(path), file.rules, line_of, file.recheck
    )


def _yaml(path: Path, errors: list[RuleError]) -> tuple[Any, Lines | None]:
    try:
        return load_yaml(path)
    except (RuleError, TerminologyError) as error:
        errors.append(error if isinstance(error, RuleError) else RuleError(str(error)))
    except OSError as error:
        errors.append(RuleError(f"cannot be read: {error.strerror}", path=str(path)))
    return None, None


def _validate(
    model: type[M], data: Any, lines: Lines | None, path: Path, errors: list[RuleError]
) -> M | None:
    if lines is None:
        return None
    try:
        return model.model_validate(data)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False):
            loc = tuple(p for p in fault["loc"] if not (isinstance(p, str) and p in KINDS))
            errors.append(RuleError(_fault_text(model, fault), path=str(path), line=lines.of(loc)))
        return None


def _fault_text(model: type[Shape], fault: Any) -> str:
    where = ".".join(str(p) for p in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    return f"{where}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _digest(parts: Any) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return "sha256:" + total.hexdigest()
