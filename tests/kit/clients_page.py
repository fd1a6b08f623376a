"""``clients_page.py REPORT.xml`` writes docs/clients.rst from pytest's report (scripts/clients)."""

import os
import re
import sys
import xml.etree.ElementTree

from kit.bind_table import BIND_CLIENTS
from kit.client_table import CLIENTS
from kit.socks_clients import ADDRESS_EXAMPLE, EXAMPLE, PROTOCOLS
from kit.support import ROOT
from kit.udp_table import UDP_CLIENTS, UDP_PROTOCOLS

PAGE = os.path.join(ROOT, "docs", "clients.rst")

HEAD = """\
Clients
=======

Programs of other authors, and what to type so that they use a proxy that was started with
``python3 -m minisocks``; for the lines with a password, with
``python3 -m minisocks --user %(user)s:%(password)s``.

``scripts/clients`` installs them, has each of them fetch a file through the proxy, and compares the
file with the original; ``scripts/clients --write`` writes the results into this page.

%(protocols)s

A client that looks names up itself tells its name server which hosts you visit, and does not find
names that only the network of the proxy knows.


What was run
------------

"-" is what the client cannot do.

.. results begin

"""

PEERS = """
With BIND a peer connected to each of these, and the data of both arrived; none of the others
above has BIND in these versions:

"""

DATAGRAMS = """
With UDP ASSOCIATE each of these asked a server and got its answer:

"""

FOOT = """
.. results end

"""

RESULTS = re.compile(r"(\.\. results begin\n).*?(\.\. results end)", re.S)


def results_in(report):
    """Return what the report says: a map from (title, protocol) to version and outcome."""
    results = {}
    tree = xml.etree.ElementTree.parse(report)  # noqa: S314  # our own pytest wrote it
    for case in tree.iter("testcase"):
        match = re.match(r"test_gets_an?_(?:file|answer)\[(.*)-(\w+)\]\Z", case.get("name"))
        if match is None:
            continue
        version = ""
        for item in case.iter("property"):
            if item.get("name") == "version":
                version = item.get("value")
        skipped = case.find("skipped")
        if skipped is not None:
            outcome = "skipped: %s" % skipped.get("message")
        elif case.find("failure") is not None or case.find("error") is not None:
            outcome = "FAILED"
        else:
            outcome = "ok"
        results[match.groups()] = version, outcome
    return results


def table(results, clients=CLIENTS, protocols=PROTOCOLS):
    """Return which client got the file, or the answer, by which protocol, as RST."""
    rows = [["Client", "Version"] + [heading(protocol) for protocol in protocols]]
    reasons = []
    for client in clients:
        versions, cells = set(), []
        for protocol in protocols:
            version, outcome = results.get(
                (client.title, protocol), ("", "not run" if protocol in client.lines else "-")
            )
            versions.add(version)
            if outcome.startswith("skipped: "):
                reasons.append("* %s: %s" % (client.title, outcome))
                outcome = "skipped"
            cells.append(outcome)
        rows.append([client.title, " ".join(sorted(versions)).strip() or "-"] + cells)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = " ".join("=" * width for width in widths)
    lines = [" ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows]
    text = "\n".join([rule, lines[0], rule] + lines[1:] + [rule]) + "\n"
    unique = sorted(set(reasons))
    return text + ("\n" + "\n".join(unique) + "\n" if unique else "")


def heading(protocol):
    """Return what the page calls *protocol*."""
    return "5, password" if protocol == "password" else protocol


def example(client, protocol):
    """Return what to type for *client*, line by line."""
    values = dict(EXAMPLE, **client.example)
    if protocol in client.literal:
        host = EXAMPLE["host"]
        values = {k: v.replace(host, ADDRESS_EXAMPLE) for k, v in values.items()}
    lines = (client.lines[protocol] % values).splitlines()
    if client.file is not None:
        name, texts = client.file
        lines += ["", "# %s" % name] + (texts[protocol] % values).splitlines()
    return lines


def section(client):
    """Return what to type for *client*, as RST: one way in full, of the others what differs."""
    comment = "//" if client.language == "javascript" else "#"
    main = "5h" if "5h" in client.lines else "5"
    main = main if main in client.lines else sorted(client.lines)[-1]
    whole = example(client, main)
    rows = []
    if len(whole) > 1:
        rows += whole + [""]
    for protocol in (p for p in PROTOCOLS if p in client.lines):
        lines = example(client, protocol)
        if len(whole) > 1:
            if protocol == main:
                continue
            lines = [line for line in lines if line not in whole]
        label = heading(protocol)
        if protocol in client.literal:
            label += ": give it an address, it leaves names to the proxy"
        rows += ["%s %s" % (comment, label)] + [line.strip() for line in lines]
    block = "\n".join(("    " + row).rstrip() for row in rows)
    title = "%s\n%s\n" % (client.title, "-" * len(client.title))
    parts = [title] + ([client.note + "\n"] if client.note else [])
    if len(whole) > 1:
        parts.append("%s in full, and what differs for the others::\n" % heading(main))
    else:
        parts.append("::\n")
    return "\n".join(parts + [block]) + "\n"


def page(results):
    """Return the page."""
    values = dict(EXAMPLE)
    values["protocols"] = "\n".join(
        "%s\n    %s." % (heading(protocol), text) for protocol, text in PROTOCOLS.items()
    )
    sections = "\n\n".join(section(client) for client in CLIENTS + UDP_CLIENTS + BIND_CLIENTS)
    tables = table(results) + DATAGRAMS + table(results, UDP_CLIENTS, UDP_PROTOCOLS)
    tables += PEERS + table(results, BIND_CLIENTS)
    return HEAD % values + tables + FOOT + "\n" + sections


def without_results(text):
    """Return the page's *text* without what depends on the run."""
    assert RESULTS.search(text), "docs/clients.rst has no place for results"
    return RESULTS.sub(r"\1\2", text)


if __name__ == "__main__":
    found = results_in(sys.argv[1])
    with open(PAGE, "w", encoding="utf-8") as output:
        output.write(page(found))
