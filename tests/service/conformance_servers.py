"""CDS services that are wrong on purpose, each in one way, as one real process.

    python conformance_servers.py JWKS CERTIFICATE KEY

Prints three ports: plain HTTP, TLS, and TLS where plain HTTP is answered, too. The first part of
the path says whether calls have to be signed ("open" or "signed"), the second which fault the
service has ("good": none): http://127.0.0.1:PORT/open/good/cds-services.

The good service is a service as CDS Hooks 2.0 wants it, with everything that cards can have.
"""

from __future__ import annotations

import base64
import html
import http.client
import json
import re
import socket
import ssl
import struct
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid5

import jwt

ISS = "https://ehr.example.org"
ORIGIN = "https://pages.example.org"
NAMESPACE = UUID("5b1ff2a6-6c3c-4a57-9d0c-1d7a7f0f3c12")
HOOKS = {
    "patient-view": ["userId", "patientId"],
    "order-select": ["userId", "patientId", "selections", "draftOrders"],
    "order-sign": ["userId", "patientId", "draftOrders"],
    "encounter-start": ["userId", "patientId", "encounterId"],
    "encounter-discharge": ["userId", "patientId", "encounterId"],
    "problem-list-item-create": ["userId", "patientId", "conditions"],
    "medication-refill": ["patientId", "medications"],
    "allergyintolerance-create": ["userId", "patientId", "allergyIntolerance"],
    "order-dispatch": ["patientId", "dispatchedOrders", "performer"],
    "appointment-book": ["userId", "patientId", "appointments"],
}
SERVICES = {"rich": ["patient-view", "encounter-start"]} | {
    f"on-{hook}": [hook] for hook in HOOKS if hook not in ("patient-view", "encounter-start")
}
PREFETCH = {
    "patient": "Patient/{{context.patientId}}",
    "labs": "Observation?patient={{context.patientId}}&category=laboratory&date=ge2020-01-01",
    "conditions": "Condition?patient={{context.patientId}}&_count=100",
}
LABS = {
    "brace": "Observation?patient={context.patientId}",
    "expression": "Observation?patient={{context.patientId}}&date=ge{{today() - 90 days}}",
    "old-token": "Observation?patient={{Patient.id}}",
    "deep-token": "Observation?patient={{context.patientId}}&encounter={{context.encounter.id}}",
    "no-token": "Observation?patient={{context.patientId}}&based-on={{context.draftOrders}}",
    "include": "Observation?patient={{context.patientId}}&_include=Observation:encounter",
    "chained": "Observation?patient={{context.patientId}}&encounter.status=finished",
    "modifier": "Observation?patient={{context.patientId}}&code:not=1",
    "date-prefix": "Observation?patient={{context.patientId}}&date=sa2020-01-01",
    "old-sort": "Observation?patient={{context.patientId}}&sort:desc=date",
    "no-type": "/Observation?patient={{context.patientId}}",
    "twice": "Observation?patient={{context.patientId}}&date=ge2020-01-01&date=le2030-01-01",
}


class Refused(Exception):
    def __init__(self, status: int, body: bytes = b"{}") -> None:
        self.status, self.body = status, body


# ---------------------------------------------------------------- what is wrong with an answer


def first(answer: dict[str, Any]) -> dict[str, Any]:
    card: dict[str, Any] = answer["cards"][0]
    return card


def act(answer: dict[str, Any], kind: str) -> dict[str, Any]:
    actions: list[dict[str, Any]] = first(answer)["suggestions"][0]["actions"]
    return next(action for action in actions if action["type"] == kind)


def link(answer: dict[str, Any], kind: str) -> dict[str, Any]:
    links: list[dict[str, Any]] = first(answer)["links"]
    return next(each for each in links if each["type"] == kind)


def put(place: Callable[[dict[str, Any]], Any], name: Any, value: Any) -> Callable[..., None]:
    def change(answer: dict[str, Any]) -> None:
        place(answer)[name] = value

    return change


def drop(place: Callable[[dict[str, Any]], Any], name: Any) -> Callable[..., None]:
    def change(answer: dict[str, Any]) -> None:
        del place(answer)[name]

    return change


def suggestion(answer: dict[str, Any], number: int = 0) -> dict[str, Any]:
    each: dict[str, Any] = first(answer)["suggestions"][number]
    return each


def source(answer: dict[str, Any]) -> dict[str, Any]:
    each: dict[str, Any] = first(answer)["source"]
    return each


def _both_recommended(answer: dict[str, Any]) -> None:
    for each in first(answer)["suggestions"]:
        each["isRecommended"] = True


# Each changes an answer that has cards.
CARDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "null": put(first, "detail", None),
    "empty": put(first, "links", []),
    "empty-object": put(first, "extension", {}),
    "blank": put(first, "detail", "  "),
    "no-cards": lambda answer: answer.pop("cards"),
    "card-text": put(lambda a: a["cards"], 0, "text"),
    "system-actions-empty": put(lambda a: a, "systemActions", []),
    "system-actions-object": put(lambda a: a, "systemActions", {"type": "delete"}),
    "uuid": put(first, "uuid", "1"),
    "uuid-twice": lambda a: a["cards"][1].update(uuid=a["cards"][0]["uuid"]),
    "summary-140": put(first, "summary", "x" * 140),
    "summary-utf16": put(first, "summary", "\U0001f600" * 70),
    "no-summary": drop(first, "summary"),
    "detail-script": put(first, "detail", "<script>alert(1)</script>"),
    "detail-handler": put(first, "detail", "<img src=x onerror=alert(1)>"),
    "detail-number": put(first, "detail", 7),
    "hard-stop": put(first, "indicator", "hard-stop"),
    "no-source": drop(first, "source"),
    "no-label": drop(source, "label"),
    "relative-url": put(source, "url", "/about"),
    "url-of-patient": put(source, "url", "https://example.org/Patient/cds-conformance"),
    "relative-icon": put(source, "icon", "icon.png"),
    "topic-text": put(source, "topic", "potassium"),
    "no-behavior": drop(first, "selectionBehavior"),
    "behavior": put(first, "selectionBehavior", "all"),
    "no-suggestion-label": drop(suggestion, "label"),
    "suggestion-uuid-twice": lambda a: suggestion(a, 1).update(uuid=suggestion(a)["uuid"]),
    "recommended-text": put(suggestion, "isRecommended", "yes"),
    "both-recommended": _both_recommended,
    "no-actions": put(suggestion, "actions", []),
    "upper-type": lambda a: act(a, "create").update(type="CREATE"),
    "no-description": lambda a: act(a, "create").pop("description"),
    "create-text": lambda a: act(a, "create").update(resource="ServiceRequest/1"),
    "create-other": lambda a: act(a, "create")["resource"]["subject"].update(
        reference="Patient/somebody-else"
    ),
    "update-part": lambda a: act(a, "update")["resource"].pop("id"),
    "delete-resource": lambda a: act(a, "delete").update(resource={"resourceType": "Basic"}),
    "delete-no-id": lambda a: act(a, "delete").pop("resourceId"),
    "reason-no-display": lambda a: first(a)["overrideReasons"][0].pop("display"),
    "reason-no-system": lambda a: first(a)["overrideReasons"][0].pop("system"),
    "link-relative": lambda a: link(a, "absolute").update(url="/here"),
    "link-type": lambda a: link(a, "absolute").update(type="other"),
    "link-launch": lambda a: link(a, "smart").update(url="https://a.example.org/?launch=1"),
    "context-absolute": lambda a: link(a, "absolute").update(appContext="x"),
    "order": lambda a: a["cards"].reverse(),
    "extension-list": put(first, "extension", [{"url": "x", "valueString": "y"}]),
    "extension-name": put(first, "extension", {"provenance": {"version": "1"}}),
    "no-version": put(first, "extension", {"org.example.provenance": {"by": "us"}}),
}


class Service:
    """One service, for one request."""

    counters: dict[str, int] = {}  # noqa: RUF012 - of all services of the process
    kept: dict[str, Any] = {}  # noqa: RUF012
    lock = Lock()

    def __init__(self, base: str, path: str, fault: str, signed: bool, keys: list[Any]) -> None:
        self.base, self.path, self.fault, self.signed, self.keys = base, path, fault, signed, keys

    def has(self, *faults: str) -> bool:
        return self.fault in faults

    def count(self) -> int:
        with self.lock:
            self.counters[self.fault] = self.counters.get(self.fault, 0) + 1
            return self.counters[self.fault]

    # ------------------------------------------------------------ discovery

    def discovery(self) -> Any:
        if self.has("one", "slow"):
            # Few calls are enough to see that.
            entries = [self.entry("rich", "patient-view")]
        else:
            entries = [self.entry(id_, hook) for id_, hooks in SERVICES.items() for hook in hooks]
        if not self.has("own-hook"):
            entries.append(self.entry("custom", "org.example.custom"))
        else:
            entries.append(self.entry("custom", "own-hook"))
        first, last = entries[0], entries[-1]
        for name in ("hook", "title", "description", "id"):
            if self.has(f"no-{name}"):
                del first[name]
        if self.has("unroutable"):
            last["id"] = "nowhere"
        if self.has("id-path"):
            last["id"] = "a b/c?"
        if self.has("prefetch-list"):
            first["prefetch"] = list(PREFETCH.values())
        if self.has("prefetch-object"):
            first["prefetch"] = {"patient": {"query": "Patient/1"}}
        if self.has("usage-number"):
            first["usageRequirements"] = 4
        if self.has("twice-same"):
            entries.append(entries[0])
        if self.has("discovery-extension"):
            first["extension"] = ["x"]
        if self.has("discovery-null"):
            first["title"] = None
        if self.has("changing"):
            first["title"] = f"Number {self.count()}"
        if self.has("no-r4"):
            del first["usageRequirements"]
        if self.has("list"):
            return entries
        return {"services": entries}

    def entry(self, id_: str, hook: str) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "id": id_,
            "hook": hook,
            "title": f"Service {id_}",
            "description": "A service for tests.",
            "usageRequirements": "Needs FHIR R4.",
            "extension": {"org.example.rules": {"version": "1"}},
        }
        if id_ == "rich":
            labs = LABS.get(self.fault, PREFETCH["labs"])
            entry["prefetch"] = {**PREFETCH, "labs": labs}
        return entry

    # ------------------------------------------------------------ calls

    def call(self, id_: str, body: Any) -> Any:
        if self.has("call-fails"):
            raise Refused(500)
        if self.has("slow"):
            time.sleep(0.51)
        self.valid(id_, body)
        if id_ != "rich":
            return {"cards": []}
        found = self.data(body)
        answer = self.answer(body, found)
        if self.has("read-500") and "fhirServer" in body:
            raise Refused(500)
        return answer

    def valid(self, id_: str, body: Any) -> None:
        """Refuse a request that is not as CDS Hooks 2.0 has it."""
        if self.has("lenient"):
            return
        wrong = 500 if self.has("crashes") else 400
        hooks = ["org.example.custom"] if id_ == "custom" else SERVICES.get(id_, list(HOOKS))
        if not isinstance(body, dict) or body.get("hook") not in hooks:
            raise Refused(wrong)
        hook, instance, context = body["hook"], body.get("hookInstance"), body.get("context")
        if not isinstance(instance, str) or not re.fullmatch(r"[0-9a-fA-F-]{36}", instance):
            raise Refused(wrong)
        if self.has("uuid-4") and instance[14] != "4":
            raise Refused(400)
        if not isinstance(context, dict):
            raise Refused(wrong)
        if any(name not in context for name in HOOKS.get(hook, ())):
            raise Refused(wrong)
        if self.has("optional-400") and "encounterId" in context and hook == "patient-view":
            raise Refused(400)
        if self.has("strict") and ("unknownMember" in body or "unknownField" in context):
            raise Refused(400)
        if self.has("extension-400") and "extension" in body:
            raise Refused(400)
        if self.has("patient-type") and "/" in context.get("patientId", ""):
            raise Refused(400)
        if self.has("no-authorization") and "fhirAuthorization" in body:
            raise Refused(400)
        if self.has("no-server") and "fhirServer" in body:
            raise Refused(400)
        if self.has("prefetch-needed") and "prefetch" not in body:
            raise Refused(400)
        orders = json.dumps(context.get("draftOrders", ""))
        if self.has("dstu2-500") and "MedicationOrder" in orders:
            raise Refused(500)
        selected = "no-such-draft" in json.dumps(context.get("selections", ""))
        if self.has("selection-500") and selected:
            raise Refused(500)
        self.valid_authorization(body, wrong)

    def valid_authorization(self, body: dict[str, Any], wrong: int) -> None:
        authorization, server = body.get("fhirAuthorization"), body.get("fhirServer")
        if authorization is None:
            return
        types = {"access_token": str, "token_type": str, "expires_in": int, "scope": str}
        if not isinstance(server, str) or "://" not in server:
            raise Refused(wrong)
        for name, kind in {**types, "subject": str}.items():
            if not isinstance(authorization.get(name), kind):
                raise Refused(wrong)
        if authorization["token_type"] != "Bearer":  # noqa: S105 - no password
            raise Refused(wrong)

    # ------------------------------------------------------------ data

    def data(self, body: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
        """Return the resources by key, of prefetch and of the FHIR server."""
        prefetch = body.get("prefetch") or {}
        found: dict[str, list[dict[str, Any]]] = {}
        patient = self.patient(body)
        for key, template in PREFETCH.items():
            value, there = prefetch.get(key), key in prefetch
            if self.has("omitted-400") and not there:
                raise Refused(400)
            if self.has("null-412") and there and value is None:
                raise Refused(412)
            again = there and (
                (self.has("reads-null") and value is None)
                or (self.has("reads-outcome") and self.outcome(value))
            )
            skipped = self.has("partial") and prefetch
            if (not there or again) and not skipped:
                value = self.read(body, template)
            elif not there:
                value = None if key != "patient" else {"resourceType": "Patient", "id": patient}
            resources = self.resources(body, key, value)
            if key == "patient" and not resources and not self.has("lenient"):
                raise Refused(500 if self.has("no-412") else 412)
            found[key] = resources
        return found

    def patient(self, body: dict[str, Any]) -> str:
        context = body.get("context")
        patient = context.get("patientId") if isinstance(context, dict) else None
        return str(patient).removeprefix("Patient/")

    @staticmethod
    def outcome(value: Any) -> bool:
        return isinstance(value, dict) and value.get("resourceType") == "OperationOutcome"

    def resources(self, body: dict[str, Any], key: str, value: Any) -> list[dict[str, Any]]:
        if value is None:
            return []
        if "resourceType" not in value:
            if not self.has("wrapped"):
                raise Refused(400)
            value = value["resource"] or {"resourceType": "Bundle"}
        if self.outcome(value):
            if self.has("outcome-500"):
                raise Refused(500)
            return []
        if value["resourceType"] != "Bundle":
            return [value]
        if self.has("empty-differs") and not value.get("entry"):
            return [{"resourceType": "Basic"}]
        if self.has("next-400") and "link" in value:
            raise Refused(400)
        found = [entry["resource"] for entry in value.get("entry", ())]
        following = [each["url"] for each in value.get("link", ()) if each["relation"] == "next"]
        server = body.get("fhirServer", "")
        if following and (self.has("strays") or (following[0].startswith(f"{server}/") and server)):
            page = self.get(body, following[0])
            found += [entry["resource"] for entry in (page or {}).get("entry", ())]
        mine = f"Patient/{self.patient(body)}"
        if not self.has("foreign"):
            found = [r for r in found if r.get("subject", {}).get("reference", mine) == mine]
        if self.has("old-412") and any("1996" in json.dumps(r) for r in found):
            raise Refused(412)
        return [r for r in found if not self.outcome(r)]

    def read(self, body: dict[str, Any], template: str) -> Any:
        query = template.replace("{{context.patientId}}", self.patient(body))
        return self.get(body, f"{body.get('fhirServer')}/{query}")

    def get(self, body: dict[str, Any], url: str) -> Any:
        """Read from the FHIR server where the token allows; None where it cannot be had."""
        server, authorization = body.get("fhirServer"), body.get("fhirAuthorization")
        if self.has("keeps-token"):
            with self.lock:
                authorization = self.kept.setdefault("authorization", authorization)
        if not server or not authorization or not url.startswith("http://127.0.0.1:"):
            return None
        if self.has("never-reads"):
            return None
        if authorization["expires_in"] <= 0 and not self.has("expired-token"):
            return None
        limited = authorization.get("patient", self.patient(body))
        if limited != self.patient(body) and not self.has("other-patient"):
            return None
        if ".read" in authorization["scope"] and "*" not in authorization["scope"]:
            if not self.has("no-scope"):
                return None
        if self.has("scope-v1") and ".read" not in authorization["scope"]:
            return None
        headers = {"Authorization": f"Bearer {authorization['access_token']}"}
        if self.has("tokenless"):
            headers = {}
        for _ in range(2 if self.has("retries") else 1):
            try:
                request = urllib.request.Request(url, headers=headers)  # noqa: S310
                with self.opener().open(request, timeout=3) as response:
                    return json.load(response)
            except (OSError, ValueError, http.client.HTTPException):
                continue
        if self.has("200-anyway"):
            return {"resourceType": "Patient", "id": self.patient(body)}
        return None

    def opener(self) -> urllib.request.OpenerDirector:
        class Stay(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *args: Any) -> None:
                return None

        return urllib.request.build_opener(*([] if self.has("redirects") else [Stay]))

    # ------------------------------------------------------------ cards

    def answer(self, body: dict[str, Any], found: dict[str, list[dict[str, Any]]]) -> Any:
        resources = [r for key in ("labs", "conditions") for r in found[key]]
        if not resources:
            if self.has("nothing-empty"):
                return {}
            if self.has("nothing-204"):
                raise Refused(204, b"")
            return {"cards": []}
        cards = [
            self.card(body, "critical", f"{len(resources)} resources", resources),
            self.card(body, "info", "For information", resources[:1]),
        ]
        if self.has("reads-differ") and "fhirServer" in body:
            cards.pop()
        if self.has("stateful"):
            cards[0]["summary"] += f" ({self.count()})"
        if self.has("shows-token") and "fhirAuthorization" in body:
            cards[0]["detail"] += body["fhirAuthorization"]["access_token"]
        cards[0] |= self.more(body)
        answer: dict[str, Any] = {
            "cards": cards,
            "systemActions": [
                {"type": "delete", "description": "Delete it", "resourceId": "Basic/1"}
            ],
        }
        if self.fault in CARDS:
            CARDS[self.fault](answer)
        return answer

    def card(
        self, body: dict[str, Any], indicator: str, summary: str, found: list[dict[str, Any]]
    ) -> dict[str, Any]:
        texts = [r.get("code", {}).get("coding", [{}])[0].get("display", "?") for r in found]
        detail = "; ".join(texts)
        return {
            "uuid": str(uuid5(NAMESPACE, f"{body.get('hookInstance')} {indicator}")),
            "summary": summary,
            "indicator": indicator,
            "detail": detail if self.has("injected") else html.escape(detail).replace("|", "\\|"),
            "source": {
                "label": "A service for tests",
                "url": "https://example.org/about",
                "icon": f"{self.base}/icon.png",
                "topic": {"system": "https://example.org", "code": "t", "display": "Topic"},
            },
            "extension": {"org.example.provenance": {"version": "1"}},
        }

    def more(self, body: dict[str, Any]) -> dict[str, Any]:
        subject = {"reference": f"Patient/{self.patient(body)}"}
        order = {
            "resourceType": "ServiceRequest",
            "status": "draft",
            "intent": "proposal",
            "subject": subject,
        }
        actions = [
            {"type": "create", "description": "Order it", "resource": order},
            {"type": "update", "description": "Change it", "resource": {**order, "id": "1"}},
            {"type": "delete", "description": "Delete it", "resourceId": "ServiceRequest/2"},
        ]
        number = f"{body.get('hookInstance')} suggestion"
        return {
            "suggestions": [
                {
                    "label": "Do it",
                    "uuid": str(uuid5(NAMESPACE, number)),
                    "isRecommended": True,
                    "actions": actions,
                },
                {"label": "Do nothing", "uuid": str(uuid5(NAMESPACE, number + " 2"))},
            ],
            "selectionBehavior": "at-most-one",
            "overrideReasons": [
                {"code": "other", "system": "https://example.org/reasons", "display": "Other"}
            ],
            "links": [
                {"label": "About", "url": "https://example.org/about", "type": "absolute"},
                {
                    "label": "App",
                    "url": "https://app.example.org/launch",
                    "type": "smart",
                    "appContext": "tests",
                },
            ],
        }

    # ------------------------------------------------------------ feedback

    def feedback(self, id_: str, body: Any) -> None:
        if self.has("feedback-one") and id_ != "rich":
            raise Refused(404)
        if self.has("lenient"):
            return
        wrong = 500 if self.has("crashes") else 400
        items = body.get("feedback") if isinstance(body, dict) else None
        if not isinstance(items, list):
            raise Refused(wrong)
        for item in items:
            if not isinstance(item.get("card"), str):
                raise Refused(wrong)
            if item.get("outcome") not in ("accepted", "overridden"):
                raise Refused(wrong)
            if item["outcome"] == "accepted" and not item.get("acceptedSuggestions"):
                raise Refused(wrong)
            try:
                when = datetime.fromisoformat(str(item.get("outcomeTimestamp")))
            except ValueError:
                raise Refused(wrong) from None
            if when.tzinfo is None:
                raise Refused(wrong)
            if self.has("only-z") and not item["outcomeTimestamp"].endswith("Z"):
                raise Refused(400)
            if self.has("no-accepted") and item["outcome"] == "accepted":
                raise Refused(400)
            if self.has("reason-needed") and "overrideReason" not in item:
                raise Refused(400)
            with self.lock:
                seen = self.kept.setdefault("cards", set())
                if self.has("conflict") and item["card"] in seen:
                    raise Refused(409)
                if self.has("conflict"):
                    seen.add(item["card"])
                known = self.kept.get("issued", set())
            if self.has("unknown-404") and item["card"] not in known:
                raise Refused(404)

    # ------------------------------------------------------------ tokens

    def check(self, token: str | None, url: str) -> None:
        """Refuse a call whose token is not as CDS Hooks 2.0 has it."""
        if self.has("no-auth"):
            return
        cause = self.cause(token, url)
        if cause:
            raise Refused(401, cause.encode() if self.has("tells-cause") else b"")

    def cause(self, token: str | None, url: str) -> str:
        parts = (token or "").split(".")
        if len(parts) != 3:
            return "token"
        try:
            header, claims = (
                json.loads(base64.urlsafe_b64decode(part + "==")) for part in parts[:2]
            )
            signature = base64.urlsafe_b64decode(parts[2] + "==")
        except ValueError:
            return "token"
        signed = f"{parts[0]}.{parts[1]}".encode()
        alg = header.get("alg")
        if self.has("any-jku") and "jku" in header:
            try:
                urllib.request.urlopen(header["jku"], timeout=3).close()  # noqa: S310
            except OSError:
                pass
        if self.has("none-ok") and str(alg).lower() == "none":
            return self.claims(claims, url)
        key = next((k for k in self.keys if k["kid"] == header.get("kid")), None)
        if key is None and self.has("no-header"):
            key = self.keys[0]
        if key is None:
            return "kid"
        if header.get("typ") != "JWT" and not self.has("no-header"):
            return "typ"
        public = jwt.PyJWK(key, key["alg"])
        if self.has("symmetric-ok") and str(alg).startswith("HS"):
            return self.claims(claims, url)
        if alg != key["alg"] and not self.has("alg-ignored", "no-header"):
            return "alg"
        if not self.has("no-signature") and not public.Algorithm.verify(
            signed, public.key, signature
        ):
            return "signature"
        return self.claims(claims, url)

    def claims(self, claims: dict[str, Any], url: str) -> str:
        now = time.time()
        if not self.has("no-claims"):
            for name in ("iss", "aud", "exp", "iat", "jti"):
                if name not in claims:
                    return name
        if claims.get("iss", ISS) != ISS and not self.has("any-iss"):
            return "iss"
        audience = claims.get("aud", url)
        if self.has("one-audience") and audience != url:
            return "aud"
        listed = audience if isinstance(audience, list) else [audience]
        if url not in listed and not self.has("no-audience"):
            return "aud"
        exp, iat = claims.get("exp", now + 1), claims.get("iat", now)
        if (exp < now or iat > now + 60 or exp - iat > 3600) and not self.has("no-times"):
            return "exp"
        with self.lock:
            used = self.kept.setdefault("jti", set())
            if claims.get("jti") in used and not self.has("replay"):
                return "jti"
            used.add(claims.get("jti", ""))
        return ""


def icon(size: int, color: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", size, size, 8, color, 0, 0, 0)
    width = {2: 3, 6: 4}[color]
    rows = zlib.compress((b"\0" + b"\x80" * width * size) * size)
    png = b"\x89PNG\r\n\x1a\n"
    return png + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Server

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, ssl.SSLError):
            self.close_connection = True

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(min(length, 1_000_000))
        if length > 1_000_000:
            self.close_connection = True
            self.send(413, b"{}")
            return
        parts = urlsplit(self.path).path.split("/")
        mode, fault = ([*parts, "", ""])[1:3]
        scheme = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
        host = f"{scheme}://{self.headers['Host']}"
        base = f"{host}/{mode}/{fault}"
        service = Service(base, self.path, fault, mode == "signed", self.server.keys)
        try:
            status, body = self.routed(service, "/".join(parts[3:]), f"{host}{self.path}", content)
        except Refused as refusal:
            status, body = refusal.status, refusal.body
        except Exception:
            status, body = 500, b"{}"
        self.send(status, body, service)

    do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = answer

    def routed(self, service: Service, path: str, url: str, content: bytes) -> tuple[int, bytes]:
        if self.command == "OPTIONS":
            return (204 if not service.has("preflight-405") else 405), b""
        if path == "icon.png":
            size, color = (64, 2) if service.has("small-icon") else (100, 2)
            return 200, icon(size, 6 if service.has("clear-icon") else color)
        head, _, rest = path.partition("/")
        if head != ("services" if service.has("other-path") else "cds-services"):
            raise Refused(404)
        authorization = self.headers.get("Authorization", "")
        token = authorization.removeprefix("Bearer ") or None
        open_ = service.has("feedback-open") and rest.endswith("/feedback")
        if service.signed and not open_:
            if service.has("discovery-302") and token is None and not rest:
                return 302, b""
            service.check(token, url)
        status, value = self.made(service, rest, content)
        body = b"" if value is None else json.dumps(value).encode()
        if service.has("echoes") and token:
            body = body[:-1] + b', "token": "' + token.encode() + b'"}'
        if service.has("not-json"):
            body = body.replace(b'"uuid"', b'"n": NaN, "uuid"')
        return status, body

    def made(self, service: Service, rest: str, content: bytes) -> tuple[int, Any]:
        if not rest:
            if self.command != "GET" and not service.has("post-discovery"):
                raise Refused(405)
            return (201 if service.has("discovery-201") else 200), service.discovery()
        id_, _, feedback = rest.partition("/")
        if id_ not in (*SERVICES, "custom") and not service.has("any-id"):
            raise Refused(404 if not service.has("unknown-302") else 302)
        if self.command != "POST" and not service.has("any-method"):
            raise Refused(405)
        kind = self.headers.get("Content-Type", "")
        if kind != "application/json" and not service.has("any-type", "any-method"):
            raise Refused(415)
        try:
            if len(content) > 5_000 and content.count(b"[") > 1_000 and not service.has("no-limit"):
                raise Refused(400)
            body = json.loads(content or b"")
        except ValueError:
            if not service.has("lenient", "any-method"):
                raise Refused(400) from None
            body = {}
        except RecursionError:
            raise Refused(500) from None
        if feedback:
            service.feedback(id_, body)
            return 200, None
        answer = service.call(id_ if id_ in SERVICES else "custom", body)
        if service.has("unknown-404"):
            with service.lock:
                issued = service.kept.setdefault("issued", set())
                issued.update(card["uuid"] for card in answer.get("cards", ()))
        return (201 if service.has("call-201") else 200), answer

    def send(self, status: int, body: bytes, service: Service | None = None) -> None:
        self.send_response(status)
        kind = "text/html" if service and service.has("media-type") else "application/json"
        self.send_header("Content-Type", kind)
        origin = self.headers.get("Origin")
        if service and origin and not service.has("cors-none"):
            any_ = service.has("cors-any")
            refused = service.has("cors-refusal") and status >= 400
            if (origin == ORIGIN or any_) and not refused:
                self.send_header("Access-Control-Allow-Origin", origin)
                self.send_header("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
                headers = (
                    "content-type"
                    if service.has("cors-headers")
                    else ("authorization, content-type")
                )
                self.send_header("Access-Control-Allow-Headers", headers)
            if any_:
                self.send_header("Access-Control-Allow-Credentials", "true")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self, keys: list[Any], tls: ssl.SSLContext | None = None, plain_too: bool = False
    ) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.keys, self.tls, self.plain_too = keys, tls, plain_too

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.tls is not None:
            hello = request.recv(1, socket.MSG_PEEK) == b"\x16"
            if not hello and not self.plain_too:
                return
            if hello:
                request = self.tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


def main(jwks: str, certificate: str, key: str) -> None:
    keys = json.loads(Path(jwks).read_text())["keys"]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    servers = [Server(keys), Server(keys, tls), Server(keys, tls, plain_too=True)]
    for server in servers:
        Thread(target=server.serve_forever, daemon=True).start()
    print(*(server.server_address[1] for server in servers), flush=True)  # noqa: T201
    sys.stdin.read()  # to the end of whoever started it


if __name__ == "__main__":
    main(*sys.argv[1:])
