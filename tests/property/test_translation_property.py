"""A language never changes what is found."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from builders import AS_OF, Json, bundle
from cds import Screener, load_rulesets
from pseudo_language import LANGUAGE, copy_of_shipped, put, texts_of, translated
from strategies import records

WORDS = ("title", "summary", "detail", "label", "description", "display", "text", "question")


@pytest.fixture(scope="module")
def languages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Screener, Screener]:
    """The shipped rules, and the same with every second text in another language."""
    folder = copy_of_shipped(tmp_path_factory.mktemp("translated"))
    rulesets = load_rulesets(folder)
    entries = translated(texts_of(rulesets))
    put(folder, rulesets, {key: entries[key] for key in list(entries)[::2]})
    return Screener(rulesets), Screener(load_rulesets(folder, language=LANGUAGE))


def without_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_words(v) for k, v in value.items() if k not in WORDS}
    return [without_words(v) for v in value] if isinstance(value, list) else value


@given(record=records())
def test_findings_tiers_and_ids_are_the_same_in_every_language(
    languages: tuple[Screener, Screener], record: list[Json]
) -> None:
    english, other = (s.screen(bundle(*record), AS_OF) for s in languages)
    before, after = english.to_dict(), other.to_dict()
    said = {"language", "problems"}
    assert after["language"]["id"] == LANGUAGE
    assert after["problems"][0]["code"] == "not-translated"
    assert after["problems"][1:] == before["problems"]
    assert without_words({k: v for k, v in after.items() if k not in said}) == without_words(
        {k: v for k, v in before.items() if k not in said}
    )
