"""Lint: what is wrong with rule files, each fault with an id, a place and a way to repair it.

`lint` runs every validator over ruleset folders; the command is ``cds lint``. A validator is a
function from a `Subject` (the files as written and what could be loaded of them) to places; the
decorator `validator` gives it its id, its severity and its advice::

    from cds.lint import Spot, Subject, validator

    @validator("ACME001", "warning", "a rule without a note", fix="say in `note` why it is so")
    def no_note(subject):
        \"\"\"A rule that does not say why it is written as it is.\"\"\"
        for rule in subject.rules:
            if not rule.rule.note:
                yield Spot(*subject.at(rule.rule), "has no note", rule.rule.id)

Other packages add validators by an entry point of the group ``cds.validators``, whose object is
any callable that takes a `Subject` and yields `Lint`; one made by `validator` also stands in
``cds lint --list``::

    [project.entry-points."cds.validators"]
    no-note = "acme.lint:no_note"

Ids beginning with "CDS" are ours: 1xx loading, 2xx codes and units, 3xx bands, 4xx logic, 5xx
names across files, 6xx evidence, review and cases, 7xx card texts, 8xx patient texts, 9xx history
and exceptions. An id is never used again for something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from cds.lint.accepted import accept
from cds.lint.plugins import installed, run
from cds.lint.registry import VALIDATORS, Lint, Severity, Spot, Validator, validator
from cds.lint.subject import SourceFile, Subject, read_subject

__all__ = [
    "Lint",
    "Severity",
    "SourceFile",
    "Spot",
    "Subject",
    "Validator",
    "lint",
    "validator",
    "validators",
]

# Importing them fills the table of validators.
for _name in (
    "loading",
    "codes",
    "bands",
    "reach",
    "links",
    "review",
    "drafts",
    "texts",
    "patient",
    "translations",
    "history",
):
    import_module(f"cds.lint.{_name}")
_RANK = {"error": 0, "warning": 1, "info": 2}


def lint(folders: Sequence[str | Path] = (), *, against: str | None = None) -> list[Lint]:
    """Return everything that is wrong with these ruleset folders, by file and line.

    Args:
        folders: ruleset folders, by default the shipped one. What they share with the shipped one
            is loaded too and not linted.
        against: the git revision that versions are compared with, by default HEAD.

    Lints that a reviewed exception accepts are among them, with its reason in `accepted`.

    Raises: UsageError where a folder holds no file of a ruleset, or git does not know `against`.
    """
    subject = read_subject(folders, against or "HEAD", given=against is not None)
    found = [entry for v in VALIDATORS.values() for entry in v(subject)]
    found += run(installed(), subject)
    found = accept(subject, found)
    return sorted(set(found), key=lambda e: (e.path, e.line, _RANK[e.severity], e.id, e.message))


def validators() -> Mapping[str, Validator]:
    """Return every validator that has an id, those of other packages included, by id."""
    others = {p.found.id: p.found for p in installed() if isinstance(p.found, Validator)}
    return dict(sorted({**others, **VALIDATORS}.items()))
