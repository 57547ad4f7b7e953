"""`python -m vlmlaw`: the command line of `vlmlaw.cli`."""

import sys

from vlmlaw.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
