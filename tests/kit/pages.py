"""The literal blocks of the pages in docs/, each with the words before it."""

import os
import re

from kit.support import ROOT

#: In the words before a block that no test uses.
NOT_RUN = "(not run here)"


class Block:
    """A literal block of a page, its section, and the words before it."""

    def __init__(self, section, words, text):
        self.section = section
        self.words = " ".join(words.split())
        self.text = text
        self.kind = self._kind()
        named = re.findall(r"``([^`]+)``", self.words)
        #: The file that it is, by the last path in the words.
        self.path = ([name for name in named if name.startswith("/")] or [None])[-1]

    def _kind(self):
        if NOT_RUN in self.words:
            return "not run"
        for kind, start in (
            ("ini", r"\[minisocks\]\n"),
            ("procd", r"#!/bin/sh /etc/rc\.common\n"),
            ("unit", r"\[Unit\]\n"),
            ("crontab", r"(@reboot|\* \* \* \* \*) "),
            ("said", r"minisocks: |client="),
        ):
            if re.match(start, self.text):
                return kind
        return "commands"


def blocks(page):
    """Return the literal blocks of a page, in its order."""
    with open(os.path.join(ROOT, "docs", page + ".rst"), encoding="utf-8") as file:
        lines = file.read().split("\n")
    found, start, section = [], 0, None
    for number, line in enumerate(lines):
        if re.match(r"(-{4,}|={4,})$", line):
            section = lines[number - 1]
        if number < start or not line.endswith("::"):
            continue
        first = number
        while first and lines[first - 1].strip():
            first -= 1
        indent = len(line) - len(re.sub(r"^[ *]*", "", line))
        start = end = number + 1
        inner = " " * (indent + 1)
        while end < len(lines) and (not lines[end].strip() or lines[end].startswith(inner)):
            end += 1
        body = lines[start:end]
        margin = min(len(one) - len(one.lstrip()) for one in body if one.strip())
        text = "\n".join(one[margin:] for one in body).strip("\n") + "\n"
        words = lines[first : number + 1]
        if line == "::" and first == number:  # the words are a paragraph further up
            words = [one for one in lines[:number] if one.strip()][-1:]
        found.append(Block(section, "\n".join(words), text))
        start = end
    return found
