"""Put minisocks and click into one file that any Python from 3.6 on runs.

    python3 scripts/single_file.py CLICK FILE

CLICK is a folder with click installed in it; ``scripts/build-single-file`` makes that.  The
file depends only on its contents, and not on the place, the time, the user and the Python of
the build: only another zlib may compress them into other bytes.

Sources only, although Python compiles them at each start (scripts/bench/start tells what
that costs).  Bytecode is for one version of Python: that of 3.11 alone was 377 KB packed, and
3.6 takes it for stale unless the clock's time zone is that of the build.  Comments and
docstrings are removed (100 KB), also annotations of results, and a step of indentation is not
four blanks (12 KB); but not in what programs import (``help`` shows it).  Each line stays
at its number, so that a traceback leads to the line in the repository.
"""

import ast
import glob
import hashlib
import io
import itertools
import os
import re
import sys
import tempfile
import tokenize
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

#: A router's flash has room for it; more is a bug.
MAX_BYTES = 300 * 1000

SHEBANG = b"#!/usr/bin/env python3\n"

#: click has a folder of its own, so that a program that imports minisocks from the file
#: keeps the click that it has.  Absolute, because a daemon may leave the folder it was
#: started in, and Python before 3.9 does not make the path so.
MAIN = b'''\
"""minisocks in one file: https://docs.python.org/3/library/zipapp.html tells how."""

import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:1] = [here, os.path.join(here, "lib")]

if "--ensure" in sys.argv:
    # As minisocks.__main__ does. Here, because cron asks each minute, and to import from
    # a zip compiles each module twice: a seventh of the time.
    try:
        for name in ENSURE:
            path = name.replace(".", os.sep) + ".py"
            # In the archive, which the loader may know by another path than "here".
            is_zip = hasattr(__loader__, "archive")
            source = __loader__.get_data(path if is_zip else os.path.join(here, path))
            for package in ("minisocks", name.rpartition(".")[0]):
                if package not in sys.modules:
                    sys.modules[package] = type(sys)(package)
                    sys.modules[package].__path__ = [os.path.join(here, *package.split("."))]
            module = sys.modules[name] = type(sys)(name)
            exec(compile(source, path, "exec"), module.__dict__)
        if sys.modules["minisocks.service.ensure"].is_healthy(sys.argv[1:], os.environ):
            os._exit(0)
    except Exception:
        pass  # no descriptor, no memory: the whole program says so in a sentence
    for name in [name for name in sys.modules if name.startswith("minisocks")]:
        del sys.modules[name]  # the rest is imported as ever

from minisocks.__main__ import run

sys.exit(run())
'''

#: What ``--ensure`` asks whether the proxy is well, and what that imports when it has a file.
ENSURE = ("minisocks.config.inifile", "minisocks.service.ensure")

#: Of click: for its users' tests; completion for shells, which only its own ``main`` and groups
#: import; and editors, pagers and progress bars.
NOT_NEEDED = {"click/testing.py", "click/_bashcomplete.py", "click/_termui_impl.py"}

#: What ``help`` of the embedding interface shows.
PUBLIC = {
    "minisocks/%s.py" % name
    for name in ("__init__", "errors", "hooks", "proxy", "record", "record", "wire")
} | {"minisocks/policy/client.py", "minisocks/config/settings.py"}

#: What a statement comes after.
BEFORE = {tokenize.ENCODING, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


#: What is no statement of its own.
_NO_STATEMENT = {tokenize.NL, tokenize.COMMENT}


def sources(folder, package):
    """Yield the path below *folder* of each Python file of *package*."""
    for path, _, names in os.walk(os.path.join(folder, package)):
        for name in names:
            if name.endswith(".py"):
                yield os.path.relpath(os.path.join(path, name), folder).replace(os.sep, "/")


def read(path):
    """Return the bytes of a text, with the same ends of lines on each system."""
    with open(path, "rb") as file:
        return file.read().replace(b"\r\n", b"\n")


def bare(source):
    """Return Python *source* with nothing but what it does, each line at its number."""
    lines = source.decode().splitlines(True)
    tokens = list(tokenize.tokenize(io.BytesIO(source).readline))
    before, returns, inside = tokenize.ENCODING, [], set()
    for number, (token, after) in enumerate(zip(tokens, tokens[1:])):
        (first, column), (last, _) = token.start, token.end
        if token.type == tokenize.COMMENT:
            lines[first - 1] = lines[first - 1][:column].rstrip() + "\n"
        elif token.type == tokenize.STRING and before in BEFORE and after.type == tokenize.NEWLINE:
            # Something has to stand there, where nothing else does.
            others = (item.type for item in tokens[number + 2 :] if item.type not in _NO_STATEMENT)
            is_alone = next(others) in (tokenize.DEDENT, tokenize.ENDMARKER)
            empty = lines[first - 1][:column] + "''\n" if is_alone else "\n"
            lines[first - 1 : last] = [empty] + ["\n"] * (last - first)
        elif token.type == tokenize.STRING:
            inside.update(range(first, last))  # what stands there is not indented
        elif token.string == "->":
            returns.append(token.start)
        elif token.string == ":" and after.type == tokenize.NEWLINE and returns:
            start = returns.pop()
            if start[0] == first:
                lines[first - 1] = lines[first - 1][: start[1]].rstrip() + ":\n"
            returns.clear()
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            before = token.type
    return "".join(
        line if number in inside else less_indented(line) for number, line in enumerate(lines)
    ).encode()


def less_indented(line):
    """Return *line* with a blank for each four of its indentation."""
    text = line.lstrip(" ")
    return " " * ((len(line) - len(text)) // 4) + text


def needed(name):
    """Return the module *name* behind those of ours that it imports first, which do the same."""
    tree = ast.parse(read(os.path.join(ROOT, name.replace(".", "/") + ".py")))
    found = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("minisocks."):
            found += [below for below in needed(node.module) if below not in found]
    return found + [name]


def contents(click):
    """Return what goes in: name in the zip -> bytes."""
    (licence,) = glob.glob(os.path.join(glob.escape(click), "click-*.dist-info", "LICENSE*"))
    names = list(itertools.chain(*map(needed, ENSURE)))
    inside = {
        "__main__.py": MAIN.replace(b"ENSURE", repr(names).encode()),
        "LICENSE": read(os.path.join(ROOT, "LICENSE")),
        "lib/click/" + os.path.basename(licence): read(licence),
    }
    for name in sources(ROOT, "minisocks"):
        source = read(os.path.join(ROOT, name))
        inside[name] = source if name in PUBLIC else bare(source)
    for name in set(sources(click, "click")) - NOT_NEEDED:
        inside["lib/" + name] = bare(read(os.path.join(click, name)))
    return inside


def packed(inside):
    """Return the bytes of the whole file."""
    whole = io.BytesIO()
    whole.write(SHEBANG)
    with zipfile.ZipFile(whole, "w") as archive:
        for name in sorted(inside):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # the first day there is
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix, also when built elsewhere
            info.external_attr = 0o100644 << 16
            archive.writestr(info, inside[name])
    return whole.getvalue()


def write(path, data):
    """Have *data* in an executable file: the whole of it, or what was there before."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    number, unfinished = tempfile.mkstemp(prefix=".minisocks", dir=folder)
    try:
        with open(number, "wb") as file:
            file.write(data)
        os.chmod(unfinished, 0o755)  # noqa: S103  # all users may run it
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def version(source):
    """Return the version that an ``__init__.py`` tells."""
    return re.search(rb"(?m)^__version__ = ['\"](.+)['\"]$", source).group(1).decode()


def main(click, path):
    """Build it and tell what it is; return the exit status."""
    inside = contents(click)
    data = packed(inside)
    if len(data) > MAX_BYTES:
        sys.stderr.write("minisocks: %d bytes is too much for one file\n" % len(data))
        return 1
    write(path, data)
    print("file      %s" % path)
    print("size      %d KB" % -(-len(data) // 1000))
    print("sha256    %s" % hashlib.sha256(data).hexdigest())
    print("inside    minisocks %s" % version(inside["minisocks/__init__.py"]))
    print("          click %s" % version(inside["lib/click/__init__.py"]))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
