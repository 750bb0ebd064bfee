"""`python -m alframe`: the same as the `alframe` command."""

from alframe.cli import main

main()
