"""What a process holds: descriptors, threads, memory.  Looks at its /proc."""

import os
import threading

from support import wait_until


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
