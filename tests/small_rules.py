"""Rules compiled from a parsed rule file, without folders and without reading terminology again."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from cds.program import compile_program
from cds.rechecks import Rechecks
from cds.rulefile import RuleFile, Ruleset
from cds.rules import Rulesets
from cds.yamlfile import parse_yaml


def rules_of(text: str, base: Rulesets, *, path: str = "", **more: Any) -> Rulesets:
    """The rules of one `rules.yaml` with what `base` shares; `more` takes the place of parts of it.

    Args:
        text: the content of the file.
        base: loaded rules, whose terminology and card texts are used.
        path: the name of the file, for messages.
        more: fields of `Rulesets` (terminology, texts).
    """
    file = RuleFile.model_validate(parse_yaml(text, path=path)[0])
    digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    written = Ruleset(
        file.group, file.title, file.version, digest, path, file.rules, {}, file.recheck
    )
    shared = dataclasses.replace(base, **more)
    files = Rechecks([written], shared.terminology).add([written])
    program = compile_program(files, shared.terminology)
    return dataclasses.replace(shared, files=tuple(files), program=program)
