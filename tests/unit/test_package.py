"""What somebody who installs the package, or reads its README, can rely on."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import cds
from cds import shipped as shipped_module
from cds.errors import UsageError
from cds.shipped import shipped

ROOT = Path(__file__).resolve().parents[2]
README = ROOT.joinpath("README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "pattern"), [("rulesets", "*/rules.yaml"), ("fhir_examples", "*.json")]
)
def test_an_installed_package_finds_what_came_with_it(name: str, pattern: str) -> None:
    assert list(shipped(name).glob(pattern))


def test_in_a_wheel_the_folder_is_inside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped_module, "_PACKAGE", tmp_path / "cds")
    (tmp_path / "cds" / "rulesets").mkdir(parents=True)
    (tmp_path / "rulesets").mkdir()
    assert shipped("rulesets") == tmp_path / "cds" / "rulesets"


def test_a_folder_of_another_package_in_site_packages_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped_module, "_PACKAGE", tmp_path / "cds")
    (tmp_path / "rulesets").mkdir()
    with pytest.raises(UsageError, match=r"no folder 'rulesets' .*install the package again"):
        shipped("rulesets")


def test_importing_the_package_loads_no_slow_library() -> None:
    slow = {"fhir", "pint", "ucumvert", "rich", "hypothesis"}
    code = f"import sys, cds; print(*sorted({slow} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert run.stdout.split() == []


MODULES = [
    module.name
    for module in pkgutil.walk_packages(cds.__path__, "cds.")
    # To import one of these is to run it.
    if module.name not in ("cds.__main__", "cds.service.migrations.env")
]


@pytest.mark.parametrize("name", MODULES)
def test_every_example_in_a_docstring_is_true(name: str) -> None:
    if name == "cds.engine.durable" and sys.version_info >= (3, 13):
        pytest.skip("durable_rules does not build on this Python")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_changelog_opens_with_this_version() -> None:
    changelog = ROOT.joinpath("CHANGELOG.md").read_text(encoding="utf-8")
    first = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert first
    assert first[1] == cds.__version__


def test_the_readme_lists_every_public_name_and_no_other() -> None:
    listed = re.findall(r"^\| `cds\.(\w+)` \|", README, re.MULTILINE)
    assert sorted(listed) == sorted(name for name in cds.__all__ if name != "__version__")


def test_the_readme_has_one_command_to_begin_with_and_one_for_the_tests() -> None:
    blocks = re.findall(r"^```bash (\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert [tag for tag, _ in blocks] == ["install", "test"]
    assert all(len(commands.splitlines()) == 1 for _, commands in blocks)


def test_every_path_that_the_readme_names_exists() -> None:
    inside = "cds|rulesets|tests|fhir_examples"
    paths = re.findall(rf"(?<![\w.])((?:{inside})/[\w./-]*\w/?|\.ci/run)", README)
    paths += re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


NAMED_IN_NOTICE = {
    "loinc": "LOINC",
    "snomed": "SNOMED CT",
    "sct": "SNOMED CT",
    "rxnorm": "RxNorm",
    "icd10": "ICD-10-CM",
    "icd-10": "ICD-10-CM",
    "hpo": "HPO",
    "human-phenotype": "HPO",
    "mondo": "Mondo",
    "unitsofmeasure": "UCUM",
    "ucum": "UCUM",
    "hl7": "HL7",
    "v2-": "HL7",
    "v3-": "HL7",
}


def test_the_notice_gives_the_terms_of_every_code_system_that_rules_name() -> None:
    headings = set(ROOT.joinpath("NOTICE").read_text(encoding="utf-8").splitlines())
    systems = {
        system.strip("\"'").lower()
        for path in ROOT.joinpath("rulesets").rglob("*.yaml")
        for system in re.findall(r"\bsystem: *([^\s,}]+)", path.read_text(encoding="utf-8"))
    }
    assert systems
    own = {"medicine", *(s for s in systems if s.startswith("urn:cds-twitch:"))}
    for system in sorted(systems - own):
        owner = next((name for key, name in NAMED_IN_NOTICE.items() if key in system), None)
        assert owner in headings, f"NOTICE has no section for {system}"


@pytest.mark.slow
def test_a_wheel_holds_all_data_inside_the_package_and_nothing_beside_it() -> None:
    wheel = os.environ.get("CDS_WHEEL")
    if not wheel:
        pytest.skip("CDS_WHEEL does not name a built wheel")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"cds", f"cds_twitch-{cds.__version__}.dist-info"}
    expected = {"cds/py.typed", "cds/cli/__init__.py"} | {
        f"cds/{path.relative_to(ROOT)}"
        for folder in ("rulesets", "fhir_examples")
        for path in ROOT.joinpath(folder).rglob("*")
        if path.is_file()
    }
    assert expected <= names
    assert {name.rsplit("/", 1)[1] for name in names if "/licenses/" in name} == {
        "LICENSE",
        "NOTICE",
    }
