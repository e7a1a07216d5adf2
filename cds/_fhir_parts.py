"""The small parts that FHIR resources are made of: times, numbers, references, codings.

Every helper takes any JSON value where FHIR promises a certain one: what is of the wrong type is
noted as a problem of the resource and then treated as absent; nothing raises for it but
`Unreadable`, which means that the whole resource is of no use.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol

from cds.errors import FhirInputError
from cds.model import Coding, Instant, Problem, Quantity
from cds.questionnaires import Questionnaire

__all__ = [
    "EARLIEST",
    "Codes",
    "Item",
    "Json",
    "Known",
    "Ref",
    "Stated",
    "Terms",
    "Unanswered",
    "Unreadable",
    "identifier",
    "make_coding",
    "number",
    "parse_time",
    "reference",
    "server_of",
    "text_quantity",
]

Json = Mapping[str, Any]

EARLIEST: Final = -62_135_596_800  # 0001-01-01T00:00:00Z, the begin of a Period without start


class Unreadable(FhirInputError):
    """A resource of which nothing can be used; the message says why."""


# ---------------------------------------------------------------- times

_TIME: Final = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.\d+)?)?"
    r"(Z|[+-]\d\d:\d\d)?)?)?)?",
    re.ASCII,
)
_EPOCH: Final = date(1970, 1, 1).toordinal()


@lru_cache(maxsize=2048)
def parse_time(text: str) -> tuple[Instant | None, str]:
    """Return a FHIR date, dateTime or instant of any precision, and what is wrong with it.

    The fault is "" or "zone" (a time of day without a zone, read as UTC) or "invalid" (no
    instant). A leap second is the second after. Source: FHIR R4 section 2.24.0.1.

    >>> parse_time("2026-02")
    (Instant(start=1769904000, end=1772323199, text='2026-02', open=False), '')
    """
    match = _TIME.fullmatch(text)
    if match is None:
        return None, "invalid"
    year, month, day, hour, minute, second, zone = match.groups()
    try:
        first = date(int(year), int(month or 1), int(day or 1)).toordinal()
        if day:
            days = 1
        elif month:
            days = _month_after(int(year), int(month)) - first
        else:
            days = _month_after(int(year), 12) - first
    except ValueError:
        return None, "invalid"
    start = (first - _EPOCH) * 86_400
    if hour is None:
        return Instant(start, start + days * 86_400 - 1, text), ""
    if int(hour) > 23 or int(minute) > 59 or int(second or 0) > 60:
        return None, "invalid"
    start += int(hour) * 3600 + int(minute) * 60 + int(second or 0)
    if zone and zone != "Z":
        hours, minutes = int(zone[1:3]), int(zone[4:])
        if hours > 14 or minutes > 59:
            return None, "invalid"
        offset = hours * 3600 + minutes * 60
        start += offset if zone[0] == "-" else -offset
    return Instant(start, start if second else start + 59, text), "" if zone else "zone"


def _month_after(year: int, month: int) -> int:
    if year == 9999 and month == 12:
        return date(9999, 12, 31).toordinal() + 1
    return date(year + month // 12, month % 12 + 1, 1).toordinal()


# ---------------------------------------------------------------- numbers

_NUMBER: Final = re.compile(r"[+-]?\d{1,30}(?:\.\d{1,30})?", re.ASCII)
_MEASURED: Final = re.compile(
    r"\s*(<=|>=|<|>)?\s*([+-]?\d{1,30}(?:\.\d{1,30})?)\s*"  # comparator, number
    r"([A-Za-zµμ%{\[/]\S{0,30}(?: [A-Za-z]\S{0,11})?)?\s*",  # unit, at most two words
    re.ASCII,
)


def number(value: object) -> Decimal | None:
    """Return a JSON number exactly as written (shortest form), or None for anything else.

    Text, NaN, Infinity and numbers of more than some 400 digits are no numbers here.
    """
    if type(value) is float:
        return Decimal(repr(value)) if math.isfinite(value) else None
    if type(value) is int:
        return Decimal(value) if value.bit_length() < 1200 else None
    if isinstance(value, Decimal):
        return value if value.is_finite() and abs(value.adjusted()) < 400 else None
    return None


def text_number(value: object) -> Decimal | None:
    """Return a number that was sent as plain text ("2.4"), or None; no exponent, no comma."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return Decimal(value.strip())
    return None


def text_quantity(text: str) -> Quantity | None:
    """Return the result that a text plainly states ("<0.01 mIU/L"), or None.

    A decimal comma is refused: "1,234" may be two different numbers.
    """
    match = _MEASURED.fullmatch(text)
    if match is None:
        return None
    comparator, digits, unit = match.groups()
    return Quantity(Decimal(digits), comparator, unit, None, text.strip())


# ---------------------------------------------------------------- references

# Wider than FHIR's id, because senders are; never blanks, control characters or half characters.
_ID: Final = r"[^\s/?#|\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,128}"
_REFERENCE: Final = re.compile(
    rf"(?:(https?://[^\s?#|]+?)/)?([A-Z][A-Za-z]{{1,60}})/({_ID})(?:/_history/{_ID})?(?:#\S*)?"
)
_URN: Final = re.compile(r"urn:(?:uuid|oid):[^\s/?#|]{1,128}", re.IGNORECASE)
_ONE_ID: Final = re.compile(_ID)


class Ref(NamedTuple):
    """A reference taken apart.

    `literal` is the whole without version; `base` the server ("" where not known), `type` and
    `id` are "" for a ``urn:``.
    """

    literal: str
    base: str
    type: str
    id: str


@lru_cache(maxsize=1024)
def reference(text: str, base: str = "") -> Ref | None:
    """Take a literal reference apart; None where it is none (a search, free text).

    `base` is the server that a relative reference belongs to. A fragment of the target is
    ignored, and so is its version. Source: FHIR R4 section 2.3.0 (References), Bundle section
    "Resolving references in Bundles".
    """
    match = _REFERENCE.fullmatch(text)
    if match is not None:
        server, kind, key = match[1] or base, match[2], match[3]
        return Ref(f"{server}/{kind}/{key}" if server else f"{kind}/{key}", server, kind, key)
    if _URN.fullmatch(text):
        return Ref(text.lower(), "", "", "")
    return None


def server_of(full_url: object) -> str:
    """Return the server that an entry's ``fullUrl`` names, "" for a ``urn:`` or none.

    >>> server_of("https://example.org/fhir/Observation/1")
    'https://example.org/fhir'
    """
    if not isinstance(full_url, str) or not full_url.startswith(("http:", "https:")):
        return ""
    parts = full_url.partition("/_history/")[0].rsplit("/", 2)
    return parts[0] if len(parts) == 3 and parts[1][:1].isupper() else ""


def identifier(value: object) -> str | None:
    """Return a resource id as text, also where it was sent as a number; None for no id."""
    if type(value) is int and value.bit_length() < 256:
        return str(value)
    if not isinstance(value, str):
        return None
    if value.isascii() and len(value) <= 128 and value.replace("-", "").isalnum():
        return value  # what nearly every id is, without the cost of the pattern
    return value if _ONE_ID.fullmatch(value) else None


# ---------------------------------------------------------------- one resource being read


class Unanswered(NamedTuple):
    """A response whose questions may have codes in a Questionnaire of the same scope.

    `url` is the canonical of that, `problems` how many the item had before it was read.
    """

    url: str
    response: Json
    status: str
    problems: int


class Item:
    """One resource on its way: what was read of it, and what was wrong with it.

    `label` is the reference that every value and problem carries, `base` the server it is on
    ("" where not known). The references that only the whole scope can resolve wait in
    `subject`, `specimen`, `drug` and `form` (the questionnaire that was answered); `orphan` says
    why there is no usable subject, `inner` is a contained Patient.
    """

    __slots__ = (
        "base",
        "drug",
        "form",
        "index",
        "inner",
        "label",
        "meta",
        "orphan",
        "problems",
        "specimen",
        "subject",
        "type",
        "values",
        "where",
    )

    def __init__(self, kind: str, label: str) -> None:
        self.type, self.label = kind, label
        self.base = self.orphan = self.where = ""
        self.index = -1
        self.meta: object = None
        self.values: list[Any] = []
        self.problems: list[Problem] = []
        self.inner: Json | None = None
        self.subject: Ref | None = None
        self.specimen: Ref | None = None
        self.drug: Ref | None = None
        self.form: Unanswered | None = None

    def error(self, code: str, path: str, message: str) -> None:
        """Note that an element was not used."""
        self.problems.append(Problem("error", code, self.label, path, message))

    def warning(self, code: str, path: str, message: str) -> None:
        """Note an element that was used with the stated reading."""
        self.problems.append(Problem("warning", code, self.label, path, message))

    def info(self, code: str, path: str, message: str) -> None:
        """Note something worth knowing."""
        self.problems.append(Problem("info", code, self.label, path, message))

    # ------------------------------------------------------------ elements of a stated type

    def object_at(self, owner: Json, key: str, prefix: str = "") -> Json | None:
        """Return an element that must be an object, or None."""
        value = owner.get(key)
        if value is None or isinstance(value, dict):
            return value
        self.error("wrong-type", prefix + key, "not an object; not used")
        return None

    def objects_at(self, owner: Json, key: str, prefix: str = "") -> Sequence[Json]:
        """Return an element that must be a list of objects; a single object is taken as one."""
        value = owner.get(key)
        if value is None:
            return ()
        if isinstance(value, dict):
            self.warning("wrong-type", prefix + key, "one object where a list belongs; used")
            return (value,)
        if not isinstance(value, list | tuple):
            self.error("wrong-type", prefix + key, "not a list; not used")
            return ()
        found = [each for each in value if isinstance(each, dict)]
        if len(found) < len(value):
            self.error("wrong-type", prefix + key, "a member is not an object; not used")
        return found

    def text_at(self, owner: Json, key: str, prefix: str = "") -> str | None:
        """Return an element that must be text, or None."""
        value = owner.get(key)
        if value is None or isinstance(value, str):
            return value
        self.error("wrong-type", prefix + key, "not text; not used")
        return None

    def time_at(self, owner: Json, key: str, prefix: str = "") -> Instant | None:
        """Return a date, dateTime or instant; None where it is absent or invalid (noted)."""
        value = owner.get(key)
        if value is None:
            return None
        if isinstance(value, date):  # in a dict that was made from Python objects
            value = value.isoformat()
        when, fault = parse_time(value) if isinstance(value, str) else (None, "invalid")
        if fault == "invalid":
            self.error("date-invalid", prefix + key, "not a FHIR date or dateTime; not used")
        elif fault:
            self.warning("time-zone-missing", prefix + key, "a time without zone; read as UTC")
        return when

    def period_at(
        self, owner: Json, key: str, prefix: str = "", *, measured: bool = False
    ) -> Instant | None:
        """Return a Period from its first to its last second.

        Without end it is `open` and ends as its start does. Without start it begins at
        `EARLIEST`, or, where something was `measured`, when it ended.
        """
        period = self.object_at(owner, key, prefix)
        if period is None:
            return None
        inner = f"{prefix}{key}."
        start = self.time_at(period, "start", inner)
        end = self.time_at(period, "end", inner)
        if (start is None and period.get("start") is not None) or (
            end is None and period.get("end") is not None
        ):
            return None  # half of it is invalid, which has been noted
        if start is None:
            if end is None:
                return None
            begin = end.start if measured else EARLIEST
            return Instant(begin, end.end, f"/{end.text}")
        if end is None:
            return Instant(start.start, start.end, f"{start.text}/", open=True)
        if end.end < start.start:
            self.error("date-invalid", prefix + key, "the period ends before it begins; not used")
            return None
        return Instant(start.start, end.end, f"{start.text}/{end.text}")

    # ------------------------------------------------------------ quantities

    def quantity(self, value: object, path: str) -> Quantity | None:
        """Return a Quantity that carries a number; None (noted) for anything else."""
        if not isinstance(value, dict):
            self.error("wrong-type", path, "not a Quantity; not used")
            return None
        raw = value.get("value")
        amount = number(raw)
        if amount is None:
            amount = text_number(raw)
            if amount is None:
                self.error("not-numeric", f"{path}.value", "no number that can be used")
                return None
            self.warning("value-as-text", f"{path}.value", "a number sent as text; used")
        comparator = value.get("comparator")
        if comparator is not None and comparator not in ("<", "<=", ">=", ">"):
            self.error("comparator-unknown", f"{path}.comparator", "unknown; value not used")
            return None
        unit, code, system = value.get("unit"), value.get("code"), value.get("system")
        if unit is not None and not isinstance(unit, str):
            self.error("wrong-type", f"{path}.unit", "not text; not used")
            unit = None
        if code is not None and not isinstance(code, str):
            self.error("wrong-type", f"{path}.code", "not text; not used")
            code = None
        if system is not None and system != _UCUM:
            # A code of another system is no unit of ours; the unit's text may still be.
            code = code if isinstance(system, str) and system.rstrip("/") in _UCUM_TOO else None
        text = f"{comparator or ''}{amount!s} {unit or code or ''}".rstrip()
        return Quantity(amount, comparator, unit, code, text)


_UCUM: Final = "http://unitsofmeasure.org"
_UCUM_TOO: Final = (_UCUM, "https://unitsofmeasure.org", "urn:oid:2.16.840.1.113883.6.8")


# ---------------------------------------------------------------- codings


class Terms(Protocol):
    """What reading asks of `cds.terminology.Terminology`."""

    @property
    def questions(self) -> frozenset[tuple[str, str]]:
        """Questions whose coded answers matter."""

    @property
    def yes_no(self) -> Mapping[tuple[str, str], bool]:
        """Codes that say yes (True) or no whatever was asked."""

    @property
    def severities(self) -> Mapping[tuple[str, str], str]:
        """Codes that say how severe something is."""

    @property
    def sites(self) -> Mapping[tuple[str, str, str], tuple[frozenset[str], tuple[str, ...]]]:
        """What a finding becomes at a place of the body."""

    @property
    def questionnaires(self) -> Mapping[str, Questionnaire]:
        """What answers to questionnaires mean, by canonical URL."""

    @property
    def nothing(self) -> frozenset[str]:
        """Texts in the place of a medicine that name none."""

    @property
    def note_words(self) -> tuple[str, ...]:
        """Words of a note that matter."""

    def canonical_system(self, uri: str) -> str:
        """The FHIR URI of a code system sent under another name."""

    def analyte_of(self, system: str, code: str) -> str | None:
        """The analyte of a code."""

    def concepts_of(self, system: str, code: str) -> tuple[str, ...]:
        """The value sets that a code stands in, with those that include them."""

    def own_concepts_of(self, system: str, code: str) -> tuple[str, ...]:
        """The value sets that list exactly this code: what its denial denies."""

    def kind_of(self, concept: str) -> str:
        """The kind of a value set."""

    def answer_of(
        self, question_system: str, question_code: str, answer_system: str, answer_code: str
    ) -> tuple[tuple[str, bool], ...]:
        """What a coded answer says."""


class Known(NamedTuple):
    """What the rules know of one code: `system` is the FHIR URI, `own` what a denial denies."""

    system: str
    code: str
    analyte: str | None
    concepts: tuple[str, ...]
    own: tuple[str, ...]
    question: bool
    only_question: bool  # says nothing without its coded answer

    def coding(self, sent: Json) -> Coding:
        """The coding as sent, under the FHIR URI of its system."""
        display = sent.get("display")
        return make_coding(self.system, self.code, display if isinstance(display, str) else "")


@lru_cache(maxsize=4096)
def make_coding(system: str, code: str, display: str) -> Coding:
    """The Coding of these three; the same few come again and again."""
    return Coding(system, code, display)


Stated = dict[str, tuple[Coding, bool | None]]
"""What one resource says: (value set, coding, present); None where the sender does not know."""

Uses = list[tuple[Known, Json]]
"""Codings of one CodeableConcept that rules know, as sent."""

_MANY: Final = 16_384  # more distinct codes than any sender uses; keeps the memory bounded


class Codes:
    """Looks codes up, one dict hit for each code seen before.

    Args:
        terms: the loaded terminology.
        wanted: the analytes and value sets that the loaded rules need; None for all.
    """

    def __init__(self, terms: Terms, wanted: Collection[str] | None) -> None:
        self._terms = terms
        self.yes_no, self.severities = terms.yes_no, terms.severities
        self._wanted = None if wanted is None else frozenset(wanted)
        # By system and code as sent; None for a code that no rule asks for.
        self.seen: dict[tuple[str, str], Known | None] = {}
        # Not asked for, but known: two analytes in one resource are a conflict all the same.
        self._idle: dict[tuple[str, str], Known] = {}
        self.said: dict[tuple[str, str, str, str], tuple[tuple[str, bool], ...]] = {}

    def system(self, uri: object) -> str:
        """The FHIR URI of a code system, "" where none was sent."""
        return self._terms.canonical_system(uri) if isinstance(uri, str) else ""

    def uses(self, concept: object) -> tuple[Uses, bool]:
        """Return the codings of a CodeableConcept that rules know, and whether it was sound.

        Without one that is wanted there are none.
        """
        try:
            # One coding, seen before: by far the most common.
            (coding,) = concept["coding"]  # type: ignore[index]  # what else it is, raises
            known = self.seen[coding["system"], coding["code"]]
        except (KeyError, TypeError, ValueError, IndexError):
            return self._all_uses(concept)
        return ([(known, coding)] if known is not None else []), True

    def _all_uses(self, concept: object) -> tuple[Uses, bool]:
        codings = concept.get("coding", ()) if isinstance(concept, dict) else None
        if isinstance(codings, dict):
            codings = [codings]
        if not isinstance(codings, list | tuple):
            return [], False
        found: Uses = []
        sound, wanted = True, False
        for coding in codings:
            if not isinstance(coding, dict):
                sound = False
                continue
            system, code = coding.get("system"), coding.get("code")
            if isinstance(system, str) and isinstance(code, str):
                known = self._known(system, code)
                wanted = wanted or known is not None
                known = known or self._idle.get((system, code))
                if known is not None:
                    found.append((known, coding))
            elif system is not None and code is not None:
                sound = False
        return found if wanted else [], sound

    def _known(self, sent: str, code: str) -> Known | None:
        key = (sent, code)
        if key in self.seen:
            return self.seen[key]
        terms = self._terms
        system = terms.canonical_system(sent)
        analyte = terms.analyte_of(system, code)
        concepts = self._findings(terms.concepts_of(system, code))
        own = self._findings(terms.own_concepts_of(system, code))
        question = (system, code) in terms.questions
        if len(self.seen) >= _MANY:
            self.seen.clear()
            self._idle.clear()
        bare = question and not (analyte or concepts or own)
        known = Known(system, code, analyte, concepts, own, question, bare)
        asked = analyte is not None and (self._wanted is None or analyte in self._wanted)
        if asked or concepts or own or question:
            self.seen[key] = known
            return known
        if analyte is not None:
            self._idle[key] = known
        self.seen[key] = None
        return None

    def _findings(self, concepts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            concept
            for concept in concepts
            if (self._wanted is None or concept in self._wanted)
            and self._terms.kind_of(concept) != "medication"
        )

    def answer_of(self, question: Known, answer: Json) -> tuple[tuple[str, bool], ...]:
        """What a Coding says as the answer to a question: (concept, present)."""
        sent, code = answer.get("system"), answer.get("code")
        if not isinstance(sent, str) or not isinstance(code, str):
            return ()
        key = (question.system, question.code, sent, code)
        said = self.said.get(key)
        if said is None:
            system = self._terms.canonical_system(sent)
            found = self._terms.answer_of(question.system, question.code, system, code)
            said = tuple(s for s in found if self._wanted is None or s[0] in self._wanted)
            if len(self.said) >= _MANY:
                self.said.clear()
            self.said[key] = said
        return said

    def at_sites(self, stated: Stated, sites: Sequence[Coding]) -> Stated:
        """Return what is stated, with what is special about all these places of the body.

        A twitch of the eyelid alone is an eyelid twitch and no other; one of eyelid and leg is
        a twitch. A denial stays what it is.
        """
        changed = stated
        for concept, (coding, present) in stated.items() if sites else ():
            found = {self._terms.sites.get((concept, s.system, s.code)) for s in sites}
            special = found.pop() if len(found) == 1 else None
            if special is not None and present:
                gone, holds = special
                changed = {name: said for name, said in changed.items() if name not in gone}
                changed |= {name: (coding, present) for name in self._findings(holds)}
        return changed

    def codings(self, concept: object, item: Item, path: str) -> list[Coding]:
        """Return every coding of a CodeableConcept, known to rules or not."""
        if concept is None:
            return []
        if not isinstance(concept, dict):
            item.error("wrong-type", path, "not a CodeableConcept; not used")
            return []
        found: list[Coding] = []
        for sent in item.objects_at(concept, "coding", f"{path}."):
            code, display = sent.get("code"), sent.get("display")
            if isinstance(code, str):
                shown = display if isinstance(display, str) else ""
                found.append(make_coding(self.system(sent.get("system")), code, shown))
            elif code is not None:
                item.error("wrong-type", f"{path}.coding.code", "not text; not used")
        return found
