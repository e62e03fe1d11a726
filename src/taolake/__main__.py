"""`python -m taolake` is the `taolake` command."""

from taolake.cli import main

main()
