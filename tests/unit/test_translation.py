"""Card texts in another language: what is replaced, what stays English, and that it is said."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from click.testing import CliRunner, Result
from pydantic import BaseModel

from builders import AS_OF, bundle, condition, lab, patient
from cds import Assessment, Rulesets, Screener, load_rulesets
from cds.cli import main
from cds.errors import RuleErrors, UsageError
from cds.lint import lint
from cds.rulefile import CardText, RecheckText
from cds.translation import Entry, fingerprint
from lint_folder import write
from pseudo_language import LANGUAGE, copy_of_shipped, marked, put, texts_of, translated

SICK = bundle(patient(), lab("potassium", 2.9), condition("twitching"), lab("albumin", 39))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped rules with a whole translation."""
    folder = copy_of_shipped(tmp_path_factory.mktemp("translated"))
    rulesets = load_rulesets(folder)
    put(folder, rulesets, translated(texts_of(rulesets)))
    return folder


@pytest.fixture(scope="module")
def english(folder: Path) -> Rulesets:
    return load_rulesets(folder)


@pytest.fixture(scope="module")
def other(folder: Path) -> Rulesets:
    return load_rulesets(folder, language=LANGUAGE)


def screened(rulesets: Rulesets) -> Assessment:
    return Screener(rulesets).screen(SICK, AS_OF)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


# ------------------------------------------------------------ what is translated


def test_every_wording_of_cards_yaml_and_of_rules_can_be_translated(english: Rulesets) -> None:
    """A new key of these files is translated without anybody thinking of it."""
    keys = texts_of(english)
    data = yaml.safe_load((Path(english.files[0].path).parents[1] / "cards.yaml").read_text())
    for key in leaves(data):
        is_code = re.search(r"/(system|code|source_url)(/|$)|/(code|category)/", f"/{key}")
        assert (f"cards/{key}" in keys) is not (is_code or "patient_medicine/groups" in key), key
    for file in english.files:
        for name in wording(RecheckText) if file.recheck else ():
            assert (f"rechecks/{file.group}/{name}" in keys) is bool(getattr(file.recheck, name))
        for rule in file.rules:
            if rule.recheck_of is None:
                assert f"rules/{rule.id}/title" in keys
            for name in wording(CardText) if rule.card and not rule.recheck_of else ():
                assert (f"rules/{rule.id}/{name}" in keys) is bool(getattr(rule.card, name))


def leaves(data: Any, place: str = "") -> list[str]:
    items = data.items() if isinstance(data, Mapping) else enumerate(data)
    if isinstance(data, (Mapping, list)):
        return [leaf for k, v in items for leaf in (leaves(v, f"{place}{k}/"))]
    return [place.rstrip("/")]


def wording(shape: type[BaseModel]) -> list[str]:
    return [n for n, f in shape.model_fields.items() if f.annotation in (str, str | None)]


def test_a_patient_reads_no_word_of_english(english: Rulesets, other: Rulesets) -> None:
    before, after = (screened(r).cards("patient") for r in (english, other))
    assert len(before) == len(after) > 0
    for card, new in zip(before, after, strict=True):
        assert new["detail"] == marked(card["detail"])
        assert new["detail"] != card["detail"]
        assert new["uuid"] == card["uuid"]  # the same card, in other words


def test_a_clinician_reads_titles_details_names_and_orders(
    english: Rulesets, other: Rulesets
) -> None:
    before, after = (screened(r).cards() for r in (english, other))
    said = "\n".join(card["detail"] for card in after)
    for finding in screened(english).findings:
        assert marked(finding.title) in said
    assert marked("potassium") in said.casefold()
    assert marked(english.texts.disclaimer).strip() in said
    labels = [s["label"] for card in before for s in card.get("suggestions", ())]
    assert labels
    assert [s["label"] for card in after for s in card.get("suggestions", ())] == [
        marked(label) for label in labels
    ]
    # A display belongs to its code system, in every language.
    codes = [o["resource"]["code"]["coding"] for c in before for o in actions(c)]
    assert codes == [o["resource"]["code"]["coding"] for c in after for o in actions(c)]


def actions(card: Mapping[str, Any]) -> list[Any]:
    return [action for s in card.get("suggestions", ()) for action in s["actions"]]


def test_companions_for_older_results_speak_the_language_of_their_rule(
    english: Rulesets, other: Rulesets
) -> None:
    before = {r.rule.id: r.rule for r in english.program.rules}
    after = {r.rule.id: r.rule for r in other.program.rules}
    assert list(before) == list(after)
    companions = [r for r in before.values() if r.recheck_of and r.card]
    assert companions
    for rule in companions:
        new = after[rule.id]
        assert rule.card is not None
        assert new.card is not None
        assert new.card.patient == marked(rule.card.patient)
        # "7 days" is put in by the software, in English.
        assert new.title.translate(str.maketrans("áéíóúÁÉÍÓÚ", "aeiouAEIOU")) == rule.title
        assert new.title != rule.title


def test_only_wording_differs(english: Rulesets, other: Rulesets) -> None:
    left = {"title", "card", "ask"}
    for a, b in zip(english.program.rules, other.program.rules, strict=True):
        assert a.rule.model_dump(exclude=left) == b.rule.model_dump(exclude=left)
    assert [f.digest for f in english.files] == [f.digest for f in other.files]
    assert other.digest == english.digest


def test_a_whole_translation_leaves_nothing_to_say(other: Rulesets) -> None:
    assert other.translation is not None
    assert (other.translation.english, other.translation.notice) == ((), "")
    result = screened(other).to_dict()
    assert result["language"]["id"] == LANGUAGE
    assert result["language"]["review"] == "draft"
    assert "not-translated" not in {p["code"] for p in result["problems"]}


def test_an_assessment_in_english_says_nothing_of_languages(english: Rulesets) -> None:
    assert "language" not in screened(english).to_dict()


# ------------------------------------------------------------ what stays English


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path)


@pytest.mark.parametrize(
    ("key", "entry", "said", "id_", "severity"),
    [
        ("rules/mild/patient", None, "1 not translated", "CDS811", "warning"),
        ("rules/mild/patient", Entry(of="", text=" "), "1 not translated", "CDS811", "warning"),
        (
            "rules/mild/patient",
            Entry(of=fingerprint("What it said before."), text="Íts óld"),
            "1 translated from an older text",
            "CDS812",
            "warning",
        ),
        (
            "rules/mild/summary",
            Entry(of=fingerprint("Potassium low at {potassium}"), text="Pótássíúm lów"),
            "1 translated with other placeholders",
            "CDS813",
            "error",
        ),
    ],
)
def test_what_cannot_be_used_stays_english_and_is_said(
    small: Path, key: str, entry: Entry | None, said: str, id_: str, severity: str
) -> None:
    rulesets = load_rulesets(small)
    entries = translated(texts_of(rulesets))
    text = texts_of(rulesets)[key]
    put(small, rulesets, {k: e for k, e in {**entries, key: entry}.items() if e is not None})
    new = load_rulesets(small, language=LANGUAGE)
    assert texts_of(new)[key] == text  # English
    assert texts_of(new)["rules/mild/title"] == marked("Title of mild")
    assert new.translation is not None
    assert new.translation.notice == f"1 of {len(entries)} texts are in English: {said}"
    problems = screened(new).to_dict()["problems"]
    assert [(p["code"], p["severity"]) for p in problems if p["resource"] is None] == [
        ("not-translated", "warning")
    ]
    found = [e for e in lint([small]) if e.id.startswith("CDS81")]
    assert [(e.id, e.severity) for e in found] == [(id_, severity)]
    assert key in found[0].message
    assert found[0].line > 0


def test_a_key_that_nothing_has_is_an_error_of_its_own(small: Path) -> None:
    rulesets = load_rulesets(small)
    entries = translated(texts_of(rulesets))
    put(small, rulesets, {**entries, "rules/midl/title": Entry(of="x", text="Nó sách rúlé")})
    (found,) = [e for e in lint([small]) if e.id.startswith("CDS81")]
    assert found.id == "CDS814"
    assert "did you mean 'rules/mild/title'?" in found.message


def test_a_translation_without_fault_has_no_lint(small: Path) -> None:
    rulesets = load_rulesets(small)
    put(small, rulesets, translated(texts_of(rulesets)))
    assert [e for e in lint([small]) if e.id.startswith("CDS81")] == []


@pytest.mark.parametrize(
    ("old", "new", "id_"),
    [
        ("review: draft", "review: perfect", "CDS102"),
        ("language: eo", "language: fr", "CDS102"),
        ("texts:", "texts: [", "CDS101"),
    ],
)
def test_a_file_of_the_wrong_shape_is_refused_with_its_line(
    small: Path, old: str, new: str, id_: str
) -> None:
    rulesets = load_rulesets(small)
    path = put(small, rulesets, translated(texts_of(rulesets)))
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    assert id_ in {e.id for e in lint([small]) if e.path == str(path) and e.line}
    with pytest.raises(RuleErrors, match=re.escape(f"{LANGUAGE}.yaml")):
        load_rulesets(small, language=LANGUAGE)


# ------------------------------------------------------------ languages and sites


def test_an_unknown_language_is_refused_and_the_known_ones_are_named(small: Path) -> None:
    put(small, load_rulesets(small), {})
    with pytest.raises(UsageError, match=r"there is no translation 'es'.*; there is en, eo"):
        load_rulesets(small, language="es")
    assert load_rulesets(small, language="en").translation is None


def test_a_text_that_a_site_has_changed_is_not_taken_for_the_translated_one(small: Path) -> None:
    rulesets = load_rulesets(small)
    put(small, rulesets, translated(texts_of(rulesets)))
    site = small / "site.yaml"
    words = "Get help today, says the hospital."
    site.write_text(
        "site: here\ntitle: Here\nversion: 1.0.0\ntiers:\n"
        f"  mild: {{tier: urgent, reason: We want it., patient: '{words}'}}\n",
        encoding="utf-8",
    )
    new = load_rulesets(small, site=site, language=LANGUAGE)
    card = new.program.by_id["mild"].rule.card
    assert card is not None
    assert card.patient == words
    assert new.translation is not None
    assert [f.key for f in new.translation.english] == ["rules/mild/patient"]
    with pytest.raises(UsageError, match="load both at once"):
        load_rulesets(small, language=LANGUAGE).at_site(site)


# ------------------------------------------------------------ commands


def test_translate_writes_what_is_to_be_done_and_keeps_what_was_done(small: Path) -> None:
    path = small / "translations" / f"{LANGUAGE}.yaml"
    path.parent.mkdir()
    first = run("translate", LANGUAGE, "--rulesets", str(small), "--out", str(path))
    assert first.exit_code == 0, first.stderr
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    english = texts_of(load_rulesets(small))
    assert list(data["texts"]) == list(english)
    assert all(e == {"of": fingerprint(english[k]), "text": None} for k, e in data["texts"].items())
    written = path.read_text(encoding="utf-8")
    for text in english.values():  # the English stands above each key
        assert " ".join(text.split()) in " ".join(re.sub(r"\n *# ?", " ", written).split())

    done = written.replace("text:\n", 'text: "dóné"\n', 1)
    path.write_text(done, encoding="utf-8")
    again = run("translate", LANGUAGE, "--rulesets", str(small), "--out", str(path))
    assert again.exit_code == 0, again.stderr
    assert path.read_text(encoding="utf-8") == done
    assert f"{len(english)} texts, {len(english) - 1} of them" in again.stderr


def test_translate_marks_a_text_whose_english_has_changed(small: Path) -> None:
    rulesets = load_rulesets(small)
    entries = translated(texts_of(rulesets))
    gone = {"rules/gone/title": Entry(of="x", text="Wás thérè")}
    stale = {"rules/mild/title": Entry(of="0ld", text="Óld títlé")}
    path = put(small, rulesets, {**entries, **gone, **stale})
    text = path.read_text(encoding="utf-8")
    mark = text.split("# CHANGED since it was translated")
    assert len(mark) == 2
    assert 'rules/mild/title:\n    of: "0ld"\n    text: "Óld títlé"' in mark[1]
    assert "Wás thérè" in text.split("Nothing has these keys any more.")[1]


@pytest.mark.parametrize("language", ["en", "English", "e", "../es"])
def test_only_another_language_can_be_translated_into(small: Path, language: str) -> None:
    result = run("translate", language, "--rulesets", str(small))
    assert result.exit_code == 2
    assert "is not a language to translate into" in result.stderr


def test_screen_takes_a_language(small: Path, tmp_path: Path) -> None:
    rulesets = load_rulesets(small)
    put(small, rulesets, translated(texts_of(rulesets)))
    record = tmp_path / "patient.json"
    record.write_bytes(orjson.dumps(SICK))
    usual = ("screen", str(record), "--as-of", AS_OF, "--rulesets", str(small), "--format", "json")
    (before,) = orjson.loads(run(*usual).stdout)
    (after,) = orjson.loads(run(*usual, "--language", LANGUAGE).stdout)
    assert [f["id"] for f in before["findings"]] == [f["id"] for f in after["findings"]]
    assert after["findings"][0]["title"] == marked(before["findings"][0]["title"])
    unknown = run(*usual, "--language", "es")
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert "there is no translation 'es'" in unknown.stderr
