"""What two versions of rules do to the same patients: who is newly flagged, and how many alerts.

Each patient is read once and assessed with both versions; kept are counts, and the references of
the patients whose answer changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cds.cards import card_place
from cds.fhir import ReadLog, TwinReader
from cds.model import Finding, Record, Tier
from cds.rules import Rulesets
from cds.screening import Screener

__all__ = ["Alerts", "CohortDiff", "TierChange"]

TierChange = tuple[Tier | None, Tier | None]
"""The tier of a patient before and after; None where nothing is found."""


@dataclass(slots=True)
class Alerts:
    """What one version says about the cohort.

    `cards` counts cards by tier, `patients` the patients by tier (None: nothing found), `rules`
    for each rule the patients who have a finding of it on a card.
    """

    cards: Counter[Tier] = field(default_factory=Counter)
    patients: Counter[Tier | None] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)

    def add(self, findings: Sequence[Finding]) -> None:
        """Count one patient."""
        self.cards.update(tier for _, tier in {card_place(finding) for finding in findings})
        self.patients[max((finding.tier for finding in findings), default=None)] += 1
        self.rules.update({rule for finding in findings for rule in finding.rules})


class CohortDiff:
    """The difference that two versions make to a cohort; grows with each patient.

    Args:
        old: the rules of before.
        new: the rules of after.

    `moved` has the references of the patients whose tier changed, by the change; `otherwise` those
    who have other findings of the same tier; `failed` those who could not be assessed, with the
    error. `log` says what could not be read, `second_log` what only the new version cannot use.
    """

    def __init__(self, old: Rulesets, new: Rulesets) -> None:
        self._screeners = Screener(old), Screener(new)
        self.before, self.after = Alerts(), Alerts()
        self.moved: dict[TierChange, list[str]] = {}
        self.otherwise: list[str] = []
        self.failed: list[tuple[str, Exception]] = []
        self.log, self.second_log = ReadLog(), ReadLog()

    @property
    def total(self) -> int:
        """How many patients were assessed with both versions."""
        return self.before.patients.total()

    @property
    def newly_flagged(self) -> list[str]:
        """References of the patients with a finding where there was none."""
        return [who for (was, _), whose in sorted_moves(self.moved) if was is None for who in whose]

    @property
    def no_longer_flagged(self) -> list[str]:
        """References of the patients without a finding where there was one."""
        return [who for (_, is_), whose in sorted_moves(self.moved) if is_ is None for who in whose]

    @property
    def rejected(self) -> list[tuple[str, str]]:
        """What could not be used by one version or both: where, and why."""
        found = (*self.log.rejected, *self.second_log.rejected)
        return list(dict.fromkeys((r.where, r.message) for r in found))

    @property
    def nothing_read(self) -> bool:
        """Whether there was no FHIR resource at all, of whatever use."""
        of_no_use = sum(n for kind, n in self.log.skipped.items() if kind != "not FHIR")
        return self.log.used + self.second_log.used + of_no_use == 0

    def run(self, paths: Sequence[str | Path], as_of: int) -> Iterator[str]:
        """Assess every patient in these files and folders; yield each one's reference.

        Args:
            paths: as for ``cds screen``; "-" is standard input.
            as_of: the instant of judgment, seconds since the epoch.

        An error of one patient is kept in `failed` and loses only that patient.
        """
        for was, is_ in self.records(paths):
            try:
                self._add(was, is_, as_of)
            except Exception as error:
                self.failed.append((was.patient, error))
            yield was.patient

    def records(self, paths: Sequence[str | Path]) -> Iterator[tuple[Record, Record]]:
        """Yield each patient as both versions see it, read once."""
        first, second = ((s.rulesets.terminology, s.normalizer.wanted) for s in self._screeners)
        return TwinReader(first, second).read_pairs(paths, self.log, self.second_log)

    def _add(self, was: Record, is_: Record, as_of: int) -> None:
        screener, other = self._screeners
        before = screener.assess(was, as_of).findings
        after = other.assess(is_, as_of).findings
        tiers = tuple(max((f.tier for f in found), default=None) for found in (before, after))
        if tiers[0] != tiers[1]:
            self.moved.setdefault((tiers[0], tiers[1]), []).append(was.patient)
        elif {(f.id, f.tier) for f in before} != {(f.id, f.tier) for f in after}:
            self.otherwise.append(was.patient)
        self.before.add(before)
        self.after.add(after)


def sorted_moves(
    moved: dict[TierChange, list[str]],
) -> list[tuple[TierChange, list[str]]]:
    """Return the changes of tier, the most urgent on either side first; None stands lowest."""

    def rank(entry: tuple[TierChange, list[str]]) -> tuple[int, int]:
        was, is_ = (-1 if tier is None else int(tier) for tier in entry[0])
        return -max(was, is_), -is_

    return sorted(moved.items(), key=rank)
