"""What people read: an assessment, why a rule fired or did not, and the catalog of rules.

Layout only: the values are those of `Assessment` and `catalog.py`. The terminal gets its text
through `Page`, which wraps to its width and lets no control character of a sender through.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from cds.catalog import concept_name
from cds.wording import escape, listed

if TYPE_CHECKING:
    from cds.coverage import Row
    from cds.model import Evaluation, NotEvaluated, Problem
    from cds.rules import Rulesets
    from cds.screening import Assessment, Audience
    from cds.site import Site

__all__ = [
    "Page",
    "catalog_markdown",
    "visible",
    "write_assessment",
    "write_catalog",
    "write_coverage",
    "write_explanation",
    "write_not_run",
]

_STATES: Final = {"yes": "green", "no": "", "unknown": "yellow"}
_COMPARATOR: Final = re.compile(r"\s*([<>]=?)")
_MARKDOWN: Final = re.compile(
    r"(?P<fence>`+)(?P<code>.+?)(?<!`)(?P=fence)(?!`)"
    r"|\\(?P<escaped>[!-/:-@\[-`{-~])"
    r"|\*\*(?P<bold>(?:\\.|[^\\*])+)\*\*"
    r"|\[(?P<label>(?:\\.|[^\\\]])*)\]\((?P<url>[^)\s]*)\)",
    re.DOTALL,
)


# ---------------------------------------------------------------- the terminal


def visible(text: str) -> str:
    r"""Return the text with every control, format and direction character written out.

    What a sender wrote can then neither move the cursor, nor color, hide or reverse anything.

    >>> visible("2.4\x1b[31m mmol/L")
    '2.4\\x1b[31m mmol/L'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Page:
    """Text for a terminal or a pipe: wrapped to the width, colored only on a terminal.

    Args:
        stream: where to write.
        width: columns; by default those of the terminal (or of COLUMNS), else 80.
        color: by default on a terminal, unless NO_COLOR is set (no-color.org).
    """

    def __init__(
        self, stream: TextIO, *, width: int | None = None, color: bool | None = None
    ) -> None:
        self._stream = stream
        self._width = width or shutil.get_terminal_size().columns
        self._color = stream.isatty() and not os.environ.get("NO_COLOR") if color is None else color

    def line(
        self, text: str = "", *, indent: int = 0, label: str = "", style: str = "", lead: int = 0
    ) -> None:
        """Write one paragraph; what wraps stands under the text, right of `label`.

        `style` is "bold" or a color; the first `lead` characters are bold in any case.
        """
        first = " " * indent + visible(label)
        # A word longer than the line, such as a URL, stays whole so that it can be copied.
        lines = textwrap.wrap(
            visible(text),
            max(24, self._width - len(first)),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for number, line in enumerate(lines or [""]):
            head = first if number == 0 else " " * len(first)
            if number == 0 and lead:
                body = self._styled(line[:lead], "bold") + self._styled(line[lead:], style)
            else:
                body = self._styled(line, style)
            self._stream.write((head + body if line else head.rstrip()) + "\n")

    def _styled(self, text: str, style: str) -> str:
        if not (style and text and self._color):
            return text
        return click.style(text, bold=True) if style == "bold" else click.style(text, fg=style)

    def heading(self, text: str) -> None:
        """Write the title of a part, after an empty line."""
        self.line()
        self.line(text, style="bold")

    def markdown(self, text: str, *, indent: int = 0) -> None:
        """Write a card's text: paragraphs, lists, bold, code spans and links of Markdown.

        Source: GitHub Flavored Markdown, the part of it that `cards.py` writes.
        """
        for block in text.split("\n\n"):
            # A line break inside a paragraph or list item is a space.
            for line in re.split(r"\n(?=[-*] )", block):
                item = line.startswith(("- ", "* "))
                plain, lead = _plain(" ".join((line[2:] if item else line).split()))
                self.line(plain, indent=indent, label="- " if item else "", lead=lead)
            self.line()


def _plain(markdown: str) -> tuple[str, int]:
    """Return a line of Markdown as text, and how many characters at its beginning are bold."""
    text, end, lead = "", 0, 0
    for match in _MARKDOWN.finditer(markdown):
        text += html.unescape(markdown[end : match.start()])
        end = match.end()
        code, escaped, bold, label = match.group("code", "escaped", "bold", "label")
        if code is not None:
            padded = code[0] == code[-1] == " " and code.strip()
            text += code[1:-1] if padded else code
        elif escaped is not None:
            text += escaped
        elif bold is not None:
            lead = len(_plain(bold)[0]) if not text else lead
            text += _plain(bold)[0]
        else:
            text += f"{_plain(label)[0]} ({match['url']})"
    return text + html.unescape(markdown[end:]), lead


# ---------------------------------------------------------------- an assessment


def write_assessment(
    page: Page,
    assessment: Assessment,
    rulesets: Rulesets,
    *,
    audience: Audience = "clinician",
    everything: bool = False,
) -> None:
    """Write one patient's assessment: the cards of that audience, and for a clinician the rest.

    The rest is what was suppressed, what could not be evaluated (`everything`: also the rules
    that came nowhere near) and the problems of the record.

    Raises: CardError as `cards.render`.
    """
    cards = assessment.cards(audience)
    clinician = audience == "clinician"
    tier = assessment.tier
    head = f"{assessment.patient}, as of {assessment.as_of}"
    if clinician:
        head += f": {tier.name.upper() if tier is not None else 'no finding'}"
    page.line(head, style="bold")
    page.line()
    if rulesets.site is not None and rulesets.site.notice:
        page.line("Not all rules were run here, so what follows is not complete.", style="yellow")
        page.line()
    texts = rulesets.texts
    disclaimer = texts.disclaimer if clinician else texts.patient_disclaimer
    for card in cards:
        _write_card(page, card, clinician, disclaimer.strip())
    if not cards:
        page.line("There is no finding. That does not mean that nothing is wrong.")
        page.line()
    if clinician:
        undecided = assessment.undecided if everything else assessment.evaluation.not_evaluated
        _write_hidden(page, assessment.evaluation)
        _write_undecided(page, undecided, rulesets, everything)
        _write_problems(page, assessment.evaluation.problems)
    page.line(disclaimer)
    page.line()


def _write_card(page: Page, card: Mapping[str, Any], clinician: bool, disclaimer: str) -> None:
    page.line(card["summary"], label="* " if clinician else "", style="bold")
    # The same words stand once for the whole patient, not on each card.
    once = [
        block
        for block in card["detail"].split("\n\n")
        if block != disclaimer and not block.startswith("Not evaluated ")
    ]
    page.markdown("\n\n".join(once), indent=2 if clinician else 0)
    if not clinician:
        return
    if proposed := "; ".join(s["label"] for s in card.get("suggestions", ())):
        page.line(proposed, indent=2, label="Proposed: ")
    origin = next(iter(card["extension"].values()))
    page.line(", ".join(dict.fromkeys(r["id"] for r in origin["rules"])), indent=2, label="Rules: ")
    if origin.get("resources"):
        page.line(", ".join(origin["resources"]), indent=2, label="Rests on: ")
    page.line()


def _write_hidden(page: Page, evaluation: Evaluation) -> None:
    if evaluation.suppressed:
        page.line("Found but not shown", style="bold")
        for hidden in evaluation.suppressed:
            finding = hidden.finding
            text = f"{finding.title} ({finding.id}, {finding.tier.name}): {hidden.reason}"
            page.line(text, label="- ")
        page.line()


def _write_undecided(
    page: Page, undecided: Sequence[NotEvaluated], rulesets: Rulesets, by_rule: bool
) -> None:
    """Write what is missing under each reason; `by_rule` also which rules wait for it."""
    if not undecided:
        return
    page.line("Could not be evaluated", style="bold")
    words = rulesets.texts.not_evaluated
    waiting: dict[str, dict[str, list[str]]] = {}
    for entry in undecided:
        what = concept_name(entry.needs, rulesets)
        if entry.resource:
            what += f" ({entry.resource})"
        whose = waiting.setdefault(words.get(entry.reason, entry.reason), {})
        whose.setdefault(what, []).append(entry.rule)
    for why, whose in sorted(waiting.items()):
        if by_rule:
            page.line(f"{why}:", label="- ")
            for what, rules in sorted(whose.items()):
                page.line(", ".join(dict.fromkeys(rules)), indent=4, label=f"{what}: ")
        else:
            page.line(", ".join(sorted(whose)), label=f"- {why}: ")
    page.line()


def _write_problems(page: Page, problems: Sequence[Problem]) -> None:
    groups: dict[tuple[str, str, str], list[Problem]] = {}
    for p in problems:
        groups.setdefault((p.severity, p.code, p.message), []).append(p)
    if not groups:
        return
    page.line("Problems in the record", style="bold")
    order = ("error", "warning", "info")
    for (severity, code, message), same in sorted(
        groups.items(), key=lambda g: (order.index(g[0][0]), g[0])
    ):
        places = (" ".join(w for w in (p.resource, p.path) if w) or "the input" for p in same)
        where = listed(list(dict.fromkeys(places)))
        page.line(f"{where}: {message} [{code}]", label=f"- {severity}: ")
    page.line()


# ---------------------------------------------------------------- why a rule fired or not


def write_explanation(page: Page, explanation: Mapping[str, Any]) -> None:
    """Write an `explanation_dict` for people."""
    rule = explanation["rule"]
    page.line(f"{explanation['patient']}, as of {explanation['as_of']}", style="bold")
    page.line(f"{rule['id']}: {rule['title']}", style="bold")
    page.line(_rule_head(rule))
    page.line()
    page.line(
        explanation["outcome"],
        label="FIRED: " if explanation["fired"] else "NOT FIRED: ",
        style="bold",
    )
    page.heading("When")
    _write_trace(page, explanation["when"], 2)
    if explanation["unless"]:
        page.heading("Unless (what is unknown does not block)")
        _write_trace(page, explanation["unless"], 2)
    if "counterfactuals" in explanation:
        _write_changes(page, explanation)
    page.heading("Evidence")
    for e in rule["evidence"]:
        page.line(_citation(e), indent=2, label="- ")
    if rule["covers"]:
        page.line(", ".join(rule["covers"]), indent=2, label="Covers ")


def write_not_run(page: Page, rule: Mapping[str, Any]) -> None:
    """Write why a site does not run a rule, from its entry of the `catalog`."""
    page.line(f"{rule['id']}: {rule['title']}", style="bold")
    page.line(_rule_head(rule))
    page.line()
    page.line(rule["not_run"], label="NOT RUN: ", style="bold")


def _write_changes(page: Page, explanation: Mapping[str, Any]) -> None:
    """Write what would change the answer, or how far the rule is from firing."""
    changes = explanation["counterfactuals"]
    if explanation["rule"]["stands_in_from"] and not changes:
        return  # its answer is that of other rules
    page.heading("What would change this")
    for change in changes:
        where = f" [{change['resource']}]" if change["resource"] else ""
        page.line(f"{change['text']}{where}", indent=2, label="- ")
    if not changes:
        text = "No single change that was tried makes it "
        text += "stop" if explanation["fired"] else "fire"
        count = explanation["open_criteria"]
        if count:
            text += f"; {count} criteri{'on is' if count == 1 else 'a are'} open"
        page.line(f"{text}.", indent=2)


def _write_trace(page: Page, node: Mapping[str, Any], indent: int) -> None:
    state = node["state"]
    label = f"{state.upper():<8}"
    if "parts" in node:
        word = "all of these" if node["of"] == "all" else "at least one of these"
        page.line(word, indent=indent, label=label, style=_STATES[state])
        for part in node["parts"]:
            _write_trace(page, part, indent + 2)
        return
    page.line(node["criterion"], indent=indent, label=label, style=_STATES[state])
    for text in _seen(node):
        page.line(text, indent=indent + len(label))


def _seen(node: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a criterion looked at, one line for each resource."""
    if node.get("reason"):
        where = f" ({node['resource']})" if node["resource"] else ""
        yield f"unknown: {node['reason_text']}{where}"
    if "computed" in node:
        unit = (node["threshold"] or {}).get("unit", "1")
        yield f"found: {node['computed']:g}" + ("" if unit == "1" else f" {unit}")
    for entry in node["observed"]:
        if text := _entry_text(entry):
            yield text
    if "hours_old" in node:
        hours = node["hours_old"]
        yield f"{hours // 24} days old" if hours > 48 else f"{hours} hours old"
    if "laboratory_says" in node:
        yield f"the laboratory says: {node['laboratory_says']}"
    yield from (f"caution: {text}" for text in node.get("cautions", ()))


def _entry_text(entry: Mapping[str, Any]) -> str:
    parts = []
    if "value" in entry:
        sent = entry.get("sent", "")
        comparator = match[1] if (match := _COMPARATOR.match(sent)) else ""
        unit = "" if entry.get("unit", "1") == "1" else f" {entry['unit']}"
        parts.append(f"{comparator}{Decimal(str(entry['value'])):f}{unit}")
    if "sent" in entry and entry["sent"] not in parts:
        parts.append(f"sent as '{entry['sent']}'")
    if "effective" in entry:
        parts.append(f"on {entry['effective']}")
    if "range" in entry:
        parts.append(f"laboratory's range {entry['range']}")
    if "resource" in entry:
        parts.append(entry["resource"])
    return ", ".join(parts)


def _rule_head(rule: Mapping[str, Any]) -> str:
    parts = [f"{rule['group']} {rule['version']}", f"tier {rule['tier']}", rule["review"]]
    if rule["last_reviewed"]:
        parts.append(f"last reviewed {rule['last_reviewed']}")
    if rule["population"] == "adult":
        parts.append("for adults")
    if rule["step"]:
        parts.append("intermediate step")
    return ", ".join(parts)


def _citation(e: Mapping[str, Any]) -> str:
    where = ", ".join(str(part) for part in (e["year"], e["section"]) if part)
    text = f"{e['source']} ({where})" if where else e["source"]
    proposal = " [a proposal: no source was read]" if e["from_knowledge"] else ""
    url = f" {e['url']}" if e["url"] else ""
    return f"{text}: {e['statement']}{proposal}{url}"


# ---------------------------------------------------------------- the catalog


_Rows = list[tuple[str, list[tuple[int, str]]]]


def _rows(rule: Mapping[str, Any]) -> _Rows:
    """Return what people read of a rule: labels, each with lines and their depth."""
    card = rule["card"] or {}
    rows: _Rows = [
        ("NOT RUN", _one(rule.get("not_run"))),
        ("Changed here", [(0, text) for text in rule.get("site_changes", ())]),
        ("When", list(_depths(rule["when"]))),
        ("Unless", list(_depths(rule["unless"]))),
        ("Instead of adult findings", _one(rule["stands_in_from"], "of tier {} or higher")),
        ("Warning on", _one(", ".join(rule["caveat_for"]), "findings of {}")),
        ("Family", _one(rule["family"], "{}: only its most urgent finding is shown")),
        ("Evidence", [(0, _citation(e)) for e in rule["evidence"]]),
        ("Covers", _one(", ".join(rule["covers"]))),
        ("Note", _one(rule["note"])),
        ("Card", _one(card.get("summary"))),
        ("Card text", _one(card.get("detail"))),
        ("For the patient", _one(card.get("patient"))),
        ("Proposes", _one(", ".join(card.get("suggestions", ())))),
    ]
    return [(label, lines) for label, lines in rows if lines]


def _one(text: str | None, form: str = "{}") -> list[tuple[int, str]]:
    return [(0, form.format(" ".join(text.split())))] if text else []


def _depths(words: Iterable[Any], depth: int = 0) -> Iterator[tuple[int, str]]:
    for word in words:
        if isinstance(word, str):
            yield depth, word
        else:
            (of, parts), *_ = word.items()
            yield depth, "at least one of:" if of == "any" else "all of:"
            yield from _depths(parts, depth + 1)


_BRIEF: Final = (
    "NOT RUN",
    "Changed here",
    "When",
    "Unless",
    "Instead of adult findings",
    "Warning on",
    "Evidence",
    "Covers",
)


def write_catalog(page: Page, rules: Sequence[Mapping[str, Any]], site: Site | None = None) -> None:
    """Write the `catalog` for a terminal, without the texts of the cards."""
    if site is not None:
        page.line(
            f"{site.title} (site {site.id} {site.version}): rules changed: {len(site.changes)}; "
            f"rules not run: {len(site.not_run)}",
            style="bold",
        )
        if site.notice:
            page.line(site.notice, label="Note: ")
        page.line()
    for rule in rules:
        page.line(rule["id"], style="bold")
        page.line(f"{rule['title']} ({_rule_head(rule)})", indent=2)
        for label, lines in _rows(rule):
            if label in _BRIEF:
                for number, (depth, text) in enumerate(lines):
                    head = f"{label}: " if number == 0 else " " * (len(label) + 2)
                    page.line(text, indent=2, label=head + "  " * depth)
        page.line()
    page.line(_count(rules))


def _count(rules: Sequence[Mapping[str, Any]]) -> str:
    states: dict[str, int] = {}
    for rule in rules:
        states[rule["review"]] = states.get(rule["review"], 0) + 1
    text = f"{len(rules)} rules: " + ", ".join(f"{n} {s}" for s, n in sorted(states.items()))
    not_run = sum(bool(rule.get("not_run")) for rule in rules)
    return f"{text}; {not_run} of them not run at this site" if not_run else text


def catalog_markdown(rules: Sequence[Mapping[str, Any]]) -> str:
    """Return the `catalog` as GitHub Flavored Markdown, with the texts of the cards."""
    lines = ["# Rules", "", _count(rules), ""]
    for rule in rules:
        head = f"**{escape(rule['title'])}** ({escape(_rule_head(rule))})"
        lines += [f"## {escape(rule['id'])}", "", head, ""]
        for label, entries in _rows(rule):
            if len(entries) == 1:
                lines.append(f"- {label}: {escape(entries[0][1])}")
            else:
                lines.append(f"- {label}:")
                lines += [f"{'  ' * (depth + 1)}- {escape(text)}" for depth, text in entries]
        lines.append("")
    return "\n".join(lines)


def write_coverage(page: Page, found: Mapping[str, Any], rows: Mapping[str, Row]) -> None:
    """Write a `coverage` for people, with counts for each table of the sources."""
    counts: dict[str, Counter[str]] = {}
    for word in ("covered", "not_covered", "missing"):
        for id_ in found[word]:
            counts.setdefault(rows[id_].table, Counter())[word] += 1
    for table, count in counts.items():
        parts = f"{count.total()} rows: {count['covered']} covered, "
        parts += f"{count['not_covered']} left out on purpose, {count['missing']} missing"
        page.line(parts, label=f"{table.replace('_', ' ')}: ", style="bold")
    page.heading(f"Covered: {len(found['covered'])}")
    for id_, rules in found["covered"].items():
        page.line(", ".join(rules), indent=2, label=f"{id_:<9}")
    page.heading(f"Left out on purpose: {len(found['not_covered'])}")
    for id_, reason in found["not_covered"].items():
        page.line(reason, indent=2, label=f"{id_:<9}")
    page.heading(f"Not covered yet: {len(found['missing'])}")
    for id_ in found["missing"]:
        page.line(rows[id_].text, indent=2, label=f"{id_:<9}")
