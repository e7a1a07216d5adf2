"""The shipped rule files: complete, consistent, and within what rule texts may say.

Whether each cell of the table of tiers comes out right is tested with whole patients; here is
what must be true of the files themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

import pytest

from cds.model import Tier
from cds.rulefile import AllCriterion, AnyCriterion, FindingCriterion, LabCriterion, Rule
from cds.rules import Rulesets, load_rulesets
from cds.shipped import shipped
from cds.yamlfile import load_yaml

GATE = "laboratory-finding-wanted"
GROUPS = {
    "electrolyte",
    "medication",
    "neurological-referral",
    "lifestyle",
    "workup",
    "education",
}
# Orders of something else than a laboratory test: the suggestion, and the one code it may have.
NOT_LABORATORY = {
    "neurology-referral": ("http://snomed.info/sct", "308474002"),
    "emg-nerve-conduction": ("urn:cds-twitch:order", "emg-nerve-conduction"),
}
# The five source articles have no address or year; `sources/claims.yaml` holds what they say, by
# these letters. Where several say it, the evidence lists them: "(S2, S3)".
ARTICLES = {
    "S0": "Article on twitching after exercise (S0)",
    "S1": "Article on twitching after exercise (S1)",
    "S2": "Article on eight causes of twitching (S2)",
    "S3": "Article on diagnosis and treatment of twitching (S3)",
    "S4": "Summary on twitching for clinicians (S4)",
}
REASONS = {
    "missing",
    "not-sent",
    "stale",
    "future",
    "date",
    "unit",
    "implausible",
    "comparator",
    "status",
    "unknown-code",
    "reference",
    "population",
    "conflict",
}


@pytest.fixture(scope="module")
def shipped_rules() -> Rulesets:
    return load_rulesets()


@pytest.fixture(scope="module")
def rules(shipped_rules: Rulesets) -> list[Rule]:
    return [compiled.rule for compiled in shipped_rules.program.rules]


@pytest.fixture(scope="module")
def electrolyte(shipped_rules: Rulesets) -> list[Rule]:
    """The rules as written: without steps and without the companions made by `recheck`."""
    (file,) = (f for f in shipped_rules.files if f.group == "electrolyte")
    return [r for r in file.rules if not r.step and not r.id.endswith("-recheck")]


def labs(criteria: tuple[object, ...]) -> Iterator[LabCriterion]:
    for c in criteria:
        if isinstance(c, AnyCriterion):
            yield from labs(c.any)
        elif isinstance(c, AllCriterion):
            yield from labs(c.all)
        elif isinstance(c, LabCriterion):
            yield c


def sure_labs(criteria: tuple[object, ...]) -> set[str]:
    """The tests without whose result the criteria cannot hold."""
    found: set[str] = set()
    for c in criteria:
        if isinstance(c, AnyCriterion):
            found |= set.intersection(*(sure_labs((part,)) for part in c.any))
        elif isinstance(c, AllCriterion):
            found |= sure_labs(c.all)
        elif isinstance(c, LabCriterion):
            found.add(c.lab)
    return found


def side(c: LabCriterion) -> str:
    if c.laboratory:
        return "low" if c.laboratory in ("below", "critical-low") else "high"
    return "low" if c.lt is not None or c.le is not None else "high"


def is_gate(criterion: object) -> bool:
    return isinstance(criterion, FindingCriterion) and criterion.finding == GATE


def pure_band(rule: Rule) -> LabCriterion | None:
    """The number of a rule that tests one result and nothing else (but the gate)."""
    rest = [c for c in rule.when if not is_gate(c)]
    if len(rest) == 1 and isinstance(rest[0], LabCriterion) and rest[0].bound:
        return None if rule.caveat_for else rest[0]
    return None


def texts(rule: Rule) -> list[str]:
    card = rule.card
    return [card.summary, card.detail, card.patient, card.patient_summary or ""] if card else []


# ------------------------------------------------------------ they fit together


def test_every_claim_flag_and_threshold_that_a_rule_covers_exists(rules: list[Rule]) -> None:
    known: set[str] = set()
    for path in (shipped("rulesets") / "sources").glob("*.yaml"):
        data, _ = load_yaml(path)
        assert isinstance(data, dict)
        known |= {row["id"] for rows in data.values() if isinstance(rows, list) for row in rows}
    named = {(rule.id, id_) for rule in rules for id_ in rule.covers}
    assert named
    assert {pair for pair in named if pair[1] not in known} == set()


def test_every_suggestion_that_a_rule_offers_exists(
    shipped_rules: Rulesets, rules: list[Rule]
) -> None:
    used = {name for r in rules if r.card for name in r.card.suggestions}
    assert used
    assert used <= set(shipped_rules.texts.suggestions)


def test_a_text_names_only_results_that_its_rule_cannot_do_without(rules: list[Rule]) -> None:
    faults = []
    for rule in rules:
        if rule.card is None or rule.id.endswith("-recheck"):
            continue
        for name in re.findall(r"\{([^{}]*)\}", " ".join(texts(rule))):
            analyte, _, part = name.partition(".")
            if analyte not in sure_labs(rule.when) or part not in ("", "date", "sent"):
                faults.append((rule.id, name))
    assert faults == []


def test_the_shared_texts_have_a_word_for_every_tier_group_and_reason(
    shipped_rules: Rulesets,
) -> None:
    shared = shipped_rules.texts
    assert set(shared.tiers) == set(shared.patient_tiers) == {tier.name for tier in Tier}
    assert set(shared.groups) == GROUPS
    assert set(shared.not_evaluated) == REASONS
    assert 5 <= len({reason.code for reason in shared.override_reasons}) <= 7
    assert all(reason.display for reason in shared.override_reasons)


def test_suggested_orders_are_loinc_codes_with_a_right_check_digit(
    shipped_rules: Rulesets,
) -> None:
    """LOINC names tests; a referral and nerve conduction studies are no results that it names."""
    for name, suggestion in shipped_rules.texts.suggestions.items():
        for order in suggestion.orders:
            if name in NOT_LABORATORY:
                assert (order.code.system, order.code.code) == NOT_LABORATORY[name]
                continue
            assert order.code.system == "http://loinc.org"
            number, _, check = order.code.code.partition("-")
            # LOINC Users' Guide, appendix on the mod 10 check digit.
            doubled = [int(d) * (2 if i % 2 == 0 else 1) for i, d in enumerate(reversed(number))]
            assert -sum(d // 10 + d % 10 for d in doubled) % 10 == int(check), order.code.code


def test_every_suggested_laboratory_test_is_one_that_the_software_can_read_back(
    shipped_rules: Rulesets,
) -> None:
    codes = {c.code for a in shipped_rules.terminology.analytes.values() for c in a.codes}
    ordered = {
        order.code.code
        for name, suggestion in shipped_rules.texts.suggestions.items()
        for order in suggestion.orders
        if name != "ecg" and name not in NOT_LABORATORY
    }
    assert ordered
    assert ordered <= codes


# ------------------------------------------------------------ evidence and review


def test_no_rule_claims_a_review_that_has_not_happened(rules: list[Rule]) -> None:
    assert {rule.review for rule in rules} == {"draft"}
    assert {rule.last_reviewed for rule in rules} == {None}


def articles_named(source: str) -> set[str]:
    """The letters of the source articles that this source names in the agreed way, if it does."""
    several = re.fullmatch(r"Articles on muscle twitching \((S\d(?:, S\d)+)\)", source)
    if several:
        return set(several[1].split(", "))
    return {letter for letter, name in ARTICLES.items() if source == name}


def test_every_piece_of_evidence_can_be_looked_up_or_says_that_it_is_a_proposal(
    rules: list[Rule],
) -> None:
    """The five source articles count: what they say stands in `sources/claims.yaml`."""
    silent = [
        (rule.id, e.source)
        for rule in rules
        for e in rule.evidence
        if not (e.from_knowledge or e.url or e.section or e.year or articles_named(e.source))
    ]
    assert silent == []


def test_a_rule_that_rests_on_a_source_article_names_a_claim_of_it(rules: list[Rule]) -> None:
    """Without its claim nobody could find what the article is said to say."""
    data, _ = load_yaml(shipped("rulesets") / "sources" / "claims.yaml")
    assert isinstance(data, dict)
    assert set(ARTICLES) == {row["id"].partition("-")[0] for row in data["claims"]}
    named = [
        (rule, letters)
        for rule in rules
        if not (rule.step or rule.recheck_of)
        for e in rule.evidence
        if (letters := articles_named(e.source))
    ]
    assert len(named) > 20
    for rule, letters in named:
        assert letters <= set(ARTICLES), rule.id
        assert letters & {id_.partition("-")[0] for id_ in rule.covers}, rule.id


def test_a_source_that_nobody_read_is_never_shown_as_read(rules: list[Rule]) -> None:
    """A proposal says so, also where it names the document that a reviewer should look into.

    Such a document (a label, a guideline known by its title) has no link: a link on a card looks
    as if somebody had followed it.
    """
    evidence = [(rule.id, e) for rule in rules for e in rule.evidence]
    proposals = [(id_, e) for id_, e in evidence if e.source.startswith("Proposal of this project")]
    assert proposals
    assert [id_ for id_, e in proposals if not e.from_knowledge] == []
    assert [id_ for id_, e in evidence if e.from_knowledge and e.url] == []


# ------------------------------------------------------------ the habits of bands


def test_milder_results_need_a_symptom_or_medicine_and_urgent_ones_do_not(
    electrolyte: list[Rule],
) -> None:
    for rule in electrolyte:
        if rule.caveat_for or not list(labs(rule.when)):
            continue
        gated = any(is_gate(c) for c in rule.when)
        assert gated == (rule.tier_value < Tier.urgent), rule.id


def test_in_each_family_a_worse_number_never_has_a_lower_tier(electrolyte: list[Rule]) -> None:
    bands: dict[tuple[str, str, str], list[tuple[Decimal, Tier, str]]] = {}
    for rule in electrolyte:
        band = pure_band(rule)
        if band and band.bound and rule.family and not rule.id.endswith("pregnancy"):
            key = (rule.family, band.lab, side(band))
            bands.setdefault(key, []).append((band.bound[1], rule.tier_value, rule.id))
    assert len(bands) > 20
    for (_, _, direction), rows in bands.items():
        rows.sort(reverse=direction == "low")
        tiers = [tier for _, tier, _ in rows]
        assert tiers == sorted(tiers), rows


def test_the_laboratory_is_heard_in_the_first_band_and_its_critical_flag_is_urgent(
    electrolyte: list[Rule],
) -> None:
    first: set[tuple[str, str]] = set()
    critical: set[tuple[str, str]] = set()
    judged: set[tuple[str, str]] = set()
    for rule in electrolyte:
        if rule.caveat_for:
            continue
        for c in labs(rule.when):
            if c.within is None:
                judged.add((c.lab, side(c)))
            if c.first_band:
                assert rule.tier_value < Tier.urgent, rule.id
                first.add((c.lab, side(c)))
            if c.critical_flag or (c.laboratory or "").startswith("critical"):
                assert rule.tier_value is Tier.urgent, rule.id
                critical.add((c.lab, side(c)))
    # High magnesium has no mild band; the others are judged by their critical flag alone.
    assert judged - first == {
        ("magnesium", "high"),
        ("calcium-ionized", "high"),
        ("glucose", "high"),
        ("creatinine", "low"),
        ("creatinine", "high"),
        ("vitamin-b12", "high"),
        ("ferritin", "high"),
    }
    assert judged - critical == set()


def test_every_rule_about_a_single_number_has_a_companion_for_older_results(
    electrolyte: list[Rule],
) -> None:
    assert [r.id for r in electrolyte if pure_band(r) and not r.recheck] == []


def test_steps_hold_at_any_age_so_that_other_groups_can_build_on_them(rules: list[Rule]) -> None:
    """The engines run a step whatever the age, so a step "for adults" would only look safe."""
    assert [r.id for r in rules if r.step and r.population != "any"] == []


# ------------------------------------------------------------ what texts may say


def test_summaries_have_room_for_values(rules: list[Rule]) -> None:
    for rule in rules:
        if rule.card:
            filled = re.sub(r"\{[^{}]*\}", "12345 mmol/L", rule.card.summary)
            assert len(filled) <= 110, rule.id


def test_titles_are_short_and_unique(rules: list[Rule]) -> None:
    """Only rules that come to the same finding may share its title: it is shown once."""
    shown = {(r.title, r.finding_id) for r in rules if not r.step and not r.caveat_for}
    titles = [title for title, _ in shown]
    assert sorted({title for title in titles if titles.count(title) > 1}) == []
    assert max(map(len, titles)) <= 110


def test_no_text_advises_to_stop_a_medicine(rules: list[Rule]) -> None:
    """A warning of a stop, a stop in the past, and smoking and drinking are no such advice."""
    words = re.compile(
        r"\b(stop|stopping|discontinue|withhold|come off|quit taking|cease|halve)\b", re.IGNORECASE
    )
    other = re.compile(
        r"\bsudden stop\b|\bdo not stop\b|\bstop date\b|\bwithin (\d+ weeks|days) of stopping\b"
        r"|\bstop(ping)? smoking\b|\bdo not cut down alcohol or stop drinking on your own\b",
        re.IGNORECASE,
    )
    plain = [(r.id, other.sub("", " ".join(t.split()))) for r in rules for t in texts(r)]
    assert [id_ for id_, text in plain if words.search(text)] == []


def test_at_urgent_and_above_a_mentioned_prescriber_is_to_be_called_before_the_next_dose(
    rules: list[Rule],
) -> None:
    """Both in one sentence, with words between them or not: "today as well, before ..."."""
    wanted = re.compile(r"\btoday\b[^.]*\bbefore\s+(the|your)\s+next\s+dose")
    for rule in rules:
        if rule.tier_value < Tier.urgent or rule.card is None:
            continue
        for text in (rule.card.detail, rule.card.patient):
            if re.search(r"\bprescrib", text):
                assert wanted.search(text), rule.id


def test_replacement_is_never_mentioned_without_kidney_function(rules: list[Rule]) -> None:
    replacing = re.compile(r"\breplac|\b(magnesium|potassium|phosphate) by vein", re.IGNORECASE)
    kidney = re.compile(r"kidney\s+(function|team)|dialysis\s+team")
    low = {"hypokalemia", "hypomagnesemia", "hypophosphatemia"}
    speaking = [
        r
        for r in rules
        if r.card and low & {r.family, *r.caveat_for} and replacing.search(r.card.detail)
    ]
    assert len(speaking) > 5
    assert [r.id for r in speaking if r.card and not kidney.search(r.card.detail)] == []


def test_patients_are_told_of_mineral_pills_only_to_have_the_kidneys_checked_first(
    rules: list[Rule],
) -> None:
    pills = re.compile(r"[Dd]o not (?:take|use) [^.]*\b(?:potassium|magnesium) pills\b ([^.]*)\.")
    allowed = ("unless your doctor has checked your kidneys first", "that nobody prescribed")
    named = [r for r in rules if r.card and re.search(r"m pills\b", r.card.patient)]
    told = {r.id: m[1] for r in named if r.card and (m := pills.search(r.card.patient))}
    assert [r.id for r in named if not told.get(r.id, "").endswith(allowed)] == []
    assert told


def test_patient_texts_give_no_number_to_interpret(rules: list[Rule]) -> None:
    """The names of vitamins are no numbers."""
    for rule in rules:
        if rule.card:
            said = f"{rule.card.patient} {rule.card.patient_summary or ''}"
            plain = re.sub(r"\bvitamin\s+B(6|12)\b", "", said)
            assert "{" not in plain, rule.id
            assert re.findall(r"\d+", plain) in ([], ["18"]), rule.id


def test_patient_texts_say_what_to_do_and_by_when(
    rules: list[Rule], shipped_rules: Rulesets
) -> None:
    """The sentence of the tier comes first on a card, and says it in the same words.

    What is to know may leave it at that sentence and say instead when to get help sooner.
    """
    wanted = {
        Tier.emergency: r"[Cc]all your local emergency number now",
        Tier.urgent: r"\btoday\b",
        Tier.soon: r"next\s+few\s+days",
        Tier.routine: r"next\s+planned\s+visit",
        Tier.info: r"next\s+visit|\b(soon|sooner|today|within\s+two\s+weeks)\b|number\s+now\b",
    }
    first = shipped_rules.texts.patient_tiers
    assert re.search(r"next\s+visit", first["info"])
    assert [t for t, words in wanted.items() if not re.search(words, first[t.name])] == []
    for rule in rules:
        if rule.card is None or rule.caveat_for or rule.id.endswith("-recheck"):
            continue
        assert re.search(wanted[rule.tier_value], rule.card.patient), rule.id


def test_patient_texts_never_reassure(rules: list[Rule], shipped_rules: Rulesets) -> None:
    soothing = re.compile(
        r"no problem|nothing wrong|all clear|is normal|do not worry|harmless", re.IGNORECASE
    )
    shared = shipped_rules.texts
    plain = [r.card.patient for r in rules if r.card]
    plain += [shared.patient_disclaimer, *shared.patient_tiers.values()]
    assert [text for text in plain if soothing.search(text)] == []


def test_patient_texts_can_be_read_at_eighth_grade(
    rules: list[Rule], shipped_rules: Rulesets
) -> None:
    shared = shipped_rules.texts
    plain = {r.id: r.card.patient for r in rules if r.card}
    plain |= {f"tier {name}": text for name, text in shared.patient_tiers.items()}
    plain["disclaimer"] = shared.patient_disclaimer
    assert {id_: grade for id_, text in plain.items() if (grade := reading_grade(text)) > 8} == {}


def test_patient_texts_explain_their_abbreviations(rules: list[Rule]) -> None:
    for rule in rules:
        if rule.card:
            short = re.sub(r"heart\s+tracing\s+\(ECG\)", "", rule.card.patient).replace("B12", "")
            assert re.findall(r"\b[A-Z]{2,}\b", short) == [], rule.id


def reading_grade(text: str) -> float:
    """The Flesch-Kincaid grade, with syllables counted as groups of vowels.

    Source: Kincaid and others 1975, Research Branch Report 8-75.
    """
    sentences = [s for s in re.split(r"[.!?](?:\s|$)", text) if s.strip()]
    words = re.findall(r"[A-Za-z']+", text)
    syllables = sum(_syllables(word.lower()) for word in words)
    return 0.39 * len(words) / len(sentences) + 11.8 * syllables / len(words) - 15.59


def _syllables(word: str) -> int:
    groups = len(re.findall(r"[aeiouy]+", word)) + word.count("iu")  # "so-di-um"
    silent = word.endswith("e") and not word.endswith("le")
    return max(1, groups - silent)


def test_every_rule_for_older_results_says_how_old_they_are() -> None:
    rules = [r.rule for r in load_rulesets().program.rules if r.rule.recheck_of and r.rule.card]
    assert len(rules) > 50
    assert {r.title.rpartition("(")[2] for r in rules} == {"result more than 7 days old)"}
