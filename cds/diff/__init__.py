"""What changed between two versions of rules, and what that does to a cohort of patients.

`versions` loads a folder or a git revision, `changes` compares two of them part by part, `cohort`
assesses patients with both, `layout` puts it before people. Nothing clinical is decided here.
"""

from cds.diff.changes import Change, compare
from cds.diff.cohort import CohortDiff
from cds.diff.versions import Version, load_version

__all__ = ["Change", "CohortDiff", "Version", "compare", "load_version"]
