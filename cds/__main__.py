"""Run the command as ``python -m cds``."""

from cds.cli import main

main(prog_name="cds")
