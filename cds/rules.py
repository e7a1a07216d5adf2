"""Loading: rule files, terminology and card texts become one `Rulesets`.

Every fault of every file is found before anything is refused, each with file and line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cds.errors import RuleError, RuleErrors, UsageError
from cds.program import Program, compile_program
from cds.rechecks import Rechecks
from cds.rulefile import CardTexts, RuleFile, Ruleset
from cds.shipped import installed, shipped
from cds.terminology import Terminology, load_terminology, stands_alone
from cds.yamlmodel import load_model

if TYPE_CHECKING:
    from cds.site import Site
    from cds.translation import Translation

__all__ = ["Rulesets", "load_rulesets", "shared_folders"]


@dataclass(frozen=True, repr=False)
class Rulesets:
    """All loaded rule files with the terminology, card texts and program they share.

    `site` says which institution's profile changed them, and how; `translation` which language
    their texts are in; None for none.
    """

    files: tuple[Ruleset, ...]
    terminology: Terminology
    texts: CardTexts
    program: Program
    site: Site | None = None
    translation: Translation | None = None

    def __repr__(self) -> str:
        """Name the groups and their versions: everything else would fill a terminal or a log."""
        return f"<Rulesets {', '.join(f'{f.group} {f.version}' for f in self.files)}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Do the same in IPython and Hypothesis, which print dataclasses field by field."""
        printer.text(repr(self))

    @cached_property
    def digest(self) -> str:
        """One digest over all files ("sha256:...")."""
        return _digest(f.digest.encode() for f in self.files)

    def at_site(self, profile: str | Path) -> Rulesets:
        """Return these rules as an institution wants them; `profile` is its file.

        Raises: RuleErrors (every fault of the profile, with its line), UsageError where a site
        has changed these rules already.
        """
        from cds.site import apply_site  # only who has a profile pays for it

        if self.site is not None:
            raise UsageError(f"site '{self.site.id}' has changed these rules already")
        if self.translation is not None:
            raise UsageError("a site changes rules before they are translated; load both at once")
        files, program, terminology, site = apply_site(
            Path(profile), self.files, self.program, self.terminology
        )
        return Rulesets(tuple(files), terminology, self.texts, program, site)


def load_rulesets(
    *folders: str | Path, site: str | Path | None = None, language: str | None = None
) -> Rulesets:
    """Load the rule files of these folders; without argument the shipped ones and installed ones.

    Each folder holds `<group>/rules.yaml`; `analytes.yaml`, `valuesets/`, `questionnaires.yaml`
    and `cards.yaml` are optional and add to the shipped ones. Installed are the folders that other
    packages bring (`cds.shipped.installed`). `site` is the profile of an institution, see
    `Rulesets.at_site`. `language` is that of the card texts: English, or one of the folders'
    `translations/`.

    Raises: RuleErrors (every fault, with file and line), TerminologyError, UsageError for a
    language that nobody has translated into.
    """
    home = shipped("rulesets")
    roots = [Path(f) for f in folders] or [home, *installed()]
    shared = shared_folders(roots)
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
    loaded = Rulesets(tuple(files), terminology, texts, compile_program(files, terminology))
    loaded = loaded if site is None else loaded.at_site(site)
    return loaded if language in (None, "en") else _translated(loaded, str(language), shared, roots)


def _translated(
    loaded: Rulesets, language: str, shared: Sequence[Path], roots: Sequence[Path]
) -> Rulesets:
    from cds.translation import translate  # only who wants another language pays for it

    folders = list(dict.fromkeys(p.resolve() for p in (*shared, *roots)))
    files, terminology, texts, translation = translate(
        language, folders, loaded.files, loaded.terminology, loaded.texts, loaded.program.keys
    )
    program = compile_program(files, terminology)
    return Rulesets(tuple(files), terminology, texts, program, loaded.site, translation)


def shared_folders(roots: Sequence[Path]) -> list[Path]:
    """Return the folders whose analytes, value sets and card texts these folders of rules share.

    The shipped one comes first, unless one of `roots` stands alone: a copy of the shipped
    folder, perhaps of another version, is never mixed with it.
    """
    home = shipped("rulesets")
    others = [r for r in roots if r.resolve() != home.resolve()]
    return others if any(stands_alone(r) for r in others) else [home, *others]


_SHARED = ("analytes.yaml", "cards.yaml", "medicines.yaml", "questionnaires.yaml")


def _shared_files(root: Path) -> list[Path]:
    return [
        *(p for name in _SHARED if (p := root / name).is_file()),
        *sorted((root / "valuesets").glob("*.yaml")),
        *sorted((root / "medicines").glob("*.csv")),
    ]


def _load_texts(roots: Sequence[Path], errors: list[RuleError]) -> CardTexts | None:
    merged: CardTexts | None = None
    for path in (p for root in roots if (p := root / "cards.yaml").is_file()):
        texts, _ = load_model(CardTexts, path, errors)
        if texts is not None:
            merged = (
                texts
                if merged is None
                else texts.model_copy(
                    update={
                        "suggestions": {**merged.suggestions, **texts.suggestions},
                        # A folder that says nothing of medicines does not silence it.
                        "patient_medicine": texts.patient_medicine or merged.patient_medicine,
                        "service": texts.service or merged.service,
                    }
                )
            )
    if merged is None and not errors:
        errors.append(RuleError("no cards.yaml found", path=str(roots[0])))
    return merged


def _load_file(
    path: Path, shared: Sequence[bytes], terminology: Terminology, errors: list[RuleError]
) -> Ruleset | None:
    file, lines = load_model(RuleFile, path, errors)
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


def _digest(parts: Any) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return "sha256:" + total.hexdigest()
