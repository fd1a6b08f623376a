"""Other people's tools use what we write: syslog daemons, logrotate, Prometheus, pidfile users."""

import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.request

import pytest

from kit.support import TIMEOUT, closed_port, run_command, wait_until

pytestmark = pytest.mark.others


def tool(name, package):
    """Return its path; skips where it is not installed."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    return path or pytest.skip("%s not found; install the package %s" % (name, package))


RSYSLOG = """
global(workDirectory="%(folder)s")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="%(folder)s/log" RateLimit.Interval="0")
module(load="imudp")
input(type="imudp" Address="127.0.0.1" Port="%(port)d")
template(name="all" type="list") {
    property(name="syslogfacility-text") constant(value=".")
    property(name="syslogseverity-text") constant(value=" ")
    property(name="programname") constant(value=": ") property(name="msg") constant(value="\\n")
}
*.* action(type="omfile" file="%(folder)s/got" template="all")
"""


@pytest.fixture
def rsyslog(tmp_path):
    """rsyslogd on a socket and a UDP port; what it has got is in a file."""
    executable = tool("rsyslogd", "rsyslog")
    port = closed_port()
    (tmp_path / "conf").write_text(RSYSLOG % {"folder": tmp_path, "port": port})
    args = [executable, "-n", "-f", str(tmp_path / "conf"), "-i", str(tmp_path / "pid")]
    with subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until((tmp_path / "log").exists, "rsyslogd's socket")
        yield tmp_path, port
        process.terminate()
        process.wait(TIMEOUT)


@pytest.mark.parametrize("how", ["socket", "udp"])
def test_a_syslog_daemon_takes_it(rsyslog, instance, target, how):
    """Facility, severity, program and text, by its socket and by UDP."""
    folder, port = rsyslog
    where = str(folder / "log") if how == "socket" else "127.0.0.1:%d" % port
    with open(instance.file, "w") as file:
        file.write("[minisocks]\nlisten = %d\npidfile = %s\n" % (instance.port, instance.pidfile))
    assert 0 == instance.start("--daemon", "--syslog=" + where)[0]
    instance.relay(target).close()

    def got():
        return (folder / "got").read_text() if (folder / "got").exists() else ""

    wait_until(lambda: "end=client-fin" in got(), "the line in rsyslogd's file")
    assert re.search(r"(?m)^daemon\.info minisocks:  ?minisocks\.access: id=1 client=", got())
    assert "listening on 127.0.0.1:%d" % instance.port in got()


@pytest.mark.parametrize("how", ["hup", "rename", "copytruncate"])
def test_logrotate_turns_it_over(instance, target, tmp_path, how):
    """By HUP, by renaming alone, by copying: each line is in one of the files, once."""
    executable = tool("logrotate", "logrotate")
    ways = {
        "hup": "create\npostrotate\nkill -HUP $(cat %s)\nendscript" % instance.pidfile,
        "rename": "create",
        "copytruncate": "copytruncate",
    }
    config = tmp_path / "logrotate.conf"
    config.write_text("%s {\nrotate 9\nsize 1\n%s\n}\n" % (instance.log_file, ways[how]))
    config.chmod(0o644)
    tmp_path.chmod(0o755)
    assert 0 == instance.start()[0]
    for n in range(1, 4):
        instance.relay(target).close()
        wait_until(lambda n=n: ("id=%d " % n) in all_of(instance), "line %d" % n)
        subprocess.check_call([executable, "-s", str(tmp_path / "state"), str(config)])
    instance.relay(target).close()
    wait_until(lambda: "id=4 " in all_of(instance), "line 4")
    assert 0 == instance.command("stop")[0]
    text = all_of(instance)
    assert [1, 2, 3, 4] == sorted(int(number) for number in re.findall(r" id=(\d+) ", text))
    assert os.path.exists(instance.log_file + (".1" if how == "rename" else ".3"))
    assert ("id=4 " in instance.log()) or how == "rename"  # within a second, else


def all_of(instance):
    """Return what is in the log and in those turned over."""
    text = ""
    for name in [instance.log_file] + [instance.log_file + ".%d" % n for n in range(1, 9)]:
        if os.path.exists(name):
            with open(name) as file:
                text += file.read()
    return text


def test_node_exporter_shows_its_figures(instance, target, tmp_path):
    """What --prometheus writes is taken by the textfile collector without an error."""
    executable = tool("prometheus-node-exporter", "prometheus-node-exporter")
    assert 0 == instance.start()[0]
    instance.relay(target).close()
    instance.wait_for_line("end=")
    folder = tmp_path / "textfiles"
    folder.mkdir()
    (folder / "minisocks.prom").write_text(instance.command("status", "--prometheus")[1])
    port = closed_port()
    args = ["--collector.disable-defaults", "--collector.textfile",
            "--collector.textfile.directory=%s" % folder,
            "--web.listen-address=127.0.0.1:%d" % port]  # fmt: skip
    with subprocess.Popen(
        [executable] + args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_until(lambda: answers(port), "node_exporter")
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            url = "http://127.0.0.1:%d/metrics" % port
            with opener.open(url, timeout=TIMEOUT) as response:
                page = response.read().decode()
        finally:
            process.terminate()
            process.wait(TIMEOUT)
    assert "\nnode_textfile_scrape_error 0\n" in page
    assert "\nminisocks_connections_total 1\n" in page
    assert '\nminisocks_bytes_total{direction="up"} 1\n' in page


def answers(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_tools_of_pidfiles_find_it(instance):
    """pgrep, pkill and start-stop-daemon read the number, and it is the right one."""
    pgrep = tool("pgrep", "procps")
    assert 0 == instance.start()[0]
    pid = instance.pid
    assert b"%d\n" % pid == subprocess.check_output([pgrep, "-F", instance.pidfile])
    ssd = shutil.which("start-stop-daemon", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if ssd:
        assert 0 == subprocess.call([ssd, "--status", "--pidfile", instance.pidfile])
        args = ["--stop", "--signal", "TERM", "--retry", "10", "--pidfile", instance.pidfile]
        assert 0 == subprocess.call([ssd, *args], stdout=subprocess.DEVNULL)
    else:
        os.kill(pid, signal.SIGTERM)
    instance.wait_for_end()
    assert 3 == run_command("status", "--pidfile", instance.pidfile)[0]
