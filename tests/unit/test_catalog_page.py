"""The page of rules for the clinician who signs them, and its pictures of thresholds."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import AS_OF, LABS, bundle, condition, lab, patient
from cds import Rulesets, Screener, Tier, load_rulesets
from cds.catalog import catalog
from cds.catalog_page import catalog_page
from cds.cli import main
from cds.scales import Band, Lane, Scale, scales

VOID = {"meta", "input", "link", "br", "hr", "img"}


class Page(HTMLParser):
    """What a browser would make of the page: elements in order, text by the nearest id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        if tag not in VOID:
            inherited = self.open[-1][1] if self.open else ""
            is_rule = tag == "article" or "companion" in given.get("class", "")
            self.open.append((tag, given["id"] if is_rule else inherited))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        where = self.open[-1][1] if self.open else ""
        self.texts[where] = self.texts.get(where, "") + data

    def all(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [given[name] for _, given in self.elements if name in given]

    def text(self, rule: str) -> str:
        """The words of a rule; "" for those of no rule."""
        return words(self.texts[rule])


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def rulesets() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="module")
def page(rulesets: Rulesets) -> Page:
    return Page(catalog_page(rulesets))


def rule(id_: str, when: list[Any], **more: Any) -> dict[str, Any]:
    """A rule of an author, with what every rule needs."""
    return {
        "id": id_,
        "title": f"Title of {id_}",
        "tier": "urgent",
        "when": when,
        "evidence": [{"source": "A guideline", "statement": "It says so."}],
        "review": "draft",
        "card": {"summary": "A summary", "detail": "A detail.", "patient": "Call your doctor."},
        **more,
    }


def load(folder: Path, *rules: Mapping[str, Any]) -> Rulesets:
    """These rules as a folder of an author's own; JSON is YAML too."""
    group = folder / "mine"
    group.mkdir(parents=True, exist_ok=True)
    content = {"group": "mine", "title": "My rules", "version": "1.2.3", "rules": list(rules)}
    group.joinpath("rules.yaml").write_text(json.dumps(content), encoding="utf-8")
    return load_rulesets(folder)


LOW = [{"lab": "potassium", "lt": 3, "unit": "mmol/L"}]


# ------------------------------------------------------------ the page


@pytest.mark.parametrize(
    "own", [True, pytest.param(False, marks=pytest.mark.slow, id="shipped: runs every case")]
)
def test_the_command_prints_the_page(tmp_path: Path, own: bool) -> None:
    load(tmp_path, rule("r", LOW))
    folder = ["--rulesets", str(tmp_path)] if own else []
    result = CliRunner().invoke(main, ["rules", *folder, "--format", "html"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("<!DOCTYPE html>\n<html lang=")
    assert Page(result.stdout).open == []


def test_the_page_is_sound_and_needs_nothing_but_itself(page: Page) -> None:
    assert page.open == []
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    assert page.all("src") == page.all("style") == []
    assert {tag for tag, _ in page.elements} & {"link", "img", "iframe", "object", "form"} == set()
    assert [name for _, given in page.elements for name in given if name.startswith("on")] == []
    policy = next(given["content"] for tag, given in page.elements if "http-equiv" in given)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    inside = [href[1:] for href in page.all("href") if href.startswith("#")]
    assert set(inside) <= set(ids)
    outside = [href for href in page.all("href") if not href.startswith("#")]
    assert all(re.match("https?://", href) for href in outside)
    assert len(outside) > 50


def test_headings_go_down_one_level_at_a_time(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_rule_stands_on_the_page_with_all_that_is_signed(
    rulesets: Rulesets, page: Page
) -> None:
    older = {r.id for f in rulesets.files for r in f.rules if r.recheck_of}
    for entry in catalog(rulesets):
        text = page.text(entry["id"])
        said = [entry["title"], entry["review"], entry["id"], entry["group"], *entry["covers"]]
        said += [] if entry["step"] else [entry["tier"]]
        said += list(criteria(entry["when"])) + list(criteria(entry["unless"]))
        if entry["id"] in older:
            said = [w for w in said if w not in entry["covers"]]
            said += [entry["card"]["summary"]] if entry["card"] else []
        else:
            said += [e["source"] for e in entry["evidence"]]
            said += [e["statement"] for e in entry["evidence"]]
            said += [entry["note"]] if entry["note"] else []
            if entry["card"]:
                said += [entry["card"]["summary"], entry["card"]["patient"]]
                said += re.split(r"\n\n(?:- )?|\n- ", entry["card"]["detail"])
        assert [w for w in said if words(w) not in text] == [], entry["id"]


def criteria(tree: list[Any]) -> Iterator[str]:
    for entry in tree:
        if isinstance(entry, str):
            text = entry.replace(" >= ", " ≥ ").replace(" <= ", " ≤ ")
            yield re.sub(r"^(finding: .*) \([a-z0-9-]+\)$", r"\1", text)
        else:
            yield from criteria(next(iter(entry.values())))


def test_what_companions_for_older_results_share_is_said_once(
    rulesets: Rulesets, page: Page
) -> None:
    shared = [file.recheck for file in rulesets.files if file.recheck]
    assert len(shared) > 1
    said = Counter(
        words(text) for s in shared for text in (s.detail, s.patient, s.evidence[0].statement)
    )
    for text, groups in said.items():
        assert page.text("").count(text) == groups  # once for each group that says it


def test_contents_lead_to_every_family_and_every_rule(rulesets: Rulesets, page: Page) -> None:
    links = page.all("href")
    for file in rulesets.files:
        for one in file.rules:
            assert f"#{one.id}" in links
            if one.family:
                assert f"#{file.group}.{one.family}" in links


def test_text_of_a_rule_can_neither_run_nor_leave_its_place(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script> & </style> {{ 7 * 7 }} \" onload='x'"
    evidence = [{"source": bad, "statement": bad, "url": "javascript:alert(1)", "section": bad}]
    card = {"summary": bad, "detail": f"{bad}\n\n- {bad}", "patient": bad}
    page = Page(
        catalog_page(
            load(tmp_path, rule("r", LOW, title=bad, note=bad, evidence=evidence, card=card)),
            cases={"r": [{"name": bad, "expectation": bad, "path": bad, "line": 1}]},
            coverage={"r": {"criteria": 1, "covered": 0, "open": [bad]}},
        )
    )
    assert page.open == []
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert page.text("r").count(bad) == 13  # each place that an author fills
    assert "javascript:alert(1)" in page.text("r")
    assert [href for href in page.all("href") if "javascript" in href] == []


@pytest.mark.parametrize(
    ("reviews", "said"),
    [
        (["draft", "draft"], "Draft. Not approved: 2 of 2 rules (draft: 2)."),
        (
            ["approved", "under-review"],
            "Draft. Not approved: 1 of 2 rules (approved: 1, under review: 1).",
        ),
        (["approved", "approved"], None),
    ],
)
def test_rules_that_nobody_signed_are_said_to_be_drafts(
    tmp_path: Path, reviews: list[str], said: str | None
) -> None:
    rules = [rule(f"r{n}", LOW, review=review) for n, review in enumerate(reviews)]
    page = Page(catalog_page(load(tmp_path, *rules)))
    if said:
        assert said in page.text("")
    else:
        assert "Draft." not in page.text("")
    assert [reviews[n].replace("-", " ") in page.text(f"r{n}") for n in (0, 1)] == [True, True]


def test_what_a_site_changed_and_what_it_does_not_run_is_said(tmp_path: Path) -> None:
    profile = tmp_path / "site.yaml"
    profile.write_text(
        """
site: general
title: General Hospital
version: 2.0.1
disable:
  - {rule: hypernatremia-mild, reason: The laboratory phones these itself}
  - {rule: diuretic-hypokalemia, reason: It builds on the one that is not run}
  - {rule: corticosteroid-hypokalemia, reason: It builds on the one that is not run}
tiers:
  hyponatremia-mild:
    tier: soon
    reason: Many people here take diuretics
    patient: Call your doctor's office in the next few days.
"""
    )
    page = Page(catalog_page(load_rulesets(site=profile)))
    assert "Changed by General Hospital (site general 2.0.1, sha256:" in page.text("")
    assert "The laboratory phones these itself" in page.text("hypernatremia-mild")
    assert "Not run" in page.text("hypernatremia-mild-recheck")
    assert "Many people here take diuretics" in page.text("hyponatremia-mild")
    assert "Call your doctor's office in the next few days." in page.text("hyponatremia-mild")
    assert not [id_ for id_ in page.all("id") if id_.startswith("hypernatremia-mild.place")]
    assert len(page.all("id")) == len(set(page.all("id")))


def test_cases_and_coverage_stand_with_their_rule(rulesets: Rulesets) -> None:
    case = {
        "name": "Potassium 2.4 is an emergency",
        "expectation": "fires",
        "path": "electrolyte/cases.yaml",
        "line": 12,
    }
    page = Page(
        catalog_page(
            rulesets,
            cases={"hypokalemia-severe": [case]},
            coverage={
                "hypokalemia-severe": {"criteria": 2, "covered": 1, "open": ["never seen unknown"]},
                "hypokalemia-mild": None,
            },
        )
    )
    severe, mild = page.text("hypokalemia-severe"), page.text("hypokalemia-mild")
    assert "Potassium 2.4 is an emergency: fires (electrolyte/cases.yaml:12)" in severe
    assert "1 of 2 criteria never seen unknown" in severe
    assert "no case names this rule" in mild
    assert "not measured" in mild


def test_a_page_without_cases_and_coverage_says_so(page: Page) -> None:
    assert "The cases of the rules were not read." in page.text("")
    assert "The coverage of the criteria was not measured." in page.text("")


def test_the_page_of_the_shipped_rules_stays_small(rulesets: Rulesets) -> None:
    # About 3 kB for each of 540 rules; a browser shows and searches 2 MB at once.
    assert len(catalog_page(rulesets).encode()) < 2_000_000


# ------------------------------------------------------------ thresholds


def lane_of(scale: Scale, *rules: str) -> Lane:
    """The lane that holds just these rules."""
    return next(x for x in scale.lanes if {s.rule for s in x.stretches} == set(rules))


def drawn(lane: Lane) -> list[tuple[str, str]]:
    """The bounds under the axis and the tiers above it, from left to right."""
    return [t.sign + t.number for t in lane.ticks], [str(b.tier or "") for b in lane.bands]


def by_key(rulesets: Rulesets) -> dict[str, Scale]:
    return {scale.key: scale for scale in scales(rulesets)}


def test_bands_of_potassium_are_those_of_its_rules(rulesets: Rulesets) -> None:
    potassium = by_key(rulesets)["lab/potassium"]
    assert (potassium.title, potassium.unit) == ("potassium", "mmol/L")
    assert drawn(potassium.lanes[0]) == (
        ["<2.5", "<3.0", "≥6.0", "≥6.5"],
        ["emergency", "urgent", "", "urgent", "emergency"],
    )
    assert drawn(lane_of(potassium, "hypokalemia-mild")) == (
        ["<2.5", "<3.0", "<3.5", "≥5.5", "≥6.0", "≥6.5"],
        ["emergency", "urgent", "soon", "", "soon", "urgent", "emergency"],
    )
    assert drawn(lane_of(potassium, "hypokalemia-with-danger-signs")) == (
        ["<3.0", "≥6.0", "≥6.5"],
        ["emergency", "", "urgent", "emergency"],
    )


def tier_at(bands: tuple[Band, ...], value: Decimal) -> Tier | None:
    """The tier that a picture shows for one value."""
    place = (value, Decimal("0.5"))  # between the cut below the value and the cut above it
    for band in bands:
        if (band.start is None or band.start < place) and (band.end is None or place < band.end):
            return band.tier
    raise AssertionError("the bands leave a gap")


def near(lane: Lane) -> list[Decimal]:
    """Each bound, just below it and just above it."""
    step = Decimal("0.0001")
    return sorted({t.value + d for t in lane.ticks for d in (-step, Decimal(0), step)})


@pytest.mark.parametrize("concept", sorted(LABS))
def test_the_picture_and_the_software_agree_on_every_value_near_a_bound(
    rulesets: Rulesets, concept: str
) -> None:
    scale = by_key(rulesets).get(f"lab/{concept}")
    if scale is None or scale.lanes[0].beside or scale.lanes[0].unless:
        wanted = {"lab/potassium", "lab/sodium", "lab/calcium", "lab/qtc", "lab/glucose"}
        assert f"lab/{concept}" not in wanted
        return
    screener = Screener(rulesets)
    for value in near(scale.lanes[0]):
        record = bundle(patient(), lab(concept, str(value)))
        tier = screener.screen(record, as_of=AS_OF).tier
        assert tier == tier_at(scale.lanes[0].bands, value), (concept, value)


@pytest.mark.parametrize("concept", ["potassium", "magnesium", "sodium", "phosphate", "glucose"])
def test_with_a_symptom_the_picture_and_the_software_agree_too(
    rulesets: Rulesets, concept: str
) -> None:
    scale = by_key(rulesets)[f"lab/{concept}"]
    lane = next(x for x in scale.lanes if "laboratory-finding-wanted" in repr(x.beside))
    # A rule that asks for something else besides, which twitching is as well, has its own lane.
    asked = [x for x in scale.lanes if all(w in lane.beside for w in x.beside)]
    rules = {s.rule for x in asked for s in x.stretches}
    assert len(rules) > 2
    screener = Screener(rulesets)
    for value in near(lane):
        record = bundle(patient(), condition("twitching"), lab(concept, str(value)))
        found = screener.screen(record, as_of=AS_OF).findings
        tier = max((f.tier for f in found if f.id in rules), default=None)
        assert tier == tier_at(lane.bands, value), (concept, value)


def test_a_circumstance_takes_in_the_rules_that_ask_for_less(tmp_path: Path) -> None:
    cramp, tremor = {"symptom": "cramp"}, {"symptom": "tremor"}
    (scale,) = scales(
        load(
            tmp_path,
            rule("one", [*LOW, cramp], tier="soon"),
            rule("two", [{**LOW[0], "lt": 4}, cramp, tremor], tier="routine"),
            rule("other", [{**LOW[0], "lt": 2}, tremor], tier="emergency", unless=[cramp]),
        )
    )
    assert drawn(lane_of(scale, "two")) == (["<3", "<4"], ["soon", "routine", ""])
    assert drawn(lane_of(scale, "other")) == (["<2"], ["emergency", ""])


def test_two_bounds_of_one_rule_make_one_band_with_two_ends(tmp_path: Path) -> None:
    between = [*LOW, {"lab": "potassium", "ge": 2.5, "unit": "mmol/L"}]
    (scale,) = scales(load(tmp_path, rule("between", between)))
    assert drawn(scale.lanes[0]) == (["≥2.5", "<3"], ["", "urgent", ""])


def test_a_bound_where_comparators_differ_is_labeled_with_the_number_alone(tmp_path: Path) -> None:
    (scale,) = scales(
        load(
            tmp_path,
            rule("below", LOW),
            rule("from", [{"lab": "potassium", "ge": 3, "unit": "mmol/L"}], tier="soon"),
        )
    )
    assert drawn(scale.lanes[0]) == (["3"], ["urgent", "soon"])


def test_rises_ratios_and_ages_have_scales_of_their_own(rulesets: Rulesets, tmp_path: Path) -> None:
    titles = {key: scale.title for key, scale in by_key(rulesets).items()}
    assert titles["rise/potassium/PT12H"] == "rise of potassium within 12 hours"
    assert titles["ratio/creatinine/P7D"] == "creatinine, times the lowest of the 7 days before"
    old = rule("old", [{"age": "years", "ge": 65}])
    (scale,) = scales(load(tmp_path, old))
    assert (scale.title, scale.unit, drawn(scale.lanes[0])) == (
        "age",
        "years",
        (["≥65"], ["", "urgent"]),
    )


def test_steps_warnings_and_flags_are_named_but_make_no_band(rulesets: Rulesets) -> None:
    found = by_key(rulesets)
    assert "any-high-potassium" in {m.rule for m in found["lab/potassium"].mentions}
    assert "caveat-poor-kidney-function" in {m.rule for m in found["lab/egfr"].mentions}
    assert "qtc-critical-flag" in {m.rule for m in found["lab/qtc"].mentions}
    banded = {s.rule for scale in found.values() for x in scale.lanes for s in x.stretches}
    entries = {entry["id"]: entry for entry in catalog(rulesets)}
    assert all(not entries[id_]["step"] and not entries[id_]["caveat_for"] for id_ in banded)


def test_every_rule_that_compares_a_number_has_its_place_in_a_picture(
    rulesets: Rulesets, page: Page
) -> None:
    pictured = {id_.split(".")[0] for id_ in page.all("id") if ".place." in id_}
    expected = {
        entry["id"]
        for entry in catalog(rulesets)
        # A number that only keeps a rule away makes no band of its tier.
        if any(" ".join(t["criterion"].split()) in repr(entry["when"]) for t in entry["thresholds"])
        and not entry["step"]
        and not entry["caveat_for"]
        and not entry["id"].endswith("-recheck")
    }
    assert pictured == expected


def test_a_picture_says_in_words_what_it_shows(page: Page) -> None:
    assert (
        "below 2.5: emergency; from 2.5 to below 3.0: urgent; from 6.0 to below 6.5: urgent; "
        "6.5 or more: emergency"
    ) in page.text("")
    assert "This rule: below 3.5. All: " in page.text("hypokalemia-mild")
    assert "above 160: emergency" in page.text("")


def numbers() -> st.SearchStrategy[float]:
    return st.integers(1, 2_000_000).map(lambda n: n / 1000)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bounds=st.lists(
        st.tuples(
            st.sampled_from(["lt", "le", "gt", "ge"]),
            numbers(),
            st.sampled_from(list(Tier)),
            st.lists(st.sampled_from(["cramp", "tremor"]), unique=True),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_whatever_the_bounds_are_every_value_has_one_band_and_every_bound_its_place(
    tmp_path: Path, bounds: list[tuple[str, float, Tier, list[str]]]
) -> None:
    rules = [
        rule(
            f"r{n}",
            [{"lab": "potassium", op: value, "unit": "mmol/L"}, *({"symptom": s} for s in signs)],
            tier=tier.name,
        )
        for n, (op, value, tier, signs) in enumerate(bounds)
    ]
    (scale,) = scales(load(tmp_path, *rules))
    holds = {
        "lt": Decimal.__lt__,
        "le": Decimal.__le__,
        "gt": Decimal.__gt__,
        "ge": Decimal.__ge__,
    }
    for lane in scale.lanes:
        signs = {sign for sign in ("cramp", "tremor") if sign in repr(lane.beside)}
        rising = [scale.axis.at(tick.value) for tick in lane.ticks]
        assert rising == sorted(rising)
        assert all(0 < x < 100 for x in rising)
        for value in near(lane):
            expected = [
                tier
                for op, bound, tier, needed in bounds
                if set(needed) <= signs and holds[op](value, Decimal(str(bound)))
            ]
            assert tier_at(lane.bands, value) == max(expected, default=None)
