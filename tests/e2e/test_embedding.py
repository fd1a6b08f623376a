"""A proxy inside another program: what Python people expect of a server object."""

import contextlib
import doctest
import functools
import importlib.util
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

from kit import inside
from kit.support import (
    GREETING,
    ROOT,
    TIMEOUT,
    Talk,
    failure5,
    handler_with,
    nothing_left,
    own_threads,
    run_proxy,
    socks5,
    wait_until,
)
from minisocks import Config, ConfigError, ListenError, Proxy, SocksHandler, SocksServer
from minisocks.net.loop import run_in
from minisocks.net.resolver import Resolver
from minisocks.server.session import Session

# Where it is


def test_a_proxy_says_where_it_is():
    """Address, host, port and URL are the real ones from ``start`` on, and stay after ``stop``."""
    with Proxy(listen=["127.0.0.2:0", "127.0.0.1:0"]) as proxy:
        assert [proxy.address] == proxy.addresses[:1]
        assert "127.0.0.2:%d" % proxy.port == proxy.address
        assert ("127.0.0.2", proxy.port) == (proxy.host, proxy.port) == proxy.server_address
        assert "socks5h://127.0.0.2:%d" % proxy.port == proxy.url
        assert "<Proxy on %s>" % ", ".join(proxy.addresses) == repr(proxy)
        Talk.to(proxy.port, proxy.host).send(GREETING).expect(b"\x05\x00").close()
        before = proxy.address, proxy.port, proxy.host, proxy.server_address, proxy.url
    assert before == (proxy.address, proxy.port, proxy.host, proxy.server_address, proxy.url)
    assert ([], "<Proxy on no address yet>") == (proxy.addresses, repr(proxy))


@pytest.mark.parametrize("name", ["address", "host", "port", "server_address", "url"])
def test_a_proxy_that_was_never_started_is_nowhere(name):
    """Asking where it is raises a sentence that explains it."""
    with pytest.raises(RuntimeError, match="does not listen: start it first"):
        getattr(Proxy(listen="127.0.0.1:0"), name)


@pytest.mark.parametrize(
    "listen, url",
    [
        ("0.0.0.0:0", "socks5h://127.0.0.1:%d"),
        ("[::]:0", "socks5h://[::1]:%d"),
        ("[::1]:0", "socks5h://[::1]:%d"),
        (":0", "socks5h://127.0.0.1:%d"),
    ],
)
def test_the_url_is_one_that_can_be_connected_to(target, listen, url):
    """An address that stands for all is shown as one of them."""
    with Proxy(listen=listen) as proxy:
        assert url % proxy.port == proxy.url
        host = re.match(r"socks5h://\[?([^]]+?)\]?:\d+\Z", proxy.url).group(1)
        with Talk.to(proxy.port, host) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]


def test_a_unix_socket_has_an_address_and_no_port(tmp_path):
    """Port and URL are those of the first listener that has one; without one they raise."""
    path = "unix:%s" % (tmp_path / "sock")
    with Proxy(listen=path) as proxy:
        assert path == proxy.address
        for name in ("host", "port", "server_address", "url"):
            with pytest.raises(RuntimeError, match="has no port: it listens on unix:"):
                getattr(proxy, name)
    with Proxy(listen=[path, "127.0.0.1:0"]) as proxy:
        assert (path, "127.0.0.1:%d" % proxy.port) == (proxy.address, proxy.addresses[1])


# How it is made


def test_settings_are_keywords_or_a_config_and_not_both():
    """Keywords mean what ``Config`` means; wrong ones raise when the object is made."""
    assert ("127.0.0.1:0",) == Proxy(listen="127.0.0.1:0").config.listen
    assert Proxy(connect_timeout=7.0).config == Proxy(Config(connect_timeout=7.0)).config
    with pytest.raises(TypeError, match=r"a config and keywords \(open\)"):
        Proxy(Config(), open=True)
    with pytest.raises(TypeError, match="write listen='127.0.0.1:0'"):
        Proxy("127.0.0.1:0")
    with pytest.raises(TypeError, match="connect_timeout"):
        Proxy(conect_timeout=7.0)
    with pytest.raises(ConfigError):
        Proxy(connect_timeout=-1)
    with pytest.raises(TypeError, match="exclude each other"):
        Proxy(resolver=Resolver(), resolve={}.get)
    with pytest.raises(ValueError, match="keep_records"):
        Proxy(keep_records=-1)


async def coroutine(*args):
    """Do nothing, later."""


@pytest.mark.parametrize("hook", [coroutine, True, "name"])
@pytest.mark.parametrize("name", ["authenticate", "authorize", "resolve", "on_connection"])
def test_what_is_no_plain_function_is_no_hook(name, hook):
    """It raises when the object is made, and not when the first client comes."""
    with pytest.raises(TypeError, match="%s takes a plain function" % name):
        Proxy(**{name: hook})


def test_a_proxy_is_true():
    """``if proxy:`` asks whether there is one, not whether it has connections."""
    assert Proxy()
    assert 0 == len(Proxy())


def test_the_bind_error_is_raised_in_the_caller():
    """``start``, ``with`` and ``serve_forever`` raise it, as an OSError, with the address."""
    with nothing_left(), socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        for way in (Proxy.start, Proxy.__enter__, Proxy.serve_forever):
            proxy = Proxy(listen=address)
            with pytest.raises(ListenError, match=re.escape(address)) as caught:
                way(proxy)
            assert isinstance(caught.value, OSError)
            with pytest.raises(RuntimeError, match="start it first"):
                proxy.port  # noqa: B018  # the property raises


# How it lives


def test_it_may_be_started_again(target):
    """After each start it serves, on a new free port, and looks names up."""
    with nothing_left():
        proxy = Proxy(listen="127.0.0.1:0")
        for _ in range(3):
            proxy.start()
            with Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5(b"localhost", target.port)[0]
            proxy.stop()


def test_a_resolver_given_to_it_stays_the_caller_s(target):
    """It works after a restart, too, and several proxies can share it."""
    resolver = Resolver(lambda host, *how: socket.getaddrinfo("127.0.0.1", *how))
    proxy = Proxy(listen="127.0.0.1:0", resolver=resolver)
    for _ in range(2):
        with proxy, Talk.to(proxy.port) as talk:
            assert 0 == talk.connect5(b"a.example", target.port)[0]
    resolver.close()


def test_sockets_given_to_it_serve_once(target):
    """``stop`` closes them; starting again raises RuntimeError, and harms nothing."""
    with nothing_left():
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        with Proxy(listen="127.0.0.1:0", listeners=(listener,)) as proxy:
            port = listener.getsockname()[1]
            assert "127.0.0.1:%d" % port == proxy.addresses[1]
            with Talk.to(port) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        with pytest.raises(RuntimeError, match="closed: make a new one"):
            proxy.start()


def test_started_in_one_thread_and_stopped_in_another(target):
    """It is bound to no thread."""
    with nothing_left():
        proxy = Proxy(listen="127.0.0.1:0")
        for action in (proxy.start, proxy.stop):
            thread = threading.Thread(target=action)
            thread.start()
            thread.join(TIMEOUT)
            assert not thread.is_alive()
            if action == proxy.start:
                with Talk.to(proxy.port) as talk:
                    assert 0 == talk.connect5("127.0.0.1", target.port)[0]


@pytest.mark.soak
def test_many_proxies_in_many_threads(target):
    """Sixteen threads each make proxies of their own; none sees another's clients."""
    wrong = []

    def work(number):
        try:
            for _ in range(3):
                heard = []
                hooks = {"on_connection": heard.append, "authorize": lambda r: r.port != number}
                with run_proxy(**hooks) as proxy:
                    with Talk.to(proxy.port) as talk:
                        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
                    with Talk.to(proxy.port) as talk:
                        assert 2 == talk.connect5("127.0.0.1", number)[0]
                    assert (2, 1) == (proxy.stats().total, proxy.stats().succeeded)
                assert [1, 2] == sorted(record.id for record in heard)
        except Exception as exc:  # noqa: BLE001  # told by the main thread
            wrong.append(exc)

    with nothing_left():
        threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 17)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [] == wrong
        wait_until(lambda: own_threads() == [])


# serve_forever


@pytest.mark.parametrize("is_started", [False, True])
def test_serve_forever_returns_after_stop(is_started, target):
    """It starts what has not been started, and returns when another thread has stopped it."""
    with nothing_left():
        proxy = Proxy(listen="127.0.0.1:0")
        if is_started:
            proxy.start()
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        wait_until(lambda: proxy.addresses)
        wait_until(lambda: proxy.services is not None)
        with Talk.to(proxy.server_address[1]) as talk:
            assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        assert thread.is_alive()
        proxy.stop()
        thread.join(TIMEOUT)
        assert not thread.is_alive()


@contextlib.contextmanager
def in_child(program):
    """Run *program* in a process of its own, which does not outlive the block."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    ) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


def test_ctrl_c_goes_through_serve_forever_and_stops():
    """KeyboardInterrupt arrives in the program, and the proxy has ended by then."""
    program = (
        "import signal, sys, threading, time\n"
        "from minisocks import Proxy\n"
        # What starts a program in the background may have it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "proxy = Proxy(listen='127.0.0.1:0')\n"
        "main = threading.get_ident()\n"
        "def tell():\n"
        "    names = set()\n"
        "    while not {'serve_forever', 'wait'} <= names:\n"
        "        time.sleep(0.01)\n"
        "        frame = sys._current_frames()[main]\n"
        "        names.clear()\n"
        "        while frame is not None:\n"
        "            names.add(frame.f_code.co_name)\n"
        "            frame = frame.f_back\n"
        "    print(proxy.port, flush=True)\n"
        "threading.Thread(target=tell, daemon=True).start()\n"
        "try:\n"
        "    proxy.serve_forever()\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', proxy.addresses, proxy.services)\n"
    )
    with in_child(program) as child:
        port = int(child.stdout.readline())
        with Talk.to(port) as talk:
            talk.send(GREETING).expect(b"\x05\x00")
            child.send_signal(signal.SIGINT)
            said, errors = child.communicate(timeout=TIMEOUT)
        assert ("interrupted [] None\n", "", 0) == (said, errors, child.returncode)


class AsyncHook:
    """Called, it returns a coroutine that is never awaited."""

    async def __call__(self, *args):
        return True


async def async_hook(*args):
    return True


@pytest.mark.parametrize(
    "hook",
    [5, async_hook, AsyncHook(), functools.partial(async_hook, 1)],
    ids=lambda h: repr(h)[:12],
)
@pytest.mark.parametrize("name", ["authenticate", "authorize", "resolve", "on_connection"])
def test_hook_that_cannot_be_one(name, hook):
    """An object that can be no hook raises when the proxy is made, not at every client."""
    with pytest.raises(TypeError, match="%s takes a plain function" % name):
        Proxy(listen="127.0.0.1:0", **{name: hook})


def test_child_leaves_the_socket_alone(tmp_path):
    """A child that was forked and ends the proxy on its side takes nothing from its parent."""
    path = str(tmp_path / "socket")
    program = (
        "import os, socket, sys\n"
        "sys.path.append('tests')\n"
        "from kit import inside\n"
        "from minisocks import Proxy\n"
        "with Proxy(listen='unix:' + sys.argv[1]) as proxy:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        for endpoint in inside.endpoints(proxy):\n"
        "            endpoint.listener.close()\n"
        "        os._exit(0)\n"
        "    assert 0 == os.waitpid(child, 0)[1]\n"
        "    client = socket.socket(socket.AF_UNIX)\n"
        "    client.connect(sys.argv[1])\n"
        "    client.sendall(b'\\5\\1\\0')\n"
        "    print(client.recv(2))\n"
        "    client.close()\n"
        "print(os.path.exists(sys.argv[1]))\n"
    )
    out = subprocess.check_output(
        [sys.executable, "-c", program, path], cwd=ROOT, universal_newlines=True
    )
    assert ["b'\\x05\\x00'", "False"] == out.split("\n")[:2]


@pytest.mark.parametrize("error", [OSError, SystemExit])
def test_log_that_raises_stops_no_client(target, error):
    """A program's log handler that cannot write costs what is logged, and not the proxy."""

    class Full(logging.Handler):
        def emit(self, record):
            raise OSError(28, "No space left on device")

    logger, handler = logging.getLogger("minisocks"), Full()
    access = logging.getLogger("minisocks.access")
    level = access.level
    logger.addHandler(handler)
    access.setLevel(logging.INFO)

    def authorize(request):
        if request.port == 1:
            raise error("a bug")
        return True

    try:
        with run_proxy(authorize=authorize) as proxy:
            for port in (1, target.port, target.port, 1, target.port):
                with Talk.to(proxy.port) as talk:
                    rep = talk.connect5("127.0.0.1", port)[0]
                    assert (1 if port == 1 else 0) == rep
                    if not rep:
                        talk.send(b"x").expect(b"x").finish()
                        talk.rest()
    finally:
        access.setLevel(level)
        logger.removeHandler(handler)


# The seams for programs with a server or handler of their own


def test_server_and_handler_can_be_replaced(target):
    """``server_type`` and ``handler_type`` replace the classes that serve a proxy's clients."""
    asked = []

    class Server(SocksServer):
        def verify_request(self, request, client_address):
            asked.append(client_address)
            return super().verify_request(request, client_address)

    class Handler(SocksHandler):
        def handle(self):
            asked.append(self.client_address)
            super().handle()

    class MyProxy(Proxy):
        server_type = Server
        handler_type = Handler

    with MyProxy(listen="127.0.0.1:0") as proxy, Talk.to(proxy.port) as talk:
        assert 0 == talk.connect5("127.0.0.1", target.port)[0]
        assert [talk.sock.getsockname()] * 2 == asked


def test_a_pair_that_cannot_be_registered_at_once_is_begun_by_the_loop(target):
    """When the kernel has no room for a watch just then, no byte is lost and nothing hangs."""
    failed = []

    class Poller:
        """The loop's, which has no room the first time another thread asks."""

        def __init__(self, real):
            self._real = real

        def register(self, fd, mask):
            own = threading.current_thread().name
            if own == "minisocks-handler" and len(failed) < 2:
                failed.append(fd)
                if len(failed) == 2:  # the second of the two
                    raise OSError(28, "No space left on device")
            self._real.register(fd, mask)

        def __getattr__(self, name):
            return getattr(self._real, name)

    with nothing_left(), run_proxy() as proxy:
        loop = proxy.services.loop
        inside.wrap_poller(loop, Poller)
        run_in(loop, lambda: None)
        for _ in range(2):
            with Talk.to(proxy.port) as talk:
                assert 0 == talk.connect5("127.0.0.1", target.port)[0]
                talk.send(b"works").expect(b"works")
        assert 2 == len(failed)


def test_sessions_can_be_replaced(target):
    """A handler makes the session, so that a test kit can replace what it sends."""

    class Liar(Session):
        __slots__ = ()

        def connected(self, upstream, via, bnd):
            self.conn.send(failure5(0x42))
            raise ConnectionAbortedError("that was all")

    class LyingProxy(Proxy):
        handler_type = handler_with(Liar)

    with nothing_left(), LyingProxy(listen="127.0.0.1:0") as proxy, Talk.to(proxy.port) as talk:
        talk.send(GREETING + socks5("127.0.0.1", target.port))
        assert b"\x05\x00" + failure5(0x42) == talk.rest()


# Other people's pytest

INNER = """
import gc
import socket
import warnings

import pytest
from minisocks import Proxy


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [] == [str(warning.message) for warning in caught]


@pytest.fixture
def proxy():
    with Proxy(listen="127.0.0.1:0", on_connection=lambda record: None) as proxy:
        yield proxy
    LEAK


@pytest.mark.parametrize("number", range(40))
def test_proxy(proxy, number):
    with socket.socket() as target, socket.socket() as client:
        target.bind(("127.0.0.1", 0))
        target.listen(1)
        port = target.getsockname()[1].to_bytes(2, "big")
        client.settimeout(20)
        client.connect(proxy.server_address)
        client.sendall(b"\\5\\1\\0" + b"\\5\\1\\0\\1\\x7f\\0\\0\\1" + port)
        with target.accept()[0] as served:
            served.sendall(b"hello")
            data = b""
            while len(data) < 17:
                data += client.recv(17)
        assert data.endswith(b"hello")
        assert proxy.stats().succeeded == 1
"""


def inner_pytest(folder, text, *options):
    (folder / "test_inner.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
        + [*options, "--rootdir", str(folder), str(folder)],
        cwd=str(folder),
        # Without other plugins, which take longer to load than all of this takes to run.
        env=dict(os.environ, PYTHONPATH=ROOT, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=100,
    )


@pytest.mark.soak
def test_forty_proxies_in_eight_processes_warn_of_nothing(tmp_path):
    """Under pytest -n 8 with every warning an error, a proxy for each test is clean."""
    pytest.importorskip("xdist")
    run = inner_pytest(tmp_path, INNER.replace("LEAK", ""), "-p", "xdist", "-n", "8")
    assert "40 passed" in run.stdout, run.stdout
    assert 0 == run.returncode
    assert "Warning" not in run.stdout


def test_the_check_for_warnings_can_fail(tmp_path):
    """The same check reports a socket that is left to the garbage collector."""
    run = inner_pytest(tmp_path, INNER.replace("LEAK", "socket.socket()"))
    assert "40 errors" in run.stdout, run.stdout
    assert "unclosed <socket" in run.stdout


# What the documents say


def examples(path):
    """Return the doctests of a file."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return doctest.DocTestParser().get_examples(file.read())


@pytest.mark.parametrize("path", ["README.rst", "docs/embedding.rst"])
def test_what_the_documents_say_is_so(path):
    """Each example is run as it stands, in a fresh process, with warnings as errors."""
    if path.startswith("docs") and shutil.which("curl") is None:
        pytest.skip("no curl, which the examples run")
    program = (
        "import doctest, sys\n"
        "failed, tried = doctest.testfile(%r, module_relative=False)\n"
        "print(tried, 'tried')\n"
        "sys.exit(failed != 0)" % os.path.join(ROOT, path)
    )
    with in_child(program) as child:
        said, errors = child.communicate(timeout=100)
    assert ("", 0) == (errors, child.returncode), said
    tried = int(re.search(r"(\d+) tried", said).group(1))
    assert tried == len(examples(path)) > 2


CONFTEST = """
import socket
import threading

import pytest


class Shop:
    pass


@pytest.fixture
def shop():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        shop = Shop()
        shop.port = listener.getsockname()[1]
        yield shop
"""

#: As much of PySocks as the example needs, where there is none.
PYSOCKS = """
import socket

SOCKS5 = 2


class socksocket(socket.socket):
    def set_proxy(self, kind, host, port, rdns):
        assert (kind, rdns) == (SOCKS5, True)
        self.proxy = host, port

    def connect(self, target):
        self.settimeout(20)
        super().connect(self.proxy)
        name = target[0].encode()
        request = bytes((5, 1, 0, 3, len(name))) + name + target[1].to_bytes(2, "big")
        self.sendall(b"\\5\\1\\0" + request)
        said = b""
        while len(said) < 12:
            said += self.recv(12 - len(said))
        assert said[:4] == b"\\5\\0\\5\\0"
"""


def test_the_fixture_in_the_documents_works(tmp_path):
    """The page's pytest example passes, and fails when its client asks for another name."""
    with open(os.path.join(ROOT, "docs", "embedding.rst"), encoding="utf-8") as file:
        (block,) = re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", file.read())
    (tmp_path / "conftest.py").write_text(CONFTEST)
    if importlib.util.find_spec("socks") is None:
        (tmp_path / "socks.py").write_text(PYSOCKS)
    run = inner_pytest(tmp_path, textwrap.dedent(block))
    assert "1 passed" in run.stdout, run.stdout

    run = inner_pytest(tmp_path, textwrap.dedent(block).replace('(("shop', '(("SHOP.other'))
    assert "1 failed" in run.stdout, run.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_may_leave_the_block():
    """``stop`` in a child returns, and the parent's proxy serves on."""
    program = (
        "import os, socket\n"
        "from minisocks import Proxy\n"
        "from minisocks.net import resolver\n"
        "from minisocks.server import journal\n"
        "def hook(*args):\n"
        "    pass\n"
        "with Proxy(listen='127.0.0.1:0', on_connection=hook, resolve=hook) as proxy:\n"
        "    # Threads of the resolver and of the reporter, which a child has not.\n"
        "    with socket.create_connection(proxy.server_address, 20) as client:\n"
        "        client.sendall(bytes((5, 1, 0, 5, 1, 0, 3, 9)) + b'localhost' + bytes((0, 1)))\n"
        "        while client.recv(20): pass\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        journal.CLOSE_SECONDS = resolver.CLOSE_SECONDS = 3600\n"
        "        proxy.stop()\n"
        "        os._exit(7)\n"
        "    status = os.waitpid(child, 0)[1] >> 8\n"
        "    with socket.create_connection(proxy.server_address, 20) as client:\n"
        "        client.sendall(bytes((5, 1, 0)))\n"
        "        print(status, client.recv(2))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT,
        universal_newlines=True,
    )
    assert r"7 b'\x05\x00'" == done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_reload_in_a_forked_child_raises():
    """Its proxy runs in another process, for whose loop it would wait for ever."""
    program = (
        "import os\n"
        "from minisocks import Proxy\n"
        "with Proxy(listen='127.0.0.1:0') as proxy:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        try:\n"
        "            proxy.reload(proxy.config)\n"
        "        except RuntimeError as exc:\n"
        "            os.write(1, str(exc).encode())\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT,
        universal_newlines=True,
    )
    assert "the proxy is in the process that has started it, not in a child" == done.stdout
