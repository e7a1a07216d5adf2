"""Running all mutants, on every core, and what came of it."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Final

from cds.errors import EngineError, RuleError
from cds.harness import CaseResult
from cds.mutation.accepted import Accepted, load_accepted
from cds.mutation.killing import killing_case
from cds.mutation.operators import AnalyteMutant, Mutant, analyte_mutants, mutants_of
from cds.mutation.trials import Trials
from cds.mutation.variants import Variant, Variants, canonical
from cds.program import leaves
from cds.rulefile import Ruleset
from cds.rules import Rulesets, shared_folders
from cds.screening import Screener
from cds.synthesis import Synthesizer
from cds.yamlfile import load_yaml
from cds.yamlmodel import nearest

__all__ = ["MutationReport", "Survivor", "test_mutants"]

Progress = Callable[[int, int], None]
_FEW: Final = 100  # fewer mutants are tried sooner than a process is started
_NEW_YEAR: Final = 1_767_225_600  # 2026-01-01T00:00:00Z, where no case says another time


@dataclass(frozen=True)
class Survivor:
    """A mutant that no case notices.

    `path` and `line` say where the rule (or analyte) stands. `case` is made when it is asked for.
    """

    id: str
    rule: str
    path: str
    line: int
    description: str
    _make: Callable[[], str | None] = field(repr=False, compare=False)

    @cached_property
    def case(self) -> str | None:
        """A case in YAML that would notice it, tried on both; None where none was found."""
        return self._make()


@dataclass(frozen=True)
class MutationReport:
    """What became of all mutants.

    `total` is killed, accepted and surviving ones together. `left_out` mutants mean the same as
    their rule, or as another mutant. `faults` are entries of `mutants.yaml` that fit no
    surviving mutant. `evaluations` counts cases tried on mutants, in `seconds` altogether.
    """

    total: int
    killed: int
    accepted: int
    survivors: tuple[Survivor, ...]
    faults: tuple[RuleError, ...]
    left_out: int
    evaluations: int
    seconds: float


def test_mutants(
    screener: Screener,
    results: Iterable[CaseResult],
    *,
    groups: Collection[str] | None = None,  # noqa: PT028 - no test, in spite of its name
    workers: int | None = None,  # noqa: PT028
    progress: Progress | None = None,  # noqa: PT028
) -> MutationReport:
    """Try every mutant of the screener's rules on the cases that pass.

    Args:
        screener: what the cases were run with.
        results: the cases run; those that fail do not take part.
        groups: only the rules of these are changed; None for all.
        workers: processes at work; by default one for each core. The report is the same.
        progress: called with the number of mutants tried, and of all.

    Raises: EngineError where a process at work fails.
    """
    start = time.perf_counter()
    files = [f for f in screener.rulesets.files if groups is None or f.group in groups]
    variants, left_out = _variants(screener.rulesets, files)
    trials = Trials(screener, variants)
    for result in results:
        trials.add(result)
    killed, evaluations = _tried(trials, variants, workers, progress or (lambda done, all_: None))
    faults: list[RuleError] = []
    accepted = load_accepted(files, faults)
    alive = [v for v, dead in zip(variants, killed, strict=True) if not dead]
    faults += _unfit(accepted, variants, {v.mutant.id for v in alive})
    synthesizer = Synthesizer(screener)
    as_of = max((t.case.as_of for t in trials.all), default=_NEW_YEAR)
    lines = _Lines(screener.rulesets)

    def survivor(variant: Variant) -> Survivor:
        def make() -> str | None:
            return killing_case(synthesizer, trials, variant, as_of)

        mutant = variant.mutant
        path, line = lines.of(mutant)
        return Survivor(mutant.id, mutant.rule, path, line, mutant.description, make)

    survivors = tuple(survivor(v) for v in alive if v.mutant.id not in accepted)
    return MutationReport(
        total=len(variants),
        killed=len(variants) - len(alive),
        accepted=len(alive) - len(survivors),
        survivors=survivors,
        faults=tuple(faults),
        left_out=left_out,
        evaluations=evaluations,
        seconds=time.perf_counter() - start,
    )


def _variants(rulesets: Rulesets, files: Sequence[Ruleset]) -> tuple[list[Variant], int]:
    """Return all mutants of these files that mean something else, and how many do not."""
    used: dict[str, set[str]] = {}
    for key in rulesets.program.keys:
        kind, concept = key.split("/")[:2]
        used.setdefault(kind, set()).add(concept)
    among = {kind: sorted(names) for kind, names in used.items()}
    asked = sorted(_asked(rulesets, files))
    mutants: list[Mutant | AnalyteMutant] = [
        mutant
        for file in files
        for rule in file.rules
        if not rule.recheck_of and rule.id in rulesets.program.by_id
        for mutant in mutants_of(rule, rulesets.terminology, among)
    ]
    mutants += analyte_mutants(rulesets.terminology, asked)
    make = Variants(rulesets)
    alone = _alone(rulesets)
    as_it_is = [canonical(rule) for rule in rulesets.program.rules]
    variants: list[Variant] = []
    seen: set[object] = set()
    changing = {need.concept for need in rulesets.program.needs if need.kind != "no-result"}
    for mutant in mutants:
        variant = make.of(mutant)
        meaning = tuple(
            (i, new) for i, rule in variant.changed if (new := canonical(rule)) != as_it_is[i]
        )
        if isinstance(mutant, AnalyteMutant):
            # Of rises it also says how old they may be, which stands in no criterion.
            if meaning or (mutant.field == "fresh" and mutant.analyte in changing):
                variants.append(variant)
        elif (
            meaning
            and meaning not in seen
            and not (mutant.kind == "family" and mutant.rule in alone)
        ):
            seen.add(meaning)
            variants.append(variant)
    return variants, len(mutants) - len(variants)


def _asked(rulesets: Rulesets, files: Sequence[Ruleset]) -> set[str]:
    """The analytes whose results the rules of these files ask for."""
    groups = {file.group for file in files}
    rules = [rule for rule in rulesets.program.rules if rule.group in groups]
    keys = [leaf.key for r in rules for leaf in (*leaves(r.when), *leaves(r.unless))]
    return {key.split("/")[1] for key in keys if key.startswith(("lab/", "rise/", "ratio/"))}


def _alone(rulesets: Rulesets) -> set[str]:
    """The rules whose family has no other rule and no caveat: it changes nothing.

    The companion for older results does not count: it never holds together with its rule, unless
    both stand in for others.
    """
    families: dict[str, set[str]] = {}
    for rule in (r for f in rulesets.files for r in f.rules):
        own = {rule.id, ""} if rule.stands_in_from else {rule.recheck_of or rule.id}
        if rule.family:
            families.setdefault(rule.family, set()).update(own)
        for family in rule.caveat_for:
            families.setdefault(family, set()).add(rule.id)
    return {next(iter(ids)) for ids in families.values() if len(ids) == 1}


# ---------------------------------------------------------------- trying them


def _tried(
    trials: Trials, variants: Sequence[Variant], workers: int | None, progress: Progress
) -> tuple[list[bool], int]:
    """Return for each mutant whether a case notices it, and how many cases were tried."""
    count = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    count = min(count, len(variants) // _FEW + 1)
    if count > 1 and "fork" in multiprocessing.get_all_start_methods():
        return _in_processes(trials, variants, count, progress)
    killed: list[bool] = []
    evaluations = 0
    for number, variant in enumerate(variants, start=1):
        dead, tried = _try(trials, variant)
        killed.append(dead)
        evaluations += tried
        progress(number, len(variants))
    return killed, evaluations


def _try(trials: Trials, variant: Variant) -> tuple[bool, int]:
    tried = 0
    for trial in trials.in_order(variant):
        tried += 1
        if trials.notices(variant, trial):
            return True, tried
    return False, tried


def _in_processes(
    trials: Trials, variants: Sequence[Variant], count: int, progress: Progress
) -> tuple[list[bool], int]:
    """Every process takes each `count`-th mutant; forked, so that nothing has to be sent there."""
    context = multiprocessing.get_context("fork")
    ends: list[Connection] = []
    started = []
    for first in range(count):
        here, there = context.Pipe(duplex=False)
        process = context.Process(
            target=_work, args=(trials, variants, first, count, there), daemon=True
        )
        process.start()
        there.close()
        started.append(process)
        ends.append(here)
    killed = [False] * len(variants)
    evaluations = done = 0
    try:
        while ends:
            ready = wait(ends)
            for end in [e for e in ends if e in ready]:
                try:
                    answer = end.recv()
                except EOFError:
                    ends.remove(end)
                    continue
                if isinstance(answer, str):
                    raise EngineError(f"a mutant could not be tried: {answer}")
                number, dead, tried = answer
                killed[number] = dead
                evaluations += tried
                done += 1
                progress(done, len(variants))
    finally:
        for process in started:
            process.terminate()
            process.join()
    if done != len(variants):
        raise EngineError("a process that tried mutants ended; nothing can be said of them")
    return killed, evaluations


def _work(
    trials: Trials, variants: Sequence[Variant], first: int, count: int, end: Connection
) -> None:
    """Try every `count`-th mutant; send what came of it, or in words why it could not be tried."""
    try:
        for number in range(first, len(variants), count):
            try:
                answer: tuple[int, bool, int] | str = (number, *_try(trials, variants[number]))
            except Exception as error:
                answer = f"{variants[number].mutant.id}: {type(error).__name__}: {error}"
            end.send(answer)
    except (KeyboardInterrupt, BrokenPipeError):  # the parent says so, or is gone
        pass
    finally:
        end.close()


# ---------------------------------------------------------------- what is left


def _unfit(
    accepted: dict[str, Accepted], variants: Sequence[Variant], alive: set[str]
) -> list[RuleError]:
    """Say which entries of `mutants.yaml` fit no mutant that lives."""
    known = [v.mutant.id for v in variants]
    faults = []
    for entry in accepted.values():
        if entry.mutant in alive:
            continue
        if entry.mutant in set(known):
            message = f"mutant {entry.mutant} is noticed by a case; remove it from this list"
        else:
            message = f"there is no mutant {entry.mutant}{nearest(entry.mutant, known)}"
        faults.append(RuleError(message, path=entry.path, line=entry.line))
    return faults


class _Lines:
    """Where rules and analytes stand."""

    def __init__(self, rulesets: Rulesets) -> None:
        self.rulesets = rulesets

    def of(self, mutant: Mutant | AnalyteMutant) -> tuple[str, int]:
        """Return path and line."""
        if isinstance(mutant, AnalyteMutant):
            return self._analytes.get(mutant.analyte, ("analytes.yaml", 0))
        files = self.rulesets.files
        file = next(f for f in files if any(rule.id == mutant.rule for rule in f.rules))
        return file.path, file.line_of.get(mutant.rule, 0)

    @cached_property
    def _analytes(self) -> dict[str, tuple[str, int]]:
        found: dict[str, tuple[str, int]] = {}
        for folder in shared_folders([Path(f.path).parent.parent for f in self.rulesets.files]):
            path = folder / "analytes.yaml"
            if path.is_file():
                data, lines = load_yaml(path)
                for index, entry in enumerate(data["analytes"] if isinstance(data, dict) else ()):
                    found.setdefault(entry["id"], (str(path), lines.of(("analytes", index))))
        return found
