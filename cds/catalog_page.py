"""The catalog as one HTML page: every rule with its place on the scale, evidence, texts, cases.

For the clinician who signs rules. The page needs nothing but itself: style, script and pictures
stand in it, and its own policy forbids the browser to load anything. Nothing is decided here; the
layout is in `templates/`.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from cds.catalog import catalog, concept_name
from cds.model import Tier
from cds.rules import Rulesets
from cds.scales import Axis, Band, Lane, Scale, Stretch, scales

__all__ = ["catalog_page"]

_TEMPLATES: Final = Path(__file__).with_name("templates")
_FOOT: Final = """
@page {
  @bottom-left { content: "not approved: %d of %d rules"; font: 8pt sans-serif; }
  @bottom-right { content: counter(page) " / " counter(pages); font: 8pt sans-serif; }
}
"""
_FINDING: Final = re.compile(r"finding: (?P<title>.+) \((?P<id>[a-z0-9-]+)\)")
_AGE: Final = re.compile(r",( latest result)? at most \d+ \w+ old$")
_LINK: Final = re.compile(r"https?://[^\s]+", re.IGNORECASE)


def catalog_page(
    rulesets: Rulesets,
    *,
    cases: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    coverage: Mapping[str, Mapping[str, Any] | None] | None = None,
) -> str:
    """Return every rule as one HTML page.

    Args:
        rulesets: the rules.
        cases: by rule id, each ``{"name", "expectation", "path", "line"}``; None: none were read.
        coverage: by rule id ``{"criteria": n, "covered": m, "open": [text, ...]}``; None, or a
            rule without: not measured.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    entries = _entries(rulesets)
    linker = _Linker(rulesets)
    environment.filters.update(
        blocks=_blocks, linked=linker.criterion, phrase=linker.phrase, safe_url=_safe_url
    )
    drawn = scales(rulesets)
    states = Counter(entry["review"] for entry in entries)
    style = _text("catalog_page.css") + _FOOT % (len(entries) - states["approved"], len(entries))
    script = _text("catalog_page.js")
    page = environment.get_template("catalog_page.html").render(
        style=Markup(style),  # noqa: S704 - files of ours
        script=Markup(script),  # noqa: S704
        style_hash=_hash(style),
        script_hash=_hash(script),
        texts=rulesets.texts,
        site=rulesets.site,
        groups=_groups(rulesets, entries),
        total=len(entries),
        states=states,
        tiers=[(tier.name, rulesets.texts.tiers[tier.name]) for tier in sorted(Tier, reverse=True)],
        tier_counts=Counter(entry["tier"] for entry in entries),
        scales=[_scale_view(scale) for scale in drawn],
        places=_places(drawn),
        suggestions={id_: s.label for id_, s in rulesets.texts.suggestions.items()},
        cases=cases,
        coverage=coverage,
    )
    return page.lstrip()


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return what a Content-Security-Policy names an inline style or script by (CSP level 3)."""
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _safe_url(url: str | None) -> str:
    """Return a web address, "" for anything else that a link could do."""
    return url if url and _LINK.fullmatch(url) else ""


# ---------------------------------------------------------------- rules by group and family


def _entries(rulesets: Rulesets) -> list[dict[str, Any]]:
    """Return the `catalog` with `recheck_of`: the rule that a companion belongs to, or None."""
    not_run = rulesets.site.not_run if rulesets.site else {}
    rules = [
        *(r for file in rulesets.files for r in file.rules),
        *(n.rule for n in not_run.values()),
    ]
    of = {rule.id: rule.recheck_of for rule in rules}
    return [{**entry, "recheck_of": of[entry["id"]]} for entry in catalog(rulesets)]


def _groups(rulesets: Rulesets, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return files, their families and their rules in file order, companions inside their rule.

    Rules that a site does not run come last in the first file of their group.
    """
    file_of = {file.group: file for file in reversed(rulesets.files)}
    companions: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if entry["recheck_of"]:
            companions.setdefault(entry["recheck_of"], []).append(entry)
    groups = []
    for file in rulesets.files:
        run = {rule.id for rule in file.rules}
        families: dict[str, dict[str, Any]] = {}
        for entry in entries:
            left_out = entry.get("not_run") and file_of[entry["group"]] is file
            if (entry["id"] in run or left_out) and not entry["recheck_of"]:
                id_, name = _family(entry, rulesets)
                family = families.setdefault(
                    id_, {"id": f"{file.group}.{id_}", "name": name, "rules": []}
                )
                family["rules"].append({**entry, "companions": companions.get(entry["id"], [])})
        groups.append({"file": file, "count": len(run), "families": list(families.values())})
    return groups


def _family(entry: Mapping[str, Any], rulesets: Rulesets) -> tuple[str, str]:
    """Return id and name of the part of the page where a rule stands."""
    if entry.get("not_run"):
        return ".not-run", "Not run at this site"
    if entry["step"]:
        return ".steps", "Steps that other rules build on"
    if entry["caveat_for"]:
        return ".warnings", "Warnings added to findings"
    if entry["family"]:
        return entry["family"], _sentence(concept_name(entry["family"], rulesets))
    return ".single", "Rules without a family"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


# ---------------------------------------------------------------- words


def _blocks(text: str) -> list[dict[str, Any]]:
    """Return a card's text as paragraphs and lists: ``{"text"}`` or ``{"items": [...]}``.

    Source: GitHub Flavored Markdown, blocks only; what stands inside a line stays as written.
    """
    blocks: list[dict[str, Any]] = []
    for part in re.split(r"\n[ \t]*\n|\n(?=[-*] )", text.strip()):
        words = " ".join(part.split())
        if not words.startswith(("- ", "* ")):
            blocks.append({"text": words})
        elif blocks and "items" in blocks[-1]:
            blocks[-1]["items"].append(words[2:])
        else:
            blocks.append({"items": [words[2:]]})
    return blocks


def _plain(words: str) -> str:
    """Return a criterion with signs of mathematics."""
    return words.replace(" >= ", " ≥ ").replace(" <= ", " ≤ ")


class _Linker:
    """Writes criteria as HTML: findings lead to the rule that asserts them."""

    def __init__(self, rulesets: Rulesets) -> None:
        self.rules: dict[str, str] = {}
        for compiled in rulesets.program.rules:
            self.rules.setdefault(compiled.rule.finding_id, compiled.rule.id)

    def criterion(self, words: str) -> Markup:
        """Return one criterion, as `catalog` words it."""
        match = _FINDING.fullmatch(words)
        if match and match["id"] in self.rules:
            return Markup('<span class="kind">finding:</span> <a href="#{}">{}</a>').format(
                self.rules[match["id"]], match["title"]
            )
        kind, colon, rest = _plain(words).partition(": ")
        if not colon:
            return escape(kind)
        return Markup('<span class="kind">{}:</span> {}').format(kind, rest)

    def phrase(self, words: Any) -> Markup:
        """Return a criterion or a tree of them on one line, without the ages of results."""
        if isinstance(words, str):
            return self.criterion(_AGE.sub("", words))
        if "all" in words:
            return Markup(" and ").join(self.phrase(part) for part in words["all"])
        return Markup("at least one of: {}").format(
            Markup("; ").join(self.phrase(part) for part in words["any"])
        )


# ---------------------------------------------------------------- pictures

# Widths in CSS pixels for which texts are laid out: what the narrowest screen leaves, and what a
# page of paper or any wider screen leaves. The style switches between the two.
_NARROW: Final = 280
_WIDE: Final = 600
_TOP: Final = 10  # room for the mark of a rule above the bars
_BASE: Final = 36  # the axis
_HEIGHT: Final = {
    Tier.emergency: 26,
    Tier.urgent: 22,
    Tier.soon: 18,
    Tier.routine: 14,
    Tier.info: 10,
}
_LETTER: Final = 7.2  # width of one character of a band's label, generously
_DIGIT: Final = 8.0  # ... of a tick's label


@dataclass(frozen=True, slots=True)
class _Bar:
    """One band as drawn; x and width in percent, y in pixels. `fits`: where the word has room."""

    tier: str
    x: float
    width: float
    y: int
    height: int
    middle: float
    fits: str  # "both", "wide" or "none"
    letter: bool


@dataclass(frozen=True, slots=True)
class _Label:
    """One tick as drawn: percent, text, and the row of its label on wide and narrow screens."""

    x: float
    text: str
    wide: int
    narrow: int


@dataclass(frozen=True)
class _Strip:
    """One lane as drawn. `mark` are the ends of a rule's own stretch in percent."""

    id: str
    name: str
    description: str
    bars: tuple[_Bar, ...]
    labels: tuple[_Label, ...]
    mark: tuple[float, float] | None

    @property
    def rows(self) -> tuple[int, int]:
        """How many further rows of labels there are on wide and on narrow screens."""
        return max(t.wide for t in self.labels), max(t.narrow for t in self.labels)


def _scale_view(scale: Scale) -> dict[str, Any]:
    strips = [
        {"lane": lane, "strip": _strip(scale, lane, f"{_anchor(scale)}.{number}")}
        for number, lane in enumerate(scale.lanes, 1)
    ]
    mentions: dict[str, dict[str, Any]] = {}
    for m in scale.mentions:
        entry = mentions.setdefault(m.rule, {"rule": m.rule, "title": m.title, "criteria": []})
        entry["criteria"].append(m.criterion)
    return {
        "scale": scale,
        "id": _anchor(scale),
        "title": _sentence(scale.title),
        "possible": _possible(scale),
        "lanes": strips,
        "mentions": list(mentions.values()),
    }


def _anchor(scale: Scale) -> str:
    return "scale." + scale.key.replace("/", ".")


def _possible(scale: Scale) -> str:
    low, high = (None if v is None else format(v.normalize(), "f") for v in scale.possible)
    if low and high:
        return f"{low} to {high}"
    return f"{low} or more" if low else f"{high} or less" if high else ""


def _places(drawn: Sequence[Scale]) -> dict[str, list[dict[str, Any]]]:
    """Return, by rule id, each strip on which the rule has its place, with that place marked.

    `beside` is what tells two strips of one scale apart.
    """
    places: dict[str, list[dict[str, Any]]] = {}
    for scale in drawn:
        mine: dict[str, list[tuple[Lane, Stretch]]] = {}
        for lane in scale.lanes:
            for stretch in lane.stretches:
                mine.setdefault(stretch.rule, []).append((lane, stretch))
        for rule, spots in mine.items():
            for lane, stretch in spots:
                found = places.setdefault(rule, [])
                own = [w for w in lane.beside if any(w not in other.beside for other, _ in spots)]
                strip = _strip(scale, lane, f"{rule}.place.{len(found) + 1}", stretch)
                place = {"scale": scale, "id": _anchor(scale), "strip": strip, "beside": own}
                found.append(place)
    return places


def _strip(scale: Scale, lane: Lane, id_: str, own: Stretch | None = None) -> _Strip:
    axis = scale.axis
    numbers = {tick.value: tick.number for tick in lane.ticks}
    unit = f" {scale.unit}" if scale.unit else ""
    told = "; ".join(
        f"{_range(b, numbers)}: {b.tier.name}" for b in lane.bands if b.tier is not None
    )
    name = f"{_sentence(scale.title)}{unit and ' in' + unit}"
    if own is not None:
        name += f": the place of {own.rule}"
        told = f"This rule: {_range(own, numbers)}. All: {told}"
    return _Strip(
        id_,
        name,
        told,
        tuple(_bars(axis, lane)),
        tuple(_labels(axis, lane)),
        axis.ends(own) if own is not None else None,
    )


def _range(values: Band | Stretch, numbers: Mapping[Any, str]) -> str:
    """Return a stretch in words: "below 2.5", "from 2.5 to below 3.0", "above 160"."""
    start, end = values.start, values.end
    if end is None:
        if start is None:
            return "any value"
        return f"above {numbers[start[0]]}" if start[1] else f"{numbers[start[0]]} or more"
    last = f"{'' if end[1] else 'below '}{numbers[end[0]]}"
    if start is None:
        return last + (" or less" if end[1] else "")
    return f"{'above' if start[1] else 'from'} {numbers[start[0]]} to {last}"


def _bars(axis: Axis, lane: Lane) -> Iterator[_Bar]:
    for band in lane.bands:
        left, right = axis.ends(band)
        if band.tier is None or right <= left:
            continue
        share, need = (right - left) / 100, len(band.tier.name) * _LETTER + 4
        fits = "both" if share * _NARROW >= need else "wide" if share * _WIDE >= need else "none"
        height = _HEIGHT[band.tier]
        yield _Bar(
            tier=band.tier.name,
            x=round(left, 2),
            width=round(right - left, 2),
            y=_BASE - height,
            height=height,
            middle=round((left + right) / 2, 2),
            fits=fits,
            letter=share * _NARROW >= _LETTER + 4,
        )


def _labels(axis: Axis, lane: Lane) -> list[_Label]:
    texts = [(axis.at(tick.value), tick.sign + tick.number) for tick in lane.ticks]
    rows = [_rows(texts, width) for width in (_WIDE, _NARROW)]
    return [
        _Label(round(x, 2), text, wide, narrow)
        for (x, text), wide, narrow in zip(texts, *rows, strict=True)
    ]


def _rows(texts: Sequence[tuple[float, str]], width: int) -> list[int]:
    """Return in which row each label stands, so that none overlaps another one."""
    ends: list[float] = []  # of the last label of each row, in pixels
    rows = []
    for x, text in texts:
        half = len(text) * _DIGIT / 2
        left = x / 100 * width - half
        row = next((r for r, end in enumerate(ends) if end <= left), len(ends))
        ends[row : row + 1] = [left + 2 * half]
        rows.append(row)
    return rows
