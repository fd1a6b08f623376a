"""How the parts are put together: DESIGN's picture, held against the code."""

import ast
import glob
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig

import pytest

import minisocks
from kit import inside
from kit.light import without_the_rest

PACKAGE = os.path.dirname(os.path.abspath(minisocks.__file__))
ROOT = os.path.dirname(PACKAGE)

#: Packages, and modules that are in none, those above first.  Each imports only from lines below.
LAYERS = """
    __main__ pytest_plugin
    cli testing
    service
    __init__
    proxy
    server
    udp
    relay
    exits
    access
    net
    hooks
    record
    config
    policy
    protocol
    compat values
    errors
    wire
    quoting guesses
"""
HEIGHT = {
    name: -depth for depth, line in enumerate(LAYERS.strip().splitlines()) for name in line.split()
}

#: No socket objects, threads, clock or log in these.
CORE = ("config", "policy", "protocol", "errors", "guesses", "wire", "quoting", "values")

#: Pure, all of them; of socket only what turns addresses into text and back.
CORE_IMPORTS = {
    *(
        "binascii",
        "contextlib",
        "difflib",
        "enum",
        "functools",
        "hashlib",
        "hmac",
        "ipaddress",
        "itertools",
    ),
    *("json", "math", "re", "socket", "struct", "types", "typing", "urllib.parse"),
}
CORE_SOCKET = re.compile(r"(inet_\w+|AF_\w+|has_ipv6)\Z")


def module_name(path):
    return os.path.splitext(os.path.relpath(path, PACKAGE))[0].replace(os.sep, ".")


SOURCES = {}
for _path in glob.glob(os.path.join(PACKAGE, "**", "*.py"), recursive=True):
    with open(_path, encoding="utf-8") as _file:
        SOURCES[module_name(_path)] = _file.read()
#: Of packages but the root there is nothing in it.
EMPTY = {name for name in SOURCES if name.endswith(".__init__")}
TREES = {name: ast.parse(source) for name, source in SOURCES.items() if name not in EMPTY}

every_module = pytest.mark.parametrize("name", sorted(TREES))


def package_of(name):
    """Return what *name* stands for in the picture."""
    return name.partition(".")[0]


def imports(tree):
    """Yield (module, name or None) for every import, those within functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here, so that they can be searched for"
            for alias in node.names:
                yield node.module, alias.name


def own_imports(tree):
    """Yield the modules of minisocks that are imported, ``__init__`` for its root."""
    for module, name in imports(tree):
        if module == "minisocks":
            yield name if name in TREES else "__init__"
        elif module.startswith("minisocks."):
            home = module.partition(".")[2]
            yield home if home in TREES else "%s.%s" % (home, name)


def test_every_package_has_its_place():
    """The picture above has all of them, and no others."""
    assert sorted({package_of(name) for name in SOURCES}) == sorted(HEIGHT)
    assert [] == [name for name in EMPTY if SOURCES[name]]


@every_module
def test_imports_point_down(name):
    """A package knows only what is below it."""
    here = package_of(name)
    others = {package_of(other) for other in own_imports(TREES[name])} - {here}
    assert [] == [other for other in others if HEIGHT[other] >= HEIGHT[here]]


def test_no_modules_import_each_other():
    """Those of one package neither."""
    below = {name: set(own_imports(tree)) for name, tree in TREES.items()}
    while below:
        lowest = [name for name, others in below.items() if not others & set(below)]
        assert lowest, "these import each other: %s" % ", ".join(sorted(below))
        for name in lowest:
            del below[name]


@pytest.mark.parametrize("name", [n for n in sorted(TREES) if package_of(n) in CORE])
def test_core_touches_nothing(name):
    """Below the line there are no sockets, threads, clocks or logs."""
    tree = TREES[name]
    foreign = {m for m, _ in imports(tree) if not m.startswith("minisocks")}
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "socket"
    }

    assert foreign <= CORE_IMPORTS
    assert [] == [attr for attr in used if not CORE_SOCKET.match(attr)]
    assert ("socket", None) in imports(tree) or "socket" not in foreign
    calls = {getattr(n.func, "id", "") for n in ast.walk(tree) if isinstance(n, ast.Call)}
    assert not calls & {"open", "print", "input"}


def is_standard(module):
    top = module.partition(".")[0]
    if top in sys.builtin_module_names:
        return True
    origin = importlib.util.find_spec(top).origin
    paths = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    return origin in ("built-in", "frozen") or (
        "site-packages" not in origin
        and any(
            os.path.realpath(origin).startswith(os.path.realpath(path) + os.sep) for path in paths
        )
    )


@every_module
def test_nothing_is_needed_but_python_and_click(name):
    """The library needs the standard library; the command line click, the plugin pytest."""
    foreign = {m.partition(".")[0] for m, _ in imports(TREES[name])} - {"minisocks"}

    known = {"cli": {"click"}, "pytest_plugin": {"pytest"}}
    wanted = known.get(name, set())
    assert wanted == {m for m in foreign if not is_standard(m)}


@every_module
def test_module_is_short_and_has_a_name(name):
    """A module is read at one sitting, and named after the one thing it does."""
    assert SOURCES[name].count("\n") < 400
    assert not re.search(r"utils?\b|common|helpers?\b|misc", name)


@every_module
def test_broad_except_says_why(name):
    """Code that catches everything, and does not pass it on, says in a comment why."""
    lines, silent = SOURCES[name].splitlines(), []
    for node in ast.walk(TREES[name]):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = ast.dump(node.type) if node.type else "'Exception'"
        passes_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
        broad = re.search("'(Base)?Exception'", caught) and not passes_on
        if broad and not re.search(r"#\s*(?!noqa\b)\w+ \w+", lines[node.lineno - 1]):
            silent.append(node.lineno)

    assert [] == silent


def public_nodes(tree):
    """Yield (name, node) of the module, its public classes, functions and methods."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    yield "module", tree
    exported = exports(tree)
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef) and node.name in exported:
                for part in node.body:
                    if isinstance(part, kinds) and not part.name.startswith("_"):
                        yield "%s.%s" % (node.name, part.name), part


def exports(tree):
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


@every_module
def test_public_names_are_explained(name):
    """Every public name has a docstring that begins with a sentence."""
    missing = []
    for public, node in public_nodes(TREES[name]):
        text = ast.get_docstring(node) or ""
        if not re.match(r"(?s)\S.*?[.:!?](\s|\Z)", text):
            missing.append(public)

    assert [] == missing


@every_module
def test_exports_exist(name):
    """What ``__all__`` names is there, once."""
    module = importlib.import_module("minisocks" + ("." + name) * (name != "__init__"))
    names = exports(TREES[name])

    assert names
    assert len(names) == len(set(names))
    assert [] == [exported for exported in names if not hasattr(module, exported)]


def test_version_is_written_once():
    """The version is in ``__init__``; everything else asks there."""
    places = []
    for path in ["setup.cfg", "setup.py"] + [
        "minisocks/%s.py" % name.replace(".", "/") for name in SOURCES
    ]:
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            places += [path] * file.read().count(minisocks.__version__)

    assert ["minisocks/__init__.py"] == places


def in_child(program):
    """Run *program* in a fresh interpreter that takes warnings for errors."""
    return subprocess.check_output(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    ).strip()


@pytest.mark.parametrize(
    "module",
    ["asyncio", "click", "concurrent.futures", "hashlib", "hmac", "ssl", "email", "urllib.parse"],
)
def test_import_stays_small(module):
    """``from minisocks import Proxy`` loads neither click nor what costs much memory."""
    program = "import sys; from minisocks import Proxy; print(%r in sys.modules)"
    assert "False" == in_child(program % module)


def test_import_alone_loads_next_to_nothing():
    """A plugin or a watchdog that imports the package often does not load a proxy each time."""
    program = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import minisocks\n"
        "minisocks.__version__, dir(minisocks)\n"
        "print(*sorted(set(sys.modules) - before))"
    )

    assert "minisocks" == in_child("import types\n" + program)


def test_every_public_name_is_loaded_when_it_is_used():
    """``minisocks.X``, ``from minisocks import X`` and ``*`` give what the home module has."""
    program = (
        "import sys, minisocks\n"
        "assert 'minisocks.config.settings' not in sys.modules\n"
        "assert minisocks.Config.__module__ == 'minisocks.config.settings'\n"
        "assert 'minisocks.proxy' not in sys.modules\n"
        "from minisocks import *\n"
        "homes = {n: getattr(globals()[n], '__module__', '') for n in minisocks.__all__}\n"
        "assert all(vars(minisocks)[n] is globals()[n] for n in minisocks.__all__)\n"
        "assert set(minisocks.__all__) <= set(dir(minisocks))\n"
        "from minisocks import wire\n"
        "assert not hasattr(minisocks, 'nonsense')\n"
        "print(*sorted(set(homes.values())))"
    )

    expected = sorted("minisocks." + home for home in set(inside.homes().values()))
    assert expected == in_child(program).split()


def test_what_type_checkers_see_is_what_is_loaded():
    """The names that only type checkers import are those loaded on demand, from there."""
    told = {
        name: module.partition(".")[2]
        for module, name in imports(TREES["__init__"])
        if module.startswith("minisocks.")
    }

    assert inside.homes() == told
    assert sorted(minisocks.__all__) == sorted([*told, "__version__"])


def test_import_leaves_the_process_alone():
    """Importing starts no thread, installs no handler for signals, and sets up no log."""
    program = (
        "import logging, signal, threading\n"
        "def state():\n"
        "    return (threading.active_count(), logging.getLogger().handlers,\n"
        "            [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)])\n"
        "before = state()\n"
        "import minisocks\n"
        "print(before == state(), logging.getLogger('minisocks').handlers)\n"
        "minisocks.Proxy\n"
        "print(before == state(), logging.getLogger('minisocks').handlers)"
    )

    assert ["True []", "True [<NullHandler (NOTSET)>]"] == in_child(program).splitlines()


LIGHT = """
import socket
from minisocks import Config, Proxy

target = socket.socket()
target.bind(("127.0.0.1", 0))
target.listen(1)
port = target.getsockname()[1].to_bytes(2, "big")
with Proxy(Config(listen=("127.0.0.1:0",), user=("ann:secret",))) as proxy:
    client = socket.socket()
    client.settimeout(20)
    client.connect(("127.0.0.1", int(proxy.addresses[0].rpartition(":")[2])))
    # By name: the idna codec, which getaddrinfo("text") wants, is missing.
    client.sendall(b"\\5\\1\\2" + b"\\1\\3ann\\6secret")
    client.sendall(b"\\5\\1\\0\\3\\x09localhost" + port + b"hello")
    served = target.accept()[0]
    print(served.recv(5).decode(), client.recv(4))
    served.close()
    client.close()
target.close()
"""


def test_router_s_python_is_enough():
    """With what a router's Python has, a client gets by password to a target by name."""
    assert "hello b'\\x05\\x02\\x01\\x00'" == in_child(without_the_rest() + LIGHT)


#: What may be opened without ``opening``: what no setting names, or what is only read; and
#: sockets that have an address, not a path.
OPENS = {
    "net.processor": 2,  # of /proc
    "service.console": 4,  # /dev/null, /dev/tty
    "service.control": 1,  # /dev/null
    "net.lookup": 1,  # of /proc
    "net.capacity": 1,  # of /proc
    "net.opening": 8,
    "net.threads": 1,  # /dev/null
}
#: In modules that know unix sockets.
CONNECTS = {
    "compat": 2,  # TCP
    "net.listener": 3,  # TCP, twice; and one that has been looked at
}


def method(call):
    """Return the name of what *call* calls, with that of a module in front of it."""
    function = call.func
    if isinstance(function, ast.Attribute):
        owner = function.value.id + "." if isinstance(function.value, ast.Name) else "."
        return owner + function.attr
    return getattr(function, "id", "")


@every_module
def test_files_are_opened_in_one_place(name):
    """Log files, pidfiles and sockets are opened by ``opening``; another way needs a reason here.

    A socket's path is looked at in the function that uses it.
    """
    calls = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    ways = ("open", "os.open", "io.open", "os.mkfifo", "os.mknod", "codecs.open")
    assert OPENS.get(name, 0) == len([c for c in calls if method(c) in ways])

    using = {"bind", "connect", "connect_ex"} if "AF_UNIX" in SOURCES[name] else ()
    found = 0
    for function in ast.walk(TREES[name]):
        if not isinstance(function, ast.FunctionDef):
            continue
        inner = [method(n) for n in ast.walk(function) if isinstance(n, ast.Call)]
        users = [m for m in inner if "." in m and m.rpartition(".")[2] in using]
        found += 0 if "demand_trusted" in inner else len(users)
    assert CONNECTS.get(name, 0) == found
