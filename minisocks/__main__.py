"""``python3 -m minisocks``, and the beginning of every other start of the program."""

import sys

__all__ = ["run"]


def run() -> int:
    """Run the command line of this process; return the exit status."""
    try:
        if "--ensure" in sys.argv:
            # First, because cron does this every minute, and other imports take long.
            import os

            from minisocks.service.ensure import is_healthy

            if is_healthy(sys.argv[1:], os.environ):
                # Without the clean-up of Python, which would take a seventh of the time.
                os._exit(0)
        # Inside the try, because on a slow host an import is long enough for a Ctrl-C.
        from minisocks.cli import main

        return main()
    except KeyboardInterrupt:
        return 130
    except MemoryError:
        sys.stderr.write("minisocks: not enough memory\n")
        return 1
    except ImportError as exc:  # click, or a module that the Python of a router lacks
        from minisocks.service.mistakes import explained

        sys.stderr.write("minisocks: %s\n" % explained("this Python lacks something: %s" % exc))
        return 1


if __name__ == "__main__":
    sys.exit(run())
