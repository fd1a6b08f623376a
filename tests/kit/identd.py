"""An identd that does as a script says, on a port of its own instead of 113."""

import contextlib
import threading

from kit.support import FakeTarget


class Identd(FakeTarget):
    """Answers each question by *script*, a function of the Talk and the two ports.

    ``asked`` has the questions, ``callers`` from where they came.
    """

    def __init__(self, script, host="127.0.0.1"):
        super().__init__(self._serve_one, host)
        self.answer = script
        self.asked = []
        self.callers = []
        self.is_over = threading.Event()

    def _serve_one(self, talk):
        self.callers.append(talk.sock.getpeername()[0])
        line = b""
        while not line.endswith(b"\r\n"):
            more = talk.sock.recv(1)
            if not more:
                return
            line += more
        self.asked.append(line)
        theirs, ours = (int(text) for text in line.split(b","))
        self.answer(talk, theirs, ours)

    def __exit__(self, *exc):
        self.is_over.set()
        super().__exit__(*exc)


def says_user(name, opsys=b"UNIX", more=b""):
    """Return a script that answers with *name*."""

    def script(talk, theirs, ours):
        talk.send(b"%d , %d : USERID : %s : %s\r\n" % (theirs, ours, opsys, name) + more)

    return script


def says_line(text):
    """Return a script that answers *text*, with the ports put in for %d %d where it has them."""

    def script(talk, theirs, ours):
        talk.send(text % (theirs, ours) if b"%d" in text else text)

    return script


@contextlib.contextmanager
def identd(monkeypatch, script, host="127.0.0.1"):
    """Have such an identd be the one that is asked, while this lasts."""
    with Identd(script, host) as server:
        monkeypatch.setattr("minisocks.server.ident.IDENT_PORT", server.port)
        yield server
