"""``python -m minisocks``."""

import sys

if __name__ == "__main__":
    try:
        # Here, because on a slow machine importing is long enough for a Ctrl-C.
        from minisocks.cli import main

        status = main()
    except KeyboardInterrupt:
        status = 130
    except MemoryError:
        sys.stderr.write("minisocks: not enough memory\n")
        status = 1
    except ImportError as exc:  # click, or what a router's Python leaves out
        from minisocks.mistakes import explained

        sys.stderr.write("minisocks: %s\n" % explained("this Python lacks something: %s" % exc))
        status = 1
    sys.exit(status)
