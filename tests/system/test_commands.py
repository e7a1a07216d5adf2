"""The command as a process of its own: streams, exit codes, signals, all kinds of bad input."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from builders import AS_OF, Json, bundle, lab, patient

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def cds(*arguments: str, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "cds", *arguments],
        check=False,
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env=ENVIRONMENT,
        timeout=60,
    )


def screen(*arguments: str, cwd: Path, stdin: bytes = b"") -> tuple[int, list[Json], list[str]]:
    """Exit code, assessments and lines of standard error."""
    done = cds("screen", *arguments, "--as-of", AS_OF, "--format", "json", cwd=cwd, stdin=stdin)
    return done.returncode, orjson.loads(done.stdout), done.stderr.decode().splitlines()


def line(id: str, value: str = "4.1", **more: Any) -> bytes:
    """One Observation on one line; `value` is put there as it is, valid or not."""
    text = orjson.dumps(lab("potassium", 4.25, id=id, subject="many", **more))
    assert b"4.25" in text
    return text.replace(b"4.25", value.encode())


def test_a_bundle_from_standard_input_is_assessed(tmp_path: Path) -> None:
    record = orjson.dumps(bundle(patient("p"), lab("potassium", "2.4", subject="p")))
    code, (found,), messages = screen("-", cwd=tmp_path, stdin=record)
    assert (code, found["patient"], found["tier"]) == (0, "Patient/p", "emergency")
    assert messages == ["cds: 1 patient assessed (emergency 1)"]


def test_text_for_people_is_utf_8_and_free_of_escape_sequences_in_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(
        orjson.dumps(bundle(patient(), lab("potassium", "2.4", when="2026-10-31")))
    )
    done = cds("screen", "p.json", "--as-of", AS_OF, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.decode().startswith("Patient/p1, as of 2026-11-01T12:00:00Z: EMERGENCY\n")
    assert b"\x1b" not in done.stdout


# what: the file's bytes, and what its message must say beside its name
BAD = {
    "empty.json": (b"", "empty"),
    "broken.json": (b'{"resourceType": "Patient",, "id": "x"}', "byte 27"),
    "cut-off.json": (b'{"resourceType": "Bundle", "entry": [', "cut off"),
    "deep.json": (b"[" * 10_000 + b"]" * 10_000, "nested too deep"),
    "old-type.json": (b'{"resourceType": "MedicationOrder", "id": "o"}', "DSTU2"),
    "packed.json.gz": (gzip.compress(b'{"resourceType": "Patient"}')[:-9], "damaged"),
    "lines.ndjson": (
        b"\n".join(
            (
                line("good", "2.4"),
                line("nan", "NaN"),
                line("endless", "1e400"),
                line("cut")[:90],
            )
        ),
        "",
    ),
}


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    folder = tmp_path / "bad"
    folder.mkdir()
    for name, (content, _) in BAD.items():
        (folder / name).write_bytes(content)
    # Root may read any file, so what cannot be read here is a folder, a loop and a pipe.
    (folder / "folder.json").mkdir()
    (folder / "loop.json").symlink_to("loop.json")
    os.mkfifo(folder / "pipe.json")
    (folder / "below").mkdir()
    (folder / "below" / "back").symlink_to(folder, target_is_directory=True)
    (folder / "below" / "sound.json").write_bytes(
        orjson.dumps(
            bundle(
                patient("sound"),
                lab("potassium", "6.6", subject="sound"),
                lab("sodium", 140, subject="sound", when="9999-99-99"),
                {**lab("magnesium", 1, subject="sound"), "valueQuantity": [True]},
            )
        )
    )
    (folder / "package.json").write_bytes(b'{"name": "no FHIR"}')
    return folder


def test_every_kind_of_bad_input_is_named_and_all_else_is_assessed(bad: Path) -> None:
    code, found, messages = screen("bad", cwd=bad.parent)
    assert code == 3
    assert [(a["patient"], a["tier"]) for a in found] == [
        ("Patient/sound", "emergency"),
        ("Patient/many", "emergency"),
    ]
    rejected = [m for m in messages if m.startswith("cds: rejected: bad/")]
    wanted = {name: word for name, (_, word) in BAD.items() if word} | {
        "lines.ndjson:2": "NaN",
        "lines.ndjson:3": "too large",
        "lines.ndjson:4": "cut off",
        "loop.json": "symbolic links",
        "pipe.json": "not a regular file",
    }
    for name, word in wanted.items():
        about = [m for m in rejected if m.startswith(f"cds: rejected: bad/{name}")]
        assert len(about) == 1, (name, messages)
        assert word in about[0], about
    assert len(rejected) == len(wanted)
    listed = [f"cds: rejected: {r['where']}: {r['message']}" for r in found[-1]["rejected"]]
    assert listed == rejected
    assert "cds: 1 skipped, of no use to any rule (not FHIR 1)" in messages
    assert not any("Traceback" in m for m in messages)


def test_a_bad_date_or_value_is_a_problem_of_that_resource_with_its_path(bad: Path) -> None:
    code, (found,), _ = screen("bad/below/sound.json", cwd=bad.parent)
    assert code == 0, "a problem inside a used resource is no rejection"
    where = {(p["resource"], p["path"]) for p in found["problems"] if p["severity"] == "error"}
    assert ("Observation/sodium", "effectiveDateTime") in where
    assert ("Observation/magnesium", "valueQuantity") in where


@pytest.mark.parametrize("name", ["loop.json", "folder.json"])
def test_what_cannot_be_read_alone_ends_with_2(name: str, bad: Path) -> None:
    code, found, messages = screen(f"bad/{name}", cwd=bad.parent)
    assert (code, found) == (2, [])
    assert messages[0].startswith(f"cds: rejected: bad/{name}: ")


def test_a_closed_pipe_ends_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cds", "rules"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 128 + signal.SIGPIPE
    process.stderr.close()


def interrupted(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Interrupt a process as somebody at a terminal does: again, where nothing happened.

    CPython loses a signal that comes just before it blocks in a system call.
    """
    for _ in range(30):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("still running after 30 interrupts")


def test_an_interrupt_ends_quietly(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "slow.json")
    with subprocess.Popen(
        [sys.executable, "-m", "cds", "screen", "slow.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        cwd=tmp_path,
    ) as process:
        # Opening succeeds once the command has opened the other end: then it is reading.
        with (tmp_path / "slow.json").open("wb"):
            out, err = interrupted(process)
    assert (process.returncode, out, err) == (128 + signal.SIGINT, b"", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_an_error_and_never_a_result(bad: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cds", "screen", "bad/below/sound.json", "--format", "json"],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=bad.parent,
            env=ENVIRONMENT,
        )
    assert done.returncode == 4
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.slow
def test_a_bundle_of_200_mb_is_assessed_in_bounded_memory(tmp_path: Path) -> None:
    note = "x" * 2_000
    claim = orjson.dumps({"resource": {"resourceType": "Claim", "id": "c", "text": note}})
    record = bundle(patient("p"), lab("potassium", "2.4", subject="p"))
    head, tail = orjson.dumps(record)[:-2], b"]}"
    path = tmp_path / "big.json"
    with path.open("wb") as file:
        file.write(head)
        for _ in range(100):
            file.write((b"," + claim) * (2_000_000 // len(claim)))
        file.write(tail)
    assert path.stat().st_size > 190_000_000
    code = (
        "import resource, sys\n"
        "from cds.cli import main\n"
        "try:\n"
        "    main(prog_name='cds')\n"
        "finally:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "screen", "big.json", "--as-of", AS_OF, "--format", "json"],
        check=False,
        capture_output=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    assert [a["tier"] for a in orjson.loads(done.stdout)] == ["emergency"]
    peak_mb = int(done.stderr.splitlines()[-1]) / 1024
    assert peak_mb < 700, "three times the file and what the program itself needs"
