"""A language that nobody speaks: English with every vowel marked, for tests of translations."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from cds import Rulesets
from cds.shipped import shipped
from cds.translation import Entry, TranslationFile, english_texts, fingerprint, skeleton

LANGUAGE = "eo"  # a tag that is valid; the words are not of that language
_MARKS = str.maketrans("aeiouAEIOU", "áéíóúÁÉÍÓÚ")


def marked(text: str) -> str:
    """The text with its vowels marked; what stands in braces, and addresses, as they are."""
    parts = re.split(r"(\{[^{}]*\}|https?://\S+)", text)
    return "".join(p if n % 2 else p.translate(_MARKS) for n, p in enumerate(parts))


def texts_of(rulesets: Rulesets) -> dict[str, str]:
    """Every text that can be translated, by key."""
    return english_texts(
        rulesets.files, rulesets.terminology, rulesets.texts, rulesets.program.keys
    )


def translated(english: Mapping[str, str], word: Callable[[str], str] = marked) -> dict[str, Entry]:
    """A whole translation of these texts."""
    return {key: Entry(of=fingerprint(text), text=word(text)) for key, text in english.items()}


def put(folder: Path, rulesets: Rulesets, entries: Mapping[str, Entry]) -> Path:
    """Write a translation into a folder of rules, as `cds translate` does."""
    path = folder / "translations" / f"{LANGUAGE}.yaml"
    path.parent.mkdir(exist_ok=True)
    given = TranslationFile(language=LANGUAGE, version="0.1.0", review="draft", texts=entries)
    path.write_text(skeleton(LANGUAGE, texts_of(rulesets), given), encoding="utf-8")
    return path


def copy_of_shipped(folder: Path) -> Path:
    """A copy of the shipped rules, which stands alone."""
    return Path(shutil.copytree(shipped("rulesets"), folder / "rulesets"))
