"""Servers that the clients of ``test_udp_clients`` ask: other programs, and one that just answers.

Each has ``port``, what its client then has as ``expected``, and ``heard``: how many
datagrams came, or None if it does not tell.
"""

import asyncio
import os
import socket
import subprocess
import threading

from kit.support import TIMEOUT, closed_port

KEY = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost"


class Answers:
    """Answers each datagram with the same."""

    def __init__(self):
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.port = self._sock.getsockname()[1]
        self.expected = os.urandom(1000)
        self.heard = 0
        self._thread = threading.Thread(target=self._serve)

    def _serve(self):
        while True:
            data, sender = self._sock.recvfrom(65536)
            if not data:
                return
            self.heard += 1
            self._sock.sendto(self.expected, sender)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._sock.sendto(b"", self._sock.getsockname())
        self._thread.join()
        self._sock.close()


class Server:
    """A process; ``lines`` are what it says."""

    heard = None

    def start(self, command, stdin=subprocess.DEVNULL):
        """Start it; ``on_line`` hears each line, and sets ``_ready`` when it serves."""
        self._process = subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        if not self._ready.wait(TIMEOUT) or self._process.poll() is not None:
            self.__exit__()
            raise AssertionError("%s does not start" % command[0])

    def _read(self):
        for line in self._process.stdout:
            self.on_line(line)
        self._ready.set()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._process.kill()
        self._process.wait()
        self._thread.join()
        self._process.stdout.close()


class Dnsmasq(Server):
    """A name server that knows one name."""

    query = "file.test"

    def __init__(self, program):
        text = os.urandom(20).hex()
        self.port, self.heard = closed_port(), 0
        self.expected = b'"%s"\n' % text.encode()
        self.start(
            [program, "--keep-in-foreground", "--port=%d" % self.port, "--conf-file=/dev/null"]
            + ["--listen-address=127.0.0.1", "--bind-interfaces", "--no-resolv", "--no-hosts"]
            + ["--txt-record=%s,%s" % (self.query, text), "--log-queries", "--log-facility=-"]
            + ["--user=" + ("root" if os.getuid() == 0 else ""), "--pid-file="]
        )

    def on_line(self, line):
        """Count the questions."""
        if b": started" in line:
            self._ready.set()
        self.heard += b": query[" in line


class Dtls(Server):
    """openssl's server, which sends a line to a client that has sent one."""

    def __init__(self, folder):
        self.port = closed_port()
        key, certificate = make_certificate(folder)
        self.expected = os.urandom(400).hex().encode() + b"\n"
        command = ["openssl", "s_server", "-dtls", "-accept", "127.0.0.1:%d" % self.port]
        self.start(command + ["-key", key, "-cert", certificate], stdin=subprocess.PIPE)

    def on_line(self, line):
        """Answer the question."""
        if b"ACCEPT" in line:
            self._ready.set()
        if b"question" in line:
            self._process.stdin.write(self.expected)
            self._process.stdin.flush()

    def __exit__(self, *exc):
        super().__exit__(*exc)
        self._process.stdin.close()


class Quic:
    """aioquic's server, in a thread."""

    heard = None

    def __init__(self, folder):
        self.folder, self.expected = folder, os.urandom(1 << 20)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def _serve(self):
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self):
        from aioquic.asyncio.server import QuicServer
        from aioquic.quic.configuration import QuicConfiguration

        configuration = QuicConfiguration(is_client=False, alpn_protocols=["hq-interop"])
        key, certificate = make_certificate(self.folder)
        configuration.load_cert_chain(certificate, key)
        transport, server = await self._loop.create_datagram_endpoint(
            lambda: QuicServer(configuration=configuration, stream_handler=self._stream),
            local_addr=("127.0.0.1", 0),
        )
        self.port = transport.get_extra_info("sockname")[1]
        self._end = asyncio.Event()
        self._ready.set()
        await self._end.wait()
        server.close()

    def _stream(self, reader, writer):
        async def answer():
            await reader.read()
            writer.write(self.expected)
            writer.write_eof()

        self._task = asyncio.ensure_future(answer())

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(TIMEOUT)
        return self

    def __exit__(self, *exc):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


def make_certificate(folder):
    """Return the files of a key and of a certificate of it by itself."""
    key, certificate = os.path.join(folder, "key.pem"), os.path.join(folder, "cert.pem")
    subprocess.check_output(
        KEY.split() + ["-keyout", key, "-out", certificate],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    return key, certificate
