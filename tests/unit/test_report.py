"""What people see in a terminal, and the pages of the catalog."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from builders import AS_OF, Json, ago, bundle, condition, lab, patient
from cds import Assessment, Rulesets, Screener, load_rulesets
from cds.catalog import catalog, explanation_dict
from cds.coverage import coverage, rows
from cds.report import (
    Page,
    catalog_markdown,
    visible,
    write_assessment,
    write_catalog,
    write_coverage,
    write_explanation,
)

SICK = (
    patient(),
    condition("twitching"),
    lab("potassium", "2.4", low="3.5", high="5.0"),
    lab("sodium", 130, "\x1b[31mfurlong\u202e", id="na"),
)


@pytest.fixture(scope="module")
def rulesets() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="module")
def screener(rulesets: Rulesets) -> Screener:
    return Screener(rulesets)


def page(write: Callable[[Page], None], *, width: int = 80, color: bool = False) -> str:
    stream = io.StringIO()
    write(Page(stream, width=width, color=color))
    return stream.getvalue()


def assess(screener: Screener, *resources: Json) -> Assessment:
    return screener.screen(bundle(*resources), AS_OF)


def words(text: str) -> str:
    """The text without line breaks and indentation, to look for sentences in it."""
    return " ".join(text.split())


# ------------------------------------------------------------ an assessment


def test_a_clinician_sees_tier_value_date_resource_rule_and_review_state(
    screener: Screener, rulesets: Rulesets
) -> None:
    found = assess(screener, *SICK)
    text = page(lambda p: write_assessment(p, found, rulesets))
    assert text.startswith("Patient/p1, as of 2026-11-01T12:00:00Z: EMERGENCY\n")
    for part in (
        "2.4 mmol/L",
        "2026-10-31",
        "Observation/potassium",
        "hypokalemia-severe",
        "no clinician has signed this rule",
        "Proposed: ",
    ):
        assert part in words(text), part


def test_a_clinician_sees_what_is_not_shown_not_evaluated_and_wrong(
    screener: Screener, rulesets: Rulesets
) -> None:
    found = assess(screener, *SICK)
    text = words(page(lambda p: write_assessment(p, found, rulesets)))
    assert "Found but not shown" in text
    assert "superseded by hypokalemia-severe" in text
    assert "sodium (Observation/na)" in text
    assert "Problems in the record - error: Observation/na valueQuantity.code: " in text
    assert text.count("Not evaluated") == 0, "the cards' short form would say it twice"
    assert text.count(words(rulesets.texts.disclaimer)) == 1


def test_the_rules_that_wait_for_a_result_are_named_on_request(
    screener: Screener, rulesets: Rulesets
) -> None:
    found = assess(screener, *SICK)
    brief = page(lambda p: write_assessment(p, found, rulesets))
    full = page(lambda p: write_assessment(p, found, rulesets, everything=True))
    assert "hyponatremia-severe" not in brief
    assert "hyponatremia-severe" in full


def test_a_patient_sees_what_to_do_and_no_number_rule_or_reference(
    screener: Screener, rulesets: Rulesets
) -> None:
    found = assess(screener, *SICK)
    text = page(lambda p: write_assessment(p, found, rulesets, audience="patient"))
    _, _, body = text.partition("\n")
    assert words(rulesets.texts.patient_tiers["emergency"]) in words(body)
    assert words(body).count(words(rulesets.texts.patient_disclaimer)) == 1
    for part in ("2.4", "mmol", "Observation/", "hypokalemia", "Evidence", "**"):
        assert part not in body, part


@pytest.mark.parametrize("audience", ["clinician", "patient"])
def test_no_finding_is_never_said_to_be_good_news(
    audience: str, screener: Screener, rulesets: Rulesets
) -> None:
    found = assess(screener, patient())
    text = words(page(lambda p: write_assessment(p, found, rulesets, audience=audience)))  # type: ignore[arg-type]  # a parameter of the test
    assert "There is no finding. That does not mean that nothing is wrong." in text


@pytest.mark.parametrize("audience", ["clinician", "patient"])
def test_what_a_sender_wrote_cannot_control_the_terminal(
    audience: str, screener: Screener, rulesets: Rulesets
) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202emmol/L\r\n\x9b31m"
    resources = [
        patient(),
        lab("potassium", "2.4", low="3.5"),
        {**lab("magnesium", "0.3"), "id": "a\x1b[8mb"},
    ]
    resources[1]["valueQuantity"]["unit"] = evil
    resources[1]["referenceRange"][0]["low"]["unit"] = evil
    found = assess(screener, *resources)
    text = page(
        lambda p: write_assessment(p, found, rulesets, audience=audience)  # type: ignore[arg-type]  # a parameter of the test
    )
    assert [c for c in text if not c.isprintable() and c != "\n"] == []


@given(st.text())
def test_text_made_visible_is_one_printable_line_and_keeps_what_was_printable(
    text: str,
) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert visible(shown) == shown
    if text.isprintable():
        assert shown == text


# ------------------------------------------------------------ layout


@given(
    st.lists(st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=20)),
    st.integers(min_value=40, max_value=120),
    st.integers(min_value=0, max_value=8),
)
def test_lines_fit_the_width_and_no_word_is_lost(parts: list[str], width: int, indent: int) -> None:
    text = " ".join(parts)
    written = page(lambda p: p.line(text, indent=indent, label="- "), width=width)
    assert written.split() == ["-", *text.split()]
    assert all(len(line) <= width for line in written.splitlines())
    assert all(line == line.rstrip() for line in written.splitlines())


def test_an_address_stays_whole_so_that_it_can_be_copied() -> None:
    url = "https://example.org/" + "a-long/way/" * 12
    written = page(lambda p: p.line(f"See {url} for more"), width=60)
    assert url in written.split()


def test_what_wraps_stands_under_the_text() -> None:
    written = page(lambda p: p.line("one two three four five six", label="YES   "), width=30)
    assert written == "YES   one two three four five\n      six\n"


def test_color_is_used_only_where_wanted_and_never_carries_the_meaning() -> None:
    def write(p: Page) -> None:
        p.line("potassium", label="UNKNOWN ", style="yellow")
        p.markdown("**Low.** Act\nnow.")

    plain, colored = page(write), page(write, color=True)
    assert "\x1b" not in plain
    assert "\x1b[33m" in colored
    assert "\x1b[1mLow.\x1b[0m Act now." in colored
    assert re.sub(r"\x1b\[\d+m", "", colored) == plain


def test_a_stream_that_is_no_terminal_gets_no_color() -> None:
    stream = io.StringIO()
    Page(stream).line("text", style="bold")
    assert stream.getvalue() == "text\n"


@pytest.mark.parametrize(
    ("markdown", "text"),
    [
        ("**Bold \\*title\\***", "Bold *title*"),
        ("sent as ``a `b` **c**`` here", "sent as a `b` **c** here"),
        ("` `` `", "``"),
        ("a \\_ b \\\\ c", "a _ b \\ c"),
        ("x &lt; y", "x < y"),
        ("`&lt;`", "&lt;"),
        ("[the \\[label\\]](https://example.org/x)", "the [label] (https://example.org/x)"),
        ("- one\n  more\n- two", "- one more - two"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("", ""),
    ],
)
def test_markdown_of_a_card_is_shown_as_the_text_that_it_stands_for(
    markdown: str, text: str
) -> None:
    assert words(page(lambda p: p.markdown(markdown))) == text


# ------------------------------------------------------------ an explanation


def explained(screener: Screener, rulesets: Rulesets, rule: str, *resources: Json) -> str:
    found = assess(screener, *resources)
    explanation = explanation_dict(found.explain(rule), found.evaluation, rulesets)
    return page(lambda p: write_explanation(p, explanation))


def test_an_explanation_shows_each_criterion_with_its_answer_and_what_was_found(
    screener: Screener, rulesets: Rulesets
) -> None:
    sent = lab("potassium", "9.3", "mg/dL", when=ago(hours=5), low=13.7)
    text = explained(screener, rulesets, "hypokalemia-severe", patient(), sent)
    assert "FIRED: finding 'hypokalemia-severe', tier emergency" in text
    assert "YES     potassium < 2.5 mmol/L, at most 7 days old" in text
    flat = words(text)
    assert "sent as '9.3 mg/dL', on 2026-11-01T07:00:00Z" in flat
    assert "laboratory's range at least 13.7 mg/dL, Observation/potassium 5 hours old" in flat
    assert "Evidence - " in flat
    assert "Covers " in flat


def test_an_explanation_of_a_rule_that_did_not_fire_says_why(
    screener: Screener, rulesets: Rulesets
) -> None:
    low = explained(screener, rulesets, "hypokalemia-severe", patient(), lab("potassium", "2.5"))
    assert "NOT FIRED: criteria not met" in low
    assert "NO      potassium < 2.5 mmol/L" in low
    assert "2.5 mmol/L, on 2026-10-31T12:00:00Z, Observation/potassium" in low
    missing = explained(screener, rulesets, "hypokalemia-severe", patient())
    assert "NOT FIRED: cannot be decided" in missing
    assert "UNKNOWN potassium < 2.5 mmol/L" in missing
    stale = explained(
        screener,
        rulesets,
        "hypokalemia-severe",
        patient(),
        lab("potassium", "2.4", when=ago(days=200)),
    )
    assert "unknown: the latest result is too old (Observation/potassium)" in words(stale)
    assert "200 days old" in stale


def test_an_explanation_shows_a_comparator_with_the_converted_value(
    screener: Screener, rulesets: Rulesets
) -> None:
    sent = lab("potassium", "7.8", "mg/dL", comparator="<")
    text = explained(screener, rulesets, "hypokalemia-severe", patient(), sent)
    assert re.search(r"<1\.99\d* mmol/L, sent as '<\s*7\.8 mg/dL'", words(text))


def test_an_explanation_shows_nested_criteria_and_what_blocks_the_rule(
    screener: Screener, rulesets: Rulesets
) -> None:
    text = explained(
        screener,
        rulesets,
        "hypokalemia-mild",
        patient(),
        condition("twitching"),
        condition("pregnancy"),
        lab("potassium", "3.2", low="3.3", high="5.0", status="preliminary"),
    )
    lines = [line.strip() for line in text.splitlines()]
    assert "NOT FIRED: blocked by 'unless'" in lines
    assert "YES     all of these" in lines
    assert "Unless (what is unknown does not block)" in lines
    assert "YES     condition: pregnancy" in lines
    assert "the laboratory says: out of range" in lines
    assert any(line.startswith("caution: ") for line in lines)
    assert any("Condition/pregnancy" in line for line in lines)


def test_an_explanation_shows_what_was_computed(screener: Screener, rulesets: Rulesets) -> None:
    text = explained(
        screener,
        rulesets,
        "acute-kidney-injury",
        patient(),
        lab("creatinine", 80, id="before", when=ago(hours=40)),
        lab("creatinine", 120, id="after", when=ago(hours=2)),
    )
    assert "FIRED" in text
    assert "found: 40 umol/L" in text
    assert "found: 1.5\n" in text
    assert "2 hours old" in text


# ------------------------------------------------------------ the catalog


def test_the_catalog_of_the_terminal_names_every_rule_and_counts_the_review_states(
    rulesets: Rulesets,
) -> None:
    rules = catalog(rulesets)
    text = page(lambda p: write_catalog(p, rules))
    lines = set(text.splitlines())
    assert {rule["id"] for rule in rules} <= lines
    assert f"{len(rules)} rules: {len(rules)} draft" in text
    assert "potassium < 2.5 mmol/L, at most 7 days old" in text
    assert "RCEM Learning" in text


def test_the_markdown_catalog_shows_the_very_words_of_the_rules(rulesets: Rulesets) -> None:
    rules = catalog(rulesets)
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(catalog_markdown(rules))
    headings = [
        after.content.replace("\\", "")
        for token, after in pairwise(tokens)
        if token.type == "heading_open" and token.tag == "h2"
    ]
    assert headings == [rule["id"] for rule in rules]
    shown = "".join(
        child.content for token in tokens for child in token.children or () if child.content
    )
    for rule in rules:
        assert rule["title"] in shown
        for evidence in rule["evidence"]:
            assert words(evidence["statement"]) in shown


def test_coverage_is_shown_with_counts(rulesets: Rulesets) -> None:
    found = coverage(rulesets)
    text = page(lambda p: write_coverage(p, found, rows()))
    assert f"Covered: {len(found['covered'])}" in text
    assert re.search(r"red flags: 42 rows: \d+ covered, \d+ left out on purpose, \d+ missing", text)
    assert f"Left out on purpose: {len(found['not_covered'])}" in text
    assert f"Not covered yet: {len(found['missing'])}" in text
    assert re.search(r"RF27 +hypokalemia-severe", text)
