"""What every CDS Hooks 2.0 card has to satisfy; `cds check` asks the same of every ruleset."""

from __future__ import annotations

from cds.testing.card_invariants import INDICATORS, check_card, check_cards, shown, tokens

__all__ = ["INDICATORS", "check_card", "check_cards", "shown", "tokens"]
