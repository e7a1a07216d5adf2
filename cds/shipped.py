"""Where rule files are: those that come with the package, and those that others install.

A wheel carries `rulesets/` and `fhir_examples/` inside the package, a checkout beside it. Nothing
is read here.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

from cds.errors import RuleError, RuleErrors, UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["GROUP", "installed", "shipped"]

GROUP: Final = "cds.rulesets"
"""The group of entry points by which a package announces a folder of rules."""

_PACKAGE: Final = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """Return the folder `name` ("rulesets" or "fhir_examples") that came with this package.

    Raises: UsageError if the installation has no such folder.
    """
    inside, beside = _PACKAGE / name, _PACKAGE.parent / name
    if inside.is_dir():
        return inside
    # Only a checkout has pyproject.toml there; site-packages may hold another "rulesets".
    if (_PACKAGE.parent / "pyproject.toml").is_file() and beside.is_dir():
        return beside
    raise UsageError(
        f"the installation has no folder '{name}' (looked in {_PACKAGE}); "
        "install the package again, or name a folder of your own"
    )


def installed() -> tuple[Path, ...]:
    """Return the folders of rules that installed packages announce, in order of their names.

    Each entry point of the group names a package whose folder it is, or in a module a path
    (relative to that module) or a function that returns one. A folder is one as for
    `cds.load_rulesets`.

    Raises: RuleErrors naming every package whose folder cannot be found. None is passed over:
    its rules would be missed by nobody.
    """
    from importlib.metadata import entry_points

    folders: dict[Path, None] = {}
    errors: list[RuleError] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        try:
            folder = _folder(entry)
        except Exception as error:  # whatever somebody else's code raises
            package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "?"
            errors.append(
                RuleError(
                    f"the installed package {package} announces rules '{entry.name}' "
                    f"({entry.value}), which cannot be loaded: {type(error).__name__}: {error}; "
                    "repair or uninstall it, or name the folders of rules to use"
                )
            )
        else:
            folders[folder.resolve()] = None
    if errors:
        raise RuleErrors(errors)
    return tuple(folders)


def _folder(entry: EntryPoint) -> Path:
    """Return the folder that an entry point stands for."""
    from importlib import import_module

    found = entry.load()
    if isinstance(found, ModuleType):
        folder = _home(found)
    else:
        folder = _home(import_module(entry.module)) / (found() if callable(found) else found)
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    return folder


def _home(module: ModuleType) -> Path:
    # A package without __init__.py has a path, but no file.
    places = getattr(module, "__path__", None) or [Path(module.__file__ or "").parent]
    return Path(next(iter(places)))
