"""Mutation: rules with one small mistake each, and whether any case notices.

A set of cases is as good as the mistakes that it would find. `test_mutants` makes each mistake
that `operators` knows in each written rule, derives its companion for older results again, and
tries the cases that pass (`trials`). A mutant that no case notices *survives*; a case that would
have noticed is made for it (`killing`). Mutants that nobody can tell from their rule, or need not,
are listed with a reason in `mutants.yaml` beside the cases (`accepted`).
"""

from __future__ import annotations

from cds.mutation.accepted import Accepted, load_accepted
from cds.mutation.report import MutationReport, Survivor, test_mutants

__all__ = ["Accepted", "MutationReport", "Survivor", "load_accepted", "test_mutants"]
