"""The pytest plugin: `pytest rulesets/` runs the cases beside the rules.

Each case of a `cases.yaml` that stands beside a `rules.yaml` of ours is a test named by its name.
It is assessed with all groups of its folder of rulesets, as ``cds test`` does. There are fixtures
for tests of one's own:

* `cds_rulesets` and `cds_screener`: the rules of ``--cds-rulesets`` or the ini value
  `cds_rulesets`, by default the shipped ones, with the profile of ``--cds-site`` or `cds_site`;
* `cds_assess`: assesses one patient, given as lines of a case, forms or FHIR.

pytest loads this module in every project of an environment, so only pytest is imported here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cds.cases import Case
    from cds.forms import Form
    from cds.harness import CaseResult
    from cds.rules import Rulesets
    from cds.screening import Assessment, Screener

__all__ = [
    "cds_assess",
    "cds_rulesets",
    "cds_screener",
    "pytest_addoption",
    "pytest_collect_file",
]

_CASES, _RULES = "cases.yaml", "rules.yaml"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and ini values."""
    group = parser.getgroup("cds", "clinical decision support rules (cds)")
    group.addoption(
        "--cds-rulesets",
        action="append",
        default=[],
        metavar="DIR",
        help="folder of rule files for the fixture cds_rulesets; can be given several times",
    )
    group.addoption(
        "--cds-site",
        metavar="FILE",
        help="profile of an institution, for the fixtures and for the cases beside rules",
    )
    parser.addini("cds_rulesets", "folders of rule files for the fixture", type="paths", default=[])
    parser.addini("cds_site", "profile of an institution (path)", default="")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect the cases that stand beside rules of ours."""
    if file_path.name == _CASES and _beside_rules(file_path):
        return _CasesFile.from_parent(parent, path=file_path)
    return None


def _beside_rules(path: Path) -> bool:
    """Whether there is a rule file of ours: other tools have files of that name too."""
    try:
        text = path.with_name(_RULES).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return all(re.search(f"^{key}:", text, re.MULTILINE) for key in ("group", "rules"))


# ---------------------------------------------------------------- cases


class _CasesFile(pytest.File):
    """One `cases.yaml`."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield a test for each case; what is wrong in a file is said as `cds test` says it."""
        from cds.cases import load_cases_file
        from cds.errors import CdsError

        try:
            screener, group = _tested(self.config, self.path.parent)
            cases = load_cases_file(self.path, group, screener.rulesets)
        except CdsError as error:
            raise self.CollectError(str(error)) from error
        for case in cases:
            yield _CaseItem.from_parent(self, name=case.name, case=case, screener=screener)


class _CaseItem(pytest.Item):
    """One case."""

    def __init__(self, *, case: Case, screener: Screener, **more: Any) -> None:
        super().__init__(**more)
        self.case, self.screener = case, screener

    def runtest(self) -> None:
        """Assess the patient and compare with what is expected."""
        from cds.harness import run_case

        result = run_case(self.screener, self.case)
        if not result.passed:
            raise _Failed(result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Say which expectation failed and which criterion went the other way."""
        if isinstance(excinfo.value, _Failed):
            return excinfo.value.text(self.config.invocation_params.dir)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return file, line (from 0) and the heading of a failure."""
        # Not the mere name: pytest would take each full stop in it for the border of a class.
        return self.path, self.case.line - 1, f"{self.case.group}: {self.case.name}"


class _Failed(Exception):
    """A case of which not everything came true."""

    def __init__(self, result: CaseResult) -> None:
        super().__init__(result)
        self.result = result

    def text(self, folder: Path) -> str:
        case = self.result.case
        where = f"{os.path.relpath(case.path, folder)}:{case.line}"
        return "\n".join(f"{where}: {failure}" for failure in self.result.failures)


_SCREENERS = pytest.StashKey["dict[Path, Screener]"]()


def _tested(config: pytest.Config, folder: Path) -> tuple[Screener, str]:
    """Return a screener for a group with those beside it, made once, and the group's name."""
    from cds.cases import load_tested
    from cds.errors import UsageError
    from cds.screening import Screener

    known = config.stash.setdefault(_SCREENERS, {})
    own = folder.resolve()
    if own.parent not in known:
        rulesets, _ = load_tested(folder, site=_site(config))
        known[own.parent] = Screener(rulesets)
    screener = known[own.parent]
    for file in screener.rulesets.files:
        if Path(file.path).resolve().parent == own:
            return screener, file.group
    raise UsageError(f"{folder}: none of the rules of this group are loaded")


def _site(config: pytest.Config) -> Path | None:
    given: str | None = config.getoption("--cds-site")
    named: str = config.getini("cds_site")
    if given:
        return config.invocation_params.dir / given
    return config.rootpath / named if named else None


# ---------------------------------------------------------------- fixtures


@pytest.fixture(scope="session")
def cds_rulesets(request: pytest.FixtureRequest) -> Rulesets:
    """The rules of ``--cds-rulesets`` or of the ini value; by default the shipped ones."""
    from cds.errors import CdsError
    from cds.rules import load_rulesets

    config = request.config
    given = [config.invocation_params.dir / f for f in config.getoption("--cds-rulesets")]
    try:
        return load_rulesets(*(given or config.getini("cds_rulesets")), site=_site(config))
    except CdsError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def cds_screener(cds_rulesets: Rulesets) -> Screener:
    """A screener for `cds_rulesets`."""
    from cds.screening import Screener

    return Screener(cds_rulesets)


@pytest.fixture
def cds_assess(cds_screener: Screener) -> Callable[..., Assessment]:
    """Return a function that assesses one patient.

    ``cds_assess("lab: potassium 2.4 mmol/L 2 days ago", "symptom: twitching")``: each argument is
    a line of a case, an entry with further keys (``{"lab": "potassium 3.4", "flag": "LL"}``), a
    `cds.forms.Form`, or a FHIR resource or Bundle. `as_of` is `cds.testing.AS_OF` unless given.
    """

    def assess(*said: str | Mapping[str, Any] | Form, as_of: str | None = None) -> Assessment:
        from cds.cases import Case, Expect
        from cds.cases.files import entries_in, patient_of
        from cds.forms import Form, parse
        from cds.screening import instant
        from cds.testing.targets import AS_OF

        when = as_of or AS_OF
        forms: list[Form] = []
        files: list[dict[str, Any]] = []
        for each in said:
            if isinstance(each, Form):
                forms.append(each)
            elif isinstance(each, str):
                key, _, text = each.partition(":")
                forms.append(parse({key.strip(): text.strip()}))
            elif "resourceType" in each:
                files += entries_in(each, str(each["resourceType"]))
            else:
                forms.append(parse(each))
        case = Case(
            "patient",
            instant(when),
            tuple(forms),
            Expect(),
            "",
            0,
            files=tuple(files),
            patient=patient_of(files),
        )
        return cds_screener.screen(case.bundle(cds_screener.rulesets.terminology), when)

    return assess
