"""The profile of an institution: one YAML file that changes loaded rules without editing them.

It can disable a rule, change the codes of a value set, raise a tier, change how long something
counts, and ask for reviewed rules only. The format is explained in `rulesets/README.md`.

**A profile never lowers an emergency.** For every record, each emergency finding that is made
without the profile is made with it, as an emergency: shown, or superseded by another emergency of
its family. So a patient whose tier is emergency keeps it. What could break this is refused when
the profile is loaded (`cds.emergencies` knows what emergencies rest on). The one exception is
`require_review`: an institution that wants signed rules only gets no finding from any other
rule, emergencies too, and each assessment says so.

A profile is applied to rule files and terminology before companions are made and rules are
compiled; nothing later knows of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cds.emergencies import Emergencies
from cds.model import Tier
from cds.program import CompiledRule, Program, compile_program
from cds.rechecks import Rechecks
from cds.rulefile import AllCriterion, AnyCriterion, FindingCriterion, Rule, Ruleset
from cds.sitefile import At, Lookback, Profile
from cds.siteterms import SiteTerms
from cds.terminology import Terminology, seconds_of
from cds.yamlmodel import nearest

__all__ = ["NotRun", "Site", "apply_site"]

# ---------------------------------------------------------------- what it did


@dataclass(frozen=True, slots=True)
class NotRun:
    """A rule that the site leaves out, as it would have been, and why."""

    rule: Rule
    group: str
    version: str
    reason: str
    unreviewed: bool = False


@dataclass(frozen=True, slots=True)
class Site:
    """A profile that was applied: who it is, and what it changed of which rule.

    `changes` has texts by rule id (companions for older results included); `not_run` the rules
    left out, by id. `digest` is that of the file ("sha256:...").
    """

    id: str
    title: str
    version: str
    digest: str
    changes: Mapping[str, tuple[str, ...]]
    not_run: Mapping[str, NotRun]
    notice: str = ""
    """What every assessment has to say of rules that were not run for want of review."""


# ---------------------------------------------------------------- applying it

_STATES: Final = ("draft", "under-review", "approved")
_OR_BETTER: Final = {"under-review": "under review or approved", "approved": "approved"}
_CONCEPTS: Final = ("lab", "rise", "ratio", "symptom", "condition", "lifestyle", "no_result")


def apply_site(
    path: Path, files: Sequence[Ruleset], program: Program, terminology: Terminology
) -> tuple[list[Ruleset], Program, Terminology, Site]:
    """Return rule files (with companions), program and terminology as a site wants them.

    Args:
        path: the profile.
        files: the rule files as loaded without a site, companions included.
        program: the program of these files.
        terminology: their terminology.

    Raises: RuleErrors with every fault of the profile, each with its line.
    """
    return _Applying(Profile(path), files, program, terminology).result()


class _Applying:
    """One profile on its way into the rules: checks everything, then changes copies."""

    def __init__(
        self, profile: Profile, files: Sequence[Ruleset], program: Program, terminology: Terminology
    ) -> None:
        self.profile, self.program = profile, program
        self.emergencies = Emergencies(program, terminology)
        self.terms = SiteTerms(profile, self.emergencies, terminology)
        self.files = [
            replace(f, rules=tuple(r for r in f.rules if not r.recheck_of)) for f in files
        ]
        self.file_of = {rule.id: f for f in self.files for rule in f.rules}
        self.written = {rule.id: rule for f in self.files for rule in f.rules}
        self.rules = dict(self.written)
        self.left_out: dict[str, NotRun] = {}
        self.notes: dict[str, list[str]] = {}

    def result(self) -> tuple[list[Ruleset], Program, Terminology, Site]:
        self.disable()
        self.terms.change_sets()
        self.raise_tiers()
        self.change_lookbacks()
        self.profile.stop()
        self.require_review()
        self.profile.stop()
        files = [replace(f, digest=self.digest(f)) for f in self.with_companions()]
        terminology = self.terms.terminology
        program = compile_program(files, terminology)
        return files, program, terminology, self.site(program)

    # ------------------------------------------------------------ rules

    def known_rule(self, rule_id: str, at: At) -> Rule | None:
        """Return the rule that the profile names; where it cannot be changed, that is a fault."""
        companion = self.program.by_id.get(rule_id)
        if rule_id in self.left_out:
            self.profile.fault(at, f"'{rule_id}' is disabled by this profile already")
        elif rule_id in self.written:
            return self.rules[rule_id]
        elif companion is not None:
            made_from = companion.rule.recheck_of
            text = f"'{rule_id}' is made from the rule '{made_from}'; name that one"
            self.profile.fault(at, text)
        else:
            hint = nearest(rule_id, self.written)
            self.profile.fault(at, f"there is no rule '{rule_id}'{hint}")
        return None

    def change(self, rule: Rule, update: Mapping[str, Any], text: str) -> None:
        """Change a rule; as it is then, nobody has reviewed it."""
        unreviewed = {"review": "draft", "last_reviewed": None}
        self.rules[rule.id] = rule.model_copy(update={**update, **unreviewed})
        self.notes.setdefault(rule.id, []).append(text)

    def leave_out(self, rule: Rule, reason: str, *, unreviewed: bool = False) -> None:
        file = self.file_of[rule.id]
        self.left_out[rule.id] = NotRun(
            self.written[rule.id], file.group, file.version, reason, unreviewed
        )

    def running(self) -> list[Rule]:
        return [rule for id_, rule in self.rules.items() if id_ not in self.left_out]

    def drop_lost_findings(self, reason: str, *, unreviewed: bool = False) -> list[str]:
        """Take findings that no rule makes any more out of the criteria of other rules.

        They never hold, so what remains means the same. Rules that could never hold without
        them are left out for `reason`, and returned in words.
        """
        made = {r.rule.finding_id for r in self.program.rules}
        stuck: list[str] = []
        while self.left_out:  # else every finding is still made
            lost = made - {r.finding_id for f in self.with_companions() for r in f.rules}
            before = len(stuck)
            for rule in self.running():
                named = lost & {*_findings(rule.when), *_findings(rule.unless), *rule.yields_to}
                if not named:
                    continue
                gone = ", ".join(f"'{finding}'" for finding in sorted(named))
                when = [_without(c, lost) for c in rule.when]
                if None in when:
                    self.leave_out(rule, f"{reason} {gone}", unreviewed=unreviewed)
                    stuck.append(f"'{rule.id}' (builds on {gone})")
                    continue
                unless = [left for c in rule.unless if (left := _without(c, lost)) is not None]
                yields_to = tuple(finding for finding in rule.yields_to if finding not in lost)
                update = {"when": tuple(when), "unless": tuple(unless), "yields_to": yields_to}
                self.rules[rule.id] = rule.model_copy(update=update)
                text = f"looks no more for {gone}, which no rule makes here"
                self.notes.setdefault(rule.id, []).append(text)
            if len(stuck) == before:
                break
        return stuck

    # ------------------------------------------------------------ disable

    def disable(self) -> None:
        name = self.profile.name
        for index, entry in enumerate(self.profile.file.disable):
            at: At = ("disable", index, "rule")
            rule = self.known_rule(entry.rule, at)
            if rule is None:
                continue
            companions = (i for i in (rule.id, f"{rule.id}-recheck") if i in self.program.by_id)
            emergency = next(filter(None, map(self.emergencies.needing, companions)), None)
            if rule.tier_value is Tier.emergency and not rule.step:
                text = f"'{rule.id}' is an emergency rule; a site cannot disable it"
            elif emergency and rule.stands_in_from:
                text = (
                    f"'{rule.id}' is what a child gets in place of emergency findings for adults; "
                    "a site cannot disable it"
                )
            elif emergency:
                text = f"the emergency rule '{emergency}' rests on '{rule.id}'"
                text += "; a site cannot disable it"
            else:
                who = f" ({entry.by})" if entry.by else ""
                self.leave_out(rule, f"disabled by {name}: {entry.reason}{who}")
                continue
            self.profile.fault(at, text)
        if stuck := self.drop_lost_findings(f"{name} disabled the rules that make"):
            self.profile.fault(
                ("disable",),
                f"without the disabled rules, these can never hold: {', '.join(stuck)}; "
                "disable them as well, each with its reason",
            )

    # ------------------------------------------------------------ tiers

    def raise_tiers(self) -> None:
        for rule_id, entry in self.profile.file.tiers.items():
            at: At = ("tiers", rule_id)
            rule = self.known_rule(rule_id, at)
            if rule is None:
                continue
            if rule.step or rule.caveat_for:
                what = "an intermediate step" if rule.step else "a caveat"
                text = f"'{rule_id}' is {what} and makes no finding that has a tier"
            elif Tier[entry.tier] == rule.tier_value:
                text = f"'{rule_id}' is {rule.tier} already"
            elif Tier[entry.tier] < rule.tier_value:
                text = f"'{rule_id}' is {rule.tier}; a site can only raise that, not lower it"
            elif rule.card and entry.patient is None:
                text = (
                    f"needs 'patient': the text of '{rule_id}' for patients fits tier {rule.tier}; "
                    f"write what they are to do, and by when, now that it is {entry.tier}"
                )
            else:
                texts = entry.model_dump(exclude={"tier", "reason"}, exclude_none=True)
                card = rule.card.model_copy(update=texts) if rule.card else None
                text = f"tier raised from {rule.tier} to {entry.tier}: {entry.reason}"
                update: dict[str, Any] = {"tier": entry.tier, "card": card}
                if rule.yields_to and Tier[entry.tier] is Tier.emergency:
                    update["yields_to"] = ()
                    text += "; as an emergency it yields to no other finding"
                self.change(rule, update, text)
                continue
            self.profile.fault(at, text)

    # ------------------------------------------------------------ lookbacks

    def change_lookbacks(self) -> None:
        for name, entry in self.profile.file.lookbacks.items():
            at: At = ("lookbacks", name)
            of_rule = entry.within is not None
            if of_rule == bool(entry.fresh or entry.context) or (entry.of and not of_rule):
                self.profile.fault(
                    at,
                    "needs 'within' for a rule ('of' names the analyte or value set that is "
                    "meant), or 'fresh' or 'context' for an analyte",
                )
            elif of_rule:
                rule = self.known_rule(name, at)
                if rule is not None:
                    self.change_within(rule, entry, at)
            elif name in self.terms.terminology.analytes:
                self.terms.change_analyte(name, entry, at)
            else:
                hint = nearest(name, self.terms.terminology.analytes)
                self.profile.fault(at, f"there is no analyte '{name}'{hint}")

    def change_within(self, rule: Rule, entry: Lookback, at: At) -> None:
        within, found = entry.within or "", []

        def meant(c: Any) -> bool:
            return bool(getattr(c, "within", None)) and entry.of in (None, _concept(c))

        def changed(c: Any) -> Any:
            if isinstance(c, AnyCriterion):
                return c.model_copy(update={"any": tuple(map(changed, c.any))})
            if isinstance(c, AllCriterion):
                return c.model_copy(update={"all": tuple(map(changed, c.all))})
            if not meant(c):
                return c
            found.append(f"{_concept(c)} within {within} instead of {c.within}")
            return c.model_copy(update={"within": within})

        new = {"when": tuple(map(changed, rule.when)), "unless": tuple(map(changed, rule.unless))}
        turned = [
            use
            for use in self.emergencies.uses
            if rule.id in (use.rule.rule.id, use.rule.rule.recheck_of)
            and meant(use.leaf.criterion)
            and self.emergencies.turned_to(use, seconds_of(within))
        ]
        if not found:
            what = f" for '{entry.of}'" if entry.of else ""
            self.profile.fault(
                at,
                f"the rule '{rule.id}' writes no 'within'{what}; how long the results of an "
                "analyte count is changed there, with 'fresh'",
            )
        elif self.profile.spares(turned, at, f"'within' of '{rule.id}' cannot become {within}"):
            self.change(rule, new, f"{'; '.join(dict.fromkeys(found))}: {entry.reason}")

    # ------------------------------------------------------------ review

    def require_review(self) -> None:
        wanted = self.profile.file.require_review
        if wanted is None:
            return
        only = f"{self.profile.name} runs only rules that are {_OR_BETTER[wanted]}"
        for rule in self.running():
            state = self.written[rule.id].review
            if _STATES.index(state) < _STATES.index(wanted):
                self.leave_out(rule, f"{only}; this one is {state}", unreviewed=True)
        self.drop_lost_findings(f"{only}; no such rule makes", unreviewed=True)
        if all(r.step or r.caveat_for or r.stands_in_from for r in self.running()):
            number = sum(n.unreviewed for n in self.left_out.values())
            counts = {s: sum(r.review == s for r in self.written.values()) for s in _STATES}
            states = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
            self.profile.fault(
                ("require_review",),
                f"'{wanted}' leaves out {number} rules, and what remains finds nothing at all "
                f"(of the rules loaded, {states})",
            )

    # ------------------------------------------------------------ the outcome

    def with_companions(self) -> list[Ruleset]:
        files = [replace(f, rules=self.in_order(f)) for f in self.files]
        return Rechecks(files, self.terms.terminology).add(files)

    def in_order(self, file: Ruleset) -> tuple[Rule, ...]:
        """Return the rules of a file that are run.

        A raised rule goes behind those that had its tier before it: of two findings of one
        family and tier the first is shown, and those have the texts that were written for it.
        """
        rules = [self.rules[r.id] for r in file.rules if r.id not in self.left_out]
        for raised in [r for r in rules if r.tier != self.written[r.id].tier]:
            for index in range(len(rules) - 1, rules.index(raised), -1):
                other = rules[index]
                alike = other.finding_id == raised.finding_id or (
                    other.family is not None and other.family == raised.family
                )
                if alike and other.tier == raised.tier == self.written[other.id].tier:
                    rules.insert(index + 1, raised)
                    rules.remove(raised)
                    break
        return tuple(rules)

    def digest(self, file: Ruleset) -> str:
        both = f"{file.digest} {self.profile.digest}"
        return "sha256:" + hashlib.sha256(both.encode()).hexdigest()

    def site(self, program: Program) -> Site:
        changes: dict[str, tuple[str, ...]] = {}
        for rule in program.rules:
            written = rule.rule.recheck_of or rule.rule.id
            if texts := (*self.notes.get(written, ()), *self.terms.notes(rule)):
                changes[rule.rule.id] = texts
        not_run = {
            rule.rule.id: self.not_run(rule)
            for rule in self.program.rules
            if rule.rule.id not in program.by_id
        }
        file = self.profile.file
        return Site(
            file.site,
            file.title,
            file.version,
            self.profile.digest,
            changes,
            not_run,
            self.notice(list(not_run.values())),
        )

    def not_run(self, rule: CompiledRule) -> NotRun:
        """Say why a rule is not run; a companion for the reason of the rule it is made from."""
        written = rule.rule.recheck_of or rule.rule.id
        if written in self.left_out:
            return replace(self.left_out[written], rule=rule.rule)
        why = f"no rule that {self.profile.name} runs builds on it"
        return NotRun(rule.rule, rule.group, self.file_of[written].version, why)

    def notice(self, not_run: Sequence[NotRun]) -> str:
        missing = [n.rule for n in not_run if n.unreviewed]
        if not missing:
            return ""
        urgent = [r.id for r in missing if r.tier_value is Tier.emergency and not r.step]
        rules = "emergency rule" if len(urgent) == 1 else "emergency rules"
        among = f", among them {len(urgent)} {rules} ({', '.join(urgent)})"
        return (
            f"only rules that are {_OR_BETTER[self.profile.file.require_review or '']} are run: "
            f"{len(missing)} of {len(self.program.rules)} are not{among if urgent else ''}; "
            "what they would find is not found"
        )


def _concept(c: Any) -> str:
    return next((value for name in _CONCEPTS if (value := getattr(c, name, None))), "")


def _findings(criteria: Iterable[Any]) -> Iterator[str]:
    """Yield the findings that criteria name, also inside `any` and `all`."""
    for c in criteria:
        if isinstance(c, FindingCriterion):
            yield c.finding
        else:
            yield from _findings(getattr(c, "any", None) or getattr(c, "all", None) or ())


def _without(c: Any, lost: set[str]) -> Any:
    """Return a criterion with findings that never hold taken out; None if it never holds."""
    if isinstance(c, FindingCriterion):
        return None if c.finding in lost else c
    if isinstance(c, AllCriterion):
        parts = [_without(p, lost) for p in c.all]
        return None if None in parts else c.model_copy(update={"all": tuple(parts)})
    if isinstance(c, AnyCriterion):
        parts = [left for p in c.any if (left := _without(p, lost)) is not None]
        return c.model_copy(update={"any": tuple(parts)}) if parts else None
    return c
