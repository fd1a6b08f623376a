"""A name server of the tests' own, which says as much as a message can hold.

What is long it says by TCP only, as RFC 1035 has it; ``getaddrinfo`` asks again that way.
"""

import contextlib
import socket
import struct
import threading

__all__ = ["A", "AAAA", "MOST_A", "MOST_AAAA", "SILENCE", "NameServer", "name_server_at"]

A, AAAA = 1, 28
#: As many records as a message of 64 KiB has room for.
MOST_A, MOST_AAAA = 4000, 2300
#: Instead of addresses: there is no answer.
SILENCE = object()

_HEADER = struct.Struct("!2sHHHHH")
_LENGTH = struct.Struct("!H")
_TRUNCATED, _ANSWER, _NO_SUCH_NAME = 0x8380, 0x8180, 0x8183
#: A message by UDP holds more than that, but these tests want none to.
_MOST_BY_UDP = 20


def name_server_at(host, address, records):
    """Return the ``NameServer`` of *address*, which the host of the tests' own has."""
    tcp = host.socket(socket.AF_INET)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind((address, 53))
    tcp.listen(16)
    return NameServer(host.udp(address, 53), tcp, records)


class NameServer:
    """Answers what ``records`` returns for a name and a type: addresses, packed.

    A class because of its sockets and threads.  None: there is no such name; ``SILENCE``: the
    question is dropped.

    Args:
        udp, tcp: sockets that are bound to port 53, the second one listening; closed with it.

    Attributes:
        records: a test may replace it.
        asked: names and types, as they were asked for by TCP, or by UDP and not for TCP.
    """

    def __init__(self, udp, tcp, records):
        self._udp, self._tcp, self.records = udp, tcp, records
        self._threads = [threading.Thread(target=t) for t in (self._serve_udp, self._serve_tcp)]
        self.asked = []

    def __enter__(self):
        for sock in (self._udp, self._tcp):
            sock.settimeout(None)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        for sock in (self._udp, self._tcp):
            with contextlib.suppress(OSError):  # ends what waits, even where it says that it cannot
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._tcp.close()

    def _serve_udp(self):
        with contextlib.suppress(OSError):
            while True:
                question, peer = self._udp.recvfrom(4096)
                if not question:
                    return
                answer = self._answer(question, _MOST_BY_UDP)
                if answer:
                    self._udp.sendto(answer, peer)

    def _serve_tcp(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _peer = self._tcp.accept()
                threading.Thread(target=self._serve_one, args=(sock,), daemon=True).start()

    def _serve_one(self, sock):
        with sock, sock.makefile("rb") as file, contextlib.suppress(OSError):
            while True:
                length = file.read(2)
                if len(length) < 2:
                    return
                answer = self._answer(file.read(*_LENGTH.unpack(length)), MOST_A)
                sock.sendall(_LENGTH.pack(len(answer)) + answer)

    def _answer(self, message, most):
        name, kind, question = _question_of(message)
        found = self.records(name, kind)
        if found is SILENCE:
            self.asked.append((name, kind))
            return b""
        if found is not None and len(found) > most:
            return _HEADER.pack(message[:2], _TRUNCATED, 1, 0, 0, 0) + question
        self.asked.append((name, kind))
        if found is None:
            return _HEADER.pack(message[:2], _NO_SUCH_NAME, 1, 0, 0, 0) + question
        records = [struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(ip)) + ip for ip in found]
        head = _HEADER.pack(message[:2], _ANSWER, 1, len(records), 0, 0)
        return b"".join([head, question, *records])


def _question_of(message):
    """Return name and type of the one question, and its bytes."""
    at, labels = _HEADER.size, []
    while message[at]:
        labels.append(message[at + 1 : at + 1 + message[at]].decode("ascii").lower())
        at += 1 + message[at]
    end = at + 5
    return ".".join(labels), struct.unpack("!H", message[at + 1 : at + 3])[0], message[12:end]
