"""One world of references: whose each resource is, which version counts, what it refers to.

A `Scope` takes resources in one by one, keeps only what was read of them, and gives one `Record` a
patient in the end. In doubt two patients are kept apart, never put together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Final, NamedTuple

from cds._fhir_answers import Form
from cds._fhir_json import Doubled
from cds._fhir_parts import (
    Item,
    Json,
    Ref,
    Unreadable,
    identifier,
    parse_time,
    reference,
    server_of,
)
from cds._fhir_resources import Drug, Kind, Person, Resources, contained
from cds.model import Measurement, MedicationUse, Presence, Problem, Record

__all__ = ["NOT_FHIR", "ReadLog", "Rejected", "Scope", "Twins", "place_of"]

NOT_FHIR: Final = "not FHIR"
_TYPE_NAME: Final = re.compile(r"[A-Z][A-Za-z]{2,50}")

_VERSION: Final = re.compile(r"\d{1,18}", re.ASCII)


@dataclass(slots=True)
class Rejected:
    """A file, line, entry or resource that could not be used at all, and why.

    `where` is a file with line or entry ("a.ndjson:3", "b.json entry[4]"), followed by the
    reference of the resource where that is known.
    """

    where: str
    message: str


@dataclass(slots=True)
class ReadLog:
    """What became of everything that was sent; grows while reading.

    `resources` counts every resource, and every file, line or entry that could not be read as
    one: ``resources == used + sum(skipped.values()) + len(rejected)``. `skipped` counts what no
    rule can use, by type or as "not FHIR". `files` counts the files that could be opened.
    `problems` are those that belong to no patient.
    """

    rejected: list[Rejected] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    resources: int = 0
    files: int = 0
    problems: list[Problem] = field(default_factory=list)
    used: int = 0

    def reject(self, where: str, message: str) -> None:
        """Count one thing that cannot be used."""
        self.resources += 1
        self.rejected.append(Rejected(where, message))

    def note(self, code: str, where: str, message: str) -> None:
        """Note a problem that belongs to no patient."""
        self.problems.append(Problem("warning", code, None, "", f"{where}: {message}"))

    def skip(self, kind: str, times: int = 1) -> None:
        """Count resources that no rule can use."""
        self.resources += times
        self.skipped[kind] = self.skipped.get(kind, 0) + times


def place_of(where: str, index: int) -> str:
    """Name an entry of a Bundle, or what stands alone (index -1)."""
    return f"{where} entry[{index}]" if index >= 0 else where


class _Patient(NamedTuple):
    """A Patient resource: what was read, and the names it goes by."""

    item: Item
    own: Ref | None  # server and id
    url: str  # of its entry, or "" ("urn:uuid:...")


class Scope:
    """All resources of one Bundle, or all loose ones.

    Args:
        resources: reads single resources.
        log: takes what cannot be used.
        where: names the Bundle.
        bundle: whether this is one Bundle, where a single Patient may be meant without being named.
        validate: says what is wrong with a resource of a type; None unless reading is strict.
    """

    def __init__(
        self,
        resources: Resources,
        log: ReadLog,
        *,
        where: str,
        bundle: bool,
        validate: Callable[[Json, str], str] | None,
    ) -> None:
        self.resources, self.log, self.bundle, self.validate = resources, log, bundle, validate
        self.where = where
        self.kinds = resources.kinds
        self.nested: list[tuple[Json, str]] = []  # Bundles in this one, each a scope of its own
        self.patients: list[_Patient] = []
        self.items: list[Item] = []
        self.skipped: dict[str, int] = {}
        # Whose resources were skipped: (type, reference, server) and how often.
        self.unneeded: dict[tuple[str, str, str], int] = {}
        self.urls: list[object] = []  # of entries that are no Patient
        self.targets: dict[str, list[Item]] = {}  # Medications and Specimens by full URL
        self.by_id: dict[tuple[str, str], list[Item]] = {}
        self.forms: dict[str, list[Form]] = {}  # Questionnaires by canonical URL

    # ------------------------------------------------------------ taking resources in

    def entries(self, entries: Sequence[Any], where: str) -> None:
        """Take in the entries of the Bundle."""
        kinds, skipped, urls = self.kinds, self.skipped, self.urls
        for index, entry in enumerate(entries):
            resource = entry.get("resource") if type(entry) is dict else None
            name = resource.get("resourceType") if type(resource) is dict else None
            if resource is None or type(name) is not str or name == "Bundle":
                self.entry(entry, where, index)
            elif (kind := kinds.get(name)) is None:  # most entries of a real Bundle
                skipped[name] = skipped.get(name, 0) + 1
                urls.append(entry.get("fullUrl"))
            else:
                self._add(resource, name, kind, where, index, entry.get("fullUrl"))

    def entry(self, entry: object, where: str, index: int = -1) -> None:
        """Take in one entry of the Bundle; `index` is -1 where `where` already names it."""
        resource = entry.get("resource") if isinstance(entry, dict) else entry
        if isinstance(entry, dict) and isinstance(resource, dict):
            if type(entry) is Doubled:
                self.log.reject(place_of(where, index), "a key of the entry is written twice")
            elif resource.get("resourceType") == "Bundle":
                self.nested.append((resource, place_of(where, index)))
            else:
                self.add(resource, where, index, entry.get("fullUrl"))
        elif resource is not None or entry is None:
            self.skipped[NOT_FHIR] = self.skipped.get(NOT_FHIR, 0) + 1
        else:
            answer = entry.get("response") if isinstance(entry, dict) else None
            if isinstance(answer, dict) and str(answer.get("status"))[:1] in ("4", "5"):
                self.log.note("server-outcome", place_of(where, index), "the server failed here")

    def add(self, resource: Json, where: str, index: int = -1, url: object = None) -> None:
        """Take one resource in; `url` is the ``fullUrl`` of its entry."""
        name = resource.get("resourceType")
        if type(name) is not str:
            name = NOT_FHIR
        kind = self.kinds.get(name)
        if kind is None:
            self.skipped[name] = self.skipped.get(name, 0) + 1
            self.urls.append(url)
        else:
            self._add(resource, name, kind, where, index, url)

    def _add(
        self, resource: Json, name: str, kind: Kind, where: str, index: int, url: object
    ) -> None:
        if type(url) is not str:
            url = ""
        elif name != "Patient":
            self.urls.append(url)
        try:
            wanted = kind.wants(resource)
            if wanted is None:
                self.skipped[name] = self.skipped.get(name, 0) + 1
                subject = resource.get(kind.subject)
                text = subject.get("reference") if type(subject) is dict else None
                if type(text) is str:
                    # Still somebody to assess, even if no rule can use this resource.
                    key = (name, text, "" if text.startswith("urn:") else server_of(url))
                    self.unneeded[key] = self.unneeded.get(key, 0) + 1
                return
            if self.validate is not None:
                faults = self.validate(resource, name)
                if faults:
                    raise Unreadable(faults)
            self._take(self._read(resource, name, kind, url, wanted), where, index, url)
        except Unreadable as error:
            label = f"{name}/{identifier(resource.get('id')) or '?'}"
            self.log.reject(f"{place_of(where, index)} {label}", error.message)

    def _read(self, resource: Json, name: str, kind: Kind, url: str, wanted: Any) -> Item:
        sent = resource.get("id")
        key = identifier(sent)
        if key is not None:
            item = self._read_as(f"{name}/{key}", resource, name, kind, url, wanted)
            if type(sent) is not str:
                item.warning("wrong-type", "id", "a number where text belongs; used")
        else:
            link = reference(url)
            item = self._read_as(link.literal if link else "", resource, name, kind, url, wanted)
            if link is None:
                # Nothing names it: the label comes from what was read, so that it is the same in
                # whatever order and file the resource stands.
                import hashlib  # rarely needed, slow to load

                content = repr((name, item.subject, item.orphan, *_content(item)))
                digest = hashlib.sha256(content.encode()).hexdigest()[:12]
                label = f"{name}/sha256-{digest}"
                item = self._read_as(label, resource, name, kind, url, wanted)
            if sent is not None:
                item.warning("id-invalid", "id", "not an id; the resource goes by another name")
        if self.validate is not None:
            bindings = [p.path for p in item.problems if p.code == "status-unknown"]
            if bindings:
                raise Unreadable(
                    f"not valid: {', '.join(bindings)}: not a code of the required binding"
                )
        return item

    def _read_as(
        self, label: str, resource: Json, name: str, kind: Kind, url: str, wanted: Any
    ) -> Item:
        item = Item(name, label)
        item.base, item.meta = server_of(url), resource.get("meta")
        if "modifierExtension" in resource:
            message = "it may change the meaning of all the rest; not understood, the rest is used"
            item.warning("modifier-extension", "modifierExtension", message)
        if kind.subject:
            self._subject(resource, item, kind.subject)
        kind.read(resource, item, wanted)
        return item

    def _take(self, item: Item, where: str, index: int, url: str) -> None:
        """Keep what was read until the whole scope is known."""
        item.where, item.index = where, index
        name = item.type
        if name == "Patient":
            self._take_patient(item, url)
        elif name == "Questionnaire":
            canonical, form = item.values[0]
            self.forms.setdefault(canonical, []).append(form)
        elif name in ("Medication", "Specimen"):
            full = reference(url)
            self.targets.setdefault(full.literal if full else url or item.label, []).append(item)
            self.by_id.setdefault((name, item.label), []).append(item)
        else:
            self.items.append(item)
            if item.inner is not None and item.subject is not None:
                inner = Item("Patient", item.subject.literal)
                inner.values.append(self.resources.person(item.inner, inner))
                self.patients.append(_Patient(inner, None, item.subject.literal))
            return  # counted when its patient is known
        self.log.resources += 1
        self.log.used += 1

    def _subject(self, resource: Json, item: Item, element: str) -> None:
        """Set whose resource it is, or why that cannot be said."""
        sent = resource.get(element)
        if sent is None:
            sent = resource.get("patient")
            if sent is None:
                return
            item.warning("fhir-version", "patient", "patient for subject, as before STU3; used")
        text = sent.get("reference") if isinstance(sent, dict) else None
        if not isinstance(text, str):
            item.orphan = f"its {element} holds no reference"
        elif text.startswith("#"):
            inner = contained(resource, text)
            if inner is None or inner.get("resourceType") != "Patient":
                item.orphan = f"its {element} is contained, but no Patient is"
            else:
                item.inner = inner
                item.subject = Ref(item.label + text, "", "", "")
        else:
            item.subject = reference(text, item.base)
            if item.subject is None:
                item.orphan = f"its {element} is not a literal reference"

    def _take_patient(self, item: Item, url: str) -> None:
        full = reference(url)
        own = full if full is not None and full.type == "Patient" else None
        if not item.label.startswith(("urn:", "http", "Patient/sha256-")):
            server = own.base if own is not None else ""
            literal = f"{server}/{item.label}" if server else item.label
            own = Ref(literal, server, "Patient", item.label.removeprefix("Patient/"))
        self.patients.append(_Patient(item, own, full.literal if full else url))

    # ------------------------------------------------------------ giving Records out

    def records(self) -> Iterator[Record]:
        """Yield the Record of each patient, by name."""
        known = _Identities(self)
        records: dict[str, Record] = {}
        for kind, count in self.skipped.items():
            self.log.skip(kind if _TYPE_NAME.fullmatch(kind) else NOT_FHIR, count)
        if "OperationOutcome" in self.skipped:
            message = "the sender reports a problem of its own; data may be missing"
            self.log.note("server-outcome", self.where, message)
        self._read_again()
        groups: dict[str, dict[str, list[Item]]] = {}
        for name, patients in known.patients.items():
            records[name] = _record(name, patients)
        owners: list[tuple[Item, str]] = []
        without: list[Item] = []
        for item in self.items:
            if item.subject is None and not item.orphan:
                without.append(item)
                continue
            owner = known.of(item.subject) if item.subject is not None else None
            if owner is None:
                self._orphan(item, item.orphan or "its subject is not one certain Patient")
            else:
                owners.append((item, owner))
        others: dict[str, dict[str, int]] = {}
        for (kind, text, server), count in self.unneeded.items():
            ref = reference(text, server)
            owner = known.of(ref) if ref is not None else None
            if owner is not None:
                skipped = others.setdefault(owner, {})
                skipped[kind] = skipped.get(kind, 0) + count
        everybody = {*records, *others, *(owner for _, owner in owners)}
        # Only where nobody else is named at all can a resource without subject be theirs.
        alone = next(iter(records)) if self.bundle and len(records) == len(everybody) == 1 else None
        for item in without:
            if alone is None:
                self._orphan(item, "it names no subject, and not exactly one Patient is here")
            else:
                message = "no subject; read as of the only patient in the Bundle"
                item.warning("subject-missing", "subject", message)
                owners.append((item, alone))
        for item, owner in owners:
            groups.setdefault(owner, {}).setdefault(item.label, []).append(item)
        self.log.used += len(owners)
        self.log.resources += len(owners)
        for name in sorted(everybody):
            record = records.get(name)
            if record is None:
                record = Record(name)
                message = "no Patient resource; age and sex are unknown"
                record.problems.append(Problem("info", "patient-missing", name, "", message))
            record.skipped = dict(sorted(others.get(name, {}).items()))
            self._fill(record, groups.get(name, {}), known)
            yield record

    def _read_again(self) -> None:
        """Give responses the codes of their questions, from a Questionnaire of this scope."""
        for item in self.items if self.forms else ():
            forms = self.forms.get(item.form.url, ()) if item.form is not None else ()
            if forms and all(form == forms[0] for form in forms):
                self.resources.read_again(item, forms[0])

    def _orphan(self, item: Item, reason: str) -> None:
        self.log.reject(f"{place_of(item.where, item.index)} {item.label}", f"orphan: {reason}")

    def _fill(self, record: Record, groups: dict[str, list[Item]], known: _Identities) -> None:
        for label in sorted(groups):
            found = groups[label]
            if len(found) > 1:
                found = _current(found)
                if len(found) > 1:
                    message = "several resources have this id and differ; each is used"
                    record.problems.append(Problem("warning", "duplicate-id", label, "", message))
                    found.sort(key=lambda item: repr(_content(item)))
            for item in found:
                for value in item.values:
                    if type(value) is Measurement:
                        if item.specimen is not None:
                            value = self._with_specimen(value, item, record.patient, known)
                        record.measurements.append(value)
                    elif type(value) is Presence:
                        record.presences.append(value)
                    elif type(value) is MedicationUse:
                        if item.drug is not None:
                            value = self._with_drug(value, item.drug, item)
                        record.medications.append(value)
                record.problems += item.problems
        record.problems = sorted(
            dict.fromkeys(record.problems),
            key=lambda p: (p.resource or "", p.path, p.code, p.severity, p.message),
        )

    def _with_specimen(
        self, m: Measurement, item: Item, patient: str, known: _Identities
    ) -> Measurement:
        """Add what the Specimen says of itself; one that is not here still names the draw."""
        found = self._find(item.specimen, "Specimen") if item.specimen else []
        words = set(m.conditions)
        for specimen in found:
            if specimen.subject is not None and known.of(specimen.subject) != patient:
                message = "a Specimen of another patient; ignored"
                item.warning("reference-conflict", "specimen", message)
                return m
            words.update(word for draw in specimen.values for word in draw.conditions)
        if not found:
            return m
        return replace(m, specimen=found[0].label, conditions=tuple(sorted(words)))

    def _with_drug(self, use: MedicationUse, link: Ref, item: Item) -> MedicationUse:
        """Add the codes of the Medication that is referred to."""
        found = self._find(link, "Medication")
        if len(found) != 1:
            message = "the Medication is not there; only its display is used"
            if found:
                message = "several differing Medications have this id; only the display is used"
            item.warning("reference-unresolved", "medicationReference", message)
            return replace(use, unresolved=link.literal)
        drug: Drug = found[0].values[0]
        codings = list(drug.codings)
        for part in drug.parts:
            for inner in self._find(part, "Medication"):
                codings += inner.values[0].codings
        item.problems += found[0].problems
        return replace(use, codings=tuple(dict.fromkeys(codings)), text=drug.text or use.text)

    def _find(self, ref: Ref, kind: str) -> list[Item]:
        """Return what a reference leads to: nothing, one resource, or several that differ."""
        found = [item for item in self.targets.get(ref.literal, ()) if item.type == kind]
        if not found and ref.type == kind:
            # A server that one side does not name may be the other's; two named ones must agree.
            found = [
                item
                for item in self.by_id.get((kind, f"{kind}/{ref.id}"), ())
                if not ref.base or not item.base or item.base == ref.base
            ]
        return _current(found)


class Twins:
    """The same world for two readers of resources: what goes in goes into both scopes."""

    def __init__(self, first: Scope, second: Scope) -> None:
        self.both = (first, second)
        self.nested = first.nested

    def entries(self, entries: Sequence[Any], where: str) -> None:
        """Take in the entries of the Bundle."""
        for scope in self.both:
            scope.entries(entries, where)

    def entry(self, entry: object, where: str, index: int = -1) -> None:
        """Take in one entry of the Bundle."""
        for scope in self.both:
            scope.entry(entry, where, index)

    def add(self, resource: Json, where: str) -> None:
        """Take one resource in."""
        for scope in self.both:
            scope.add(resource, where)

    def records(self) -> Iterator[Record]:
        """Yield two Records of each patient, by name: as the first sees it, as the second does.

        Of whom only one has seen anything, the other has an empty Record.
        """
        first, second = (scope.records() for scope in self.both)
        one, other = next(first, None), next(second, None)
        while one or other:
            name = min(record.patient for record in (one, other) if record)
            if one and one.patient == name:
                yield one
                one = next(first, None)
            else:
                yield Record(name)
            if other and other.patient == name:
                yield other
                other = next(second, None)
            else:
                yield Record(name)


class _Identities:
    """Who is who in a scope: each Patient resource and each reference leads to one name.

    The name is "Patient/<id>", the whole URL where two servers have a patient of that id, or the
    ``urn:`` where there is no id. In doubt two patients are kept apart, never put together.
    """

    def __init__(self, scope: Scope) -> None:
        self._urls = scope.urls
        self._not_patients: frozenset[str] | None = None
        self.servers: dict[str, set[str]] = {}
        for ref in chain(
            (item.subject for item in scope.items),
            (reference(text, server) for _, text, server in scope.unneeded),
            (patient.own for patient in scope.patients),
        ):
            if ref is not None and ref.type == "Patient" and ref.base:
                self.servers.setdefault(ref.id, set()).add(ref.base)
        urns: dict[str, set[str]] = {}
        for patient in scope.patients:
            if patient.own is not None and patient.url.startswith("urn:"):
                urns.setdefault(self._name(patient.own), set()).add(patient.url)
        # Entries with different urn: are different resources, even if their ids agree.
        self.unclear = {name for name, several in urns.items() if len(several) > 1}
        self.by_url: dict[str, str] = {}
        self.patients: dict[str, list[_Patient]] = {}
        for patient in scope.patients:
            name = patient.url or patient.item.label
            if patient.own is not None:
                own = self._name(patient.own)
                if own not in self.unclear or not patient.url.startswith("urn:"):
                    name = own
            if patient.url:
                self.by_url[patient.url] = name
            self.patients.setdefault(name, []).append(patient)

    def _name(self, ref: Ref) -> str:
        if ref.base and len(self.servers.get(ref.id, ())) > 1:
            return ref.literal
        return f"Patient/{ref.id}"

    def of(self, ref: Ref) -> str | None:
        """The name of the patient that a reference means; None if it means none, or several."""
        name = self.by_url.get(ref.literal)
        if name is not None:
            return name
        if ref.type == "Patient":
            name = self._name(ref)
            return None if name in self.unclear else name
        if not ref.literal.startswith("urn:"):
            return None
        if self._not_patients is None:
            self._not_patients = frozenset(
                url.lower() for url in self._urls if isinstance(url, str)
            )
        return None if ref.literal in self._not_patients else ref.literal


def _record(name: str, patients: list[_Patient]) -> Record:
    """Begin the Record of a patient with what the Patient resource says."""
    found = _current([patient.item for patient in patients])
    birth, sex, deceased = found[0].values[0]
    record = Record(name)
    for item in found:
        record.problems += item.problems
    if len(found) > 1:
        message = "several Patient resources have this id; what they disagree on is unknown"
        record.problems.append(Problem("warning", "duplicate-id", name, "", message))
        people: list[Person] = [item.values[0] for item in found]
        birth = birth if all(p.birth == birth for p in people) else None
        sex = sex if all(p.sex == sex for p in people) else None
        deceased = deceased if all(p.deceased == deceased for p in people) else None
    record.birth, record.sex, record.deceased = birth, sex, deceased
    return record


def _content(item: Item) -> tuple[object, ...]:
    """What was read of a resource, to tell whether two are the same."""
    return item.values, item.problems, item.specimen, item.drug


def _current(found: list[Item]) -> list[Item]:
    """Of several resources with one id, return the newest; those that differ if none is newest.

    The same content counts once. Newest is the highest meta.versionId if all have a number
    there, else the latest meta.lastUpdated if all have one. Servers count for themselves: no
    version of one is newer than that of another.
    """
    if len(found) < 2:
        return found
    by_server: dict[str, list[Item]] = {}
    for item in found:
        by_server.setdefault(item.base, []).append(item)
    newest: list[Item] = []
    for several in by_server.values():
        versions = [_version(item.meta) for item in several]
        for rank in (0, 1):
            ranks = [version[rank] for version in versions]
            if None not in ranks:
                top = max(number for number in ranks if number is not None)
                several = [i for i, number in zip(several, ranks, strict=True) if number == top]
                break
        newest += several
    distinct: list[Item] = []
    for item in newest:
        if all(_content(item) != _content(other) for other in distinct):
            distinct.append(item)
    return distinct


def _version(meta: object) -> tuple[int | None, int | None]:
    """The version of a resource as (number, second of its last update)."""
    if not isinstance(meta, dict):
        return None, None
    number, text = meta.get("versionId"), meta.get("lastUpdated")
    when, _ = parse_time(text) if isinstance(text, str) else (None, "")
    plain = _VERSION.fullmatch(number) if isinstance(number, str) else None
    return int(plain[0]) if plain else None, when.start if when is not None else None
