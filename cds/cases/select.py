"""Which cases are meant: by the folders they stand in, by words of their names."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from cds.cases.case import Case
from cds.errors import UsageError
from cds.rules import Rulesets, load_rulesets

__all__ = ["load_tested", "matcher"]


def load_tested(
    *folders: str | Path, site: str | Path | None = None
) -> tuple[Rulesets, tuple[str, ...]]:
    """Load what is to be tested: the rules, and the groups whose cases are meant.

    Each folder is a ruleset folder, with all its groups, or one group of it; that one is loaded
    together with the groups beside it, so that their findings are known. Without argument all that
    `load_rulesets` loads. `site` as there.

    Raises: as `load_rulesets`.
    """
    roots: dict[Path, None] = {}
    wanted: list[Path] = []
    for folder in map(Path, folders):
        root = folder
        if (folder / "rules.yaml").is_file():  # a group
            named = folder.name not in ("", "..")
            root = folder.parent if named else folder.resolve().parent
        roots.setdefault(next((r for r in roots if r.resolve() == root.resolve()), root))
        wanted.append(folder.resolve())
    rulesets = load_rulesets(*roots, site=site)
    groups = []
    for file in rulesets.files:
        own = Path(file.path).resolve().parent
        if not wanted or own in wanted or own.parent in wanted:
            groups.append(file.group)
    return rulesets, tuple(groups)


def matcher(expression: str) -> Callable[[Case], bool]:
    """Return what tells whether a case matches words such as ``potassium and not "older than"``.

    A word matches where it stands, in whatever case, in the name, the group or the file of a case,
    or is a rule that it expects something of. Between words stands ``and`` (which may be left
    out) or ``or``, which binds less; before one, ``not``.

    Raises: UsageError where that is not how it is written.
    """
    try:
        words = shlex.split(expression.lower())
    except ValueError as error:
        raise UsageError(f"-k '{expression}': {error}") from None
    choices: list[list[tuple[bool, str]]] = [[]]
    wanted, open_ = True, True  # open: a word has to follow
    for word in words:
        if word == "not" and wanted:
            wanted, open_ = False, True
        elif word in ("and", "or") and not open_:
            open_ = True
            if word == "or":
                choices.append([])
        elif word in ("and", "or", "not"):
            raise UsageError(f"-k '{expression}': '{word}' stands where a word was expected")
        else:
            choices[-1].append((wanted, word))
            wanted, open_ = True, False
    if open_:
        raise UsageError(f"-k '{expression}': write words, with 'and', 'or', 'not' between them")

    def matches(case: Case) -> bool:
        expect = case.expect
        parts = (case.name, case.group, case.path, *expect.fires, *expect.not_)
        text = "\n".join(parts).lower()
        return any(all((word in text) == wanted for wanted, word in all_) for all_ in choices)

    return matches
