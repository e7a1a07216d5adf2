"""Render: from the findings of one patient to CDS Hooks 2.0 cards, for clinician or patient.

At most one card for a group and tier. What a card says of a finding comes from the rule files,
what all cards share from `cards.yaml`; values are put into words by `cds.wording`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, Literal
from uuid import UUID, uuid5

from cds.errors import CardError
from cds.facts import iso
from cds.model import Change, Evaluation, Fact, Finding, Source, Tier
from cds.program import CompiledRule, grid_code
from cds.rulefile import CardText, CodeText, Evidence
from cds.rules import Rulesets
from cds.wording import (
    Wording,
    Words,
    escape,
    fill,
    listed,
    one_line,
    placeholder_names,
    safe_markdown,
    shorten,
    utf8,
    utf16_units,
)

__all__ = [
    "SUMMARY_LIMIT",
    "Audience",
    "because",
    "card_place",
    "change_json",
    "placeholders",
    "render",
]

Audience = Literal["clinician", "patient"]

SUMMARY_LIMIT: Final = 139
"""Longest summary in UTF-16 code units: strictly fewer than 140 (CDS Hooks 2.0, Card)."""

_NAMESPACE: Final = UUID("5b1ff2a6-6c3c-4a57-9d0c-1d7a7f0f3c11")
_PROVENANCE: Final = "org.cds-twitch.provenance"
_MERGED: Final = ("education", "lifestyle", "workup")  # their info and routine share a card
_PRIORITY: Final = {Tier.emergency: "stat", Tier.urgent: "urgent"}  # FHIR request-priority
_REVIEW: Final = {
    "draft": "Draft: no clinician has signed this rule",
    "under-review": "Under review: no clinician has signed this rule yet",
    "approved": "Signed by a clinician",
}
# Texts of rule files, always the same; a patient's never come here, so that none is kept.
_line: Final = lru_cache(maxsize=8192)(one_line)
_escape: Final = lru_cache(maxsize=8192)(escape)
_HTTPS: Final = re.compile(r"https://[^\s<>\"\\^`{|}]+")


def render(
    evaluation: Evaluation,
    rulesets: Rulesets,
    *,
    audience: Audience = "clinician",
    hook_instance: str | None = None,
    changes: Mapping[str, Sequence[Change]] | None = None,
) -> list[dict[str, Any]]:
    """Return the cards of one patient as JSON-ready dicts, the most urgent first.

    `changes` say, by the id of a finding, what would change it; a clinician's card names them.

    Nothing in them is None or empty; the order of keys and cards is always the same. A card's
    uuid is a UUIDv5 over patient, audience, `hook_instance` (or `as_of`), group, tier and the
    digest of the rulesets, so that the same call gives the same card. No finding: no card.

    Raises: CardError if a text of a rule names an unknown placeholder or suggestion.

    Source: CDS Hooks 2.0, "CDS Service Response" and "Card Attributes".
    """
    if not evaluation.findings:
        return []
    writer = _Writer(evaluation, rulesets, audience, hook_instance, changes or {})
    cards: dict[tuple[str, Tier], list[_Item]] = {}
    for finding in evaluation.findings:
        cards.setdefault(card_place(finding), []).append(writer.item(finding))
    return [
        writer.card(group, tier, items, first=number == 0)
        for number, ((group, tier), items) in enumerate(cards.items())
    ]


def card_place(finding: Finding) -> tuple[str, Tier]:
    """Return the group and tier of the card that a finding stands on; each place is one card."""
    if finding.group in _MERGED and finding.tier <= Tier.routine:
        return "+".join(_MERGED), Tier.info
    return finding.group, finding.tier


def placeholders(text: str) -> set[str]:
    """Return the names that stand in braces in a card text ("potassium.date").

    Known are an analyte (its value and unit), with ``.date`` or ``.sent``, and ``age_days``.
    """
    return set(placeholder_names(text))


def because(evaluation: Evaluation, keys: Iterable[str]) -> list[dict[str, Any]]:
    """Return what a finding rests on as JSON: one entry for each source of each fact.

    `keys` are those of `Finding.because`. A fact without a source gives one entry, a key
    "finding/<id>" gives ``{"kind": "finding", "id": ...}``. `value` is in `unit` (UCUM): a
    whole number, or a float rounded to six significant digits or decimals, whichever is more,
    or unrounded where that would move it across a step of the grid on which thresholds lie.
    It is left out where a float could not hold it. `sent` and `range` are the sender's words.
    """
    entries: list[dict[str, Any]] = []
    for key in keys:
        fact = evaluation.facts.get(key)
        if fact is None:
            kind, _, name = key.partition("/")
            entries.append({"kind": kind, "id": name})
            continue
        aspect = "/".join(key.split("/")[2:])
        head = _full(kind=fact.kind, concept=fact.concept, aspect=aspect)
        entries += [{**head, **_source_json(source)} for source in fact.sources] or [head]
    return entries


def _source_json(source: Source) -> dict[str, Any]:
    number = None if source.value is None else _json_number(source.value)
    return _full(
        value=number,
        unit=source.unit if number is not None else None,
        sent=utf8(source.sent or ""),
        effective=utf8(source.effective or ""),
        resource=utf8(source.resource or ""),
        range=utf8(source.laboratory_range or ""),
        doubts=[doubt.code for doubt in source.doubts],
        of=source.concept or "",
    )


def change_json(change: Change) -> dict[str, Any]:
    """Return a change as JSON, with null for what it does not say; members as in `Change`."""
    kind, concept, *aspect = change.key.split("/")
    resource = utf8(change.resource or "")
    return {
        "outcome": change.outcome,
        "tier": None if change.tier is None else change.tier.name,
        "finding": change.finding,
        "rule": change.rule or None,
        "kind": kind,
        "concept": concept,
        "aspect": "/".join(aspect) or None,
        "op": change.op,
        "value": None if change.value is None else _json_number(change.value),
        "unit": change.unit,
        "value_sent": None if change.value_sent is None else _json_number(change.value_sent),
        "unit_sent": change.unit_sent,
        "resource": resource if resource.strip() else None,
    }


def _json_number(value: Decimal) -> int | float | None:
    if not value.is_finite() or abs(value) >= 10**15:
        return None
    if value == value.to_integral_value():
        return int(value)
    if -int(value.as_tuple().exponent) <= 6:
        return float(value)
    rounded = round(value, max(6, 5 - value.adjusted()))
    return float(rounded if grid_code(rounded) == grid_code(value) else value)


def _full(**members: Any) -> dict[str, Any]:
    """Return the members that have a value (CDS Hooks 2.0: nothing null, nothing empty)."""
    return {name: value for name, value in members.items() if value or value == 0}


@dataclass(frozen=True, slots=True)
class _Item:
    """A finding, its rules, and the texts of those that speak for it (rule id, text)."""

    finding: Finding
    rules: tuple[CompiledRule, ...]
    texts: tuple[tuple[str, CardText], ...]
    facts: tuple[Fact, ...]

    @property
    def evidence(self) -> list[Evidence]:
        return [e for r in self.rules for e in r.rule.evidence]


class _Writer:
    """Writes the cards of one patient."""

    def __init__(
        self,
        evaluation: Evaluation,
        rulesets: Rulesets,
        audience: Audience,
        hook_instance: str | None,
        changes: Mapping[str, Sequence[Change]],
    ) -> None:
        self.changes = changes
        self.evaluation, self.rulesets, self.texts = evaluation, rulesets, rulesets.texts
        self.clinician = audience == "clinician"
        self.wording = Wording(evaluation, rulesets)
        self.as_of = iso(evaluation.as_of)
        self.call = (evaluation.patient, audience, hook_instance or self.as_of, rulesets.digest)
        self.versions = {file.group: file.version for file in rulesets.files}

    def item(self, finding: Finding) -> _Item:
        """Gather the rules of a finding; those of its own tier speak for it."""
        by_id = self.rulesets.program.by_id
        rules = tuple(by_id[id_] for id_ in finding.rules if id_ in by_id)
        speaking = [r for r in rules if r.rule.tier_value == finding.tier and r.rule.card] or rules
        texts = tuple((r.rule.id, r.rule.card) for r in speaking if r.rule.card)
        if not texts:
            raise CardError(
                f"finding '{finding.id}': none of its rules ({', '.join(finding.rules)}) "
                "has a card text; give one of them 'card'"
            )
        return _Item(finding, rules, texts, tuple(self.wording.facts(finding.because)))

    def card(self, group: str, tier: Tier, items: list[_Item], *, first: bool) -> dict[str, Any]:
        """Return one card. `first` marks the one that says what could not be evaluated."""
        uuid = _uuid(_NAMESPACE, *self.call, group, tier.name)
        topic = self.texts.groups.get(items[0].finding.group)
        source, *others = _unique([e for item in items for e in item.evidence])
        url = _https(source) if self.clinician else None  # patients get no evidence to read
        suggestions = self._suggestions(items, uuid) if self.clinician else []
        return _full(
            uuid=str(uuid),
            summary=self._summary(items[0], len(items) - 1),
            indicator=tier.indicator,
            detail=self._detail(items, first) if self.clinician else self._patient_detail(items),
            source=_full(
                label=_line(source.source), url=url, topic=_coding(topic) if topic else None
            ),
            suggestions=suggestions,
            selectionBehavior="any" if suggestions else None,
            overrideReasons=self._override_reasons() if self.clinician else None,
            links=_links(others, url) if self.clinician else None,
            extension={_PROVENANCE: self._provenance(items)},
        )

    def _override_reasons(self) -> list[dict[str, Any]]:
        return [_coding(reason) for reason in self.texts.override_reasons]

    # ------------------------------------------------------------ summary

    def _summary(self, top: _Item, more: int) -> str:
        """Return the one sentence: the most urgent finding, "and n more", shorter than 140."""
        rule, text = top.texts[0]
        template = text.summary
        if not self.clinician:
            tier = self.texts.patient_tiers.get(top.finding.tier.name)
            template = text.patient_summary or tier or text.patient
            if template is tier:  # says what to do, so there is nothing to count
                more = 0
        sentence = fill(template, lambda name: self._placeholder(name, top, rule).plain)
        sentence = one_line(sentence) or _line(top.finding.title)
        suffix = f" and {more} more" if more > 0 else ""
        if suffix:
            sentence = sentence.rstrip(" .;:,")
        room = SUMMARY_LIMIT - len(suffix)
        if utf16_units(sentence) > room:
            sentence = self._shorter(sentence, template, top, room)
        return sentence + suffix

    def _shorter(self, sentence: str, template: str, top: _Item, room: int) -> str:
        """Shorten a sentence, but keep the analytes that it names with their values."""
        kept = ""
        for name in dict.fromkeys(placeholder_names(template)):
            if self.wording.is_analyte(name) and not self._hides_numbers(top):
                pair = f"{self.wording.name(name)} {self.wording.result(name).plain}"
                longer = f"{kept}, {pair}" if kept else pair
                kept = longer if utf16_units(longer) <= room * 2 // 3 else kept
        if not kept:
            return shorten(sentence, room)
        return f"{shorten(sentence, room - utf16_units(kept) - 3)} ({kept})"

    # ------------------------------------------------------------ placeholders

    def _filled(self, text: str, item: _Item, rule: str) -> str:
        """Return the Markdown of a rule's author with the patient's values in it."""
        return fill(safe_markdown(text), lambda name: self._placeholder(name, item, rule).markdown)

    def _placeholder(self, name: str, item: _Item, rule: str) -> Words:
        if name == "age_days":
            return self.wording.age_days(item.facts)
        analyte, _, part = name.partition(".")
        if not self.wording.is_analyte(analyte) or part not in ("", "date", "sent"):
            raise CardError(
                f"rule '{rule}': unknown placeholder '{{{name}}}' in a card text; write an analyte "
                "of analytes.yaml, alone or with .date or .sent, or age_days"
            )
        if part == "date":
            return self.wording.date(analyte)
        if self._hides_numbers(item):
            return Words("your result")
        return self.wording.result(analyte, as_sent=part == "sent")

    def _hides_numbers(self, item: _Item) -> bool:
        """No number for a patient to interpret in an emergency."""
        return not self.clinician and item.finding.tier is Tier.emergency

    # ------------------------------------------------------------ detail

    def _detail(self, items: list[_Item], first: bool) -> str:
        """Return the body for a clinician: findings with what they rest on, then the notes."""
        tier = items[0].finding.tier
        rules = {r.rule.id: r for item in items for r in item.rules}.values()
        blocks = [safe_markdown(self.texts.tiers.get(tier.name, ""))]
        for item in items:
            blocks += self._section(item, tier)
        if first:
            blocks.append(self._not_evaluated())
        if "patient/age" not in self.evaluation.facts and any(
            r.rule.population == "adult" for r in rules
        ):
            blocks.append(safe_markdown(self.texts.age_unknown))
        blocks += [self._review(rules), safe_markdown(self.texts.disclaimer)]
        return "\n\n".join(block for block in blocks if block)

    def _section(self, item: _Item, tier: Tier) -> Iterator[str]:
        finding = item.finding
        other = "" if finding.tier is tier else f" ({finding.tier.name})"
        yield f"**{_escape(finding.title)}**{other}"
        yield "\n".join(f"- {self.wording.fact(fact)}" for fact in item.facts)
        doubts = dict.fromkeys(d.text for f in item.facts for s in f.sources for d in s.doubts)
        yield "\n\n".join(f"**Caution:** {_escape(doubt)}" for doubt in doubts)
        for caveat in finding.caveats:
            text = self._filled(caveat.text, item, caveat.rules[0])
            yield f"**Caution: {_escape(caveat.title)}.** {text}"
            more = (f for f in self.wording.facts(caveat.because) if f not in item.facts)
            yield "\n".join(f"- {self.wording.fact(fact)}" for fact in more)
        yield from dict.fromkeys(self._filled(t.detail, item, rule) for rule, t in item.texts)
        asked = dict.fromkeys(question for r in item.rules for question in r.rule.ask)
        if asked:
            yield "\n".join([_escape(self.texts.ask_next), "", *(f"- {_escape(q)}" for q in asked)])
        yield _escape(self.wording.changes(self.changes.get(finding.id, ())))
        yield "\n".join(f"- {_citation(e)}" for e in _unique(item.evidence))

    def _not_evaluated(self) -> str:
        """Say what could not be judged, by reason; results that are merely missing come last."""
        reasons: dict[str, dict[str, None]] = {}
        for n in sorted(self.evaluation.not_evaluated, key=lambda n: n.reason == "missing"):
            if n.reason in ("missing", "unknown-code") and not self.wording.is_analyte(n.needs):
                continue  # symptoms and medicines that nobody recorded: a list without an end
            reasons.setdefault(n.reason, {})[_escape(self.wording.name(n.needs))] = None
        entries = [
            f"{_escape(self.texts.not_evaluated.get(reason, reason))}: {listed(list(names))}"
            for reason, names in reasons.items()
        ]
        return f"Not evaluated ({'; '.join(entries)})." if entries else ""

    def _review(self, rules: Iterable[CompiledRule]) -> str:
        states: dict[str, list[str]] = {}
        for r in rules:
            entry = _escape(f"{r.rule.id}, {r.group} {self.versions.get(r.group, '')}")
            states.setdefault(_REVIEW[r.rule.review], []).append(entry)
        notes = (f"{state} ({listed(ids, '; ')})." for state, ids in sorted(states.items()))
        return " ".join(notes)

    def _patient_detail(self, items: list[_Item]) -> str:
        """Return the body for a patient: what to do and when, in the rules' own plain words."""
        blocks = [safe_markdown(self.texts.patient_tiers.get(items[0].finding.tier.name, ""))]
        for item in items:
            blocks += [self._filled(text.patient, item, rule) for rule, text in item.texts]
        blocks += [self._about_medicines(items), safe_markdown(self.texts.patient_disclaimer)]
        return "\n\n".join(dict.fromkeys(block for block in blocks if block))

    def _about_medicines(self, items: list[_Item]) -> str:
        """Return what a patient is told where a medicine may be the cause; "" where none may."""
        words = self.texts.patient_medicine
        if words is None or not any(item.finding.group in words.groups for item in items):
            return ""
        hurry = items[0].finding.tier >= Tier.urgent
        return safe_markdown(words.urgent if hurry else words.below_urgent)

    # ------------------------------------------------------------ orders, provenance

    def _suggestions(self, items: list[_Item], card: UUID) -> list[dict[str, Any]]:
        """Return the draft orders that the findings ask for, each suggestion once."""
        wanted: dict[str, tuple[str, Finding]] = {}
        for item in items:
            for rule, text in item.texts:
                for name in text.suggestions:
                    wanted.setdefault(name, (rule, item.finding))
        result = []
        for name, (rule, finding) in wanted.items():
            suggestion = self.texts.suggestions.get(name)
            if suggestion is None:
                raise CardError(f"rule '{rule}': suggestion '{name}' is not in cards.yaml")
            actions = [
                {
                    "type": "create",
                    "description": _line(order.description),
                    "resource": self._order(order.code, order.category, finding),
                }
                for order in suggestion.orders
            ]
            uuid = str(_uuid(card, name))
            result.append({"label": _line(suggestion.label), "uuid": uuid, "actions": actions})
        return result

    def _order(self, code: CodeText, category: CodeText | None, finding: Finding) -> dict[str, Any]:
        """Return a ServiceRequest (FHIR R4): a draft that nobody has signed."""
        kind = {"category": [{"coding": [_coding(category)]}]} if category else {}
        return {
            "resourceType": "ServiceRequest",
            "status": "draft",
            "intent": "proposal",
            **kind,
            "priority": _PRIORITY.get(finding.tier, "routine"),
            "code": {"coding": [_coding(code)], "text": _line(code.display)},
            "subject": {"reference": utf8(self.evaluation.patient)},
            "authoredOn": self.as_of,
            "reasonCode": [{"text": _line(finding.title)}],
        }

    def _provenance(self, items: list[_Item]) -> dict[str, Any]:
        """Return which rules and resources made the card; readers may ignore all of it."""
        made = {(i.finding.id, r.rule.id): r for i in items for r in i.rules}
        facts = [fact for item in items for fact in item.facts]
        for caveat in (c for item in items for c in item.finding.caveats):
            by_id = self.rulesets.program.by_id
            made.update({(caveat.id, id_): by_id[id_] for id_ in caveat.rules})
            facts += self.wording.facts(caveat.because)
        resources = {utf8(s.resource or "") for fact in facts for s in fact.sources}
        rules = [
            _full(
                id=r.rule.id,
                finding=finding,
                group=r.group,
                version=self.versions.get(r.group),
                review=r.rule.review,
            )
            for (finding, _), r in made.items()
        ]
        return _full(
            as_of=self.as_of,
            digest=self.rulesets.digest,
            rules=rules,
            resources=sorted(r for r in resources if r.strip()),
            changes=[
                _full(**change_json(change))
                for item in items
                if self.clinician
                for change in self.changes.get(item.finding.id, ())
            ],
        )


def _uuid(namespace: UUID, *parts: str) -> UUID:
    # ascii() of a tuple joins the parts so that no two lists of parts share a name.
    return uuid5(namespace, ascii(parts))


def _unique(evidence: Sequence[Evidence]) -> list[Evidence]:
    seen: dict[tuple[str, str, str | None], Evidence] = {}
    for e in evidence:
        seen.setdefault((e.source, e.statement, e.url), e)
    return list(seen.values())


def _links(evidence: Iterable[Evidence], but: str | None) -> list[dict[str, str]]:
    """Return a link for each address once, but not for that of the card's source."""
    links: dict[str, dict[str, str]] = {}
    for e in evidence:
        url = _https(e)
        if url and url != but:
            label = _line(f"{e.source} ({e.year})" if e.year else e.source)
            links.setdefault(url, {"label": label, "url": url, "type": "absolute"})
    return list(links.values())


def _https(evidence: Evidence) -> str | None:
    url = evidence.url or ""
    return url if _HTTPS.fullmatch(url) else None


def _coding(code: CodeText) -> dict[str, Any]:
    return _full(code=code.code, system=code.system, display=_line(code.display))


def _citation(e: Evidence) -> str:
    where = ", ".join(str(part) for part in (e.year, e.section) if part)
    text = f"{e.source} ({where})" if where else e.source
    word = "Proposal, no source read" if e.from_knowledge else "Evidence"
    return _escape(f"{word}: {text}: {e.statement}")
