"""What is told of exits while real proxies are their hops: ``status`` and ``check --exits``."""

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kit.microsocks import running_microsocks
from kit.support import Talk, closed_port

pytestmark = pytest.mark.others


@pytest.fixture
def microsocks():
    """A microsocks that lets anyone in."""
    with running_microsocks() as port:
        yield port


def exits(instance):
    """Return the rows of the status, by name of the exit, without what takes time."""
    rows = json.loads(instance.command("status", "--json")[1])["exits"]
    return {row["name"]: {k: v for k, v in row.items() if k != "seconds"} for row in rows}


def line_of(instance, name):
    """Return the line of the exit in the table."""
    out = instance.command("status")[1]
    (line,) = [line for line in out.splitlines() if line.startswith(name + " ")]
    return line.split(None, 6)


def test_status_shows_what_each_exit_does(instance, target, microsocks):
    """Connections, bytes, state and last error; also of an exit that a reload removes."""
    port = closed_port()
    file = "[exits]\nplain = socks5h://127.0.0.1:%d\ndead = socks5h://127.0.0.1:%d\n[rules]\n"
    rules = "allow port %d via dead or plain\nallow port 1 via dead\nallow\n" % target.port
    instance.configure(file % (microsocks, port) + rules)
    assert 0 == instance.start()[0]
    unused = {"state": "not used yet", "open": 0, "total": 0, "up": 0, "down": 0}
    assert {name: dict(unused, name=name) for name in ("plain", "dead", "direct")} == exits(
        instance
    )

    with instance.relay(target):
        found = exits(instance)
        assert ("works", 1, 1, 1, 1) == tuple(
            found["plain"][key] for key in ("state", "open", "total", "up", "down")
        )
        dead = found["dead"]
        assert ("failed", 0, 0) == tuple(dead[key] for key in ("state", "open", "total"))
        hop = "socks5h://127.0.0.1:%d" % port
        assert hop + " cannot be reached: 127.0.0.1: Connection refused" == dead["error"]
        assert ["plain", "1", "1", "B", "1", "B", "works"] == line_of(instance, "plain")
        assert line_of(instance, "dead")[-1].startswith("failed 0:00:0")
        assert line_of(instance, "dead")[-1].endswith("ago: " + dead["error"])

        page = instance.command("status", "--prometheus")[1]
        samples = {
            (sample.name, tuple(sorted(sample.labels.values()))): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if "exit" in sample.name
        }
        assert 1 == samples["minisocks_exit_connections_open", ("plain",)]
        assert 1 == samples["minisocks_exit_connections_total", ("plain",)]
        assert 1 == samples["minisocks_exit_bytes_total", ("plain", "up")]
        assert 0 == samples["minisocks_exit_bytes_total", ("direct", "down")]
        assert 0 == samples["minisocks_exit_failed", ("plain",)]
        assert 1 == samples["minisocks_exit_failed", ("dead",)]

        instance.configure("[exits]\nother = direct\n[rules]\nallow via other\n")
        assert 0 == instance.command("reload")[0]
        assert {"other", "plain", "direct"} == set(exits(instance))
        assert ("removed", 1) == tuple(exits(instance)["plain"][key] for key in ("state", "open"))
    instance.configure("")
    assert 0 == instance.command("reload")[0]
    assert "exits" not in json.loads(instance.command("status", "--json")[1])
    assert "exit" not in instance.command("status")[1]
    assert "exit" not in instance.command("status", "--prometheus")[1]


def test_an_exit_that_works_again_tells_its_last_error(instance, target):
    """A connection that has no other exit tries it."""
    port = closed_port()
    instance.configure("[exits]\nplain = socks5h://127.0.0.1:%d\n[rules]\nallow via plain" % port)
    assert 0 == instance.start()[0]
    with Talk.to(instance.port) as talk:
        talk.connect5("127.0.0.1", target.port)
    assert "failed" == exits(instance)["plain"]["state"]
    with running_microsocks(port=port), instance.relay(target):
        assert "works" == exits(instance)["plain"]["state"]
        state = line_of(instance, "plain")[-1]
        assert state.startswith("works; it failed 0:00:")
        assert state.endswith("Connection refused")
