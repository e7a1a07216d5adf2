"""The tiers of laboratory findings as the clinical ground rules give them, for tests.

Transcribed by hand from the table of tiers, independently of the rule files; bounds of the rows
without numbers there (phosphate high, bicarbonate, vitamins, ferritin) come from the table of
thresholds. `expected` is the oracle: a few lines that a reader can check against the table.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from builders import highest, rank

# Symptoms that make a value of a soon or routine cell worth a finding.
UNLOCKING = frozenset(
    {
        "twitching",
        "cramp",
        "tremor",
        "weakness",
        "paresthesia",
        "circumoral-paresthesia",
        "tetany",
    }
)

_OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Cell:
    """`tier` where the value passes `bound` and, if `signs` names any, one of them is there."""

    bound: str
    tier: str
    signs: frozenset[str] = frozenset()

    @property
    def number(self) -> Fraction:
        return Fraction(self.bound.lstrip("<>="))

    def holds(self, value: Fraction, signs: Collection[str]) -> bool:
        word = self.bound[: 2 if self.bound[1] == "=" else 1]
        passes: bool = _OPERATORS[word](value, self.number)
        return passes and (not self.signs or not self.signs.isdisjoint(signs))


def _cell(bound: str, tier: str, signs: str = "") -> Cell:
    return Cell(bound, tier, frozenset(signs.split()))


_CALCIUM_SIGNS = (
    "tetany laryngospasm seizure chvostek trousseau circumoral-paresthesia prolonged-qt"
)
_CLOUDED = "seizure confusion reduced-consciousness"

# One row an analyte and direction, in the analyte's usual unit.
TABLE: dict[tuple[str, str], tuple[Cell, ...]] = {
    ("potassium", "low"): (
        _cell("<3.5", "soon"),
        _cell("<3.0", "urgent"),
        _cell("<2.5", "emergency"),
        _cell("<3.0", "emergency", "weakness palpitations syncope prolonged-qt"),
        _cell("<3.5", "urgent", "prolonged-qt"),  # QTc prolonged with low potassium
    ),
    ("potassium", "high"): (
        _cell(">=5.5", "soon"),
        _cell(">=6.0", "urgent"),
        _cell(">=5.5", "urgent", "acute-kidney-injury"),
        _cell(">=6.5", "emergency"),
        _cell(">=5.5", "emergency", "weakness prolonged-qt"),
    ),
    ("magnesium", "low"): (
        _cell("<0.7", "soon"),
        _cell("<0.5", "urgent"),
        _cell("<0.4", "emergency"),
        _cell("<0.7", "emergency", "tetany seizure"),
        _cell("<0.7", "urgent", "prolonged-qt"),  # QTc prolonged with low magnesium
    ),
    ("magnesium", "high"): (
        _cell(">=2.0", "urgent"),
        _cell(">3.3", "emergency"),
        _cell(">=2.5", "emergency", "weakness"),
    ),
    ("calcium", "low"): (
        _cell("<2.2", "soon"),
        _cell("<2.1", "urgent", "twitching"),
        _cell("<1.9", "emergency"),
        _cell("<2.2", "emergency", _CALCIUM_SIGNS),
    ),
    ("calcium-ionized", "low"): (
        _cell("<1.10", "soon"),
        _cell("<1.0", "urgent"),
        _cell("<0.9", "emergency"),
        _cell("<1.10", "emergency", _CALCIUM_SIGNS),
    ),
    ("calcium", "high"): (
        _cell(">2.6", "soon"),
        _cell(">=3.0", "urgent"),
        _cell(">3.5", "emergency"),
    ),
    ("sodium", "low"): (
        _cell("<135", "routine"),
        _cell("<130", "soon"),
        _cell("<125", "urgent"),
        _cell("<120", "emergency"),
        _cell("<130", "emergency", _CLOUDED),
    ),
    ("sodium", "high"): (
        _cell(">145", "routine"),
        _cell(">150", "soon"),
        _cell(">155", "urgent"),
        _cell(">160", "emergency"),
    ),
    ("phosphate", "low"): (
        _cell("<0.8", "routine"),
        _cell("<0.6", "soon"),
        _cell("<0.4", "urgent"),
        _cell("<0.6", "urgent", "weakness eating-disorder alcohol-dependence"),
        _cell("<0.3", "emergency"),
    ),
    ("phosphate", "high"): (_cell(">1.5", "routine"),),
    # The limit of a woman; a man's is 450 ms.
    ("qtc", "high"): (_cell(">=460", "soon"), _cell(">500", "emergency")),
    # Multiples of the assumed upper limit of 200 U/L.
    ("creatine-kinase", "high"): (
        _cell(">200", "routine"),
        _cell(">=800", "soon"),
        _cell(">=2000", "urgent"),
        _cell(">10000", "emergency"),
        _cell(">=2000", "emergency", "dark-urine myoglobinuria acute-kidney-injury"),
    ),
    ("glucose", "low"): (
        _cell("<3.9", "soon"),
        _cell("<3.0", "urgent"),
        _cell("<2.5", "emergency"),
        _cell("<3.0", "emergency", _CLOUDED),
    ),
    ("bicarbonate", "low"): (_cell("<18", "routine"),),
    ("bicarbonate", "high"): (_cell(">30", "routine"),),
    ("tsh", "low"): (_cell("<0.1", "soon"),),
    ("tsh", "high"): (_cell(">10", "routine"),),
    ("vitamin-d", "low"): (_cell("<50", "routine"),),
    ("vitamin-d", "high"): (_cell(">250", "routine"),),
    ("vitamin-b12", "low"): (
        _cell("<=350", "routine"),
        _cell("<180", "soon", "numbness gait-change memory-change confusion"),
    ),
    ("ferritin", "low"): (_cell("<30", "routine"),),
    ("egfr", "low"): (_cell("<30", "routine"),),
}

ANALYTES = tuple(sorted({analyte for analyte, _ in TABLE}))

# Steps that laboratories report in: one in the last place of each is tried beside every bound.
STEPS: dict[str, tuple[str, ...]] = {
    **{analyte: ("0.1", "0.01", "0.0001") for analyte in ANALYTES},
    **{analyte: ("1", "0.1", "0.0001") for analyte in ("qtc", "creatine-kinase", "egfr", "sodium")},
}

# Below and above which a value is a data error; both limits themselves are possible.
PLAUSIBLE: dict[str, tuple[str, str]] = {
    "potassium": ("0.5", "15"),
    "magnesium": ("0.1", "12"),
    "calcium": ("0.5", "6.0"),
    "calcium-ionized": ("0.2", "4.0"),
    "sodium": ("80", "220"),
    "phosphate": ("0.05", "10"),
    "glucose": ("0.1", "150"),
    "qtc": ("200", "800"),
    "creatine-kinase": ("1", "1000000"),
    "tsh": ("0", "1000"),
    "vitamin-d": ("1", "1500"),
    "vitamin-b12": ("10", "5000"),
    "ferritin": ("1", "5000"),
    "egfr": ("0", "250"),
    "bicarbonate": ("2", "60"),
}

_MG_DL = Fraction(10)  # mg/dL in mg/L

# Other units a result may come in: UCUM code, and how much one of it is in the usual unit.
# Molar masses in g/mol from the standard atomic weights.
OTHER_UNITS: dict[str, dict[str, Fraction]] = {
    "potassium": {"meq/L": Fraction(1), "mg/dL": _MG_DL / Fraction("39.0983")},
    "magnesium": {"meq/L": Fraction(1, 2), "mg/dL": _MG_DL / Fraction("24.305")},
    "calcium": {"meq/L": Fraction(1, 2), "mg/dL": _MG_DL / Fraction("40.078")},
    "calcium-ionized": {"meq/L": Fraction(1, 2), "mg/dL": _MG_DL / Fraction("40.078")},
    "sodium": {"meq/L": Fraction(1), "mol/L": Fraction(1000)},
    "phosphate": {"mg/dL": _MG_DL / Fraction("30.973762"), "umol/L": Fraction(1, 1000)},
    "glucose": {"mg/dL": _MG_DL / Fraction("180.156"), "g/L": 1000 / Fraction("180.156")},
    "bicarbonate": {"meq/L": Fraction(1)},
    "qtc": {"s": Fraction(1000)},
    "creatine-kinase": {"[IU]/L": Fraction(1), "ukat/L": Fraction(60)},
    "tsh": {"u[IU]/mL": Fraction(1), "m[IU]/mL": Fraction(1000)},
    "vitamin-d": {"ng/mL": 1000 / Fraction("400.64"), "ug/L": 1000 / Fraction("400.64")},
    "vitamin-b12": {"pg/mL": Fraction(1), "pmol/L": Fraction("1.35537")},
    "ferritin": {"ng/mL": Fraction(1), "ug/dL": Fraction(10)},
}


# How old a result may be and still be a reason to look again, in days.
CONTEXT_DAYS = {
    **dict.fromkeys(ANALYTES, 90),
    **dict.fromkeys(("vitamin-d", "vitamin-b12", "tsh", "egfr"), 365),
}


def row_cells(analyte: str) -> tuple[Cell, ...]:
    """All cells of an analyte, both directions."""
    return tuple(c for (name, _), cells in TABLE.items() if name == analyte for c in cells)


def band(cells: Collection[Cell], value: Fraction | Decimal, signs: Collection[str]) -> str | None:
    """The tier of the highest cell that a value reaches, whoever wants to know it."""
    return highest(c.tier for c in cells if c.holds(Fraction(value), signs))


def expected(
    cells: Collection[Cell], value: Fraction | Decimal, signs: Collection[str] = ()
) -> str | None:
    """The tier of the finding that a fresh value makes in an adult with these signs."""
    tier = band(cells, value, signs)
    if rank(tier) < rank("urgent") and UNLOCKING.isdisjoint(signs):
        return None
    return tier


def expected_recheck(
    cells: Collection[Cell], value: Fraction | Decimal, signs: Collection[str] = ()
) -> str | None:
    """The tier of the finding that a value older than seven days still makes."""
    tier = expected(cells, value, signs)
    if tier is None:
        return None
    return "soon" if rank(tier) >= rank("urgent") else "routine"
