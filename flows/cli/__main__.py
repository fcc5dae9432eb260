"""`python -m flows.cli`: the command `empamba` of this folder's code."""

from flows.cli import main

main()
