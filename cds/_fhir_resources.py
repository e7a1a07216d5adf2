"""What each resource type gives: Measurements, Presences and MedicationUses.

Each reader has two steps. *wants* looks only at the codes and says whether any rule can need the
resource; most resources of a real record end there. *read* then takes the resource apart into an
`Item`. What needs other resources (whose it is, which Medication, which Specimen) is left as a
reference for `cds.fhir` to resolve.

Shapes: FHIR R4, R4B and R5; of older versions what can be read without guessing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final, NamedTuple

from cds._fhir_answers import Answers, Form, given
from cds._fhir_parts import (
    Codes,
    Item,
    Json,
    Known,
    Ref,
    Stated,
    Terms,
    Unanswered,
    Unreadable,
    Uses,
    identifier,
    make_coding,
    number,
    parse_time,
    reference,
    text_quantity,
)
from cds.model import Coding, Instant, Measurement, MedicationUse, Presence, Quantity

__all__ = ["Draw", "Drug", "Kind", "Person", "Resources", "contained"]

# Required bindings (FHIR R4 and R5), which fhir.resources does not check.
STATUSES: Final[dict[str, frozenset[str]]] = {
    "Observation": frozenset(
        "registered preliminary final amended corrected cancelled entered-in-error unknown".split()
    ),
    "MedicationStatement": frozenset(
        "active completed entered-in-error intended stopped on-hold unknown not-taken"
        " recorded draft".split()
    ),
    "MedicationRequest": frozenset(
        "active on-hold cancelled completed entered-in-error stopped draft unknown ended".split()
    ),
    "QuestionnaireResponse": frozenset(
        "in-progress completed amended entered-in-error stopped".split()
    ),
    "FamilyMemberHistory": frozenset("partial completed entered-in-error health-unknown".split()),
}
INTENTS: Final = frozenset(
    "proposal plan order original-order reflex-order filler-order instance-order option".split()
)
GENDERS: Final = frozenset("male female other unknown".split())
CLINICAL: Final = frozenset("active recurrence relapse inactive remission resolved unknown".split())
VERIFICATION: Final = frozenset(
    "unconfirmed provisional differential confirmed refuted entered-in-error".split()
)

# R5 moved "not taken" and "on hold" from MedicationStatement.status to .adherence.code
# (CodeSystem medication-statement-adherence); these are their R4 words.
_ADHERENCE: Final = {
    "taking": "active",
    "not-taking": "not-taken",
    "on-hold": "on-hold",
    "stopped": "stopped",
    "unknown": "unknown",
}

_NOT_NUMERIC: Final = (
    "valueRatio",
    "valueSampledData",
    "valueCodeableConcept",
    "valueBoolean",
    "valueDateTime",
    "valuePeriod",
    "valueTime",
    "valueAttachment",
    "valueReference",
)


class Person(NamedTuple):
    """What rules need of a Patient."""

    birth: Instant | None
    sex: str | None
    deceased: Instant | bool | None


class Drug(NamedTuple):
    """A Medication: its codes, those of its ingredients, and Medications that it consists of."""

    codings: tuple[Coding, ...]
    text: str
    parts: tuple[Ref, ...] = ()


class Draw(NamedTuple):
    """A Specimen: what its condition says."""

    conditions: tuple[str, ...]


class Kind(NamedTuple):
    """How one resource type is read."""

    wants: Callable[[Json], Any]  # None: of no use to any rule
    read: Callable[[Json, Item, Any], None]
    subject: str  # the element that names the patient, "" for none


class Resources:
    """Reads single resources; knows nothing of other resources or of patients.

    Args:
        terms: the loaded terminology.
        wanted: the analytes and value sets that the loaded rules need; None for all.
    """

    def __init__(self, terms: Terms, wanted: Collection[str] | None = None) -> None:
        self.codes = Codes(terms, wanted)
        self.answers = Answers(terms, self.codes, self._answer)
        # "not hemolyzed" says nothing; "no" and the like must stand directly before the word.
        words = "|".join(re.escape(word) for word in sorted(terms.note_words, key=len)[::-1])
        self._words = (
            re.compile(rf"(\b(?:no|not|non|without)[\s-]+)?\b({words})\b", re.IGNORECASE)
            if words
            else None
        )
        self.kinds: dict[str, Kind] = {
            "Observation": Kind(self._wants_observation, self._observation, "subject"),
            "Condition": Kind(self._wants_coded, self._condition, "subject"),
            "MedicationRequest": Kind(_always, self._medication_use, "subject"),
            "MedicationStatement": Kind(_always, self._medication_use, "subject"),
            "FamilyMemberHistory": Kind(self._wants_family, self._family, "patient"),
            "QuestionnaireResponse": Kind(self._wants_answers, self._answers, "subject"),
            "Patient": Kind(_always, self._person, ""),
            "Questionnaire": Kind(self._wants_form, self._form, ""),
            "Medication": Kind(_always, self._medication, ""),
            "Specimen": Kind(_always, self._draw, "subject"),
            # Of DSTU2; a rule could need it, had it come as a MedicationRequest.
            "MedicationOrder": Kind(_old, self._medication_use, "subject"),
        }

    # ------------------------------------------------------------ what is wanted

    def _wants_coded(self, resource: Json) -> Uses | None:
        uses, sound = self.codes.uses(resource.get("code"))
        if not uses and not sound and resource.get("code") is not None:
            raise Unreadable("its code is not a CodeableConcept")
        return uses or None

    def _wants_observation(self, resource: Json) -> Uses | None:
        # The ways out before `uses` are for most of most records, and only faster than the rest.
        try:
            (coding,) = resource["code"]["coding"]
            known = self.codes.seen[coding["system"], coding["code"]]
            if known is not None:
                if known.analyte is not None:
                    return [(known, coding)]
            elif "component" not in resource and "valueCodeableConcept" not in resource:
                return None
        except (KeyError, TypeError, ValueError, IndexError):
            pass
        if self._idle(resource):
            parts = resource.get("component")
            if parts is None or (type(parts) is list and all(map(self._idle, parts))):
                return None
        uses, sound = self.codes.uses(resource.get("code"))
        if uses and (not _only_questions(uses) or self._answered(resource, uses)):
            return uses
        if not sound and not uses:
            if resource.get("code") is None:
                raise Unreadable("it has no code")
            raise Unreadable("its code is not a CodeableConcept")
        if "valueCodeableConcept" in resource and self._has_finding(resource):
            return uses
        for part in _dicts(resource["component"]) if "component" in resource else ():
            inner, _ = self.codes.uses(part.get("code"))
            if inner and (not _only_questions(inner) or self._answered(part, inner)):
                return uses
            if "valueCodeableConcept" in part and self._has_finding(part):
                return uses
        return None

    def _idle(self, owner: Any) -> bool:
        """Whether an Observation or component plainly has one code that no rule asks for.

        False wherever that takes more than look-ups of codes seen before.
        """
        seen = self.codes.seen
        try:
            (coding,) = owner["code"]["coding"]
            known = seen[coding["system"], coding["code"]]
            if known is not None and not known.only_question:
                return False
            if "valueCodeableConcept" not in owner:
                return True
            (answer,) = owner["valueCodeableConcept"]["coding"]
            system, code = answer["system"], answer["code"]
            return seen[system, code] is None and (
                known is None or not self.codes.said[known.system, known.code, system, code]
            )
        except (KeyError, TypeError, ValueError, IndexError):
            return False

    def _answered(self, owner: Json, questions: Uses) -> bool:
        """Whether a coded answer to one of the questions says anything to a rule."""
        value = owner.get("valueCodeableConcept")
        if not isinstance(value, dict):
            return False
        return any(
            self.codes.answer_of(known, answer)
            for answer in _dicts(value.get("coding"))
            for known, _ in questions
        )

    def _has_finding(self, owner: Json) -> bool:
        uses, _ = self.codes.uses(owner.get("valueCodeableConcept"))
        return any(known.concepts for known, _ in uses)

    def _wants_family(self, resource: Json) -> bool | None:
        for each in _dicts(resource.get("condition")):
            if self.codes.uses(each.get("code"))[0]:
                return True
        return None

    def _wants_answers(self, resource: Json) -> bool | None:
        if "group" in resource and "item" not in resource:
            raise Unreadable("it has the shape of DSTU2 (group); send R4 or R5 (item)")
        # Also what no rule knows: that it was answered and not understood has to be said.
        return True if next(given(resource), None) else None

    def _wants_form(self, resource: Json) -> Form | None:
        return (isinstance(resource.get("url"), str) and self.answers.form(resource)) or None

    # ------------------------------------------------------------ Observation

    def _observation(self, resource: Json, item: Item, uses: Uses) -> None:
        if len(uses) == 1 and _PLAIN.issuperset(resource) and self._plain(resource, item, *uses[0]):
            return
        status = self._status(resource, item)
        if status in ("entered-in-error", "cancelled"):
            item.info("dropped-by-status", "status", f"{status}; not used")
            return
        if "related" in resource:
            item.warning("fhir-version", "related", "an element of STU3; ignored, the rest is used")
        when = self._effective(resource, item)
        words = self._note_words(resource, item)
        draw = self._specimen(resource, item)
        parts = item.objects_at(resource, "component")
        sites = self._sites(resource, item)
        base = _Shared(item.label, status, when, words, draw, sites, _begin(resource, when))
        self._part(resource, item, uses, base, "", panel=bool(parts))
        for index, part in enumerate(parts):
            known, sound = self.codes.uses(part.get("code"))
            if not sound and not known:
                item.error("wrong-type", f"component[{index}].code", "no CodeableConcept; not used")
            elif known or "valueCodeableConcept" in part:
                self._part(part, item, known, base, f"component[{index}].", panel=False)

    def _plain(self, resource: Json, item: Item, known: Known, sent: Json) -> bool:
        """Read a result with nothing to it but number and time; False: it takes more care.

        Most results are like this, and the rest of `_observation` would come to the same.
        """
        status, time = resource.get("status"), resource.get("effectiveDateTime")
        if (
            known.analyte is None
            or known.concepts
            or known.question
            or status not in ("final", "amended", "corrected")
            or type(time) is not str
        ):
            return False
        when, fault = parse_time(time)
        if fault or type(resource.get("valueQuantity")) is not dict:
            return False
        value = item.quantity(resource["valueQuantity"], "valueQuantity")
        missing = "" if value is not None else "not-numeric"
        item.values.append(
            Measurement(item.label, known.analyte, known.coding(sent), status, when, value, missing)
        )
        return True

    def _part(
        self, part: Json, item: Item, uses: Uses, base: _Shared, prefix: str, *, panel: bool
    ) -> None:
        """Read an Observation or one of its components."""
        measured = [(known, sent) for known, sent in uses if known.analyte is not None]
        if measured:
            if len({known.analyte for known, _ in measured}) > 1:
                item.error(
                    "code-conflict", f"{prefix}code", "its codes name different analytes; not used"
                )
                return
            self._measurement(part, item, measured[0], base, prefix, panel=panel)
            if len(uses) == 1 and not uses[0][0].concepts and not uses[0][0].question:
                return
        stated = self.codes.at_sites(self._stated(part, item, uses, prefix), base.sites)
        for concept, (shown, present) in stated.items():
            item.values.append(
                Presence(
                    item.label,
                    concept,
                    shown,
                    present,
                    base.onset,
                    base.when,
                    # What began and has no end goes on.
                    lasting=base.onset is not None and base.onset.open,
                    status=base.status,
                    sites=base.sites,
                )
            )

    def _measurement(
        self,
        part: Json,
        item: Item,
        code: tuple[Known, Json],
        base: _Shared,
        prefix: str,
        *,
        panel: bool,
    ) -> None:
        value, missing, path = self._value(part, item, prefix)
        if missing == "no-value":
            if panel:
                return  # its components are the results
            item.info("no-value", prefix.rstrip("."), "a result without value")
        low = high = None
        if "referenceRange" in part:
            low, high = self._range(part, item, prefix)
        item.values.append(
            Measurement(
                item.label,
                code[0].analyte or "",
                code[0].coding(code[1]),
                base.status,
                base.when,
                value,
                missing,
                low,
                high,
                self._flags(part, item, prefix) if "interpretation" in part else (),
                base.draw,
                base.words,
                path,
            )
        )

    def _value(self, part: Json, item: Item, prefix: str) -> tuple[Quantity | None, str, str]:
        """Return the number, why there is none, and the path of the element it stands in."""
        path = f"{prefix}valueQuantity"
        absent = part.get("dataAbsentReason") is not None
        found: Quantity | None = None
        sent = part.get("valueQuantity")
        if sent is not None:
            if absent and isinstance(sent, dict) and sent.get("value") is None:
                return None, "dataAbsentReason", path
            found = item.quantity(sent, path)
        elif part.get("valueInteger") is not None:
            path = f"{prefix}valueInteger"
            found = item.quantity({"value": part["valueInteger"]}, path)
        elif part.get("valueString") is not None:
            path = f"{prefix}valueString"
            text = part["valueString"]
            found = text_quantity(text) if isinstance(text, str) else None
            if found is None:
                item.error("not-numeric", path, "not a plain number with a unit; not used")
            else:
                item.warning("value-from-text", path, "a number with unit read from text; used")
        elif part.get("valueRange") is not None:
            path = f"{prefix}valueRange"
            found = self._value_range(part["valueRange"], item, path)
        else:
            for name in _NOT_NUMERIC:
                if part.get(name) is not None:
                    item.error("not-numeric", prefix + name, "not a number; not used")
                    return None, "not-numeric", prefix + name
            return None, "dataAbsentReason" if absent else "no-value", path
        if found is not None and absent:
            # Invariant obs-6: a reason stands only where there is no value. Often a 0 as filler.
            item.error(
                "value-and-absent-reason", path, "a value with a reason for its absence; not used"
            )
            return None, "dataAbsentReason", path
        return found, "" if found is not None else "not-numeric", path

    def _value_range(self, sent: object, item: Item, path: str) -> Quantity | None:
        """Return a Range as one Quantity; with one end only, it is a comparator."""
        if not isinstance(sent, dict):
            item.error("wrong-type", path, "not a Range; not used")
            return None
        low, high = (
            item.quantity(sent[end], f"{path}.{end}") if sent.get(end) is not None else None
            for end in ("low", "high")
        )
        if (low is None) != (sent.get("low") is None) or (high is None) != (
            sent.get("high") is None
        ):
            return None  # one end is unusable, which has been noted
        if low is not None and high is not None:
            own = [(q.unit, q.code) for q in (low, high) if q.unit or q.code]
            if (low.comparator or high.comparator) or len(set(own)) > 1 or low.value > high.value:
                item.error("not-numeric", path, "its two ends do not make a range; not used")
                return None
            unit, code = own[0] if own else (None, None)
            text = f"{low.value} to {high.value} {unit or code or ''}".rstrip()
            return Quantity(low.value, None, unit, code, text, high.value)
        end, comparator = (low, ">=") if low is not None else (high, "<=")
        if end is None or end.comparator:
            item.error("not-numeric", path, "a range without usable ends; not used")
            return None
        return Quantity(end.value, comparator, end.unit, end.code, f"{comparator}{end.text}")

    def _range(
        self, part: Json, item: Item, prefix: str
    ) -> tuple[Quantity | None, Quantity | None]:
        """Return the laboratory's limits: the first range of type "normal" or without type."""
        for index, each in enumerate(item.objects_at(part, "referenceRange", prefix)):
            path = f"{prefix}referenceRange[{index}]"
            kind = self.codes.codings(each.get("type"), item, f"{path}.type")
            if kind and all(coding.code != "normal" for coding in kind):
                continue
            low, high = (
                item.quantity(each[end], f"{path}.{end}") if each.get(end) is not None else None
                for end in ("low", "high")
            )
            if low is not None or high is not None:
                return low, high
        return None, None

    def _flags(self, part: Json, item: Item, prefix: str) -> tuple[str, ...]:
        sent = part.get("interpretation")
        # Before R4 this was a single CodeableConcept.
        each = (
            (sent,) if isinstance(sent, dict) else item.objects_at(part, "interpretation", prefix)
        )
        return tuple(
            coding.code
            for concept in each
            for coding in self.codes.codings(concept, item, f"{prefix}interpretation")
        )

    def _effective(self, resource: Json, item: Item) -> Instant | None:
        """Return when the value was true of the patient; else when it was issued (noted)."""
        for key in ("effectiveDateTime", "effectiveInstant"):
            if resource.get(key) is not None:
                return item.time_at(resource, key)
        if resource.get("effectivePeriod") is not None:
            return item.period_at(resource, "effectivePeriod", measured=True)
        if resource.get("effectiveTiming") is not None:
            return _timing(resource, "effectiveTiming", item)
        issued = item.time_at(resource, "issued")
        if issued is not None:
            item.warning("date-from-issued", "issued", "no effective time; that of issue is used")
        return issued

    def _specimen(self, resource: Json, item: Item) -> str | None:
        """Return what identifies the draw; a reference to it waits in the item."""
        sent = resource.get("specimen")
        if sent is None:
            return None
        sent = item.object_at(resource, "specimen")
        text = item.text_at(sent, "reference", "specimen.") if sent else None
        if text is None:
            return None
        if text.startswith("#"):
            return item.label + text
        item.specimen = reference(text, item.base)
        if item.specimen is None:
            item.warning("reference-invalid", "specimen.reference", "not a reference; ignored")
            return None
        return item.specimen.literal

    def _note_words(self, resource: Json, item: Item) -> tuple[str, ...]:
        """Return "text:<word>" for each word that matters in what people wrote about the result.

        Contained Specimens are looked through at once; their condition codes come with them.
        """
        if _REMARKS.isdisjoint(resource):
            return ()
        texts: list[object] = [resource.get("comment"), resource.get("comments")]
        remarks = _dicts(resource.get("note")) + _dicts(resource.get("interpretation"))
        for part in _dicts(resource.get("component")):
            remarks += _dicts(part.get("interpretation"))
        texts += [remark.get("text") for remark in remarks]
        found = list(self.words(texts))
        specimen = resource.get("specimen")
        if isinstance(specimen, dict):
            found += self.words([specimen.get("display")])
            text = specimen.get("reference")
            inner = contained(resource, text) if isinstance(text, str) else None
            if inner is not None and inner.get("resourceType") == "Specimen":
                found += self.draw(inner, item).conditions
        return tuple(sorted(set(found)))

    def words(self, texts: list[object]) -> Iterator[str]:
        """Yield "text:<word>" for each word that rules ask for and that is not denied."""
        if self._words is None:
            return
        for text in texts:
            if isinstance(text, str):
                for denied, word in self._words.findall(text):
                    if not denied:
                        yield f"text:{word.lower()}"

    # ------------------------------------------------------------ present or absent

    def _stated(self, part: Json, item: Item, uses: Uses, prefix: str) -> Stated:
        """Return what an Observation or component says of value sets.

        A question says what its coded answer means. A finding is present if the value says so or
        there is none. Whatever the code, a finding as value is present.
        """
        found: Stated = {}
        value = part.get("valueCodeableConcept")
        answers = item.objects_at(value, "coding", prefix) if isinstance(value, dict) else ()
        for known, _ in uses:
            for answer in answers if known.question else ():
                for concept, present in self.codes.answer_of(known, answer):
                    shown = str(answer.get("display") or "")
                    coding = make_coding(self.codes.system(answer["system"]), answer["code"], shown)
                    found.setdefault(concept, (coding, present))
        as_value: Stated = {}
        for known, sent in self.codes.uses(value)[0] if value is not None else ():
            for concept in known.concepts:
                as_value.setdefault(concept, (known.coding(sent), True))
        findings = [(known, sent) for known, sent in uses if known.concepts or known.own]
        if findings and not found:
            clear, verdict = self._verdict(part, item, answers, prefix)
            if clear:
                found.update(_claims(findings, verdict))
            elif not as_value:
                item.warning(
                    "value-not-understood",
                    f"{prefix}value",
                    "neither present nor absent; this finding is not used",
                )
        for concept, stated in as_value.items():
            found.setdefault(concept, stated)
        return found

    def _verdict(
        self, part: Json, item: Item, answers: Sequence[Json], prefix: str
    ) -> tuple[bool, bool | None]:
        """Return whether the value can be understood, and if so: present, absent or unknown."""
        sent = part.get("valueBoolean")
        if isinstance(sent, bool):
            return True, sent
        for answer in answers:
            code = answer.get("code")
            if isinstance(code, str):
                said = self.codes.yes_no.get((self.codes.system(answer.get("system")), code))
                if said is not None:
                    return True, said
        for key, value in part.items():
            if isinstance(key, str) and key.startswith("value") and value is not None:
                return False, None
        if part.get("dataAbsentReason") is not None:
            return True, None
        flags = self._flags(part, item, prefix) if "interpretation" in part else ()
        return True, "NEG" not in flags

    def _sites(self, resource: Json, item: Item) -> tuple[Coding, ...]:
        sent = resource.get("bodySite")
        if sent is None:
            return ()
        each = (sent,) if isinstance(sent, dict) else item.objects_at(resource, "bodySite")
        # One coding for each place, lest its translations count as further places.
        sites = [self.codes.codings(site, item, "bodySite") for site in each]
        return tuple(codings[0] for codings in sites if codings)

    # ------------------------------------------------------------ Condition

    def _condition(self, resource: Json, item: Item, uses: Uses) -> None:
        clinical = self._word(resource, item, "clinicalStatus", CLINICAL)
        verification = self._word(resource, item, "verificationStatus", VERIFICATION)
        if verification == "entered-in-error":
            item.info("dropped-by-status", "verificationStatus", "entered-in-error; not used")
            return
        present: bool | None = True
        status = verification or clinical
        if verification == "refuted":
            present = False
        elif clinical in ("inactive", "remission", "resolved"):
            present, status = False, clinical
        elif not clinical and _abated(resource):
            present, status = False, "resolved"
            item.info("abated", "abatement", "ended, without clinicalStatus; read as resolved")
        elif clinical == "unknown":
            present = None
        onset = item.time_at(resource, "onsetDateTime") or item.period_at(resource, "onsetPeriod")
        recorded = None
        for key in ("recordedDate", "assertedDate", "dateRecorded"):  # R4, STU3, DSTU2
            recorded = recorded or item.time_at(resource, key)
        severity = self.codes.codings(resource.get("severity"), item, "severity")
        sites = self._sites(resource, item)
        how = (self.codes.severities.get((c.system, c.code)) for c in severity)
        severe = next(filter(None, how), None)
        for concept, (coding, claim) in self.codes.at_sites(_claims(uses, present), sites).items():
            item.values.append(
                Presence(
                    item.label,
                    concept,
                    coding,
                    claim,
                    onset,
                    recorded,
                    lasting=True,
                    status=status,
                    sites=sites,
                    severity=severe,
                )
            )

    def _word(self, resource: Json, item: Item, key: str, words: frozenset[str]) -> str:
        """Return a status that is a CodeableConcept, before R4 a plain code; "" if absent."""
        sent = resource.get(key)
        if sent is None:
            return ""
        if isinstance(sent, str):
            item.warning("fhir-version", key, "a plain code as before R4; used")
            found = [sent]
        else:
            found = [coding.code for coding in self.codes.codings(sent, item, key)]
        for word in found:
            if word in words:
                return word
        if found:
            item.warning("status-unknown", key, "not a code of FHIR's list; not used")
        return ""

    # ------------------------------------------------------------ family and answers

    def _family(self, resource: Json, item: Item, _: object) -> None:
        status = self._status(resource, item)
        if status == "entered-in-error":
            item.info("dropped-by-status", "status", "entered-in-error; not used")
            return
        recorded = item.time_at(resource, "date")
        for index, each in enumerate(item.objects_at(resource, "condition")):
            uses, sound = self.codes.uses(each.get("code"))
            if not sound:
                item.error("wrong-type", f"condition[{index}].code", "no CodeableConcept; not used")
            for concept, (coding, claim) in _claims(uses, True).items():
                item.values.append(
                    Presence(
                        item.label,
                        concept,
                        coding,
                        claim,
                        None,
                        recorded,
                        lasting=True,
                        status=status,
                        relative=True,
                    )
                )

    def _answers(self, resource: Json, item: Item, _: object) -> None:
        """Read a response; the codes of its questions may come from a Questionnaire."""
        status = self._status(resource, item)
        if status == "entered-in-error":
            item.info("dropped-by-status", "status", "entered-in-error; not used")
            return
        named = resource.get("questionnaire")
        url = named if isinstance(named, str) else ""
        inner = contained(resource, url) if url.startswith("#") else None
        form = self.answers.form(inner) if inner is not None else {}
        waiting = Unanswered(url.partition("|")[0], resource, status, len(item.problems))
        if self.answers.read(resource, item, status, form) and url and inner is None:
            item.form = waiting

    def read_again(self, item: Item, form: Form) -> None:
        """Read a response with the codes that a Questionnaire gives to its questions."""
        if item.form is not None:
            item.values.clear()
            del item.problems[item.form.problems :]
            self.answers.read(item.form.response, item, item.form.status, form)

    def _answer(
        self, part: Json, item: Item, uses: Uses, status: str, when: Instant | None
    ) -> None:
        base = _Shared(item.label, status, when, (), None, (), None)
        self._part(part, item, uses, base, "item.answer.", panel=False)

    def _form(self, resource: Json, item: Item, form: Form) -> None:
        item.values.append((str(resource["url"]).partition("|")[0], form))

    # ------------------------------------------------------------ medicines

    def _medication_use(self, resource: Json, item: Item, _: object) -> None:
        status = self._status(resource, item)
        if status == "entered-in-error":
            item.info("dropped-by-status", "status", "entered-in-error; not used")
            return
        if resource.get("doNotPerform") is True:
            item.info("dropped-by-status", "doNotPerform", "an order not to give it; not used")
            return
        statement = item.type == "MedicationStatement"
        drug, shown = self._named(resource, item)
        if item.drug is None and not drug.codings and not drug.text:
            raise Unreadable("it names no medication")
        if statement:
            status = self._adherence(resource, item, status)
            period = (
                item.period_at(resource, "effectivePeriod")
                or item.time_at(resource, "effectiveDateTime")
                or _timing(resource, "effectiveTiming", item)
            )
            authored, intent, doses = item.time_at(resource, "dateAsserted"), "", "dosage"
        else:
            period = item.period_at(resource, "effectiveDosePeriod")  # R5
            doses = "dosageInstruction"
            authored = item.time_at(resource, "authoredOn")
            intent = item.text_at(resource, "intent") or ""
            if intent not in INTENTS:
                item.warning("status-unknown", "intent", "not a code of FHIR's list; kept as sent")
        route: Coding | None = None
        bounds: list[Instant] = []
        dosages = item.objects_at(resource, doses)
        for index, dose in enumerate(dosages):
            path = f"{doses}[{index}]."
            route = route or self._route(dose.get("route"), item, f"{path}route")
            timing = item.object_at(dose, "timing", path)
            repeat = item.object_at(timing, "repeat", f"{path}timing.") if timing else None
            bound = item.period_at(repeat, "boundsPeriod", path) if repeat else None
            if bound is not None:
                bounds.append(bound)
        if period is None and bounds:
            period = _hull(bounds)
        item.values.append(
            MedicationUse(
                item.label,
                drug.codings,
                drug.text or shown,
                status,
                intent,
                period,
                authored,
                route,
                request=not statement,
                dose=_daily(dosages, item, doses) if dosages else None,
            )
        )

    def _route(self, sent: object, item: Item, path: str) -> Coding | None:
        """Return dosage.route: its first coding, with its text where that has no name."""
        if sent is None:
            return None
        codings, text = self.codes.codings(sent, item, path), _text(sent)
        if codings:
            return codings[0] if codings[0].display else replace(codings[0], display=text)
        return make_coding("", "", text) if text else None

    def _named(self, resource: Json, item: Item) -> tuple[Drug, str]:
        """Return the medication and a name shown beside a reference; a reference may wait."""
        concept, link = resource.get("medicationCodeableConcept"), None
        path = "medicationCodeableConcept"
        if concept is None:
            link = item.object_at(resource, "medicationReference")
            both = item.object_at(resource, "medication")  # R5: CodeableReference
            if both is not None:
                path = "medication.concept"
                concept = both.get("concept")
                link = item.object_at(both, "reference", "medication.")
        if concept is not None:
            return Drug(tuple(self.codes.codings(concept, item, path)), _text(concept)), ""
        if link is None:
            return Drug((), ""), ""
        shown = item.text_at(link, "display", "medicationReference.") or ""
        text = item.text_at(link, "reference", "medicationReference.")
        if text is None:
            return Drug((), shown), shown
        if text.startswith("#") and identifier(text[1:]):
            inner = contained(resource, text)
            if inner is not None:
                return self.drug(inner, item, resource), shown
            item.drug = Ref(text, "", "", "")  # leads nowhere; said so when references are resolved
        else:
            item.drug = reference(text, item.base)
            if item.drug is None:
                item.warning("reference-invalid", path, "not a reference; its display is used")
        return Drug((), shown), shown

    def _medication(self, resource: Json, item: Item, _: object) -> None:
        item.values.append(self.drug(resource, item))

    def drug(self, medication: Json, item: Item, holder: Json | None = None) -> Drug:
        """Return the codes of a Medication with those of its active ingredients."""
        found = self.codes.codings(medication.get("code"), item, "code")
        parts: list[Ref] = []
        for each in item.objects_at(medication, "ingredient"):
            if each.get("isActive") is False:
                continue
            link = each.get("itemReference")
            concept = each.get("itemCodeableConcept")
            both = each.get("item")  # R5: CodeableReference
            if isinstance(both, dict):
                concept, link = both.get("concept"), both.get("reference")
            if concept is not None:
                found += self.codes.codings(concept, item, "ingredient.item")
            text = link.get("reference") if isinstance(link, dict) else None
            if not isinstance(text, str):
                continue
            if text.startswith("#"):
                inner = contained(medication, text) or contained(holder or {}, text)
                if inner is not None:
                    found += self.codes.codings(inner.get("code"), item, "code")
            elif (part := reference(text, item.base)) is not None:
                parts.append(part)
        return Drug(tuple(dict.fromkeys(found)), _text(medication.get("code")), tuple(parts))

    def _adherence(self, resource: Json, item: Item, status: str) -> str:
        """Return the status in the words of R4, whatever the version says it with."""
        if resource.get("taken") is not None:
            item.warning("fhir-version", "taken", "an element of STU3; n is read as not-taken")
            return "not-taken" if resource["taken"] == "n" else status
        adherence = item.object_at(resource, "adherence")
        if status != "recorded" or adherence is None:
            return status
        for coding in self.codes.codings(adherence.get("code"), item, "adherence.code"):
            for word, meaning in _ADHERENCE.items():
                if coding.code == word or coding.code.startswith(f"{word}-"):
                    return meaning
        return status

    # ------------------------------------------------------------ Patient, Specimen, status

    def _person(self, resource: Json, item: Item, _: object) -> None:
        item.values.append(self.person(resource, item))

    def person(self, resource: Json, item: Item) -> Person:
        """Return what rules need of a Patient."""
        sex = item.text_at(resource, "gender")
        if sex is not None and sex not in GENDERS:
            item.warning("status-unknown", "gender", "not a code of FHIR's list; not used")
            sex = None
        deceased: Instant | bool | None = item.time_at(resource, "deceasedDateTime")
        if deceased is None:
            flag = resource.get("deceasedBoolean")
            if flag is not None and not isinstance(flag, bool):
                item.error("wrong-type", "deceasedBoolean", "neither true nor false; not used")
            deceased = flag if isinstance(flag, bool) else None
        return Person(item.time_at(resource, "birthDate"), sex, deceased)

    def _draw(self, resource: Json, item: Item, _: object) -> None:
        item.values.append(self.draw(resource, item))

    def draw(self, resource: Json, item: Item) -> Draw:
        """Return what a Specimen says of its condition."""
        found: list[str] = []
        texts: list[object] = [note.get("text") for note in _dicts(resource.get("note"))]
        for each in _dicts(resource.get("condition")):
            found += [coding.code for coding in self.codes.codings(each, item, "condition")]
            texts.append(each.get("text"))
            texts += [coding.get("display") for coding in _dicts(each.get("coding"))]
        found += self.words(texts)
        return Draw(tuple(sorted(set(found))))

    def _status(self, resource: Json, item: Item) -> str:
        status = item.text_at(resource, "status") or ""
        if status not in STATUSES[item.type]:
            what = "not a code of FHIR's list; kept as sent" if status else "missing"
            item.warning("status-unknown", "status", what)
        return status


class _Shared(NamedTuple):
    """What all results of one Observation have in common."""

    label: str
    status: str
    when: Instant | None
    words: tuple[str, ...]
    draw: str | None
    sites: tuple[Coding, ...]
    onset: Instant | None  # where the time is a period, when it began


_PLAIN: Final = frozenset(
    "resourceType id meta text language status category code subject encounter focus performer"
    " effectiveDateTime issued valueQuantity basedOn identifier method device extension".split()
)
_REMARKS: Final = frozenset(
    ("note", "interpretation", "specimen", "comment", "comments", "component")
)


_HOURS: Final = {"h": 1, "d": 24, "wk": 168}
_FAR: Final = 9  # powers of ten beyond which a number is no dose


def _always(_: Json) -> tuple[()]:
    """Every medicine may matter, also one that only its text names."""
    return ()


def _old(_: Json) -> None:
    raise Unreadable("a resource of DSTU2; send R4 or R5 (MedicationRequest)")


def _only_questions(uses: Uses) -> bool:
    return all(known.only_question for known, _ in uses)


def _dicts(value: object) -> list[dict[str, Any]]:
    """The objects in a list, or the one object; nothing for anything else."""
    each = value if isinstance(value, list | tuple) else (value,)
    return [one for one in each if isinstance(one, dict)]


def _text(concept: object) -> str:
    """The name that people gave a CodeableConcept: its text, else a display."""
    if not isinstance(concept, dict):
        return ""
    for text in (concept.get("text"), *(c.get("display") for c in _dicts(concept.get("coding")))):
        if isinstance(text, str) and text.strip():
            return text.strip()
    return ""


def contained(holder: Json, link: str) -> Json | None:
    """Return the contained resource that "#id" points to, or None."""
    for inner in _dicts(holder.get("contained")):
        if identifier(inner.get("id")) == link[1:] or inner.get("id") == link:
            return inner
    return None


def _claims(uses: Uses, present: bool | None) -> Stated:
    """Return what codes say when stated as present, absent or unknown.

    Presence holds for every set that includes the code; a denial only for those that list it.
    """
    found: Stated = {}
    for known, sent in uses:
        for concept in known.concepts if present else known.own:
            found.setdefault(concept, (known.coding(sent), present))
    return found


def _abated(resource: Json) -> bool:
    """Whether a Condition says that it ended, in whatever form."""
    return any(
        isinstance(key, str) and key.startswith("abatement") and sent not in (None, False)
        for key, sent in resource.items()
    )


def _timing(resource: Json, key: str, item: Item) -> Instant | None:
    """Return the span of a Timing: of its events, else of its bounds."""
    timing = item.object_at(resource, key)
    if timing is None:
        return None
    sent = timing.get("event")
    events = [
        item.time_at({"event": event}, "event", f"{key}.")
        for event in (sent if isinstance(sent, list) else [sent])
    ]
    known = [event for event in events if event is not None]
    if known:
        return _hull(known)
    repeat = item.object_at(timing, "repeat", f"{key}.")
    return item.period_at(repeat, "boundsPeriod", f"{key}.repeat.") if repeat else None


def _begin(resource: Json, when: Instant | None) -> Instant | None:
    """The time at which what an Observation saw over a period began, `open` if it goes on."""
    begin = when.text.partition("/")[0] if when and resource.get("effectivePeriod") else ""
    return Instant(when.start, when.start, begin, when.open) if when and begin else None


def _daily(dosages: Sequence[Json], item: Item, path: str) -> Quantity | None:
    """Return what is taken on one day, where every dosage says how much and how often.

    None for what is taken as needed, changes from step to step, or is a range.
    """
    total: Quantity | None = None
    if len({str(dose.get("sequence")) for dose in dosages}) > 1:
        return None
    for index, dose in enumerate(dosages):
        timing = dose.get("timing")
        repeat = timing.get("repeat") if isinstance(timing, dict) else None
        if not isinstance(repeat, dict) or dose.get("asNeededBoolean") or dose.get("asNeeded"):
            return None
        rates = _dicts(dose["doseAndRate"]) if "doseAndRate" in dose else (dose,)
        sent = [rate["doseQuantity"] for rate in rates if "doseQuantity" in rate]
        times = _times_a_day(repeat)
        if len(sent) != 1 or times is None:
            return None
        each = item.quantity(sent[0], f"{path}[{index}].doseQuantity")
        if each is None or each.comparator or abs(each.value.adjusted()) > _FAR:
            return None
        if total is not None and (total.unit, total.code) != (each.unit, each.code):
            return None
        amount = each.value * times + (total.value if total is not None else 0)
        total = replace(each, value=amount, text=f"{amount} {each.unit or each.code or ''}".strip())
    return total


def _times_a_day(repeat: Json) -> Decimal | None:
    """Return how often a day a Timing.repeat says (R4: frequency in period of periodUnit)."""
    hours = _HOURS.get(str(repeat.get("periodUnit")))
    period, frequency = number(repeat.get("period")), number(repeat.get("frequency", 1))
    unclear = any(repeat.get(key) is not None for key in ("periodMax", "frequencyMax"))
    if hours is None or period is None or frequency is None or unclear:
        return None
    if period <= 0 or frequency <= 0 or max(period.adjusted(), frequency.adjusted()) > _FAR:
        return None
    return frequency * 24 / (period * hours)


def _hull(spans: list[Instant]) -> Instant:
    """The time from the earliest begin to the latest end."""
    if len(spans) == 1:
        return spans[0]
    first, last = min(spans, key=lambda s: s.start), max(spans, key=lambda s: (s.open, s.end))
    still = any(span.open for span in spans)
    end = max(span.end for span in spans)
    return Instant(
        first.start, end, f"{first.text.split('/')[0]}/{last.text.split('/')[-1]}", still
    )
