"""`cds test --export`: cases as files that other programs can read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import orjson

from cds.cases import Case
from cds.cli.common import progress, whole_file
from cds.terminology import Terminology

__all__ = ["export"]


def export(cases: Sequence[Case], terminology: Terminology, folder: Path) -> None:
    """Write each case as `<group>/<slug>.json` (Bundle) and `<slug>.hook.json` (hook request).

    Files of these names are replaced, each as a whole; others are left alone. Says how many.

    Raises: OSError where a file cannot be written.
    """
    taken: set[tuple[str, str]] = set()
    for case in progress(cases, "writing", len(cases)):
        name, number = case.slug, 1
        while (case.group, name) in taken:
            number += 1
            name = f"{case.slug}-{number}"
        taken.add((case.group, name))
        target = folder / case.group
        target.mkdir(parents=True, exist_ok=True)
        _write(target / f"{name}.json", case.bundle(terminology))
        _write(target / f"{name}.hook.json", case.hook_request(terminology))
    count = len(cases)
    click.echo(
        f"{count:,} case{'s' * (count != 1)} written to {folder}, each as a Bundle (.json) and as "
        "a CDS Hooks request (.hook.json)"
    )


def _write(path: Path, values: object) -> None:
    with whole_file(path) as part:
        part.write_bytes(orjson.dumps(values, option=orjson.OPT_INDENT_2))
