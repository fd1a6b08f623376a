"""``python3 -m minisocks``, and where every other start begins."""

import sys

__all__ = ["run"]


def run() -> int:
    """Run the command line of this process; return the exit status."""
    try:
        if "--ensure" in sys.argv:
            # Every minute, from cron: before anything that takes long to import.
            import os

            from minisocks.service.ensure import is_healthy

            if is_healthy(sys.argv[1:], os.environ):
                # At once: there is nothing to tidy up, and that would take a seventh of the time.
                os._exit(0)
        # Here, because on a slow machine importing is long enough for a Ctrl-C.
        from minisocks.cli import main

        return main()
    except KeyboardInterrupt:
        return 130
    except MemoryError:
        sys.stderr.write("minisocks: not enough memory\n")
        return 1
    except ImportError as exc:  # click, or what a router's Python leaves out
        from minisocks.service.mistakes import explained

        sys.stderr.write("minisocks: %s\n" % explained("this Python lacks something: %s" % exc))
        return 1


if __name__ == "__main__":
    sys.exit(run())
