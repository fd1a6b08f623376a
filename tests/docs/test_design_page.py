"""docs/design.rst: its list of modules is complete, and what it names is there."""

import ast
import glob
import os
import re

import pytest

from kit.scripts import script_module
from kit.support import ROOT

module_list = script_module("module_list")


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def files(folder):
    """Return the paths of the Python files below *folder*, from the root."""
    found = glob.glob(os.path.join(ROOT, folder, "**", "*.py"), recursive=True)
    return sorted(os.path.relpath(path, ROOT).replace(os.sep, "/") for path in found)


@pytest.fixture(scope="module")
def page():
    """Return the text of the page."""
    return read("docs/design.rst")


def listed(text):
    """Return (path of the module, what is said about it) of the list in a page, in its order."""
    part = text.partition(".. modules begin")[2].partition(".. modules end")[0]
    found, folder = [], None
    for line in part.splitlines():
        heading = re.match(r"``(\w+)/``$", line)
        item = re.match(r"\* ``(\w+)``: (.*)$", line)
        if heading:
            name = heading.group(1)
            folder = name if name == "minisocks" else "minisocks/" + name
        elif item:
            found.append(["%s/%s.py" % (folder, item.group(1)), item.group(2)])
        elif line.strip():
            found[-1][1] += " " + line.strip()
    return found


def test_every_module_is_said_once(page):
    """All files of the package but empty ones, none twice, and each in a sentence of its own."""
    paths = [path for path, _ in listed(page)]
    assert sorted(paths) == [path for path in files("minisocks") if read(path)]
    texts = [text for _, text in listed(page)]
    assert [] == [text for text in texts if not re.fullmatch(r"\S.{8,160}\.", text)]
    assert len(texts) == len(set(texts))


def test_picture_and_list_are_those_that_the_script_writes(page):
    """The packages as ``test_architecture`` has them.  If not: python3 scripts/module_list.py."""
    assert module_list.page(page) == page
    for line in module_list.layers():
        assert "\n    %s\n" % " ".join(line) in page


def test_a_list_that_is_not_complete_is_found(page):
    """A module that is missing, and one that is there twice."""
    lines = page.splitlines(True)
    at = lines.index(".. modules begin\n") + 4
    assert lines[at].startswith("* ``")
    missing, twice = lines[:at] + lines[at + 1 :], lines[:at] + lines[at : at + 1] + lines[at:]
    right = [path for path, _ in listed(page)]
    assert right[1:] == [path for path, _ in listed("".join(missing))]
    assert right[:1] + right == [path for path, _ in listed("".join(twice))]


def test_the_modules_to_read_are_there(page):
    """Each step of the evening's reading is a module or a package, as is each that is named."""
    reading = page.partition(".. reading begin")[2].partition(".. reading end")[0]
    steps = re.findall(r"(?m)^\d+\. ``([\w/]+)``", reading)
    assert len(steps) > 5
    packages = {one for line in module_list.layers() for one in line}
    named = re.findall(r"``(\w+/\w*)``", page)
    named = [one for one in named if one.partition("/")[0] in packages]
    for name in steps + named:
        path = os.path.join(ROOT, "minisocks", name)
        assert os.path.isdir(path) if name.endswith("/") else os.path.isfile(path + ".py"), name


def test_classes_and_methods_that_are_named_are_there(page):
    """``Class`` and ``Class.method``, which may be a base class's."""
    classes, methods = {"RecursionError"}, set()
    for path in files("minisocks"):
        for node in ast.walk(ast.parse(read(path))):
            if isinstance(node, ast.ClassDef):
                classes.add(node.name)
                methods |= {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
    named = re.findall(r"``([A-Z]\w*[a-z])(?:\.(\w+))?``", page)
    assert len(named) > 10
    for name, method in named:
        assert name in classes, name
        assert not method or method in methods, "%s.%s" % (name, method)


def test_tests_and_pages_that_are_named_are_there(page):
    """Tests by the name of their file, wherever it is below tests/."""
    tests = {os.path.basename(path)[: -len(".py")] for path in files("tests")}
    assert [] == [name for name in re.findall(r"``(test_\w+)``", page) if name not in tests]
    named = re.findall(r"``((?:docs|scripts)/[\w./-]+)``", page)
    assert [] == [path for path in named if not os.path.exists(os.path.join(ROOT, path))]
