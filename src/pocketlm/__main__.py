"""`python -m pocketlm` is the `pocketlm` command."""

from pocketlm.cli import main

main()
