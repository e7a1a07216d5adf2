"""Synthesis: patients in the short clinical form for whom rules come out as wanted.

`Synthesizer` puts together what must be wanted of criteria (`goals`) and the statements that
bring it about (`patients`), and tries each patient before it gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from cds.cases import Case, Expect, written
from cds.facts import iso
from cds.forms import Form
from cds.harness import run_case
from cds.screening import Assessment, Screener
from cds.synthesis.goals import Goal, Goals, Place, Want, Wanted, places
from cds.synthesis.patients import Patients

__all__ = ["Goal", "Goals", "Patients", "Place", "Synthesizer", "Want", "Wanted", "places"]

_ATTEMPTS = 400  # goals that are looked into for one patient
_STEPS = 1500  # parts of goals that are looked into for one patient
_RUNS = 30  # patients that are assessed
_NAMED = 8  # statements that the name of a case tells

_Expect = Mapping[str, Sequence[str] | str]


class Synthesizer:
    """Finds small patients for goals; build once for a screener."""

    def __init__(self, screener: Screener) -> None:
        self.screener = screener
        self.goals = Goals(screener.rulesets.program)
        self.patients = Patients(screener.rulesets.program, screener.rulesets.terminology)

    def find(
        self,
        goals: Iterable[Goal],
        as_of: int,
        accept: Callable[[Case, Assessment], bool],
        *,
        first: tuple[Form, ...] = (),
    ) -> tuple[tuple[Form, ...], Assessment] | None:
        """Return the first patient of these goals that is accepted, with the assessment.

        None where there is none within some hundred goals and some ten patients.

        Args:
            goals: what must be wanted, in the order in which it is tried.
            as_of: the instant of judgment, seconds since the epoch.
            accept: whether a patient, as a case that expects nothing, is what is looked for.
            first: statements that every patient has besides.
        """
        seen: set[tuple[Form, ...]] = set()
        for goal in islice(self._flat(goals), _ATTEMPTS):
            found = self.patients.find(goal)
            if found is None or found in seen:
                continue
            if len(seen) == _RUNS:
                break
            seen.add(found)
            case = Case("", as_of, (*first, *found), Expect(), "", 0)
            assessment = run_case(self.screener, case).assessment
            if assessment is not None and accept(case, assessment):
                return case.forms, assessment
        return None

    def _flat(self, goals: Iterable[Goal]) -> Iterator[Goal]:
        steps = iter(range(_STEPS))

        def possible(goal: Goal) -> bool:
            return next(steps, None) is not None and self.patients.find(goal) is not None

        for goal in islice(goals, _ATTEMPTS):
            yield from self.goals.flat(goal, possible)

    def case(self, forms: tuple[Form, ...], assessment: Assessment, expect: _Expect | str) -> str:
        """Return a patient as a case in YAML, ready to paste.

        Args:
            forms: the patient.
            assessment: what the rules say of the patient.
            expect: members of `expect`; or the id of a rule, for whether it fires and, where
                nothing else is as urgent, the tier.
        """
        if isinstance(expect, str):
            expect = self.expected(expect, assessment)
        name = f"{_said(expect)} {_listed([_short(form) for form in forms])}"
        return written(name, iso(assessment.evaluation.as_of), forms, expect)

    def expected(self, rule_id: str, assessment: Assessment) -> _Expect:
        """Return what to expect of one rule; with the tier where its finding is the most urgent."""
        if rule_id not in assessment.fired:
            return {"not": (rule_id,)}
        expect: dict[str, Sequence[str] | str] = {"fires": (rule_id,)}
        tier = assessment.tier
        if tier is not None and any(
            rule_id in f.rules and f.tier == tier for f in assessment.findings
        ):
            expect["tier"] = tier.name
        return expect


def _said(expect: _Expect) -> str:
    """Say in a few words what is expected, for the name of a case."""
    for key, words in (("fires", "fires"), ("not", "does not fire")):
        if key in expect:
            return f"{' and '.join(expect[key])} {words}"
    if "shows" in expect:
        return f"only {_joined(list(expect['shows'])) or 'nothing'} shown"
    if "tier" in expect:
        return f"the tier is {expect['tier']}"
    return "the card gives the caution"


def _short(form: Form) -> str:
    """Say a statement in a few words, for the name of a case."""
    ((key, text), *more) = form.entry().items()
    text = text.removesuffix(" now")
    if "#" in text:
        text = text.partition(" ")[2] or text
    words = {"denies": "no ", "takes": "taking ", "history": "a relative's "}.get(key, "")
    return words + text + "".join(f" ({name} {value})" for name, value in more)


def _listed(parts: list[str]) -> str:
    if not parts:
        return "for a patient of whom nothing is recorded"
    if len(parts) > _NAMED:
        parts = [*parts[:_NAMED], f"{len(parts) - _NAMED} more"]
    return f"with {_joined(parts)}"


def _joined(parts: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
