"""The command `cds`: arguments in, results to standard output, all else to standard error.

No clinical logic and no layout stand here (`report.py` has the views). What is heavy is
imported inside the commands, so that help and usage errors answer at once. This is the only
place that reads the clock.

Exit codes: 0 done; 1 a check failed; 2 unusable arguments, or nothing at all could be read;
3 finished, but something was rejected; 4 internal error. If several apply: 4, 2, 1, 3. A
closed pipe and Ctrl-C end quietly with 141 and 130, as a shell reports these signals.
"""

from __future__ import annotations

import atexit
import gc

import click

from cds import __version__
from cds.cli.common import Commands

__all__ = ["main"]

# Everything goes when the process ends: a last search of it all for garbage finds nothing to save.
atexit.register(gc.freeze)

# Each command and the module that holds it, in the order of the help.
_COMMANDS = {
    "screen": "patients",
    "explain": "patients",
    "rules": "rules",
    "lint": "lint",
    "test": "test",
    "check": "check",
    "diff": "diff",
    "new-rule": "new_rule",
    "translate": "translate",
    "feedback": "feedback",
    "serve": "serve",
    "conformance": "conformance",
}


@click.group(
    cls=Commands, modules=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="cds", message="%(prog)s %(version)s")
def main() -> None:
    """Decision support for muscle twitching: FHIR in, explained findings out.

    Not a medical device. The rules are drafts that no clinician has signed.
    """
