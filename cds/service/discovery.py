"""What the service offers: one CDS Service for each hook, and the data that it asks for.

Codes, and how far back a record is asked for, come from the loaded rules and their terminology
alone. CDS Hooks 2.0, "Discovery" and "Prefetch Template"; rows CH-10 to CH-37. Decided here:

* All services ask for the same data, and only `patient` is required (CH-49).
* Templates use no more than ``{{context.patientId}}``, token parameters with equality, one date
  prefix ``ge`` and ``_sort`` (CH-33, CH-34); no parameter stands twice (CH-37). ``_sort=-date``
  makes the newest results come first where a client sends only the first page.
* A date bound is the first day of a month, so that the answer stays the same all month (CH-24).
* A result that is asked for however old it is (a level since the start of a medicine) stands under
  a key without a date. A list of codes too long for one URL is split: ``signs``, ``signs2``.
* Signs are asked for by all codes but those of ICD, which classifies what stands in Conditions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from cds.facts import Normalizer
from cds.program import FOREVER
from cds.rules import Rulesets
from cds.terminology import SYSTEMS

__all__ = ["RULESETS", "Discovery", "Service", "kind_of"]

RULESETS: Final = "org.cds-twitch.rulesets"
"""Name of the extension that says which rules answer (CH-151, CH-154)."""

PATIENT: Final = "patient"

_OPEN_CHART: Final = "{{context.patientId}}"
_CODES: Final = 4_000  # characters of codes in one query; servers take about 8 KB, escaped
_NOT_OBSERVED: Final = frozenset({"icd10cm"})

# Hook, title and what it is for; the part of the id is the hook's name.
_HOOKS: Final = {
    "patient-view": ("chart opened", "when the chart of a patient is opened"),
    "order-select": ("orders selected", "when orders are selected, as if they were started"),
    "order-sign": ("orders signed", "before orders are signed, as if they were started"),
    "encounter-start": ("encounter begun", "when an encounter begins"),
    "encounter-discharge": ("discharge", "when a patient is discharged"),
    "problem-list-item-create": ("problem added", "when problems are added to the problem list"),
    "medication-refill": ("refill", "when medicines are to be refilled, as if they were started"),
}


@dataclass(frozen=True, slots=True)
class Service:
    """One CDS Service."""

    id: str
    hook: str
    title: str
    description: str


def kind_of(key: str) -> str:
    """Return the kind of data that a prefetch key is of ("signs" of "signs2")."""
    kind = key.rstrip("0123456789")
    return "laboratory" if kind == "laboratoryAnyDate" else kind


class Discovery:
    """The services over one set of rules; build once.

    Args:
        rulesets: the loaded rules.
        normalizer: knows what they want and how far back.
    """

    def __init__(self, rulesets: Rulesets, normalizer: Normalizer) -> None:
        self.rulesets = rulesets
        self.services: Mapping[str, Service] = {
            f"twitching-{hook}": Service(
                f"twitching-{hook}",
                hook,
                f"Muscle twitching: {title}",
                f"Says what in the record needs attention if muscles twitch, {when}: electrolytes, "
                "medicines, signs for a neurologist, everyday causes, missing tests, and what "
                "could not be judged. Draft rules; decision support only.",
            )
            for hook, (title, when) in _HOOKS.items()
        }
        terminology, wanted = rulesets.terminology, normalizer.wanted
        dated: list[str] = []
        ever: list[str] = []
        self._results_back = 0
        for name in sorted(wanted & terminology.analytes.keys()):
            codes = [f"{SYSTEMS[c.system]}|{c.code}" for c in terminology.analytes[name].codes]
            back = normalizer.lookback(name)
            if back >= FOREVER:
                ever += codes
            else:
                dated += codes
                self._results_back = max(self._results_back, back)
        sets = [v for name, v in terminology.value_sets.items() if name in wanted]
        signs = [v for v in sets if v.kind in ("symptom", "lifestyle")]
        # Conditions too: an answer to one of the questions may be about one.
        self._signs_back = max([terminology.symptom_window, *(v.counts_for or 0 for v in sets)])
        questions = [f"{system}|{code}" for system, code in sorted(terminology.questions)]
        own = [f"{SYSTEMS['concept']}|"]  # any code of our own system
        observed = sorted(
            {
                (code.system != "snomed", f"{SYSTEMS[code.system]}|{code.code}")
                for value_set in signs
                for code in value_set.codes
                if code.system not in _NOT_OBSERVED
            }
        )
        self._results = list(_chunks(dict.fromkeys(dated)))
        self._results_ever = list(_chunks(dict.fromkeys(ever)))
        self._signs = list(_chunks([*questions, *own, *(code for _, code in observed)]))
        self._history = any(key.startswith("history/") for key in rulesets.program.keys)
        self._month: tuple[int, int] = (0, 0)
        self._templates: Mapping[str, str] = {}
        self._document = b""

    def prefetch(self, now: datetime) -> Mapping[str, str]:
        """Return the templates of all services by key, `patient` first."""
        self._renew(now)
        return self._templates

    def document(self, now: datetime) -> bytes:
        """Return the body of the discovery endpoint; the same all month."""
        self._renew(now)
        return self._document

    def queries(self, keys: Iterable[str], patient_id: str, now: datetime) -> dict[str, str]:
        """Return what to ask the client's FHIR server for these keys."""
        templates = self.prefetch(now)
        return {key: templates[key].replace(_OPEN_CHART, patient_id) for key in keys}

    @property
    def provenance(self) -> dict[str, Any]:
        """Which rules answer: with their versions and digests."""
        rulesets = self.rulesets
        files = [{"id": f.group, "version": f.version, "digest": f.digest} for f in rulesets.files]
        found: dict[str, Any] = {"digest": rulesets.digest, "rulesets": files}
        if rulesets.site is not None:
            site = rulesets.site
            found["site"] = {"id": site.id, "version": site.version, "digest": site.digest}
        if rulesets.translation is not None:
            words = rulesets.translation
            found["language"] = {"id": words.language, "version": words.version}
        return found

    def _renew(self, now: datetime) -> None:
        now = now.astimezone(UTC)
        if (now.year, now.month) != self._month:
            self._templates = self._made(now)
            services = [
                {
                    "hook": service.hook,
                    "title": service.title,
                    "description": service.description,
                    "id": service.id,
                    "prefetch": dict(self._templates),
                    "usageRequirements": self._requirements(),
                    "extension": {RULESETS: self.provenance},
                }
                for service in self.services.values()
            ]
            self._document = orjson.dumps({"services": services})
            self._month = (now.year, now.month)

    def _made(self, now: datetime) -> dict[str, str]:
        results = _first_of_month(now, self._results_back)
        signs = _first_of_month(now, self._signs_back)
        whose = f"patient={_OPEN_CHART}"
        made = {PATIENT: f"Patient/{_OPEN_CHART}"}
        made |= _numbered(
            "laboratory", self._results, f"Observation?{whose}&code=", f"&date=ge{results}{_NEWEST}"
        )
        made |= _numbered(
            "laboratoryAnyDate", self._results_ever, f"Observation?{whose}&code=", _NEWEST
        )
        made |= _numbered(
            "signs", self._signs, f"Observation?{whose}&code=", f"&date=ge{signs}{_NEWEST}"
        )
        made["medicationStatements"] = f"MedicationStatement?{whose}"
        made["medicationRequests"] = f"MedicationRequest?{whose}"
        made["conditions"] = f"Condition?{whose}"
        answered = min(results, signs)
        made["questionnaireResponses"] = f"QuestionnaireResponse?{whose}&authored=ge{answered}"
        if self._history:
            made["familyHistory"] = f"FamilyMemberHistory?{whose}"
        return made

    def _requirements(self) -> str:
        versions = ", ".join(f"{f.group} {f.version}" for f in self.rulesets.files)
        reviews = {rule.review for f in self.rulesets.files for rule in f.rules}
        drafts = (
            "Rules are drafts that no clinician has signed. " if reviews != {"approved"} else ""
        )
        return (
            "FHIR R4. Only the prefetch key 'patient' is required; without it and without access "
            "to read it the answer is 412. Every other key is optional: what is neither sent nor "
            "readable (fhirServer with fhirAuthorization) is not evaluated, nothing is concluded "
            "from its absence, and a card says so. Send null, or a Bundle without entries, for a "
            "query that found nothing. MedicationRequests and MedicationStatements may bring the "
            "Medications that they refer to in the same Bundle. "
            f"{drafts}Rulesets: {versions}; {self.rulesets.digest}."
        )


_NEWEST: Final = "&_sort=-date"


def _first_of_month(now: datetime, back: int) -> str:
    """Return the first day of the month that lies `back` seconds before the month began."""
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (month - timedelta(seconds=back)).replace(day=1).strftime("%Y-%m-%d")


def _chunks(codes: Iterable[str]) -> Iterator[str]:
    """Join codes with commas into texts that are short enough for a URL."""
    chunk: list[str] = []
    length = 0
    for code in codes:
        if chunk and length + len(code) + 1 > _CODES:
            yield ",".join(chunk)
            chunk, length = [], 0
        chunk.append(code)
        length += len(code) + 1
    if chunk:
        yield ",".join(chunk)


def _numbered(key: str, chunks: Iterable[str], before: str, after: str) -> dict[str, str]:
    return {
        f"{key}{number if number > 1 else ''}": f"{before}{codes}{after}"
        for number, codes in enumerate(chunks, 1)
    }
