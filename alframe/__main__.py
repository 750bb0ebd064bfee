"""`python -m alframe`: the same as the `alframe` command."""

import sys

from alframe.cli import main

if __name__ == "__main__":
    sys.exit(main())
