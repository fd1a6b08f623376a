"""Peers that connect back to the clients of ``test_bind_clients``: an FTP server, and a socket.

Each has ``port``, what its client then has as ``expected``, and ``connections``: how many BINDs
that takes.
"""

import contextlib
import os
import socket
import subprocess
import threading

from kit.support import TIMEOUT, closed_port, wait_until

VSFTPD = """\
listen=YES
listen_address=127.0.0.1
listen_port=%(port)d
background=NO
run_as_launching_user=YES
seccomp_sandbox=NO
anonymous_enable=YES
no_anon_password=YES
local_enable=NO
anon_root=%(folder)s
write_enable=YES
anon_upload_enable=YES
allow_writeable_chroot=YES
pasv_enable=NO
port_enable=YES
connect_from_port_20=NO
vsftpd_log_file=%(folder)s/log
"""


class Ftp:
    """vsftpd, which knows no passive mode."""

    connections = 2

    def __init__(self, program, folder):
        self.expected, self.port = os.urandom(3000000), closed_port()
        self.folder = os.path.join(folder, "ftp")
        self._program = program

    def __enter__(self):
        os.makedirs(os.path.join(self.folder, "up"))
        with open(os.path.join(self.folder, "file"), "wb") as file:
            file.write(self.expected)
        # Not in the folder that is served: an upload must not change it.
        config = self.folder + ".conf"
        with open(config, "w") as file:
            file.write(VSFTPD % {"port": self.port, "folder": self.folder})
        self._process = subprocess.Popen(
            [self._program, config], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        wait_until(self._answers, "an FTP server")
        return self

    def _answers(self):
        assert self._process.poll() is None, self._process.stdout.read()
        try:
            with socket.create_connection(("127.0.0.1", self.port), TIMEOUT) as sock:
                return sock.recv(4) == b"220 "
        except ConnectionRefusedError:
            return False

    def uploaded(self):
        """Return the bytes of the client's upload."""
        with open(os.path.join(self.folder, "up", "upload"), "rb") as file:
            return file.read()

    def __exit__(self, *exc):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


class Peer:
    """Receives "HOST PORT", connects there, reads a line, sends ``expected`` and closes.

    With ``comes=False`` it receives the line and does not connect.
    """

    connections = 1

    def __init__(self, comes=True):
        self.expected = os.urandom(1000).hex().encode()
        self.heard = None
        self._comes = comes
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(5)
        self._listener.settimeout(TIMEOUT)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def _serve(self):
        try:
            sock, _address = self._listener.accept()
        except OSError:
            return  # closed before the client connected
        # Either side may be cut off: a stranger, or a client that has heard enough.
        with contextlib.suppress(ConnectionError):
            with sock, sock.makefile() as file:
                place = file.readline().split()
            if self._comes:
                self._visit(*place)

    def _visit(self, host, port):
        with socket.create_connection((host, int(port)), TIMEOUT) as sock:
            with sock.makefile("rb") as file:
                self.heard = file.readline()
            sock.sendall(self.expected)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
