"""Which findings are not shown again: the same of the same patient, on the same evidence, lately.

Off by default. Repeated interruptions teach to look away, but a card that is missing does harm,
so wherever there is doubt a finding is shown:

* An emergency is never withheld.
* Nor is a finding on new evidence: any other resource, value, time, doubt, rule or caveat that it
  rests on makes other evidence, as does other `scope`.
* Nor one of a higher tier than was shown.
* The hours count from when it was last shown; being withheld does not prolong them.
* The same call sent again (`hook_instance`; CH-65) gets the same cards: the client may not have
  received the first answer. Clients that use one value for all calls are never spared anything.
* Whatever was shown in the future, by the clock, does not count.
* Where the store is down nothing is withheld.

A client removes a service's earlier cards when it calls again (CH-155), so that what is withheld
may go from the screen: whoever turns suppression on has to know that.

Of the evidence only a hash keyed with the database's secret is kept. Source: none; CDS Hooks 2.0
leaves to the service what it shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final, Protocol

from cds.model import Caveat, Evaluation, Fact, Finding, Source, Suppressed, Tier
from cds.program import FOREVER
from cds.service.store import ShownFinding, StoreDown

__all__ = ["Repeated", "Repeats", "ShownStore", "fingerprint", "without_repeats"]

# What a fact says as seconds before `as_of`: it grows by itself, without any new evidence. What
# is not named here counts as it is; at worst a finding is then shown once more.
_AGES: Final = frozenset(
    {"age", "newest", "oldest", "onset", "seen", "since", "longest", "changed"}
)
_LONGEST: Final = timedelta(days=3650)


class ShownStore(Protocol):
    """What is asked of the store; `cds.service.store.Store` can do it."""

    def seal(self, *parts: str) -> str:
        """Return a keyed hash."""

    async def shown(self, patient_key: str, findings: Sequence[str]) -> list[ShownFinding]:
        """Return what was shown of these. Raises: StoreDown."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """A finding that is not shown again, and when it was."""

    finding: Finding
    shown_at: datetime


@dataclass(frozen=True, slots=True)
class Repeats:
    """What to show of an assessment.

    Args:
        evaluation: as it was, without the repeated findings; these stand among its `suppressed`.
        repeated: what is not shown.
        remember: what is to be kept once it was shown: the `shown` of `Store.record_call`.
        store_down: nothing could be looked up, so that everything is shown.
    """

    evaluation: Evaluation
    repeated: tuple[Repeated, ...] = ()
    remember: tuple[ShownFinding, ...] = ()
    store_down: bool = False

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings to show."""
        return self.evaluation.findings

    def audit(self) -> list[dict[str, Any]]:
        """Return what is not shown, for the call's record."""
        return [
            {
                "finding": r.finding.id,
                "tier": r.finding.tier.name,
                "rules": list(r.finding.rules),
                "shown_at": r.shown_at.astimezone(UTC).isoformat(timespec="seconds"),
            }
            for r in self.repeated
        ]


async def without_repeats(
    evaluation: Evaluation,
    store: ShownStore,
    patient_key: str,
    hours: float,
    now: datetime,
    *,
    scope: Sequence[str] = (),
    hook_instance: str | None = None,
) -> Repeats:
    """Return an evaluation without the findings that were shown lately.

    Args:
        evaluation: what was found, `Assessment.evaluation`.
        store: where it stands what was shown.
        patient_key: that of `Store.patient_key`; "" where nobody is known: nothing is withheld.
        hours: how long a finding is not repeated; 0 or less turns it off.
        now: aware.
        scope: whatever else must be the same: service, user, audience, digest of the rules.
        hook_instance: of the call; what it was shown under is shown again.
    """
    if not (hours > 0 and patient_key and evaluation.findings):
        return Repeats(evaluation)
    window = min(timedelta(hours=min(hours, 1e6)), _LONGEST)
    now, instance = now.astimezone(UTC), hook_instance or ""
    mild = [f for f in evaluation.findings if f.tier < Tier.emergency]
    seals: dict[Finding, str] = {}
    try:
        for finding in mild:
            evidence = fingerprint(evaluation, finding)
            seals[finding] = store.seal("finding", patient_key, *scope, evidence)
        known = await store.shown(patient_key, [f.id for f in mild]) if mild else []
    except StoreDown:
        return Repeats(evaluation, store_down=True)
    before = {(one.finding, one.evidence): one for one in known}
    kept: list[Finding] = []
    repeated: list[Repeated] = []
    for finding in evaluation.findings:
        one = before.get((finding.id, seals.get(finding, "")))
        if one is not None and _covers(one, finding, window, now, instance):
            repeated.append(Repeated(finding, one.at))
        else:
            kept.append(finding)
    withheld = tuple(
        Suppressed(r.finding, f"shown already at {r.shown_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC")
        for r in repeated
    )
    if repeated:
        suppressed = (*evaluation.suppressed, *withheld)
        evaluation = replace(evaluation, findings=tuple(kept), suppressed=suppressed)
    remember = tuple(
        ShownFinding(f.id, seals[f], int(f.tier), now, now + window, instance)
        for f in kept
        if f in seals
    )
    return Repeats(evaluation, tuple(repeated), remember)


def _covers(
    one: ShownFinding, finding: Finding, window: timedelta, now: datetime, instance: str
) -> bool:
    """Whether what was shown then makes it needless to show this finding now."""
    return (
        finding.tier < Tier.emergency
        and finding.tier <= one.tier
        and timedelta(0) <= now - one.at < window
        and not (instance and instance == one.hook_instance)
    )


# ---------------------------------------------------------------- evidence


def fingerprint(evaluation: Evaluation, finding: Finding) -> str:
    """Return a hash of all that a finding rests on: the same only while nothing of it changes."""
    content = {
        "rules": list(finding.rules),
        "covers": list(finding.covers),
        "caveats": [_caveat(evaluation, caveat) for caveat in finding.caveats],
        "because": [*_evidence(evaluation, finding.because, frozenset())],
    }
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _caveat(evaluation: Evaluation, caveat: Caveat) -> list[Any]:
    because = [*_evidence(evaluation, caveat.because, frozenset())]
    return [caveat.id, list(caveat.rules), because]


def _evidence(
    evaluation: Evaluation, keys: Sequence[str], within: frozenset[str]
) -> Iterator[list[Any]]:
    """Yield what each key stands for; that of an earlier finding is what this rests on."""
    for key in sorted(keys):
        fact = evaluation.facts.get(key)
        if fact is not None:
            yield [key, _props(fact.props, evaluation.as_of), _sources(fact)]
        elif key in within:
            yield [key]
        else:
            earlier = _because(evaluation, key.partition("/")[2])
            yield [key, [*_evidence(evaluation, earlier, within | {key})]]


def _because(evaluation: Evaluation, finding_id: str) -> Sequence[str]:
    if finding_id in evaluation.steps:
        return evaluation.steps[finding_id]
    every = (*evaluation.findings, *(s.finding for s in evaluation.suppressed))
    return next((f.because for f in every if f.id == finding_id), ())


def _props(props: Mapping[str, int], as_of: int) -> dict[str, int]:
    """Return what the engine saw, with instants in place of ages.

    0 stays: of a time without hours it is all that can be said on its day. So does "unknown".
    """
    return {
        name: as_of - value if name in _AGES and 0 < value < FOREVER else value
        for name, value in props.items()
    }


def _sources(fact: Fact) -> list[list[Any]]:
    return sorted((_source(source) for source in fact.sources), key=json.dumps)


def _source(source: Source) -> list[Any]:
    return [
        source.resource,
        source.effective,
        None if source.value is None else str(source.value),
        source.unit,
        source.sent,
        source.laboratory_range,
        [doubt.code for doubt in source.doubts],
        source.concept,
    ]
