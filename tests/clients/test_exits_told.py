"""What status and check say of exits while real proxies are their hops."""

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kit.microsocks import running_microsocks
from kit.support import Talk, closed_port, run_command

pytestmark = pytest.mark.others


@pytest.fixture
def microsocks():
    """A microsocks that needs no password."""
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
    assert "minisocks_exit" not in instance.command("status", "--prometheus")[1]


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


def test_check_tries_each_exit(tmp_path, microsocks):
    """A line each; the exit status is 1 if one fails."""
    dead = closed_port()
    with running_microsocks("-u", "ann", "-P", "s3cret") as locked:
        (tmp_path / "right").write_text("s3cret\n")
        (tmp_path / "right").chmod(0o600)
        file = tmp_path / "m.ini"
        lines = [
            "plain = socks5h://127.0.0.1:%d" % microsocks,
            "locked = socks5h://ann@127.0.0.1:%d password @right" % locked,
            "chain = plain, locked",
        ]
        text = "[minisocks]\nlisten = 0\n[exits]\n%s\n[rules]\nallow\n"
        file.write_text(text % "\n".join(lines))
        first = "socks5h://127.0.0.1:%d greets" % microsocks
        login = "socks5h://127.0.0.1:%d greets, and takes the login of 'ann'" % locked
        assert (
            0,
            "plain   works  %s\nlocked  works  %s\nchain   works  %s; %s\n"
            % (first, login, first, login),
            "",
        ) == run_command("check", "-c", str(file), "--exits")

        lines += [
            "wrong = plain, socks5h://ann:bad@127.0.0.1:%d" % locked,
            "plainly = socks5h://127.0.0.1:%d" % locked,
            "beyond = plain, socks5h://127.0.0.1:%d" % dead,
        ]
        file.write_text(text % "\n".join(lines))
        status, out, err = run_command("check", "-c", str(file), "--exits", "--json")
        found = {row["name"]: (row["works"], row["text"]) for row in json.loads(out)["exits"]}
        assert (1, [True] * 3) == (
            status,
            [found[name][0] for name in ("plain", "locked", "chain")],
        )
        hop = "socks5h://127.0.0.1:%d: " % locked
        assert (False, hop + "it refuses user and password (status 2)") == found["wrong"]
        assert (False, hop + "it needs a user and password (METHOD FF)") == found["plainly"]
        hop = "socks5h://127.0.0.1:%d: it cannot reach socks5h://127.0.0.1:%d: connection refused"
        assert (False, hop % (microsocks, dead) + " (REP 05)") == found["beyond"]
        assert 1 == run_command("check", "-c", str(file), "--exits")[0]
        assert "s3cret" not in out + err
