"""Counterfactuals: the smallest change of one input that would change an answer.

"Stops at potassium 3.5 mmol/L; emergency below 2.5 mmol/L." One input is the value of one result,
one symptom, diagnosis or medicine more or less, one missing result, or the age of one result.
Candidates come from the numbers of the rules (`cds.bounds`) and from the laboratory's own limits,
the nearest first. Each is made in the record as read, and the patient is assessed again, with all
rules that can bear on the answer; only what then holds is said. So whatever is computed from an
input (adjusted calcium, a rise, a ratio) follows it.

A laboratory's flag (LL, N) belongs to the value that it stands with: a changed value has none.
Its reference range stays.
"""

from cds.counterfactual.search import Counterfactuals, open_criteria

__all__ = ["Counterfactuals", "open_criteria"]
