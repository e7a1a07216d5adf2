"""One hook call: from the parsed body to cards, or to a refusal with its reason.

Source: CDS Hooks 2.0, "Calling a CDS Service" and "CDS Service Response". Where it is silent, this
module decides:

* Only the patient is required (CH-42, CH-49). Every other key that was neither sent nor could be
  read leaves what depends on it not evaluated: nothing but an alarm is concluded from the absence
  of a result, and no "not on record" is said of it (`Screener.assess`, `all_results`); nothing is
  called harmless (`absence`). A recorded stop of a medicine counts although a newer record of it
  may be missing, as does an alarm that something missing might have called off.
* One card of `info`, after all others, says which data were not there. It is given whether or not
  there are other cards, so that nobody is falsely reassured, where results, signs, conditions or
  all medicines were missing, where a query failed or came only in part, and where records were
  of another person or unreadable (CH-45, CH-48, CH-49). So as not to flood, none is given for
  what a system just does not have beside others that say the same: one of the two lists of
  medicines, answers to questionnaires, family history.
* Draft orders (`draftOrders`, `medications`) count as drafts and, besides, as if started at the
  time of the call; a card that rests on one says so. One that is stopped, on hold or cancelled is
  not started. `conditions` of problem-list-item-create count like those on record.
* The user's type says whom cards speak to: Patient and RelatedPerson get texts for patients. A call
  without a user (medication-refill) gets those of the client's `audience`.
* Time of judgment is that of the call. The uuids of cards follow from hook instance, patient,
  group, tier and rulesets, so that the same call again gives the same cards (CH-65, CH-94).
* A failure of ours is 500 (or, with `on_failure` "card", one card that says so), a database that
  is down 503 (or the cards all the same). It is never 200 with no card (CH-64).
* A client may ask for the reasons of an answer: ``"extension": {"org.cds-twitch.trace": true}`` in
  the request gives an extension of that name in the response (CH-150, CH-154).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from uuid import uuid4

import orjson

from cds.cards import card_place
from cds.errors import UsageError
from cds.facts import iso
from cds.fhir import ReadLog
from cds.model import Instant, Record
from cds.rulefile import ServiceTexts
from cds.rules import Rulesets
from cds.screening import Assessment, Audience, Screener
from cds.service.absence import Absences
from cds.service.discovery import PATIENT, Discovery, Service, kind_of
from cds.service.fhirclient import Pages
from cds.service.notices import PROVENANCE, Notices, rests_on
from cds.service.outcomes import Refusal
from cds.service.prefetch import State, Value, classify, is_of_another
from cds.service.requests import HookRequest, parse_hook
from cds.service.store import CallRecord, IssuedCard, ShownFinding, StoreDown
from cds.service.suppression import without_repeats

if TYPE_CHECKING:
    from cds.service.auth import Caller
    from cds.service.fhirclient import Fetched, FhirReader
    from cds.service.settings import Settings
    from cds.service.store import Store

__all__ = ["TRACE", "Calls", "HookAnswer"]

_log: Final = logging.getLogger(__name__)

TRACE: Final = "org.cds-twitch.trace"
"""The extension of a request that asks for the reasons, and of the response that has them."""

_INLINE_BYTES: Final = 200_000  # larger ones would hold up the calls beside them
_BYTES_OF_RESOURCE: Final = 700  # of one that was read from the client's server, about
_AS_FOR_GOOD: Final = frozenset({"no-scope", "not-allowed"})  # that it will never get by asking
_BY_THEMSELVES: Final = ("laboratory", "signs", "conditions")
_MEDICINES: Final = ("medicationStatements", "medicationRequests")
_STARTS: Final = frozenset({"draft", "active", "unknown"})  # of MedicationRequest.status
_KIND_OF_TYPE: Final = {
    "Observation": "laboratory",
    "Condition": "conditions",
    "MedicationRequest": "medicationRequests",
    "MedicationOrder": "medicationRequests",
    "MedicationStatement": "medicationStatements",
    "QuestionnaireResponse": "questionnaireResponses",
    "FamilyMemberHistory": "familyHistory",
}


@dataclass(frozen=True, slots=True)
class HookAnswer:
    """What a hook call is answered with, and what may be logged and counted of it.

    `words` are code words, `indicators` those of the cards, `fetched` outcomes of queries.
    """

    status: int
    payload: bytes
    words: tuple[str, ...] = ()
    indicators: tuple[str, ...] = ()
    fetched: tuple[str, ...] = ()
    suppressed: int = 0
    failed: bool = False
    store_failed: bool = False


@dataclass(slots=True)
class _Data:
    """What there is to judge, and what is not there.

    `entries` are as in a Bundle. `gaps` are the keys whose data are not all there, with a code
    word why. `drafts` are the references of the draft orders among the entries.
    """

    patient: str
    own: frozenset[str]
    entries: list[dict[str, Any]] = field(default_factory=list)
    gaps: dict[str, str] = field(default_factory=dict)
    drafts: frozenset[str] = frozenset()
    foreign: int = 0
    unreadable: int = 0

    def gap(self, key: str, why: str) -> None:
        """Note that data of a key are not all there; the first reason is kept."""
        self.gaps.setdefault(key, why)

    @property
    def all_results(self) -> bool:
        """Whether results that are not there are known not to be."""
        return not any(kind_of(key) == "laboratory" for key in self.gaps)

    def missing(self) -> list[str]:
        """Return what has to be said of the gaps, as kinds of data."""
        kinds: dict[str, set[str]] = {}
        for key, why in self.gaps.items():
            kinds.setdefault(kind_of(key), set()).add(why)
        said: list[str] = [kind for kind in _BY_THEMSELVES if kind in kinds]
        if all(kind in kinds for kind in _MEDICINES):
            said.append("medicines")
            kinds = {kind: why for kind, why in kinds.items() if kind not in _MEDICINES}
        said += [kind for kind, why in kinds.items() if kind not in said and why != {"not-sent"}]
        return said


class _Work(Protocol):
    def __call__(self, screener: Screener) -> Assessment: ...


class Calls:
    """Answers hook calls; one for each worker process.

    Args:
        settings: of the service.
        rulesets: the loaded rules; their card texts must have those of the service.
        screener: for small calls, in the thread of the event loop.
        store: takes the records.
        fhir: reads clients' FHIR servers.

    Raises: UsageError where ``cards.yaml`` has no words for the service.
    """

    def __init__(
        self,
        settings: Settings,
        rulesets: Rulesets,
        screener: Screener,
        store: Store | None,
        fhir: FhirReader | None,
    ) -> None:
        if rulesets.texts.service is None:
            raise UsageError("the loaded rules bring a cards.yaml without 'service': the service "
                             "has no words for what it could not do")  # fmt: skip
        self._texts: ServiceTexts = rulesets.texts.service
        self._settings, self._rulesets, self._screener = settings, rulesets, screener
        self._store, self._fhir = store, fhir
        self.discovery = Discovery(rulesets, screener.normalizer)
        self._versions = {file.group: file.version for file in rulesets.files}
        self._used = [
            {"id": f.group, "version": f.version, "digest": f.digest} for f in rulesets.files
        ]
        self.absences = Absences(rulesets.program)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cds-screen")
        self._second: Screener | None = None

    def close(self) -> None:
        """End the thread for large calls."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def answer(
        self, service_id: str, body: object, caller: Caller, request_id: str, *, size: int = 0
    ) -> HookAnswer:
        """Answer one call; `size` is that of the body in bytes.

        Raises: Refusal for everything that is answered with 400 or above.
        """
        service = self.discovery.services.get(service_id)
        if service is None:
            raise Refusal(404, "no CDS Service has this id", word="unknown-service")
        plain = self._settings.insecure_demo
        request = parse_hook(body, service.hook, plain_http=plain)
        traced = _asks_for_trace(body)
        call = _Call(self, service, request, caller, request_id, datetime.now(UTC), traced)
        return await call.answer(size)

    # ------------------------------------------------------------ for `_Call`

    async def screen(self, work: _Work, size: int) -> Assessment:
        """Run `work` here if it is small, else in the thread for large calls."""
        if size < _INLINE_BYTES:
            return work(self._screener)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._aside, work)

    def _aside(self, work: _Work) -> Assessment:
        if self._second is None:
            self._second = Screener(self._rulesets, self._settings.engine)
        return work(self._second)

    async def fetch(
        self, wanted: Mapping[str, str], request: HookRequest, caller: Caller
    ) -> Mapping[str, Fetched]:
        """Read from the client's FHIR server what was not sent, if there is a way to."""
        if self._fhir is None or request.server is None or request.authorization is None:
            return {}
        deadline = asyncio.get_running_loop().time() + self._settings.fetch_timeout_seconds
        return await self._fhir.read(
            wanted,
            request.server,
            request.authorization,
            caller,
            deadline,
            patient=request.context.patientId,
        )


class _Call:
    """One hook call being answered."""

    def __init__(
        self,
        calls: Calls,
        service: Service,
        request: HookRequest,
        caller: Caller,
        request_id: str,
        now: datetime,
        traced: bool,
    ) -> None:
        self._calls, self._service, self._request, self._caller = calls, service, request, caller
        self._request_id, self._now, self._traced = request_id, now, traced
        self._settings, self._store = calls._settings, calls._store
        self._patient, self._id = request.context.patientId, str(uuid4())
        self._audience = _audience(request, caller)
        self._words = list(request.warnings)
        self._fetched: list[str] = []
        self._notices = Notices(
            calls._texts,
            self._audience,
            (self._patient, self._audience, request.hook_instance),
            calls._rulesets.digest,
        )

    async def answer(self, size: int) -> HookAnswer:
        """Gather the data, judge them, write the cards, record the call."""
        try:
            data, size = await self._gather(size)
        except Refusal as refusal:
            if refusal.status != 400:
                await self._record_refused(refusal)
            raise
        try:
            assessment = await self._calls.screen(lambda screener: _assess(screener, data,
                                                  self._now, self._calls), size)  # fmt: skip
            suppressed, shown = await self._not_repeated(assessment)
            cards, issued = self._cards(assessment, data)
        except Exception as error:
            return await self._failed(error)
        return await self._finished(assessment, data, cards, issued, suppressed, shown)

    # ------------------------------------------------------------ data

    async def _gather(self, size: int) -> tuple[_Data, int]:
        """Take what was sent, and read what was not.

        Raises: Refusal (400, 412, 413).
        """
        request, now = self._request, self._now
        templates = self._calls.discovery.prefetch(now)
        values = classify(request.prefetch, templates)
        if sum(len(v.entries) for v in values.values()) > self._settings.entry_limit:
            raise Refusal(413, "prefetch: has too many resources", word="too-many-resources")
        data = _Data(self._patient, _references(self._patient, request.server))
        absent = [key for key, value in values.items() if value.state == "absent"]
        wanted = self._calls.discovery.queries(absent, self._patient, now)
        wanted |= {k: v.next for k, v in values.items() if v.state == "incomplete" and v.next}
        fetched = await self._calls.fetch(wanted, request, self._caller) if wanted else {}
        for key, value in values.items():
            size += self._take(key, value, fetched.get(key), data)
        self._has_patient(values[PATIENT].state, data)
        self._unrecorded(data)
        return data, size

    def _take(self, key: str, value: Value, fetched: Fetched | None, data: _Data) -> int:
        """Take the resources of one key; return about how many bytes were read for it."""
        entries, read = value.entries, 0
        if fetched is None:
            if not value.complete:
                data.gap(key, "not-sent" if value.state == "absent" else value.state)
        elif isinstance(fetched, Pages):
            more = [{"resource": resource} for resource in fetched.resources]
            entries = [*entries, *more]
            data.foreign += fetched.foreign
            read = _BYTES_OF_RESOURCE * len(more)
            why = fetched.reason or "incomplete"
            self._fetched.append("complete" if fetched.complete else why)
            if not fetched.complete:
                data.gap(key, why)
        else:
            self._fetched.append(fetched.reason)
            never = fetched.reason in _AS_FOR_GOOD and value.state == "absent"
            data.gap(key, "not-sent" if never else fetched.reason)
        for entry in entries:
            self._add(entry, data)
        return read

    def _add(self, entry: dict[str, Any], data: _Data) -> None:
        resource, server = entry.get("resource"), self._request.server
        if type(resource) is not dict:
            data.unreadable += 1
        elif is_of_another(resource, self._patient, data.own, server):
            data.foreign += 1
        elif resource.get("resourceType") == "Patient" and server is not None:
            # So that references to this patient at another server are told apart.
            url = entry.get("fullUrl") or f"{server}/Patient/{self._patient}"
            data.entries.append({"fullUrl": url, "resource": resource})
        else:
            data.entries.append(entry)

    def _has_patient(self, state: State, data: _Data) -> None:
        """Refuse where the one thing that is required is not there (CH-42)."""
        if any(entry["resource"].get("resourceType") == "Patient" for entry in data.entries):
            return
        why = {
            "absent": "was not sent, and it could not be read from fhirServer",
            "empty": "is null or empty, but cards need the patient",
            "unavailable": "is an OperationOutcome, but cards need the patient",
        }.get(state, "has no Patient of the id in context.patientId")
        raise Refusal(412, f"prefetch.{PATIENT}: {why}", word="no-patient")

    def _unrecorded(self, data: _Data) -> None:
        """Add the draft orders or conditions of the context."""
        drafts: set[str] = set()
        for number, resource in enumerate(self._request.context.unrecorded):
            if resource.get("resourceType") == "MedicationRequest":
                changed = dict(resource)
                if not isinstance(changed.get("id"), str):
                    changed["id"] = f"draft-{number}"
                if changed.get("status", "draft") in _STARTS:
                    changed["status"] = "draft"
                    drafts.add(f"MedicationRequest/{changed['id']}")
                resource = changed
            self._add({"resource": resource}, data)
        data.drafts = frozenset(drafts)

    # ------------------------------------------------------------ cards

    async def _not_repeated(
        self, assessment: Assessment
    ) -> tuple[Sequence[Any], Sequence[ShownFinding]]:
        """Take away the findings that were shown a short while ago."""
        hours, store = self._settings.suppress_repeats_hours, self._store
        if hours <= 0 or store is None:
            return (), ()
        request = self._request
        user, digest = request.context.userId or "", self._calls._rulesets.digest
        try:
            key = store.patient_key(self._caller.iss, self._patient)
        except StoreDown:
            return (), ()
        repeats = await without_repeats(
            assessment.evaluation,
            store,
            key,
            hours,
            self._now,
            scope=(self._service.id, user, self._audience, digest),
            hook_instance=request.hook_instance,
        )
        assessment.evaluation = repeats.evaluation
        return repeats.audit(), repeats.remember

    def _cards(
        self, assessment: Assessment, data: _Data
    ) -> tuple[list[dict[str, Any]], list[IssuedCard]]:
        cards = assessment.cards(
            self._audience, hook_instance=self._request.hook_instance, changes=False
        )
        places = list(dict.fromkeys(card_place(f) for f in assessment.findings))
        rows = []
        for card, (group, tier) in zip(cards, places, strict=True):
            rows.append((card, group, tier.name))
            if data.drafts and rests_on(card, data.drafts):
                self._notices.as_if_started(card)
        missing = data.missing()
        if missing or data.foreign or data.unreadable:
            card = self._notices.not_all_data(missing, data.foreign, data.unreadable)
            cards.append(card)
            rows.append((card, "service", "info"))
            self._words.append("not-all-data")
        return cards, [self._issued(*row) for row in rows]

    def _issued(self, card: Mapping[str, Any], group: str, tier: str) -> IssuedCard:
        rules = card.get("extension", {}).get(PROVENANCE, {}).get("rules", ())
        return IssuedCard(
            uuid=card["uuid"],
            call_id=self._id,
            service=self._service.id,
            rules=[{"rule": r["id"], "version": r.get("version", "")} for r in rules],
            tier=tier,
            group=group,
            suggestions=[s["uuid"] for s in card.get("suggestions", ())],
        )

    # ------------------------------------------------------------ endings

    async def _finished(
        self,
        assessment: Assessment,
        data: _Data,
        cards: list[dict[str, Any]],
        issued: Sequence[IssuedCard],
        suppressed: Sequence[Any],
        shown: Sequence[ShownFinding],
    ) -> HookAnswer:
        outcome: Literal["cards", "no-cards"] = "cards" if cards else "no-cards"
        rules = [rule for finding in assessment.findings for rule in finding.rules]
        recorded = await self._record(200, outcome, issued, rules, suppressed, shown)
        if not recorded and not cards:
            cards = [self._notices.not_recorded()]
        body: dict[str, Any] = {"cards": cards}
        if self._traced:
            body["extension"] = {TRACE: _trace(assessment, data)}
        return HookAnswer(
            200,
            orjson.dumps(body),
            tuple(self._words),
            tuple(card["indicator"] for card in cards),
            tuple(self._fetched),
            len(suppressed),
            store_failed=not recorded,
        )

    async def _failed(self, error: Exception) -> HookAnswer:
        """Answer for a failure of ours; its text may quote the data and is not passed on."""
        _log.error("call-failed", exc_info=error)
        self._words.append("failed")
        if self._settings.on_failure == "error":
            await self._record_quietly(500, "failed")
            raise Refusal(500, "the rules could not be evaluated", word="failed") from error
        card = self._notices.failed()
        recorded = await self._record_quietly(
            200, "failed", [self._issued(card, "service", "info")]
        )
        return HookAnswer(
            200,
            orjson.dumps({"cards": [card]}),
            tuple(self._words),
            (card["indicator"],),
            tuple(self._fetched),
            failed=True,
            store_failed=not recorded,
        )

    async def _record_refused(self, refusal: Refusal) -> None:
        self._words.append(refusal.word)
        await self._record_quietly(refusal.status, "refused")

    async def _record_quietly(
        self, status: int, outcome: Literal["refused", "failed"], issued: Sequence[IssuedCard] = ()
    ) -> bool:
        """Record a call that is refused or failed anyway; return whether that worked."""
        try:
            return await self._record(status, outcome, issued, (), (), ())
        except Refusal:
            return False

    async def _record(
        self,
        status: int,
        outcome: Literal["cards", "no-cards", "refused", "failed"],
        issued: Sequence[IssuedCard],
        rules: Iterable[str],
        suppressed: Sequence[Any],
        shown: Sequence[ShownFinding],
    ) -> bool:
        """Record the call; return whether that worked.

        Raises: Refusal (503) where it did not and `on_failure` is "error".
        """
        store = self._store
        if store is None or not (self._settings.audit or shown):
            return True
        request, iss = self._request, self._caller.iss
        try:
            if not self._settings.audit:
                await store.remember(store.patient_key(iss, self._patient), shown)
                return True
            call = CallRecord(
                id=self._id,
                at=self._now,
                request_id=self._request_id,
                iss=iss,
                user=request.context.userId,
                service=self._service.id,
                hook=request.hook,
                hook_instance=request.hook_instance,
                patient_key=store.patient_key(iss, self._patient),
                rulesets=self._calls._used,
                rules=list(dict.fromkeys(rules)),
                status=status,
                outcome=outcome,
                suppressed=suppressed,
            )
            await store.record_call(call, issued, shown)
        except Exception as error:
            word = error.reason if isinstance(error, StoreDown) else type(error).__name__
            _log.error("call-not-recorded", extra={"fields": {"reason": word}})
            self._words.append("store-down")
            if self._settings.on_failure == "error":
                raise Refusal(
                    503,
                    "the call could not be recorded",
                    word="store-down",
                    headers={"Retry-After": "5"},
                ) from None
            return False
        return True


# ---------------------------------------------------------------- judging


def _assess(screener: Screener, data: _Data, now: datetime, calls: Calls) -> Assessment:
    """Read the entries and judge the one patient; completes `data`."""
    as_of = int(now.timestamp())
    log = ReadLog()
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": data.entries}
    record: Record | None = None
    for one in screener.reader.read(bundle, log, where="call"):
        if one.patient in data.own:
            record = one
        else:
            values = len(one.measurements) + len(one.presences) + len(one.medications)
            data.foreign += max(1, values + sum(one.skipped.values()))
    if record is None:
        raise RuntimeError("the Patient of the call was not read")
    for lost in log.rejected:
        kind = lost.where.rpartition(" ")[2].partition("/")[0]
        data.unreadable += 1
        if kind in _KIND_OF_TYPE:
            data.gap(_KIND_OF_TYPE[kind], "unreadable")
    if data.drafts:
        _start(record, data.drafts, as_of)
    assessment = screener.assess(record, as_of, all_results=data.all_results)
    assessment.evaluation = calls.absences.withhold(assessment.evaluation, data.missing())
    return assessment


def _start(record: Record, drafts: frozenset[str], as_of: int) -> None:
    """Add to the draft orders, which stay, the same medicines as if started now."""
    now = Instant(as_of, as_of, iso(as_of))
    record.medications += [
        replace(use, status="active", intent="order", period=None, authored=now)
        for use in record.medications
        if use.resource in drafts and use.status == "draft"
    ]


def _references(patient: str, server: str | None) -> frozenset[str]:
    own = f"Patient/{patient}"
    return frozenset({own} if server is None else {own, f"{server}/{own}"})


def _audience(request: HookRequest, caller: Caller) -> Audience:
    user = request.context.userId
    if user is None:
        return caller.client.audience if caller.client is not None else "clinician"
    return "patient" if user.partition("/")[0] in ("Patient", "RelatedPerson") else "clinician"


def _asks_for_trace(body: object) -> bool:
    extension = body.get("extension") if isinstance(body, dict) else None
    return isinstance(extension, dict) and extension.get(TRACE) is True


def _trace(assessment: Assessment, data: _Data) -> dict[str, Any]:
    """Return the reasons of an answer: what was found on what, what could not be judged and why."""
    unavailable = [{"key": key, "reason": why} for key, why in data.gaps.items()]
    found = {
        **assessment.trace(),
        "unavailable": unavailable,
        "other_patients": data.foreign,
        "unreadable": data.unreadable,
    }
    return _without_empty(found)  # type: ignore[no-any-return]


def _without_empty(value: Any) -> Any:
    """Leave out what is null or empty, which CDS Hooks allows nowhere (CH-03, CH-04)."""
    if isinstance(value, dict):
        kept = {key: _without_empty(part) for key, part in value.items()}
        return {k: v for k, v in kept.items() if v is not None and v not in ("", [], {})}
    if isinstance(value, list):
        return [_without_empty(part) for part in value]
    return value
