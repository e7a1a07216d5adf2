"""Where the files that come with the package are: `rulesets/` and `fhir_examples/`.

A wheel carries them inside the package, a checkout beside it. Nothing is read here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cds.errors import UsageError

__all__ = ["shipped"]

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
