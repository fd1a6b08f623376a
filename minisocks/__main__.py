"""``python -m minisocks``."""

import sys

from minisocks.cli import main

if __name__ == "__main__":
    sys.exit(main())
