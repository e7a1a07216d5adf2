"""Times of the short form: ``2 days ago``, ``for 20 days``, ``since 2026-10``, ``undated``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["NOW", "UNDATED", "When", "ago", "check_date", "split_time"]

_SPANS: Final = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "week": 7 * 86_400,
}
_COUNT: Final = r"\d{1,9} (?:second|minute|hour|day|week|month|year)s?"
_COUNTS: Final = rf"{_COUNT}(?: {_COUNT})*"
_TIME: Final = re.compile(
    rf"(?:^| )(?P<time>now|undated"
    rf"|(?P<ago>{_COUNTS}) ago"
    rf"|in (?P<ahead>{_COUNTS})"
    rf"|(?P<lasting>for|since) (?P<span>{_COUNTS})(?: ago)?"
    r"|(?P<word>on|at|since) (?P<date>\d{4}(?:-\d\d(?:-\d\d(?:T\S+)?)?)?))$",
    re.ASCII,
)
# FHIR R4, datatypes, dateTime: an hour needs minutes, seconds and a time zone.
_CLOCK: Final = re.compile(
    r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:(?:0\d|1[0-3]):[0-5]\d|14:00))",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class When:
    """A time as written: that long before the instant of judgment, or a FHIR `date`.

    Args:
        seconds: before the instant of judgment; negative: after it. None without `date`: no time
            is sent.
        date: a FHIR dateTime of any precision.
        lasting: it began then and goes on ("for", "since").
        months: calendar months before, in addition to `seconds`.
        text: as the author wrote it, which is how it is written again.

    Raises: ValueError where these contradict each other.
    """

    seconds: int | None = None
    date: str | None = None
    lasting: bool = False
    months: int = 0
    text: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.date is not None:
            check_date(self.date)
            if self.seconds is not None or self.months:
                raise ValueError("a time is either a date or counted from as_of, not both")
        elif self.seconds is None:
            if self.lasting or self.months:
                raise ValueError("what has no date cannot be said to last; say since when")
        elif self.months < 0 or (self.seconds < 0 and (self.lasting or self.months)):
            raise ValueError("what lasts began before as_of; count the time after it in days")

    def fhir(self, as_of: int) -> str | None:
        """Return the FHIR dateTime for a case judged at `as_of` (seconds since the epoch).

        Raises: ValueError where it lies outside the years 1 to 9999.
        """
        if self.date is not None or self.seconds is None:
            return self.date
        moment = datetime.fromtimestamp(as_of, UTC)
        years, month = divmod(moment.year * 12 + moment.month - 1 - self.months, 12)
        try:
            first = moment.replace(year=years, month=month + 1, day=1)
            following = (first + timedelta(days=31)).replace(day=1)
            last = (following - timedelta(days=1)).day  # there may be no 31st in that month
            moment = first.replace(day=min(moment.day, last)) - timedelta(seconds=self.seconds)
        except (ValueError, OverflowError):
            raise ValueError(f"'{self}' does not lie in the years 1 to 9999") from None
        return moment.isoformat(timespec="seconds").replace("+00:00", "Z")

    def __str__(self) -> str:
        if self.text:
            return self.text
        if self.date is not None:
            word = "since" if self.lasting else "at" if "T" in self.date else "on"
            return f"{word} {self.date}"
        if self.seconds is None:
            return "undated"
        span = _span(self.months, abs(self.seconds))
        if self.lasting:
            return f"for {span}"
        if self.seconds < 0:
            return f"in {span}"
        return f"{span} ago" if self.seconds or self.months else "now"


NOW: Final = When(0)
UNDATED: Final = When()


def ago(seconds: int, *, lasting: bool = False) -> When:
    """Return the time that many seconds before the instant of judgment; negative: after it."""
    return When(seconds, lasting=lasting)


def _span(months: int, seconds: int) -> str:
    """Write a span with as few words as are exact ("7 days 1 second")."""
    parts = []
    years, months = divmod(months, 12)
    counts = [(years, "year"), (months, "month")]
    for name in ("day", "hour", "minute", "second"):
        count, seconds = divmod(seconds, _SPANS[name])
        counts.append((count, name))
    parts = [f"{count} {name}{'s' * (count != 1)}" for count, name in counts if count]
    return " ".join(parts) or "0 seconds"


def _seconds(text: str) -> tuple[int, int]:
    """Return seconds and calendar months of "7 days 1 second" or "3 months"."""
    seconds = months = 0
    for count, name in re.findall(r"(\d+) ([a-z]+?)s?(?= |$)", text):
        if name in ("month", "year"):
            months += int(count) * (12 if name == "year" else 1)
        else:
            seconds += int(count) * _SPANS[name]
    return seconds, months


def split_time(text: str) -> tuple[str, When | None]:
    """Cut the time off the end of a line of single-spaced words; None where it has none.

    Raises: ValueError for what looks like a time and is none.

    >>> split_time("potassium 2.4 mmol/L 2 days ago")
    ('potassium 2.4 mmol/L', When(seconds=172800, date=None, lasting=False, months=0, \
text='2 days ago'))
    """
    match = _TIME.search(text)
    if match is None:
        return text, None
    rest, said = text[: match.start()], match["time"]
    if said == "now":
        return rest, NOW
    if said == "undated":
        return rest, UNDATED
    if match["date"]:
        return rest, When(date=match["date"], lasting=match["word"] == "since", text=said)
    seconds, months = _seconds(match["ago"] or match["ahead"] or match["span"])
    if match["ahead"]:
        if months:
            raise ValueError("count the time after as_of in days, not in months")
        seconds = -seconds
    return rest, When(seconds, lasting=bool(match["lasting"]), months=months, text=said)


def check_date(text: str) -> None:
    """Refuse what is no FHIR dateTime. Raises: ValueError that says how it is written."""
    day, _, clock = text.partition("T")
    try:
        datetime.fromisoformat(day + "-01-01"[len(day) - 4 :] if len(day) in (4, 7) else day)
    except ValueError:
        raise ValueError(f"'{text}' is not a date such as 2026-10-30") from None
    if "T" in text and not _CLOCK.fullmatch(clock):
        raise ValueError(
            f"'{text}' is not a time with seconds and time zone such as 2026-10-30T08:30:00Z"
        )
