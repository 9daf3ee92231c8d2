"""`python -m cp_compress`: the command `cp-compress`, for where it is not on the path."""

import sys

from cp_compress.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
