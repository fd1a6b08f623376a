"""docs/rfc-matrix.rst: each sentence of the documents has a test, and the page is up to date.

Whether a test shows what its sentence says is for readers; that it is still there is for this one.
"""

import ast
import os
import re

import pytest

from kit.scripts import script_module
from kit.support import ROOT

rfc_matrix = script_module("rfc_matrix")

#: All sections of the documents that say something about a server.
SECTIONS = [
    "RFC 1928 sections 1 and 2",
    "RFC 1928 section 3",
    "RFC 1928 section 4",
    "RFC 1928 section 5",
    "RFC 1928 section 6",
    "RFC 1928 section 6, CONNECT",
    "RFC 1928 section 6, BIND",
    "RFC 1928 section 6, UDP ASSOCIATE",
    "RFC 1928 section 6, Reply processing",
    "RFC 1928 section 7",
    "RFC 1928 section 8",
    "RFC 1929 section 1",
    "RFC 1929 section 2",
    "RFC 1929 section 3",
    "RFC 1961",
    "SOCKS4, introduction",
    "SOCKS4, CONNECT",
    "SOCKS4, BIND",
    "SOCKS4, both",
    "SOCKS4A",
    "RFC 1413 sections 1 and 2",
    "RFC 1413 section 3",
    "RFC 1413 section 4",
    "RFC 1413 section 5",
    "RFC 1413 section 6",
]


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


@pytest.fixture(scope="module")
def listed():
    """Return why there is no test, or "", by section and sentence."""
    rows = rfc_matrix.sentences()
    return {(section, one): reason for section, them in rows for one, reason in them}


@pytest.fixture(scope="module")
def tests():
    """Return the tests by section and sentence, as the markers of all files say."""
    return rfc_matrix.marked()


def test_every_section_of_the_documents_is_there():
    """Sections are in the order of the documents, and each has a sentence."""
    assert SECTIONS == [section for section, _ in rfc_matrix.sentences()]
    assert all(rows for _, rows in rfc_matrix.sentences())


def test_every_sentence_is_there_once(listed):
    """A marker could mean either of two that are the same."""
    rows = rfc_matrix.sentences()
    assert len(listed) == sum(len(sentences) for _, sentences in rows)
    assert len(listed) > 100


def test_every_sentence_has_a_test_or_a_reason(listed, tests):
    """No sentence has both; a test that is deleted is missed here."""
    assert [] == [mark for mark, reason in listed.items() if bool(reason) == (mark in tests)]


def test_every_marker_means_a_sentence_of_the_list(listed, tests):
    """A marker with another text would be in no page."""
    assert [] == [(mark, named) for mark, named in tests.items() if mark not in listed]


def test_markers_are_on_tests(tests):
    """On functions that pytest runs, in files that it reads."""
    pattern = re.compile(r"tests/([\w-]+/)*test_\w+\.py::(Test\w+::)?test_\w+")
    assert [] == [one for named in tests.values() for one in named if not pattern.fullmatch(one)]


@pytest.mark.parametrize("sentence", ["Nothing of it.", "Tokens"])
def test_a_marker_that_is_stale_is_found(sentence, listed):
    """One whose sentence is not in the list, or only its beginning."""
    source = "@pytest.mark.rfc('RFC 1961', %r)\ndef test_it(): pass\n" % sentence
    (name, node), *_ = rfc_matrix.functions(ast.parse(source))
    assert ("test_it", [("RFC 1961", sentence)]) == (name, rfc_matrix.marks(node))
    assert ("RFC 1961", sentence) not in listed


def test_markers_are_found_in_folders_and_classes(tmp_path):
    """Wherever a test is below tests/; what is marked otherwise is passed over."""
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    mark = "@pytest.mark.rfc('a', 'b')\n"
    (tmp_path / "tests" / "test_x.py").write_text(mark + "@skip\ndef test_one(): pass\n")
    text = (
        "class TestY:\n    %s    def test_two(self): pass\n@other('a', 'b')\ndef test_3(): pass\n"
    )
    (tmp_path / "tests" / "unit" / "test_y.py").write_text(text % mark)
    assert {
        ("a", "b"): ["tests/test_x.py::test_one", "tests/unit/test_y.py::TestY::test_two"]
    } == rfc_matrix.marked(str(tmp_path))


def test_the_page_is_the_one_that_the_script_writes(tests):
    """If not: python3 scripts/rfc_matrix.py."""
    assert rfc_matrix.page(tests) == read("docs", "rfc-matrix.rst")


def test_the_page_has_every_test(tests):
    """The page names all tests with a marker, and no other."""
    named = re.findall(r"``(tests/\S+::\S+)``", read("docs", "rfc-matrix.rst"))
    assert sorted(one for them in tests.values() for one in them) == sorted(named)


def test_every_page_is_reached_from_the_readme():
    """By its name there, or in a page that is named there; and is in what is distributed."""
    texts = {
        "docs/" + name: read("docs", name)
        for name in os.listdir(os.path.join(ROOT, "docs"))
        if name.endswith(".rst")
    }
    found, new = set(), {"README.rst"}
    texts["README.rst"] = read("README.rst")
    while new:
        found |= new
        named = {one for page in new for one in re.findall(r"docs/[\w-]+\.rst", texts[page])}
        assert [] == sorted(named - set(texts))
        new = named - found
    assert [] == sorted(set(texts) - found)
    assert "graft docs" in read("MANIFEST.in").split("\n")


@pytest.mark.parametrize("folder", ["minisocks", "scripts", "tests"])
def test_pages_and_tests_that_the_code_names_are_there(folder):
    """In messages, help and comments; tests of checks name tests that are made up."""
    pattern = r"\bdocs/[\w-]+\.rst\b" + ("" if folder == "tests" else r"|\btests/[\w/]+\.py\b")
    missing = []
    for path, _, names in os.walk(os.path.join(ROOT, folder)):
        for name in names:
            if not name.endswith((".pyc", ".so")):
                with open(os.path.join(path, name), encoding="utf-8", errors="replace") as file:
                    named = re.findall(pattern, file.read())
                missing += [
                    (name, one) for one in named if not os.path.exists(os.path.join(ROOT, one))
                ]
    assert [] == missing
