"""`python -m engine` is `everopen`."""

from engine.cli import main

main()
