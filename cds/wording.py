"""Words for one patient's values: what was measured, when, as sent, and how sure.

Used by cards (and by text reports). Two kinds of text meet there and are kept apart: what a
rule's author wrote is GitHub Flavored Markdown, what the sender wrote becomes a code span, in
which nothing is markup, HTML or a link. Clinical wording comes from the rule files; only the
scaffolding around values ("sent as", "undated", "and 2 more") stands here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from cds.model import Change, Evaluation, Fact, Source
from cds.program import grid_code
from cds.rules import Rulesets

__all__ = [
    "Wording",
    "Words",
    "code_span",
    "escape",
    "fill",
    "listed",
    "one_line",
    "placeholder_names",
    "safe_markdown",
    "shorten",
    "utf8",
    "utf16_units",
    "when",
]

SENT_ROOM: Final = 120
"""UTF-16 code units of a sender's text that are repeated; half as many inside a sentence."""

_LISTED: Final = 6  # entries of a list before "and n more"
_HUGE: Final = 10**15  # no analyte has such values, and no card room for 300 digits
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_MARKUP: Final = re.compile(r"([\\`*_\[\]<>|~&#])")
_HTML: Final = re.compile(r"<(?=[A-Za-z/!?{])")
_COMPARATOR: Final = re.compile(r"\s*([<>]=?)")
_TIME: Final = re.compile(
    r"(\d{4}(?:-\d\d(?:-\d\d)?)?)(?:T(\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII
)
_SPANS: Final = {"d": "days", "h": "hours"}
_UNIT: Final = str.maketrans({"{": None, "}": None, "[": None, "]": None, "_": " "})


# ---------------------------------------------------------------- text that can be shown


def utf8(text: str) -> str:
    """Return the text without lone surrogates, which JSON in UTF-8 cannot carry."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def one_line(text: str) -> str:
    """Return the text as one line without control, format or direction characters."""
    if text.isprintable():  # then its only white space is the plain space
        return " ".join(text.split()) if "  " in text else text.strip()
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def utf16_units(text: str) -> int:
    """Return the length in UTF-16 code units; never less than that in code points."""
    return len(text) + sum(c > "\uffff" for c in text)


def shorten(text: str, room: int) -> str:
    """Cut at a word boundary so that text and ellipsis fit into `room` UTF-16 code units.

    >>> shorten("Very low potassium", 12)
    'Very low…'
    """
    if utf16_units(text) <= room:
        return text
    kept = text[:room]
    while utf16_units(kept) > room - 1:
        kept = kept.rpartition(" ")[0] or kept[:-1]
    return kept.rstrip(" ,;:.(") + "…"


def escape(text: str) -> str:
    """Return plain text of our own as GitHub Flavored Markdown that shows exactly this line."""
    return _MARKUP.sub(r"\\\1", one_line(text))


def safe_markdown(text: str) -> str:
    """Return Markdown of a rule's author (placeholders not yet filled) without any HTML."""
    return _HTML.sub("&lt;", text.strip())


def code_span(text: str) -> str:
    """Return a sender's text as a code span, shortened to `SENT_ROOM`; "" for blank text.

    Source: GitHub Flavored Markdown, section 6.3 (code spans).

    >>> code_span("a `b` <i>")
    '``a `b` <i>``'
    """
    text = shorten(one_line(text), SENT_ROOM)
    if not text:
        return ""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in (text[0], text[-1]) else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def listed(entries: Sequence[str], separator: str = ", ") -> str:
    """Return the first few entries, and how many more there are."""
    more = len(entries) - _LISTED
    shown = separator.join(entries[:_LISTED])
    return f"{shown}{separator}and {more} more" if more > 0 else shown


def placeholder_names(text: str) -> list[str]:
    """Return the names that stand in braces in a card text, in order.

    >>> placeholder_names("Potassium {potassium} on {potassium.date}")
    ['potassium', 'potassium.date']
    """
    return _PLACEHOLDER.findall(text)


def fill(text: str, words: Callable[[str], str]) -> str:
    """Put words in place of each placeholder."""
    return _PLACEHOLDER.sub(lambda match: words(match[1]), text) if "{" in text else text


@dataclass(frozen=True, slots=True)
class Words:
    """A piece of text, and whether the sender wrote it."""

    text: str
    sent: bool = False

    @property
    def markdown(self) -> str:
        """The text for Markdown: a code span where the sender wrote it."""
        return code_span(self.text) if self.sent else escape(self.text)

    @property
    def plain(self) -> str:
        """The text for a sentence that is not Markdown."""
        return shorten(one_line(self.text), SENT_ROOM // 2) if self.sent else self.text


# ---------------------------------------------------------------- values in words


class Wording:
    """Says the facts of one patient in words."""

    def __init__(self, evaluation: Evaluation, rulesets: Rulesets) -> None:
        self.evaluation, self.rulesets = evaluation, rulesets
        self.terminology = rulesets.terminology

    def facts(self, keys: Iterable[str], seen: set[str] | None = None) -> Iterator[Fact]:
        """Yield the facts behind `Finding.because`, through the findings in between, once each."""
        seen = set() if seen is None else seen
        for key in keys:
            if key in seen:
                continue
            seen.add(key)
            fact = self.evaluation.facts.get(key)
            if fact is not None:
                yield fact
            elif key.startswith("finding/"):
                yield from self.facts(self._earlier(key[8:]), seen)

    def _earlier(self, finding_id: str) -> tuple[str, ...]:
        hidden = (s.finding for s in self.evaluation.suppressed)
        for finding in (*self.evaluation.findings, *hidden):
            if finding.id == finding_id:
                return finding.because
        return self.evaluation.steps.get(finding_id, ())

    def name(self, concept: str) -> str:
        """Return the name of an analyte or value set, else the id as words."""
        known = self.terminology.analytes.get(concept) or self.terminology.value_sets.get(concept)
        return known.name if known is not None else concept.replace("-", " ")

    def is_analyte(self, concept: str) -> bool:
        """Whether `analytes.yaml` has it, so that a placeholder may name it."""
        return concept in self.terminology.analytes

    def result(self, analyte: str, *, as_sent: bool = False) -> Words:
        """Return value and unit of the judged result: "2.4 mmol/L".

        "4.0 mmol/L or 6.8 mmol/L" where imprecise times leave open which is the later one.
        """
        fact = self.evaluation.facts.get(f"lab/{analyte}")
        if fact is None:
            return Words("(no result)")
        shown = dict.fromkeys(
            Words(s.sent, sent=True) if as_sent and s.sent else self.value(fact, s)
            for s in fact.sources
        )
        text = " or ".join(w.text for w in shown if w.text)
        return Words(text or "(no value)", sent=any(w.sent for w in shown))

    def date(self, analyte: str) -> Words:
        """Return the date of the judged result, as precise as sent: "2026-10-31", "2026"."""
        fact = self.evaluation.facts.get(f"lab/{analyte}")
        effective = fact.sources[0].effective if fact and fact.sources else None
        match = _TIME.match(effective) if effective else None
        return Words(match[1]) if match else when(effective)

    def age_days(self, facts: Iterable[Fact]) -> Words:
        """Return the age in whole days of the oldest laboratory result among the facts."""
        ages = [f.props["age"] for f in facts if f.key.startswith("lab/") and "age" in f.props]
        return Words(str(max(ages) // 86_400) if ages else "an unknown number of")

    def value(self, fact: Fact, source: Source) -> Words:
        """Return one source's value with its comparator and unit: "<2.0 mmol/L".

        The sender's own words where there is no single number (a range, a text).
        """
        value, sent = source.value, source.sent or ""
        match = _COMPARATOR.match(sent)
        comparator = match[1] if match else ""
        # What the engine sees of an interval: its ends differ.
        ends = {fact.props[p] for p in ("low", "high") if p in fact.props}
        interval = len(ends) > 1 and len(fact.sources) == 1 and not comparator
        if value is None or not value.is_finite() or (interval and sent):
            return Words(sent, sent=True)
        unit = "" if source.unit in (None, "1") else f" {source.unit}".translate(_UNIT)
        number = self._number(value, source.concept or fact.concept, sent, pad=not comparator)
        return Words(f"{comparator}{number}{unit}")

    def _number(self, value: Decimal, concept: str, sent: str, *, pad: bool) -> str:
        """Return the number in plain notation with at least the decimals of its analyte.

        More decimals are shown as the sender wrote them. A computed number is rounded, unless
        that would move it across a threshold, or onto it: then to more decimals. `pad` fills up
        with zeros (3.0), which would make a limit such as "<2" look more exact than it is.
        """
        if abs(value) >= _HUGE:
            return f"beyond {'-' if value < 0 else ''}{_HUGE}"
        value += 0  # -0.0 is shown as 0.0
        exact = format(value, "f")
        analyte = self.terminology.analytes.get(concept)
        decimals = max(0, -int(value.as_tuple().exponent))
        if analyte is None:
            return exact
        if decimals <= analyte.decimals:
            return format(value, f".{analyte.decimals}f") if pad else exact
        if exact in sent and len(exact) <= 12:
            return exact
        limits = [
            test.value
            for _, leaf in self.rulesets.program.leaves_by_key.get(f"lab/{concept}", ())
            for atom in leaf.atoms
            for test in atom.tests
            if test.prop in ("low", "high")
        ]
        code = grid_code(value)
        for places in range(analyte.decimals, decimals):
            rounded = round(value, places) + 0
            near = grid_code(rounded)
            if all((code > t) - (code < t) == (near > t) - (near < t) for t in limits):
                return format(rounded, "f")
        return exact

    # ------------------------------------------------------------ facts as Markdown

    def fact(self, fact: Fact) -> str:
        """Return one fact as one line of Markdown: what, value, date, as sent, laboratory range."""
        kind, concept, *rest = fact.key.split("/")
        name = self.name(concept)
        match kind:
            case "no-result" if rest[:1] == ["since"]:
                return escape(f"No usable result since {self.name(rest[1])} was started: {name}")
            case "no-result":
                return escape(f"No usable result{self._within(fact.key)}: {name}")
            case "after":
                event, medicine = rest
                name = f"{name}, begun after the {event} of {self.name(medicine)}"
            case "stopped":
                name = f"stopped: {name}"
            case "ordered":
                name = f"being ordered: {name}"
            case "patient":
                return f"Age: {fact.props.get('years', 'unknown')} years"
            case "sex":
                return escape(f"Sex: {concept}")
            case "rise":
                name = f"{name}, rise{self._within(fact.key)}:"
            case "ratio":
                name = f"{name}, against the lowest{self._within(fact.key)}:"
            case "history":
                name = f"in the family: {name}"
            case "quality":
                name = ": ".join(("data in doubt", name, *(self.name(r) for r in rest)))
                tests = {s.concept for s in fact.sources if s.concept and not rest}
                name += f", {', '.join(sorted(self.name(t) for t in tests))}" if tests else ""
        name = escape(name[:1].upper() + name[1:])
        sources = list(dict.fromkeys(self._source(fact, s) for s in fact.sources))
        separator = " " if any(s.value is not None or s.sent for s in fact.sources) else ", "
        return f"{name}{separator}{listed(sources, '; ')}" if sources else name

    def _source(self, fact: Fact, source: Source) -> str:
        value = self.value(fact, source)
        shown = (value.markdown, when(source.effective).markdown)
        text = ", ".join(part for part in shown if part)
        sent = one_line(source.sent or "")
        extras = []
        if sent and not value.sent and sent not in (value.text, _unpadded(value.text)):
            extras.append(f"sent as {code_span(sent)}")
        if source.laboratory_range:
            extras.append(f"laboratory range {code_span(source.laboratory_range)}")
        return f"{text} ({'; '.join(extras)})" if extras else text

    # ------------------------------------------------------------ what would change an answer

    def changes(self, changes: Sequence[Change]) -> str:
        """Return what would change one finding as one sentence; "" for nothing.

        "This finding: stops at potassium 3.5 mmol/L; emergency below 2.5 mmol/L." A name that
        would stand twice in a row stands once.
        """
        parts = []
        for number, change in enumerate(changes):
            again = number > 0 and changes[number - 1].key == change.key
            parts.append(f"{_outcome(change)} {self._cause(change, named=not again)}")
        return f"This finding: {listed(parts, '; ')}." if parts else ""

    def change(self, change: Change) -> str:
        """Return one change and whose answer it is: "finding is urgent below potassium 3.0 mmol/L".

        Where another rule takes the place of one that stops, its tier is said.
        """
        text = f"{_outcome(change)} {self._cause(change)}"
        if not change.rule:
            return f"finding {text}" if change.outcome == "stops" else f"finding is {text}"
        if change.outcome == "stops" and change.tier is not None:
            return f"{text} (then {change.tier.name})"
        return text

    def _cause(self, change: Change, *, named: bool = True) -> str:
        name = self.name(change.key.split("/")[1])
        amount = "" if change.value is None else self._amount(change)
        match change.op:
            case "within":
                return f"if {name} is at most {amount} old"
            case "unflagged":
                return f"without the laboratory's flag on {name}"
            case "without":
                return f"without {name} on record"
            case "with" if change.key.startswith("lab/"):
                return f"with a result of {name}"
            case "with":
                longer = f" for more than {amount}" if amount else ""
                return f"with {name}{longer} on record"
        if change.resource is None:
            return f"with a result of {name} {change.op} {amount}"
        word = change.op if change.op in ("below", "above") else "at"
        return f"{word} {name} {amount}" if named else f"{word} {amount}"

    def _amount(self, change: Change) -> str:
        """Return value and unit of a change, and in brackets how they would be sent."""
        if change.unit in _SPANS:
            return f"{change.value:f} {_SPANS[change.unit]}"
        analyte = self.terminology.analytes.get(change.key.split("/")[1])
        shown = _amount(change.value, change.unit, analyte.decimals if analyte else 0)
        if change.value_sent is None:
            return shown
        return f"{shown} (sent as {_amount(change.value_sent, change.unit_sent, 0)})"

    def _within(self, key: str) -> str:
        for need in self.rulesets.program.needs:
            if need.key == key:
                hours = need.seconds // 3600
                return f" within {hours // 24} days" if hours >= 72 else f" within {hours} hours"
        return ""


def _outcome(change: Change) -> str:
    """Return what becomes of the answer: "stops", "fires", or the tier that it then has."""
    if change.outcome == "tier" and change.tier is not None:
        return change.tier.name
    return change.outcome


def _amount(value: Decimal | None, unit: str | None, decimals: int) -> str:
    """Return an exact number, with at least so many decimals, and its unit."""
    places = 0 if value is None else max(decimals, -int(value.as_tuple().exponent))
    shown = "" if unit in (None, "1") else f" {unit}".translate(_UNIT)
    return f"{value:.{places}f}{shown}"


def when(effective: str | None) -> Words:
    """Return date and time as people write them: "2026-10-31 08:00 UTC"; "undated".

    Offsets are kept as sent, seconds left out. Periods are "from ...", "until ..." or "... to
    ...". Anything else stays the sender's own words.
    """
    if not effective:
        return Words("undated")
    start, slash, end = effective.partition("/")
    ends = [_time(part) for part in (start, end) if part]
    if not ends or not all(ends):
        return Words(effective, sent=True)
    if slash and not end:
        return Words(f"from {ends[0]}")
    return Words(" to ".join(ends) if start else f"until {ends[0]}")


def _unpadded(value: str) -> str:
    """Return a value without the zeros that were filled in: "3.0 mmol/L" as "3 mmol/L"."""
    number, space, unit = value.partition(" ")
    return (number.rstrip("0").rstrip(".") if "." in number else number) + space + unit


def _time(text: str) -> str:
    """Return one time, or "" where it is none."""
    match = _TIME.fullmatch(text)
    if not match:
        return ""
    date, time, zone = match.groups()
    return " ".join(part for part in (date, time, "UTC" if zone == "Z" else zone) if part)
