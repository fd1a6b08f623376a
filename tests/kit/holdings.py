"""What a process holds: descriptors, threads, memory.  Looks at its /proc."""

import os
import socket
import threading

from kit.support import wait_until


class State:
    """What a process holds, at a moment."""

    def __init__(self, pid):
        self.descriptors = len(os.listdir("/proc/%d/fd" % pid))
        with open("/proc/%d/status" % pid) as file:
            fields = dict(line.split(":", 1) for line in file)
        self.threads = int(fields["Threads"])
        self.kilobytes = int(fields["VmRSS"].split()[0])

    def __repr__(self):
        return "%d descriptors, %d threads, %d KB" % (
            self.descriptors,
            self.threads,
            self.kilobytes,
        )


def settled(pid):
    """Return what a process holds once that stays the same for a while."""
    seen = []

    def is_settled():
        seen.append(State(pid).descriptors)
        threading.Event().wait(0.02)
        return len(seen) > 15 and len(set(seen[-15:])) == 1

    wait_until(is_settled, "a process at rest")
    return State(pid)


def carry_out(visits, times, visit):
    """Call *visit* with *times* of *visits*, over and over, in four threads; return what was wrong.

    A connection may break: that is what some of them are for.
    """
    wrong = []

    def work(share):
        for one in share:
            try:
                visit(one)
            except (AssertionError, socket.timeout) as exc:
                wrong.append(exc)
            except OSError:
                pass  # a reset that was asked for

    done = (visits * (times // len(visits) + 1))[:times]
    threads = [threading.Thread(target=work, args=(done[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def wait_until_closed(pid, empty):
    """Return once the process has no more descriptors than in the state *empty*."""
    wait_until(lambda: State(pid).descriptors <= empty.descriptors, "descriptors back")
