"""Cards that speak of the call itself, and what a card says of orders that nobody has signed.

Their words come from `service` of ``cards.yaml``. They rest on no rule, so they have no override
reasons and no suggestions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID, uuid5

from cds.rulefile import ServiceTexts
from cds.screening import Audience
from cds.wording import fill, one_line, safe_markdown, shorten

__all__ = ["PROVENANCE", "Notices", "rests_on"]

PROVENANCE: Final = "org.cds-twitch.provenance"
"""The extension of a card that names its rules and resources (`cds.cards`)."""

_SUMMARY: Final = 139  # strictly fewer than 140 (CDS Hooks 2.0, "Card Attributes"; CH-95)


def rests_on(card: Mapping[str, Any], resources: frozenset[str]) -> bool:
    """Whether a card names one of these resources as what it rests on."""
    named = card.get("extension", {}).get(PROVENANCE, {}).get("resources", ())
    return not resources.isdisjoint(named)


class Notices:
    """Writes the cards of one call that no rule makes.

    Args:
        texts: the words.
        audience: whom they speak to.
        call: what the uuids of these cards are made of, besides their kind: the same call gives
            the same card.
        digest: of the rulesets.
    """

    def __init__(
        self, texts: ServiceTexts, audience: Audience, call: Sequence[str], digest: str
    ) -> None:
        self._texts, self._call, self._digest = texts, tuple(call), digest
        self._patient = audience == "patient"

    def as_if_started(self, card: dict[str, Any]) -> None:
        """Say on a card that it counts draft orders as if they were started.

        To a clinician first of all; to a patient last: what to do comes before it.
        """
        detail = card.get("detail", "")
        if self._patient:
            parts = [detail, safe_markdown(self._texts.patient_as_if_started)]
        else:
            parts = [safe_markdown(self._texts.as_if_started), detail]
        card["detail"] = "\n\n".join(part for part in parts if part)

    def not_all_data(self, data: Sequence[str], foreign: int, unreadable: int) -> dict[str, Any]:
        """Return the card that says what was not there, by the keys of `ServiceTexts.data`."""
        t = self._texts
        names = ", ".join(t.data.get(key, key) for key in data)
        parts = []
        if data:
            parts.append(self._filled(t.patient_not_all_data, t.not_all_data, data=names))
        if foreign:
            parts.append(fill(t.other_people, lambda _: str(foreign)))
        if unreadable:
            parts.append(fill(t.unreadable, lambda _: str(unreadable)))
        if names:
            summary = self._filled(
                t.patient_not_all_data_summary, t.not_all_data_summary, data=names
            )
        else:
            summary = parts[0]
        return self._card("not-all-data", "info", summary, "\n\n".join(parts))

    def failed(self) -> dict[str, Any]:
        """Return the card that takes the place of all others after a failure (CH-64)."""
        t = self._texts
        return self._card(
            "failed",
            "warning",
            self._filled(t.patient_failed_summary, t.failed_summary),
            self._filled(t.patient_failed, t.failed),
        )

    def not_recorded(self) -> dict[str, Any]:
        """Return the card that stands where nothing was found, and that could not be kept."""
        t = self._texts
        return self._card(
            "not-recorded",
            "warning",
            self._filled(t.patient_failed_summary, t.not_recorded_summary),
            self._filled(t.patient_failed, t.not_recorded),
        )

    def _filled(self, patient: str, clinician: str, **words: str) -> str:
        return fill(patient if self._patient else clinician, lambda name: words.get(name, ""))

    def _card(self, kind: str, indicator: str, summary: str, detail: str) -> dict[str, Any]:
        return {
            "uuid": str(uuid5(_NAMESPACE, ascii((*self._call, self._digest, kind)))),
            "summary": shorten(one_line(summary), _SUMMARY),
            "indicator": indicator,
            "detail": safe_markdown(detail),
            "source": {"label": one_line(self._texts.label)},
        }


_NAMESPACE: Final = UUID("8d0f3a52-3b0e-4a9c-9c63-6d2f0b1a7e44")
