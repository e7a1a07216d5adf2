"""The strict YAML reader: exact numbers, the line of everything, and nothing guessed."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cds.errors import RuleError
from cds.yamlfile import load_yaml, parse_yaml

TEXT = """\
# a comment
rules:
  - id: low
    when:
      - {lab: potassium, lt: 3.50}
    card: |
      12
  - id: high
"""


def test_numbers_keep_the_digits_that_were_written() -> None:
    data, _ = parse_yaml("[3.50, -0, 7, 0.0, 120]")

    assert [str(number) for number in data] == ["3.50", "-0", "7", "0.0", "120"]  # type: ignore[attr-defined]
    assert all(isinstance(number, Decimal) for number in data)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "word", ["no", "on", "yes", "True", "2026-11-21", "007", "1e3", "0x10", ".5", "1_000", "12:30"]
)
def test_words_that_other_readers_take_for_something_else_stay_text(word: str) -> None:
    assert parse_yaml(f"a: {word}")[0] == {"a": word}


def test_only_true_false_and_nothing_have_a_meaning_of_their_own() -> None:
    data, _ = parse_yaml("{a: true, b: false, c: null, d: ~, e: , f: 'true', g: \"1\"}")

    assert data == {"a": True, "b": False, "c": None, "d": None, "e": None, "f": "true", "g": "1"}


def test_keys_are_always_text() -> None:
    assert parse_yaml("1: a\ntrue: b")[0] == {"1": "a", "true": "b"}


def test_every_key_and_item_has_its_line() -> None:
    _, lines = parse_yaml(TEXT)

    assert lines.of() == 2
    assert lines.of(("rules", 0)) == 3
    assert lines.of(("rules", 0, "when", 0, "lt")) == 5
    assert lines.of(("rules", 0, "card")) == 6
    assert lines.of(("rules", 1, "id")) == 8


def test_what_the_file_does_not_have_is_placed_at_the_nearest_line_above() -> None:
    _, lines = parse_yaml(TEXT)

    assert lines.of(("rules", 1, "tier")) == 8
    assert lines.of(("rules", 0, "when", 0, "lab-criterion", "lt")) == 5
    assert lines.of(("rules", 9)) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("a: 1\na: 2", "f.yaml:2:1: key 'a' stands twice; first on line 1", id="key"),
        pytest.param(
            "a: &x 1", "f.yaml:1:4: anchor '&x' is not accepted; write it out", id="anchor"
        ),
        pytest.param("a: *x", "f.yaml:1:4: alias '*x' is not accepted; write it out", id="alias"),
        pytest.param("\n<<: {a: 1}", "f.yaml:2:1: merge key '<<' is not accepted", id="merge"),
        pytest.param("a: !!python/name:os.x 1", "f.yaml:1:4: tag 'tag:yaml.org", id="tag"),
        pytest.param("? [a]\n: 1", "f.yaml:1:3: a key must be plain text", id="list as key"),
        pytest.param("a: 1\n---\nb: 2", "f.yaml:2:1: a second document", id="documents"),
        pytest.param("# nothing\n", "f.yaml: the file is empty", id="empty"),
        pytest.param("a: 1\n\tb: 2", "f.yaml:2:1: not valid YAML:", id="tab"),
        pytest.param("a: [1", "f.yaml:", id="not closed"),
        pytest.param("[" * 9_000 + "]" * 9_000, "f.yaml: lists or mappings", id="deep"),
        pytest.param("a: \x07", "f.yaml:1:4: not valid YAML: the character U+0007", id="control"),
    ],
)
def test_what_could_be_misread_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(RuleError) as refused:
        parse_yaml(text, path="f.yaml")

    assert str(refused.value).startswith(says)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match=r"gone\.yaml: cannot be read: No such file"):
        load_yaml(tmp_path / "gone.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(RuleError, match=r"latin\.yaml: is not UTF-8"):
        load_yaml(tmp_path / "latin.yaml")


def test_a_file_gives_the_same_as_its_text(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(TEXT, encoding="utf-8")

    data, lines = load_yaml(path)

    assert data == parse_yaml(TEXT)[0]
    assert lines.of(("rules", 1)) == 8


plain_text = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), max_size=9)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | plain_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text, inner, max_size=3),
    max_leaves=8,
)


@given(values.filter(lambda value: isinstance(value, dict | list)))
def test_json_is_read_as_what_it_says(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False)
    if '"<<":' not in text:
        assert parse_yaml(text)[0] == value


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_yaml(text)
    except RuleError as error:
        assert str(error)  # noqa: PT017 - what matters is that no other error comes
