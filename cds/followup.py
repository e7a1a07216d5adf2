"""What to ask or measure next: the datum that would sharpen an assessment.

Two sources, both data: the questions of the rules whose finding is shown (`Rule.ask`), and what
rules of higher tiers still wait for, where the value set has a question or a result is missing.
"""

from __future__ import annotations

from collections.abc import Iterator

from cds.model import Evaluation, FollowUp, Tier
from cds.rules import Rulesets

__all__ = ["follow_up"]


def follow_up(evaluation: Evaluation, rulesets: Rulesets) -> tuple[FollowUp, ...]:
    """Return the questions, each once, those of the most urgent rules first.

    A question that only an undecided rule asks comes after those of findings of its tier.
    """
    found: dict[tuple[str, str], tuple[tuple[int, int, int], list[str]]] = {}
    order = {rule.rule.id: i for i, rule in enumerate(rulesets.program.rules)}
    for rank, rule, question, needs in _asked(evaluation, rulesets):
        place, rules = found.setdefault((question, needs), ((*rank, order[rule]), []))
        rules.append(rule)
        if (*rank, order[rule]) < place:
            found[question, needs] = ((*rank, order[rule]), rules)
    # Not by the question: its wording depends on the language.
    ranked = sorted(found.items(), key=lambda entry: (entry[1][0], entry[0][1]))
    return tuple(
        FollowUp(question, needs, tuple(sorted(set(rules), key=lambda id_: order[id_])))
        for (question, needs), (_, rules) in ranked
    )


def _asked(
    evaluation: Evaluation, rulesets: Rulesets
) -> Iterator[tuple[tuple[int, int], str, str, str]]:
    """Yield rank, rule, question and the concept that it waits for ("" for none)."""
    by_id, terms = rulesets.program.by_id, rulesets.terminology
    for finding in evaluation.findings:
        for id_ in finding.rules:
            rule = by_id[id_].rule
            for question in rule.ask:
                yield (-rule.tier_value, 0), id_, question, ""
    for entry in evaluation.not_evaluated:
        rule = by_id[entry.rule].rule
        if rule.step or rule.recheck_of or rule.tier_value < Tier.soon:
            continue
        value_set, analyte = terms.value_sets.get(entry.needs), terms.analytes.get(entry.needs)
        if value_set is not None and value_set.ask and entry.reason in ("missing", "unknown-code"):
            yield (-rule.tier_value, 1), entry.rule, value_set.ask, entry.needs
        elif analyte is not None and entry.reason in ("missing", "stale"):
            question = rulesets.texts.ask_result.replace("{name}", analyte.name)
            yield (-rule.tier_value, 1), entry.rule, question, entry.needs
