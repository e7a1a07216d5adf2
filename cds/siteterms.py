"""The codes and windows that a site changes: its value sets and analytes.

What could lower an emergency is refused, see `cds.site`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from cds.emergencies import Emergencies, analyte_of, sets_of
from cds.program import CompiledRule, leaves
from cds.sitefile import AddedCode, At, Lookback, Profile, RemovedCode
from cds.terminology import SYSTEMS, CodeEntry, Terminology, ValueSet, seconds_of
from cds.yamlmodel import nearest

__all__ = ["SiteTerms"]

_ICD: Final = re.compile(r"[A-Z][0-9][0-9A-Z](\.[0-9A-Z]{1,4})?")


@dataclass(frozen=True, slots=True)
class _Note:
    """What was changed for every criterion over these value sets and analytes."""

    sets: frozenset[str]
    analytes: frozenset[str]
    text: str


class SiteTerms:
    """Makes the changes of value sets and analytes; `terminology` has them.

    Args:
        profile: where the changes are from and faults go to.
        emergencies: what must not be lost.
        terminology: as loaded without the profile.
    """

    def __init__(
        self, profile: Profile, emergencies: Emergencies, terminology: Terminology
    ) -> None:
        self.profile, self.emergencies = profile, emergencies
        self.terminology = self._before = terminology
        self._notes: list[_Note] = []

    def notes(self, rule: CompiledRule) -> list[str]:
        """Return in words what was changed of that which the criteria of a rule test."""
        keys = {leaf.key for tree in (rule.when, rule.unless) for leaf in leaves(tree)}
        sets = {name for key in keys for name in sets_of(key)}
        analytes = {analyte_of(key) for key in keys}
        return [n.text for n in self._notes if n.sets & sets or n.analytes & analytes]

    # ------------------------------------------------------------ value sets

    def change_sets(self) -> None:
        """Add and remove the codes that the profile names."""
        changed: list[ValueSet] = []
        silent: set[tuple[str, CodeEntry]] = set()
        for name, change in self.profile.file.value_sets.items():
            at: At = ("value_sets", name)
            known = self._before.value_sets.get(name)
            if known is None:
                hint = nearest(name, self._before.value_sets)
                self.profile.fault(at, f"there is no value set '{name}'{hint}")
                continue
            if not change.add and not change.remove:
                self.profile.fault(at, "needs 'add' or 'remove'")
            codes = {(c.system, c.code): c for c in known.codes}
            for number, gone in enumerate(change.remove):
                if self._may_remove(name, gone, codes, (*at, "remove", number)):
                    entry = codes.pop((gone.system, gone.code))
                    self._note_set(name, f"without {_shown(entry)}: {gone.reason}")
            for number, new in enumerate(change.add):
                if self._may_add(name, new, codes, (*at, "add", number)):
                    entry = CodeEntry(**new.model_dump(exclude={"reason"}))
                    codes[new.system, new.code] = entry
                    if self._only_present(name, entry):
                        silent.add((name, entry))
                    self._note_set(name, f"with {_shown(entry)}: {new.reason}")
            if not codes and not known.includes:
                text = f"nothing would be left of '{name}'; disable the rules that use it"
                self.profile.fault(at, text)
            changed.append(replace(known, codes=tuple(codes.values())))
        if not self.profile.errors:
            self.terminology = self.terminology.with_value_sets(changed, silent)

    def _may_remove(
        self, name: str, gone: RemovedCode, codes: Mapping[tuple[str, str], CodeEntry], at: At
    ) -> bool:
        if (gone.system, gone.code) not in codes:
            inner = [
                set_.id
                for set_ in map(self._before.value_sets.get, self._before.included(name))
                if set_ and any((c.system, c.code) == (gone.system, gone.code) for c in set_.codes)
            ]
            listed = [c.code for c in codes.values() if c.system == gone.system]
            hint = f"; it comes with '{min(inner)}'" if inner else nearest(gone.code, listed)
            self.profile.fault(at, f"{gone.system} {gone.code} is not listed in '{name}'{hint}")
            return False
        # A denial under the code may be what keeps an `unless` from holding.
        denied = [use for use in self.emergencies.sharing(name) if not use.helps]
        uses = [*self.emergencies.with_set(name), *denied]
        uses += self.emergencies.at_places(name, more=False)
        uses += self.emergencies.misread(name, gone.system, gone.code)
        return self.profile.spares(uses, at, f"no code of '{name}' can be removed")

    def _may_add(
        self, name: str, new: AddedCode, codes: Mapping[tuple[str, str], CodeEntry], at: At
    ) -> bool:
        uri = SYSTEMS.get(new.system)
        if uri is None:
            hint = nearest(new.system, SYSTEMS) or f"; use one of {', '.join(SYSTEMS)}"
            self.profile.fault((*at, "system"), f"there is no code system '{new.system}'{hint}")
            return False
        code, fault = f"{new.system} {new.code}", ""
        if (new.system, new.code) in codes:
            fault = f"{code} is listed in '{name}' already"
        elif new.system == "icd10cm" and not _ICD.fullmatch(new.code):
            fault = f"'{new.code}' is no code of icd10cm; write it as R25.3"
        elif new.match == "prefix" and new.system != "icd10cm":
            fault = "only codes of icd10cm match by prefix"
        elif analyte := self._before.analyte_of(uri, new.code):
            fault = f"{code} is a result ('{analyte}'), not a finding"
        elif (uri, new.code) in self._before.yes_no:
            fault = f"{code} is an answer to any question, not a finding"
        elif (uri, new.code) in self._before.questions:
            fault = f"{code} is a question, not a finding"
        if fault:
            self.profile.fault(at, fault)
            return False
        uses = self.emergencies.with_set(name)
        hindering = [use for use in uses if not use.helps or use.undone_by_more]
        hindering += self.emergencies.at_places(name, more=True)
        hindering += self.emergencies.misread(name, new.system, new.code)
        return self.profile.spares(hindering, at, f"no code can be added to '{name}'")

    def _only_present(self, name: str, entry: CodeEntry) -> bool:
        """Whether a denial under the added code must not be heard, as it was not before.

        A newer denial takes an older record of the same set back. Where emergencies rest on
        that set, or on one with a code in common, the code counts only where it says yes.
        """
        before = self._before.concepts_of(SYSTEMS[entry.system], entry.code)
        beside = self.emergencies.beside(name).union(before)
        return any(u.helps and not beside.isdisjoint(u.sets) for u in self.emergencies.uses)

    def _note_set(self, name: str, text: str) -> None:
        sets = self._before.value_sets
        above = frozenset(n for n in sets if name == n or name in self._before.included(n))
        self._notes.append(_Note(above, frozenset(), f"value set '{name}' {text}"))

    # ------------------------------------------------------------ analytes

    def change_analyte(self, name: str, entry: Lookback, at: At) -> None:
        """Change how long results of an analyte count."""
        analyte = self._before.analytes[name]
        fresh = seconds_of(entry.fresh) if entry.fresh else analyte.fresh
        context = seconds_of(entry.context) if entry.context else analyte.context
        if fresh > context:
            self.profile.fault(at, f"'fresh' of {name} would be longer than its 'context'")
            return
        turned = self.emergencies.turned_by_fresh(name, fresh)
        frozen = [self.emergencies.frozen_context(name, context)] if entry.context else []
        fault = f"'fresh' of {name} cannot become {entry.fresh}"
        allowed = self.profile.spares(turned, at, fault)
        fault = f"'context' of {name} cannot become {entry.context}"
        if not self.profile.spares(filter(None, frozen), at, fault) or not allowed:
            return
        analytes = {**self.terminology.analytes}
        analytes[name] = replace(analyte, fresh=fresh, context=context)
        self.terminology = replace(self.terminology, analytes=analytes)
        words = [
            f"'{key}' {value}" for key in ("fresh", "context") if (value := getattr(entry, key))
        ]
        text = f"results of {name}: {' and '.join(words)}: {entry.reason}"
        self._notes.append(_Note(frozenset(), frozenset({name}), text))


def _shown(entry: CodeEntry) -> str:
    below = " and all below" if entry.match == "prefix" else ""
    return f"{entry.system} {entry.code} ({entry.display}){below}"
