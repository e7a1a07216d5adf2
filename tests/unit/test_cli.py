"""The command's arguments, exit codes and messages, without starting a process for each."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import orjson
import pytest
from click.testing import CliRunner, Result

import cds
from builders import AS_OF, Json, bundle, lab, patient
from cds import cli
from cds.cli import patients
from cds.errors import EngineError
from cds.model import Record
from cds.rules import Rulesets, load_rulesets
from cds.screening import Screener


@pytest.fixture(scope="module")
def shipped() -> Rulesets:
    return load_rulesets()


@pytest.fixture(autouse=True)
def _shipped_rules_are_loaded_once(shipped: Rulesets, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*folders: str, **more: str | None) -> Rulesets:
        return load_rulesets(*folders, **more) if folders or any(more.values()) else shipped

    monkeypatch.setattr("cds.rules.load_rulesets", load)


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(path: Path, *values: Any) -> str:
    """Write JSON (several values: one a line) and give the name that the command gets."""
    path.write_bytes(b"\n".join(orjson.dumps(value) for value in values))
    return path.name


def run(*arguments: str, **more: Any) -> Result:
    return CliRunner().invoke(cli.main, list(arguments), prog_name="cds", **more)


def screen(*arguments: str) -> Result:
    return run("screen", "--as-of", AS_OF, *arguments)


def low(subject: str = "p1", value: str = "2.4") -> Json:
    return bundle(patient(subject), lab("potassium", value, subject=subject))


# ------------------------------------------------------------ arguments


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"cds {cds.__version__}\n"


@pytest.mark.parametrize("command", [(), ("screen",), ("explain",), ("rules",), ("test",)])
def test_every_command_and_option_has_help(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    context = click.Context(cli.main)
    found = cli.main.get_command(context, command[0]) if command else cli.main
    assert found is not None
    options = [p for p in found.params if isinstance(p, click.Option)]
    # What needs no words: a choice that its own name and values explain.
    assert [o.name for o in options if not o.help and o.name != "form"] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2026-11-01T00:00:00", "has no time zone; write for example 2026-11-01T08:30:00Z"),
        ("yesterday", "'yesterday' is not a time such as 2026-11-01T00:00:00Z"),
        ("9999-99-99", "is not a time"),
        ("9999-12-31T23:59:59-14:00", "is not a time"),
        ("", "is not a time"),
    ],
)
def test_a_time_that_is_none_or_could_be_several_is_refused(
    text: str, message: str, cwd: Path
) -> None:
    result = run("screen", save(cwd / "a.json", low()), "--as-of", text)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-01", "2026-11-01T00:00:00Z"),
        ("2026-11-01T08:30:00+01:00", "2026-11-01T07:30:00Z"),
        ("2026-11-01T08:30:00Z", "2026-11-01T08:30:00Z"),
    ],
)
def test_a_plain_date_is_midnight_utc_and_offsets_count(text: str, instant: str, cwd: Path) -> None:
    path = save(cwd / "a.json", low())
    result = run("screen", path, "--as-of", text, "--format", "json")
    assert orjson.loads(result.stdout)[0]["as_of"] == instant


def test_without_a_time_patients_are_judged_as_of_now(cwd: Path) -> None:
    result = run("screen", save(cwd / "a.json", low()), "--format", "json")
    as_of = datetime.fromisoformat(orjson.loads(result.stdout)[0]["as_of"])
    assert abs(datetime.now(UTC) - as_of) < timedelta(minutes=1)


@pytest.mark.parametrize(
    "arguments",
    [
        ("screen",),
        ("screen", "nowhere.json"),
        ("screen", "a.json", "--format", "xml"),
        ("screen", "a.json", "--fail-on", "high"),
        ("screen", "a.json", "--rulesets", "nowhere"),
        ("screen", "a.json", "--audience", "nurse"),
        ("screen", "a.json", "--engine", "fast"),
        ("explain", "a.json"),
        ("explain", "a.json", "--rule", "no-such-rule"),
        ("rules", "--coverage", "--format", "html"),
        ("cook",),
    ],
)
def test_unusable_arguments_end_with_2_and_print_no_result(
    arguments: tuple[str, ...], cwd: Path
) -> None:
    save(cwd / "a.json", low())
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr


def test_a_faulty_rule_file_ends_with_2_and_says_file_and_line(cwd: Path) -> None:
    (cwd / "mine" / "trial").mkdir(parents=True)
    (cwd / "mine" / "trial" / "rules.yaml").write_text("group: trial\nversion: one\n")
    result = screen(save(cwd / "a.json", low()), "--rulesets", "mine")
    assert result.exit_code == 2
    assert "mine/trial/rules.yaml:2: version" in result.stderr


# ------------------------------------------------------------ results


def test_json_is_one_array_and_ndjson_one_object_a_line_of_the_same(cwd: Path) -> None:
    paths = [save(cwd / f"{p}.json", low(p)) for p in ("a", "b", "c")]
    array = orjson.loads(screen(*paths, "--format", "json").stdout)
    lines = screen(*paths, "--format", "ndjson").stdout.splitlines()
    assert [orjson.loads(line) for line in lines] == array
    assert [a["patient"] for a in array] == ["Patient/a", "Patient/b", "Patient/c"]


def test_the_array_is_whole_even_when_nobody_was_found(cwd: Path) -> None:
    useless = {"resourceType": "Claim", "id": "c"}
    result = screen(save(cwd / "a.json", useless), "--format", "json")
    assert (result.exit_code, result.stdout) == (0, "[]\n")
    assert "0 patients assessed" in result.stderr
    assert "1 skipped, of no use to any rule (Claim 1)" in result.stderr
    assert screen("a.json", "--format", "ndjson").stdout == ""


def test_cards_speak_to_the_audience_that_was_asked_for(cwd: Path) -> None:
    path = save(cwd / "a.json", low())
    clinician, patient_ = (
        orjson.loads(screen(path, "--format", "json", "--audience", audience).stdout)[0]["cards"]
        for audience in ("clinician", "patient")
    )
    assert "2.4 mmol/L" in clinician[0]["detail"]
    assert "2.4" not in patient_[0]["detail"]


def test_all_lists_the_rules_that_came_nowhere_near(cwd: Path) -> None:
    path = save(cwd / "a.json", bundle(patient()))
    few, many = (
        len(orjson.loads(screen(path, "--format", "json", *more).stdout)[0]["not_evaluated"])
        for more in ((), ("--all",))
    )
    assert few < many


def test_other_rules_take_the_place_of_the_shipped_ones(cwd: Path) -> None:
    (cwd / "mine" / "trial").mkdir(parents=True)
    (cwd / "mine" / "trial" / "rules.yaml").write_text(
        """\
group: trial
title: Mine
version: 3.0.0
rules:
  - id: mine
    title: Any potassium
    review: draft
    tier: info
    when: [{lab: potassium, gt: 0, unit: mmol/L}]
    evidence: [{source: Me, statement: to try}]
    card: {summary: A potassium, detail: Seen., patient: Seen.}
"""
    )
    path = save(cwd / "a.json", low())
    (found,) = orjson.loads(screen(path, "--rulesets", "mine", "--format", "json").stdout)
    assert [f["id"] for f in found["findings"]] == ["mine"]
    assert [(r["id"], r["version"]) for r in found["rulesets"]] == [("trial", "3.0.0")]


def test_strict_refuses_what_is_not_valid_fhir(cwd: Path) -> None:
    wrong = bundle(patient(), {**lab("potassium", "2.4"), "favoriteColor": "red"})
    path = save(cwd / "a.json", wrong)
    assert screen(path).exit_code == 0
    result = screen(path, "--strict")
    assert result.exit_code == 3
    assert "Observation/potassium" in result.stderr
    assert "favoriteColor" in result.stderr


# ------------------------------------------------------------ exit codes


def test_an_invalid_line_is_listed_on_both_streams_and_ends_with_3(cwd: Path) -> None:
    (cwd / "a.ndjson").write_bytes(orjson.dumps(patient()) + b'\n{"resourceType": "Obs')
    for form in ("text", "json", "ndjson"):
        result = screen("a.ndjson", "--format", form)
        assert result.exit_code == 3
        assert "rejected: a.ndjson:2: " in result.stderr
        assert "a.ndjson:2" in result.stdout
    assert "1 rejected, listed above" in result.stderr


def test_the_last_assessment_carries_what_was_rejected_and_no_other(cwd: Path) -> None:
    paths = [save(cwd / f"{p}.json", low(p)) for p in ("a", "b")]
    (cwd / "c.json").write_bytes(b"")
    found = orjson.loads(screen(*paths, "c.json", "--format", "json").stdout)
    assert "rejected" not in found[0]
    assert [entry["where"] for entry in found[1]["rejected"]] == ["c.json"]


@pytest.mark.parametrize(
    ("tier", "code"), [("emergency", 1), ("urgent", 1), ("info", 1), (None, 0)]
)
def test_fail_on_ends_with_1_at_that_tier_or_above(tier: str | None, code: int, cwd: Path) -> None:
    path = save(cwd / "a.json", low())
    assert screen(path, *(("--fail-on", tier) if tier else ())).exit_code == code


def test_fail_on_ends_with_0_below_that_tier_and_without_any_finding(cwd: Path) -> None:
    urgent = save(cwd / "a.json", low(value="2.9"))
    assert screen(urgent, "--fail-on", "urgent").exit_code == 1
    assert screen(urgent, "--fail-on", "emergency").exit_code == 0
    nobody = save(cwd / "b.json", {"resourceType": "Claim"})
    assert screen(nobody, "--fail-on", "info").exit_code == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"name": "no FHIR"}', b'{"resourceType": "MedicationOrder"}']
)
def test_where_nothing_at_all_can_be_read_the_end_is_2(content: bytes, cwd: Path) -> None:
    (cwd / "a.json").write_bytes(content)
    result = screen("a.json", "--format", "json", "--fail-on", "info")
    assert (result.exit_code, result.stdout) == (2, "[]\n")
    assert "nothing at all could be read" in result.stderr


def test_an_empty_folder_ends_with_2(cwd: Path) -> None:
    (cwd / "empty").mkdir()
    assert screen("empty").exit_code == 2


def test_a_failed_check_outranks_a_rejection(cwd: Path) -> None:
    (cwd / "bad.json").write_bytes(b"{")
    path = save(cwd / "a.json", low())
    assert screen(path, "bad.json").exit_code == 3
    assert screen(path, "bad.json", "--fail-on", "urgent").exit_code == 1


# ------------------------------------------------------------ what should never happen


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the assessment of Patient/b fail."""
    assess = Screener.assess

    def fail(self: Screener, record: Record, as_of: int) -> Any:
        if record.patient == "Patient/b":
            raise KeyError("Erika Mustermann")
        return assess(self, record, as_of)

    monkeypatch.setattr(Screener, "assess", fail)
    return iter(())


@pytest.mark.usefixtures("broken")
def test_one_patient_that_breaks_does_not_end_the_run_of_others(cwd: Path) -> None:
    paths = [save(cwd / f"{p}.json", low(p)) for p in ("a", "b", "c")]
    (cwd / "bad.json").write_bytes(b"{")
    result = screen(*paths, "bad.json", "--format", "json", "--fail-on", "info")
    assert result.exit_code == 4, "4 outranks 1 and 3"
    found = orjson.loads(result.stdout)
    assert [a["patient"] for a in found] == ["Patient/a", "Patient/c"]
    assert "internal error, so Patient/b has no result: KeyError at test_cli.py:" in result.stderr
    assert "Mustermann" not in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("broken")
def test_a_traceback_is_shown_only_on_request(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(cwd / "b.json", low("b"))
    monkeypatch.setenv("CDS_DEBUG", "1")
    result = screen(path, "--format", "json")
    assert result.exit_code == 4
    assert "Traceback" in result.stderr
    assert result.stdout == "[]\n"
    assert run("explain", path, "--rule", "hypokalemia-severe").exit_code == 4


def test_an_error_of_the_engine_is_named_in_full_because_it_holds_no_patient_data(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Screener, record: Record, as_of: int) -> Any:
        raise EngineError("the engines differ in rule 'hypokalemia-severe'")

    monkeypatch.setattr(Screener, "assess", fail)
    result = screen(save(cwd / "a.json", low()))
    assert result.exit_code == 4
    assert "the engines differ in rule 'hypokalemia-severe'" in result.stderr


def test_an_engine_that_cannot_start_is_an_internal_error(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Screener, *args: Any, **more: Any) -> None:
        raise EngineError("durable_rules cannot be imported")

    monkeypatch.setattr(Screener, "__init__", fail)
    result = screen(save(cwd / "a.json", low()))
    assert result.exit_code == 4
    assert "durable_rules cannot be imported" in result.stderr


def test_a_reader_that_breaks_leaves_a_whole_array_and_says_so(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cds.fhir import Reader

    def fail(self: Reader, *args: Any, **more: Any) -> Iterator[Record]:
        yield Record("Patient/a")
        raise ZeroDivisionError("x")

    monkeypatch.setattr(Reader, "read_paths", fail)
    result = screen(save(cwd / "a.json", low()), "--format", "json")
    assert result.exit_code == 4
    assert [a["patient"] for a in orjson.loads(result.stdout)] == ["Patient/a"]
    assert "internal error: ZeroDivisionError" in result.stderr


# ------------------------------------------------------------ explain


def explain(*arguments: str) -> Result:
    return run("explain", "--as-of", AS_OF, "--rule", "hypokalemia-severe", *arguments)


def test_explain_says_why_a_rule_fired(cwd: Path) -> None:
    path = save(cwd / "a.json", low())
    text = explain(path).stdout
    assert "FIRED" in text
    assert "YES     potassium < 2.5 mmol/L" in text
    found = orjson.loads(explain(path, "--format", "json").stdout)
    assert (found["patient"], found["rule"]["id"], found["fired"]) == (
        "Patient/p1",
        "hypokalemia-severe",
        True,
    )


def test_explain_wants_to_know_which_patient(cwd: Path) -> None:
    paths = [save(cwd / f"{p}.json", low(p)) for p in ("a", "b")]
    result = explain(*paths)
    assert result.exit_code == 2
    assert "2 patients were found, name one with --patient: Patient/a, Patient/b" in result.stderr
    for name in ("b", "Patient/b"):
        assert "Patient/b" in explain(*paths, "--patient", name).stdout
    result = explain(*paths, "--patient", "x")
    assert result.exit_code == 2
    assert "no patient x; found: Patient/a, Patient/b" in result.stderr


def test_explain_does_not_choose_between_two_bundles_of_one_patient(cwd: Path) -> None:
    paths = [save(cwd / name, low("a")) for name in ("1.json", "2.json")]
    result = explain(*paths, "--patient", "a")
    assert result.exit_code == 2
    assert "Patient/a stands in several Bundles; name only one of the files" in result.stderr


def test_explain_without_any_patient_or_anything_to_read_ends_with_2(cwd: Path) -> None:
    result = explain(save(cwd / "a.json", {"resourceType": "Claim"}))
    assert (result.exit_code, result.stderr) == (2, "cds: no patient was found\n")
    (cwd / "b.json").write_bytes(b"{")
    result = explain("b.json")
    assert result.exit_code == 2
    assert "nothing at all could be read" in result.stderr


def test_explain_ends_with_3_where_something_was_rejected(cwd: Path) -> None:
    (cwd / "bad.json").write_bytes(b"{")
    result = explain(save(cwd / "a.json", low()), "bad.json")
    assert result.exit_code == 3
    assert "rejected: bad.json" in result.stderr


def test_an_unknown_rule_is_answered_with_one_that_may_be_meant(cwd: Path) -> None:
    path = save(cwd / "a.json", low())
    result = run("explain", path, "--rule", "hypokalemia-sever")
    assert "did you mean hypokalemia-severe" in result.stderr
    assert "'cds rules' lists them" in run("explain", path, "--rule", "42").stderr


# ------------------------------------------------------------ rules


# "html" tries every case; `test_catalog_page` shows it for a few rules on each change.
@pytest.mark.parametrize("forms", [("text", "md"), pytest.param(("html",), marks=pytest.mark.slow)])
def test_rules_are_shown_in_four_forms(forms: tuple[str, ...]) -> None:
    outputs = {form: run("rules", "--format", form).stdout for form in forms}
    rules = orjson.loads(run("rules", "--format", "json").stdout)
    assert {"id", "tier", "when", "thresholds", "evidence", "review", "covers"} <= rules[0].keys()
    for form, output in outputs.items():
        assert "hypokalemia-severe" in output, form
    starts = {"html": "<!DOCTYPE html>", "md": "# Rules\n", "text": ""}
    assert all(output.startswith(starts[form]) for form, output in outputs.items())


def test_coverage_is_shown_as_text_and_json() -> None:
    found = orjson.loads(run("rules", "--coverage", "--format", "json").stdout)
    assert list(found) == ["covered", "not_covered", "missing"]
    assert "RF27" in found["covered"]
    result = run("rules", "--coverage")
    assert (result.exit_code, "Not covered yet" in result.stdout) == (0, True)


# ------------------------------------------------------------ reading along


def test_what_belongs_to_no_patient_is_said_on_standard_error(cwd: Path) -> None:
    (cwd / "a.json").write_bytes(b"\xef\xbb\xbf" + orjson.dumps(low()))
    result = screen("a.json")
    assert result.exit_code == 0
    assert "cds: warning: a.json: the text begins with a byte order mark" in result.stderr


def test_what_is_wrong_inside_a_used_resource_is_counted_and_is_no_rejection(cwd: Path) -> None:
    path = save(cwd / "a.json", bundle(patient(), lab("potassium", 3, "furlong")))
    result = screen(path, "--format", "json")
    assert result.exit_code == 0
    assert "1 noted inside used resources (unit-unknown 1)" in result.stderr


@pytest.mark.parametrize("name", ["p.json", "broken.json"])
def test_garbage_is_collected_again_once_all_is_loaded(
    cwd: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    save(cwd / "p.json", low())
    (cwd / "broken.json").write_text("{")
    seen: list[tuple[bool, bool]] = []
    read = patients._Run.records

    def records(self: patients._Run) -> Iterator[Record]:
        seen.append((gc.isenabled(), gc.get_freeze_count() > 0))
        yield from read(self)

    monkeypatch.setattr(patients._Run, "records", records)
    screen(name)

    assert seen == [(True, True)]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_patients_are_counted_by_tier(cwd: Path) -> None:
    paths = [save(cwd / f"{p}.json", low(p)) for p in ("a", "b")]
    calm = save(cwd / "c.json", bundle(patient("c")))
    result = screen(*paths, calm, "--format", "json")
    assert "3 patients assessed (emergency 2, no finding 1)" in result.stderr


def test_progress_is_shown_only_on_a_terminal_after_a_while(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [save(cwd / f"{p}.json", low(p)) for p in ("a", "b")]
    assert "\r" not in screen(*paths, "--format", "json").stderr
    monkeypatch.setattr(patients, "_PATIENCE", -1.0)
    monkeypatch.setattr(patients, "on_terminal", lambda: True)
    assert "\r2 patients assessed\n" in screen(*paths, "--format", "json").stderr
