"""Bad input: each fault is named with its place, costs only itself, and never a traceback."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from cds import _fhir_json
from cds.fhir import Reader, ReadLog
from cds.model import Record
from cds.shipped import shipped
from cds.terminology import load_terminology

FILES = Path(__file__).parent.parent / "files"


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(load_terminology(shipped("rulesets")))


@pytest.fixture(params=["whole", "in pieces"])
def any_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs as for a small text and as for one too large to be parsed at once."""
    if request.param == "in pieces":
        monkeypatch.setattr(_fhir_json, "LARGE", 16)


def result(number: int = 1, value: str = "2.4") -> str:
    """A potassium result of patient p, as JSON."""
    return (
        f'{{"resourceType": "Observation", "id": "k{number}", "status": "final",'
        ' "code": {"coding": [{"system": "http://loinc.org", "code": "2823-3"}]},'
        ' "subject": {"reference": "Patient/p"}, "effectiveDateTime": "2026-01-01",'
        f' "valueQuantity": {{"value": {value}, "unit": "mmol/L", "code": "mmol/L"}}}}'
    )


def bundle(*resources: str, end: str = "]}") -> str:
    entries = ",\n".join(f'{{"resource": {resource}}}' for resource in resources)
    return f'{{"resourceType": "Bundle", "type": "collection", "entry": [\n{entries}{end}'


def read(reader: Reader, source: Any) -> tuple[list[str], list[tuple[str, str]], ReadLog]:
    """The labels of the results read, and (where, message) of what was rejected."""
    log = ReadLog()
    records: list[Record] = list(reader.read(source, log, where="sent.json"))
    assert log.resources == log.used + sum(log.skipped.values()) + len(log.rejected)
    labels = [m.resource.removeprefix("Observation/") for r in records for m in r.measurements]
    return labels, [(r.where, r.message) for r in log.rejected], log


DEEP = "[" * 10_000 + "]" * 10_000


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("NaN", "NaN and Infinity are not JSON numbers"),
        ("-Infinity", "NaN and Infinity are not JSON numbers"),
        ("1e400", "a number too large to be a value"),
        ('"\\ud800"', "half of a surrogate pair in a string"),
        (DEEP, "nested too deep"),
        ("2.4,", ""),
        ("two", ""),
    ],
    ids=["NaN", "infinity", "1e400", "half a surrogate", "10,000 deep", "comma", "word"],
)
def test_a_fault_in_one_entry_costs_that_entry_alone(
    reader: Reader, value: str, reason: str
) -> None:
    text = bundle(result(1), result(2, value), result(3))
    labels, rejected, _ = read(reader, text.encode())
    assert labels == ["k1", "k3"]
    ((where, message),) = rejected
    assert where == "sent.json entry[1]"
    assert message.startswith("not JSON at line 3, byte ")
    assert reason in message


@pytest.mark.parametrize("value", ["NaN", "1e400", DEEP], ids=["NaN", "1e400", "deep"])
def test_a_single_resource_with_a_fault_is_rejected_with_its_place(
    reader: Reader, value: str
) -> None:
    text = result(1, value).replace(', "valueQuantity"', ',\n "valueQuantity"')
    labels, rejected, _ = read(reader, text)
    assert labels == []
    ((where, message),) = rejected
    assert where == "sent.json:2"
    assert "byte" in message


@pytest.mark.usefixtures("any_size")
def test_a_bundle_that_is_cut_off_is_read_up_to_there(reader: Reader) -> None:
    text = bundle(result(1), result(2), result(3))
    cut = text.index("k3") + 60
    labels, rejected, _ = read(reader, text[:cut])
    assert labels == ["k1", "k2"]
    assert rejected == [
        ("sent.json entry[2]", f"not JSON at line 4, byte {cut}: the text is cut off here")
    ]
    labels, rejected, _ = read(reader, text[: text.rindex(",\n")])
    assert labels == ["k1", "k2"]
    assert rejected[0][0] == "sent.json:3"
    assert "read in spite of it: 2" in rejected[0][1]


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("end", [",]}", "]", "]}}", '], "total": NaN}', "]} and more"])
def test_a_fault_around_the_entries_is_said_and_the_entries_are_read(
    reader: Reader, end: str
) -> None:
    labels, rejected, _ = read(reader, bundle(result(1), result(2), end=end).encode())
    assert labels == ["k1", "k2"]
    ((where, message),) = rejected
    assert where == "sent.json:3"
    assert "read in spite of it: 2 member(s)" in message


@pytest.mark.usefixtures("any_size")
def test_a_missing_comma_between_entries_is_said_and_they_are_read(reader: Reader) -> None:
    labels, rejected, _ = read(reader, bundle(result(1), result(2)).replace("},\n{", "}\n{"))
    assert labels == ["k1", "k2"]
    assert [where for where, _ in rejected] == ["sent.json:3"]


@pytest.mark.usefixtures("any_size")
def test_a_sound_list_of_resources_is_as_good_as_single_ones(reader: Reader) -> None:
    labels, rejected, _ = read(reader, f"[{result(1)},\n{result(2)}]".encode())
    assert (labels, rejected) == (["k1", "k2"], [])
    labels, rejected, _ = read(reader, f"[{result(1)},\n{result(2, 'NaN')}]".encode())
    assert labels == ["k1"]
    assert [where for where, _ in rejected] == ["sent.json[1]"]


def test_a_word_entry_or_bracket_inside_a_text_is_no_structure(reader: Reader) -> None:
    tricky = result(1).replace(
        '"status"', '"note": [{"text": "\\"entry\\": [ {{{ ]]] \\\\"}], "status"'
    )
    labels, rejected, _ = read(reader, bundle(tricky, result(2, "NaN")))
    assert labels == ["k1"]
    assert [where for where, _ in rejected] == ["sent.json entry[1]"]
    # The same key in a resource that is no Bundle does not make it one.
    other = '{"resourceType": "Basic", "x": NaN, "entry": [' + result(1) + "]}"
    labels, rejected, _ = read(reader, other)
    assert labels == []
    assert [where for where, _ in rejected] == ["sent.json:1"]


def test_a_large_file_is_read_in_pieces_with_the_same_result(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.json"
    path.write_text(bundle(result(1), result(2), bundle(result(3))))
    whole = list(reader.read(path, ReadLog()))
    for module in ("cds.fhir", "cds._fhir_json"):
        monkeypatch.setattr(f"{module}.LARGE", 16)
    assert list(reader.read(path, ReadLog())) == whole
    assert [len(record.measurements) for record in whole] == [2, 1]


def test_lines_are_read_one_by_one_and_a_cut_off_line_is_lost_alone(
    reader: Reader, tmp_path: Path
) -> None:
    lines = [result(1), "", result(2, "NaN"), result(3), result(4)[:80]]
    for name in ("sent.ndjson", "sent.json"):  # by name, and found out
        path = tmp_path / name
        path.write_text("\n".join(lines))
        labels, rejected, log = read(reader, path)
        assert labels == ["k1", "k3"]
        assert [where for where, _ in rejected] == [f"{path}:3", f"{path}:5"]
        start = sum(len(line) + 1 for line in lines[:4])
        assert rejected[1][1] == f"not JSON at byte {start + 80}: the text is cut off here"
        assert log.files == 1


def test_a_first_line_that_is_broken_costs_no_other(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "sent.ndjson"
    path.write_text("\n".join([result(1)[:50], result(2)[:50], result(3)]))
    labels, rejected, _ = read(reader, path)
    assert labels == ["k3"]
    assert [where for where, _ in rejected] == [f"{path}:1", f"{path}:2"]


def test_a_file_named_as_lines_may_hold_one_value(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "sent.ndjson"
    path.write_text(json.dumps(json.loads(result(1)), indent=1))
    assert read(reader, path)[:2] == (["k1"], [])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_another_encoding_that_can_be_told_is_read_and_said(reader: Reader, encoding: str) -> None:
    labels, rejected, log = read(reader, bundle(result(1)).encode(encoding))
    assert (labels, rejected) == (["k1"], [])
    assert [p.code for p in log.problems] == ["encoding"]


def test_bytes_that_are_no_utf8_cost_their_entry_alone(reader: Reader) -> None:
    latin = '{"resourceType": "Patient", "id": "p", "name": [{"family": "Müller"}]}'
    labels, rejected, _ = read(reader, bundle(result(1), latin, result(2)).encode("latin-1"))
    assert labels == ["k1", "k2"]
    assert rejected[0][0] == "sent.json entry[1]"
    assert "not UTF-8" in rejected[0][1]


@pytest.mark.parametrize("text", ["", " \n\t", "\ufeff"])
def test_an_empty_text_is_rejected_as_such(reader: Reader, text: str) -> None:
    _, rejected, _ = read(reader, text.encode())
    assert rejected == [("sent.json", "it is empty")]


def test_each_file_is_judged_alone(reader: Reader, tmp_path: Path) -> None:
    good, empty, broken = (tmp_path / f"{name}.json" for name in ("good", "empty", "broken"))
    good.write_text(result(1))
    empty.touch()
    broken.write_text('{"resourceType": "Patient"')
    (tmp_path / "damaged.json.gz").write_bytes(gzip.compress(result(2).encode())[:-12])
    (tmp_path / "lost.json").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    labels, rejected, log = read(reader, tmp_path)
    assert labels == ["k1"]
    found = {Path(where.split(":")[0]).name: message for where, message in rejected}
    assert found == {
        "broken.json": "not JSON at byte 26: the text is cut off here",
        "damaged.json.gz": "cannot be read: the compressed data is damaged",
        "empty.json": "it is empty",
        "loop.json": "cannot be read: Too many levels of symbolic links",
        "lost.json": "cannot be read: No such file or directory",
        "pipe.json": "cannot be read: not a regular file",
    }
    assert log.files == 4


@pytest.mark.parametrize("name", ["nowhere.json", "nul\0byte", "empty"])
def test_a_path_that_leads_to_nothing_is_rejected(
    reader: Reader, tmp_path: Path, name: str
) -> None:
    (tmp_path / "empty").mkdir()
    labels, rejected, _ = read(reader, str(tmp_path / name))
    assert labels == []
    ((where, message),) = rejected
    assert where == str(tmp_path / name)
    assert message


def test_links_in_a_circle_and_to_the_same_place_end(reader: Reader, tmp_path: Path) -> None:
    folder = tmp_path
    for depth in range(30):  # 2 ** 30 ways down, were each one gone
        inner = tmp_path / f"d{depth}"
        inner.mkdir()
        (folder / "left").symlink_to(inner)
        (folder / "right").symlink_to(inner)
        folder = inner
    (folder / "top").symlink_to(tmp_path)
    (folder / "k.json").write_text(result(1))
    assert read(reader, tmp_path)[:2] == (["k1"], [])


def test_an_unreadable_file_is_rejected_alone(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The superuser may read everything, so the refusal is played.
    (tmp_path / "a.json").write_text(result(1))
    (tmp_path / "b.json").write_text(result(2))
    really = open

    def refuse(name: str, mode: str) -> Any:
        if name.endswith("a.json"):
            raise PermissionError(13, "Permission denied", name)
        return really(name, mode)

    monkeypatch.setattr("cds.fhir.open", refuse, raising=False)
    labels, rejected, _ = read(reader, tmp_path)
    assert labels == ["k2"]
    assert rejected == [(str(tmp_path / "a.json"), "cannot be read: Permission denied")]


def test_deep_structures_from_python_end_in_no_recursion(reader: Reader) -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    sent = {**json.loads(result(1)), "component": deep, "note": deep, "valueQuantity": deep}
    labels, _, _ = read(reader, [sent, {**sent, "resourceType": deep}, {**sent, "code": deep}])
    assert labels == ["k1"]
    item: dict[str, Any] = {}
    for _ in range(100_000):
        item = {"item": [item]}
    _, rejected, log = read(reader, {"resourceType": "QuestionnaireResponse", **item})
    assert (rejected, log.skipped) == ([], {"QuestionnaireResponse": 1})


def test_no_message_carries_data_of_the_patient(reader: Reader) -> None:
    secret = "Mueller-Secret"  # noqa: S105  a name, not a password
    record = json.loads(result(1))
    sent = [
        {**record, "status": secret, "effectiveDateTime": secret, "valueQuantity": secret},
        {**record, "id": "a b", "subject": {"reference": secret, "display": secret}},
        {**record, "id": "k3", "valueString": secret},
        {"resourceType": "MedicationStatement", "id": "m", "status": secret,
         "subject": {"reference": "Patient/p"}, "medicationReference": {"reference": secret}},
        {"resourceType": "Patient", "id": "p", "gender": secret, "birthDate": secret,
         "deceasedBoolean": secret},
    ]  # fmt: skip
    log = ReadLog()
    for strict in (False, True):
        records = list(Reader(reader._resources.codes._terms, strict=strict).read(sent, log))
        for item in [*log.problems, *log.rejected, *(p for r in records for p in r.problems)]:
            assert secret not in str(item)


def test_a_file_with_every_fault_at_once_saves_what_can_be_saved(reader: Reader) -> None:
    labels, rejected, log = read(reader, FILES / "faults.json")
    assert labels == ["bad-date", "good", "no-zone", "text-value"]
    assert sorted(where.rpartition("files/")[2] for where, _ in rejected) == [
        "faults.json entry[2]",
        "faults.json entry[4] Observation/other-version",
        "faults.json entry[6] Observation/group",
        "faults.json entry[9]",
    ]
    assert log.skipped == {"Claim": 1}


@pytest.mark.slow
def test_a_bundle_of_200_mb_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """In a process of its own, whose memory is limited to less than the parsed Bundle takes."""
    import subprocess
    import sys

    path = tmp_path / "large.json"
    filler = json.dumps(
        {"resource": {"resourceType": "Claim", "id": "c", "item": [{"a": 1.5}] * 40}}
    )
    with path.open("w") as file:
        file.write('{"resourceType": "Bundle", "entry": [')
        while file.tell() < 200_000_000:
            file.write(",".join([filler] * 1000) + ",")
        file.write(f'{{"resource": {result(1)}}}]}}')
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (300 << 20, 300 << 20))\n"
        "from cds.fhir import Reader, ReadLog\n"
        "from cds.shipped import shipped\n"
        "from cds.terminology import load_terminology\n"
        "log = ReadLog()\n"
        "reader = Reader(load_terminology(shipped('rulesets')))\n"
        "print([m.resource for r in reader.read(sys.argv[1], log) for m in r.measurements])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("['Observation/k1']\n", "")
