"""One version of rules to compare: a folder, or a folder as it was in a git revision.

A revision is written into a temporary folder and loaded from there, with the analytes, value sets
and card texts of that very revision where it has them (`cds.rules.shared_folders`).
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cds.errors import RuleErrors, TerminologyError, UsageError
from cds.rules import Rulesets, load_rulesets

__all__ = ["GIT", "RULES_PATH", "Version", "load_version"]

GIT: Final = "git:"
"""Before a name: a git revision is meant, even where a folder has that name too."""

RULES_PATH: Final = "rulesets"


@dataclass(frozen=True, slots=True)
class Version:
    """Loaded rules and where they are from: `commit` is "" for a folder."""

    name: str
    rulesets: Rulesets
    commit: str = ""

    @property
    def title(self) -> str:
        """The name as given, with the commit that it leads to."""
        return f"{self.name} (commit {self.commit[:12]})" if self.commit else self.name


def load_version(
    name: str, rules_path: str = RULES_PATH, site: str | Path | None = None
) -> Version:
    """Load the rules of a folder or of a git revision.

    Args:
        name: a folder (``rulesets``, ``./v1``), a git revision (``HEAD~3``, ``v1.2.0``), or
            ``git:`` and a revision where a folder has the same name.
        rules_path: the folder of rules in a revision, from the top of the checkout.
        site: the profile of an institution, see `cds.load_rulesets`.

    Raises: UsageError where the name is neither or both, or the revision has no such folder;
    RuleErrors and TerminologyError where its rules do not load.
    """
    revision = name.removeprefix(GIT)
    commit = _commit(revision)
    is_folder = revision == name != "" and Path(name).is_dir()
    if commit and is_folder:
        raise UsageError(
            f"'{name}' is a folder and a git revision; write ./{name} for the folder, "
            f"{GIT}{name} for the revision"
        )
    if commit:
        return _of_commit(name, commit, rules_path, site)
    if is_folder:
        return Version(name, load_rulesets(name, site=site))
    reason = ""
    if shutil.which("git") is None:
        reason = "; git is not installed"
    elif _top() is None:
        reason = "; you are in no git checkout"
    what = "neither a folder nor" if revision == name else "not"
    raise UsageError(f"'{revision}' is {what} a git revision{reason}")


def _of_commit(name: str, commit: str, rules_path: str, site: str | Path | None) -> Version:
    path = rules_path.strip("/")
    archive = _git(["archive", "--format=zip", f"{commit}:{path}"], _top())
    if archive is None:
        raise UsageError(
            f"revision {name} has no folder '{path}'; name the folder of rules, from the top of "
            "the checkout, with --rules-path"
        )
    with tempfile.TemporaryDirectory(prefix="cds-diff-") as folder:
        # zipfile never writes outside the folder, and makes no links.
        zipfile.ZipFile(io.BytesIO(archive)).extractall(folder)
        try:
            return Version(name, load_rulesets(folder, site=site), commit)
        except (RuleErrors, TerminologyError) as error:
            # The folder is gone when the message is read: name the place in the revision.
            text = str(error).replace(folder, f"{name}:{path}")
            raise TerminologyError(text) from error


def _commit(revision: str) -> str:
    """Return the commit that a name leads to, "" where it is no revision."""
    words = ["rev-parse", "--quiet", "--verify", "--end-of-options", f"{revision}^{{commit}}"]
    found = _git(words) if revision else None
    return found.decode().strip() if found else ""


def _top() -> Path | None:
    """Return the folder of the checkout; None where there is none."""
    found = _git(["rev-parse", "--show-toplevel"])
    return Path(os.fsdecode(found.removesuffix(b"\n"))) if found else None


def _git(arguments: list[str], folder: Path | None = None) -> bytes | None:
    """Return what git prints, or None where it cannot do that."""
    program = shutil.which("git")
    if program is None:
        return None
    # No shell; what a person wrote is one argument, and never an option.
    done = subprocess.run(  # noqa: S603
        [program, *arguments], cwd=folder, capture_output=True, check=False
    )
    return done.stdout if done.returncode == 0 else None
