"""Where the clients of ``test_clients`` go to: a web site, and a real sshd.

Also the images of its page, and a look at what a browser made of them.
"""

import http.server
import os
import socketserver
import struct
import subprocess
import threading
import zlib

COLOURS = [(200, 30, 30), (30, 160, 30), (30, 30, 200), (230, 200, 20)]
#: Of the page and of each of its four images, in pixels.
PAGE, IMAGE = 400, 200


class Site(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A web site: ``/file``, and ``/page.html`` with four images; counts its connections.

    It serves whatever is in its folder.
    """

    def __init__(self, folder, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.connections = 0
        write(folder, "file", content)
        for number, colour in enumerate(COLOURS):
            write(folder, "%d.png" % number, png(IMAGE, colour))
        images = "".join("<img src=%d.png style='float:left'>" % n for n in range(len(COLOURS)))
        page = "<!doctype html><title>four</title><body style='margin:0'>%s</body>" % images
        write(folder, "page.html", page.encode("ascii"))

    def __enter__(self):
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self.shutdown()
        self._thread.join()
        self.server_close()

    def server_bind(self):
        """Bind without asking what this machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "site", self.server_address[1]

    def process_request(self, request, client_address):
        """Count the connection."""
        self.connections += 1
        super().process_request(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection to the site."""

    def do_GET(self):
        """Send the file that the path names."""
        path = self.path.partition("?")[0].lstrip("/")
        try:
            with open(os.path.join(self.server.folder, path), "rb") as file:
                content = file.read()
        except OSError:
            self.send_error(404)
            return
        self.send_response(200)
        if path.endswith(".html"):
            self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        """Say nothing on stderr."""


def write(folder, name, content):
    with open(os.path.join(folder, name), "wb") as file:
        file.write(content)


def png(size, colour):
    """Return a square image of one colour."""

    def chunk(kind, data):
        checksum = struct.pack("!L", zlib.crc32(kind + data) & 0xFFFFFFFF)
        return struct.pack("!L", len(data)) + kind + data + checksum

    rows = (b"\0" + bytes(colour) * size) * size
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack("!LLBBBBB", size, size, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def pixels(image):
    """Return width, height and a function from x, y to the colour of a PNG."""
    position, compressed = 8, b""
    while position < len(image):
        length, kind = struct.unpack("!L4s", image[position : position + 8])
        data = image[position + 8 : position + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colours, _, _, interlaced = struct.unpack("!LLBBBBB", data)
            assert (8, 0) == (depth, interlaced)
            step = {2: 3, 6: 4}[colours]
        elif kind == b"IDAT":
            compressed += data
        position += 12 + length
    raw, rows, above = zlib.decompress(compressed), [], bytearray(width * step)
    for y in range(height):
        start = y * (width * step + 1)
        row = bytearray(raw[start + 1 : start + 1 + width * step])
        unfilter(raw[start], row, above, step)
        rows.append(row)
        above = row
    return width, height, lambda x, y: tuple(rows[y][x * step : x * step + 3])


def unfilter(kind, row, above, step):
    """Undo what PNG (section 9.2) did to a row before compressing it."""
    for i in range(len(row)):
        left = row[i - step] if i >= step else 0
        corner = above[i - step] if i >= step else 0
        if kind == 1:
            row[i] = (row[i] + left) & 255
        elif kind == 2:
            row[i] = (row[i] + above[i]) & 255
        elif kind == 3:
            row[i] = (row[i] + (left + above[i]) // 2) & 255
        elif kind == 4:
            guess = left + above[i] - corner
            nearest = min((left, above[i], corner), key=lambda other: abs(guess - other))
            row[i] = (row[i] + nearest) & 255


class Sshd:
    """A real sshd, started for each connection; it listens where we do, on port 0.

    ``connections`` counts them. Each ends with its connection.
    """

    def __init__(self, folder, sshd):
        self.folder, self.connections = folder, 0
        # It starts itself again, and so wants its full path.
        self._sshd = sshd
        self._config = os.path.join(folder, "sshd_config")
        for name in ("host", "user"):
            path = os.path.join(folder, name)
            keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path]
            subprocess.check_call(keygen, stdin=subprocess.DEVNULL)
        with open(self._config, "w") as file:
            file.write(
                "HostKey {0}/host\nAuthorizedKeysFile {0}/user.pub\nStrictModes no\n"
                "PidFile none\nPasswordAuthentication no\n".format(folder)
            )
        daemon = self

        class Session(socketserver.BaseRequestHandler):
            def handle(self):
                daemon.connections += 1
                daemon.serve(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session)
        self.server_port = self._server.server_address[1]
        with open(os.path.join(folder, "ssh_config"), "w") as file:
            file.write(
                "Port {0}\nIdentityFile {1}/user\nIdentitiesOnly yes\nBatchMode yes\n"
                "StrictHostKeyChecking no\nUserKnownHostsFile {1}/known\n"
                "LogLevel ERROR\n".format(self.server_port, folder)
            )

    def serve(self, sock):
        """Serve one client; return when it has gone."""
        command = [self._sshd, "-i", "-e", "-f", self._config]
        with open(os.path.join(self.folder, "sshd.log"), "ab") as log:
            subprocess.call(command, stdin=sock, stdout=sock, stderr=log)

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
