"""``python -m minisocks``."""

import sys

if __name__ == "__main__":
    try:
        # Here, because on a slow machine importing is long enough for a Ctrl-C.
        from minisocks.cli import main

        status = main()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
