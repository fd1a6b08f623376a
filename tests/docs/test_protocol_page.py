"""docs/protocol.rst: each entry names tests that exist, and no section of a document is left out.

Whether a test shows what its entry says is for readers; that it is still there is for this one.
"""

import ast
import os
import re

import pytest

from kit.support import ROOT

#: What an entry ends with: "--", or tests as pytest takes them.
NAME = r"``(tests/[\w/]+/test_\w+\.py)::((?:\w+::)?\w+)``"
TESTS = re.compile(r"Tests: (?:--|%s(?:, %s)*)" % (NAME, NAME))

#: The headings, each with the character below it: all sections of the documents.
HEADINGS = [
    ("-", "Where minisocks differs"),
    ("-", "RFC 1928: SOCKS5"),
    ("~", "Sections 1 and 2: introduction, existing practice"),
    ("~", "Section 3: procedure for TCP-based clients"),
    ("~", "Section 4: requests"),
    ("~", "Section 5: addressing"),
    ("~", "Section 6: replies"),
    ("^", "CONNECT"),
    ("^", "BIND"),
    ("^", "UDP ASSOCIATE"),
    ("^", "Reply processing"),
    ("~", "Section 7: procedure for UDP-based clients"),
    ("~", "Section 8: security considerations"),
    ("-", "RFC 1929: user name and password"),
    ("~", "Section 1: introduction"),
    ("~", "Section 2: initial negotiation"),
    ("~", "Section 3: security considerations"),
    ("-", "RFC 1961: GSSAPI"),
    ("-", "SOCKS4"),
    ("~", "Introduction"),
    ("~", "CONNECT"),
    ("~", "BIND"),
    ("~", "Both"),
    ("-", "SOCKS4A"),
    ("-", "RFC 1413: the client's side of ident"),
    ("~", "Sections 1 and 2: introduction, overview"),
    ("~", "Section 3: restrictions"),
    ("~", "Section 4: query and response format"),
    ("~", "Section 5: response types"),
    ("~", "Section 6: security considerations"),
]


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def entries(text):
    """Yield each entry of a page: what a document says, and the paragraphs below it."""
    for term, body in re.findall(r"(?m)^(?<=\n)(\S.*)\n((?: {4}.*\n|\n(?= {4}))+)", text):
        yield term, [" ".join(part.split()) for part in body.strip().split("\n\n")]


def defined(path):
    """Return the names of the functions of a file, those in a class as CLASS::NAME."""
    if not os.path.exists(os.path.join(ROOT, path)):
        return set()
    names = set()
    for node in ast.parse(read(path)).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = node.name + "::" if isinstance(node, ast.ClassDef) else ""
        names |= {prefix + one.name for one in members if isinstance(one, ast.FunctionDef)}
    return names


def stale(text):
    """Return the tests that a page names and that are not there."""
    named = sorted(set(re.findall(NAME, text)))
    known = {path: defined(path) for path, _ in named}
    return [
        "%s::%s" % (path, name)
        for path, name in named
        if not (name in known[path] and re.match("test_", name.split("::")[-1]))
    ]


@pytest.fixture(scope="module")
def page():
    """Return the text of the page."""
    return read("docs", "protocol.rst")


def test_every_test_that_is_named_is_there(page):
    """In the file that is said, as a function or a method."""
    assert [] == stale(page)


def test_a_name_that_is_stale_is_found():
    """A test or a file that is gone, one of another file, and what is no test."""
    here = "tests/docs/test_protocol_page.py"
    assert [] == stale("Tests: ``%s::test_a_name_that_is_stale_is_found``" % here)
    for bad in (
        here + "::test_nothing",
        here + "::stale",
        here + "::TestNothing::test_a_name_that_is_stale_is_found",
        "tests/e2e/test_gone.py::test_a_name_that_is_stale_is_found",
        "tests/unit/protocol/test_socks4.py::test_a_name_that_is_stale_is_found",
    ):
        assert [bad] == stale("Tests: ``%s``" % bad)


def test_every_entry_says_what_shows_it(page):
    """What minisocks does, in some words, and then the tests, or that there are none."""
    found = list(entries(page))
    assert len(found) > 100
    for term, parts in found:
        assert 2 == len(parts), term
        assert not parts[0].startswith("Tests:"), term
        assert TESTS.match(parts[1] + "\n").group() == parts[1], term
    # None is written otherwise, and not looked at.
    assert page.count("Tests:") == len(found)
    assert len(re.findall("``tests/", page)) == len(re.findall(NAME, page))


def test_every_section_of_the_documents_is_there(page):
    """And has an entry, unless it is divided further."""
    parts = re.split(r"(?m)^(\S.*)\n([-~^])\2{3,}\n", page)
    assert HEADINGS == [(parts[i + 1], parts[i]) for i in range(1, len(parts), 3)]
    for i in range(4, len(parts), 3):
        is_divided = parts[i + 1] == "-" and parts[i + 4 : i + 5] == ["~"]
        assert is_divided == (not list(entries(parts[i + 2]))), parts[i]


def test_every_page_is_in_the_readme():
    """Under "More", and in what is distributed."""
    more = read("README.rst").partition("\nMore\n----\n")[2]
    pages = [name for name in os.listdir(os.path.join(ROOT, "docs")) if name.endswith(".rst")]
    assert [] == [name for name in pages if "``docs/%s``" % name not in more]
    assert "graft docs" in read("MANIFEST.in").split("\n")
