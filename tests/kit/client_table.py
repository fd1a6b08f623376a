"""The table of clients: what a user types for each, by protocol."""

import os

from kit.socks_clients import PROTOCOLS, Client, NodeClient, PythonClient, RawClient, Wrapper

#: As URLs say it, where the client follows curl's habit.
SCHEMES = {
    "4": "socks4://127.0.0.1:%(proxy)s",
    "4a": "socks4a://127.0.0.1:%(proxy)s",
    "5": "socks5://127.0.0.1:%(proxy)s",
    "5h": "socks5h://127.0.0.1:%(proxy)s",
    "password": "socks5h://%(user)s:%(password)s@127.0.0.1:%(proxy)s",
}


def each(template, values):
    """Return a map to *template* with {} replaced by each of the *values*."""
    return {protocol: template.replace("{}", value) for protocol, value in values.items()}


GET = "printf 'GET %(path)s HTTP/1.0\\r\\n\\r\\n' | "
NCAT = each(
    "ncat --proxy 127.0.0.1:%(proxy)s --proxy-type {}",
    {
        "4": "socks4",
        "4a": "socks4",
        "5": "socks5 --proxy-dns local",
        "5h": "socks5",
        "password": "socks5 --proxy-auth %(user)s:%(password)s",
    },
)

CURL = Client("curl", each("curl --proxy {} %(url)s", SCHEMES))

GIT = Client(
    "git",
    each("git -c http.proxy={} clone %(url)srepo.git", SCHEMES),
    path="/",
    saved_as=os.path.join("repo", "file"),
)

NCAT_CLIENT = RawClient(
    "ncat",
    {p: GET + NCAT[p] + " %(host)s %(port)s" for p in NCAT},
    literal=("4",),
)

NC = RawClient(
    "nc (OpenBSD)",
    each(
        GET + "nc.openbsd -X {} -x 127.0.0.1:%(proxy)s %(host)s %(port)s",
        {"4": "4", "5": "5", "5h": "5"},
    ),
    programs=("nc.openbsd",),
    package="netcat-openbsd",
    literal=("5",),
    # It tells its own version nowhere but in its help, and there only Debian's.
    version=["nc.openbsd", "-h"],
)

SOCAT = RawClient(
    "socat",
    each(
        GET + "socat -t 30 - {}:127.0.0.1:%(host)s:%(port)s,socksport=%(proxy)s",
        {"4": "SOCKS4", "4a": "SOCKS4A"},
    ),
    version=["socat", "-V"],
)

SSH = Client(
    "ssh",
    {p: "ssh -o ProxyCommand='%s %%%%h %%%%p' %%(to)s" % NCAT[p] for p in NCAT},
    programs=("ssh", "ncat", "sshd", "ssh-keygen"),
    package="openssh-client, openssh-server, ncat",
    version=["ssh", "-V"],
    literal=("4",),
)

PROXYCHAINS = Wrapper(
    "proxychains4",
    dict.fromkeys(PROTOCOLS, "proxychains4 -q -f proxychains.conf %(get)s"),
    programs=("proxychains4", "curl"),
    file=(
        "proxychains.conf",
        each(
            "strict_chain\n{}",
            {
                "4": "# no proxy_dns\n[ProxyList]\nsocks4 127.0.0.1 %(proxy)s\n",
                "4a": "proxy_dns\n[ProxyList]\nsocks4 127.0.0.1 %(proxy)s\n",
                "5": "# no proxy_dns\n[ProxyList]\nsocks5 127.0.0.1 %(proxy)s\n",
                "5h": "proxy_dns\n[ProxyList]\nsocks5 127.0.0.1 %(proxy)s\n",
                "password": "proxy_dns\n[ProxyList]\n"
                "socks5 127.0.0.1 %(proxy)s %(user)s %(password)s\n",
            },
        ),
    ),
    version=["proxychains4", "true"],
    # It reads /etc/hosts, minding the case, which no other client does.
    name="LOCALHOST",
)

#: For those that do not tell their version; the package's name follows.
PACKAGED = ["sh", "-c", "dpkg-query --show --showformat '${Version}' \"$0\" 2>&1"]

DANTE = "SOCKS_CONF=socks.conf "
DANTE_FILE = """\
resolveprotocol: %s
route {
    from: 0.0.0.0/0 to: 0.0.0.0/0 via: 127.0.0.1 port = %%(proxy)s
    proxyprotocol: %s
    protocol: tcp
    command: connect
    method: %s
}
"""
SOCKSIFY = Wrapper(
    "socksify (Dante)",
    {
        "4": DANTE + "socksify %(get)s",
        "5": DANTE + "socksify %(get)s",
        "5h": DANTE + "socksify %(get)s",
        "password": DANTE + "SOCKS_USERNAME=%(user)s SOCKS_PASSWORD=%(password)s socksify %(get)s",
    },
    file=(
        "socks.conf",
        {
            "4": DANTE_FILE % ("udp", "socks_v4", "none"),
            "5": DANTE_FILE % ("udp", "socks_v5", "none"),
            "5h": DANTE_FILE % ("fake", "socks_v5", "none"),
            "password": DANTE_FILE % ("fake", "socks_v5", "username"),
        },
    ),
    programs=("socksify", "curl"),
    package="dante-client",
    version=PACKAGED + ["dante-client"],
    note="It has no SOCKS4a: names reach the proxy by SOCKS5 only.",
    # It never sends what is in 127.0.0.0/8 to a proxy; this is the same host.
    address="0.0.0.0",
    name="LOCALHOST",
)

TSOCKS_FILE = "server = 127.0.0.1\nserver_port = %(proxy)s\nserver_type = "
TSOCKS = Wrapper(
    "tsocks",
    dict.fromkeys(("4", "5", "password"), "TSOCKS_CONF_FILE=tsocks.conf tsocks %(get)s"),
    file=(
        "tsocks.conf",
        {
            "4": TSOCKS_FILE + "4\n",
            "5": TSOCKS_FILE + "5\n",
            "password": TSOCKS_FILE + "5\ndefault_user = %(user)s\ndefault_pass = %(password)s\n",
        },
    ),
    programs=("tsocks", "curl"),
    version=PACKAGED + ["tsocks"],
    address="0.0.0.0",
    name="0.0.0.0",
    note="It looks names up itself, with a password too. Programs that connect without\n"
    "waiting may be slow to notice that they are connected, or never do; curl does well.",
)

READ_SOCKET = """
import contextlib
with contextlib.closing(sock):
    sock.sendall(b"GET %(path)s HTTP/1.0\\r\\n\\r\\n")
    answer = b"".join(iter(lambda: sock.recv(65536), b""))
data = answer.partition(b"\\r\\n\\r\\n")[2]
"""

PYSOCKS = PythonClient(
    "PySocks",
    "socks",
    READ_SOCKET % {"path": "/file"},
    each(
        "import socks\n\n"
        "sock = socks.socksocket()\n"
        "sock.set_proxy(socks.{})\n"
        'sock.connect(("%(host)s", %(port)s))\n',
        {
            "4": 'SOCKS4, "127.0.0.1", %(proxy)s, rdns=False',
            "4a": 'SOCKS4, "127.0.0.1", %(proxy)s',
            "5": 'SOCKS5, "127.0.0.1", %(proxy)s, rdns=False',
            "5h": 'SOCKS5, "127.0.0.1", %(proxy)s',
            "password": 'SOCKS5, "127.0.0.1", %(proxy)s, True, "%(user)s", "%(password)s"',
        },
    ),
)

REQUESTS = PythonClient(
    "requests[socks]",
    "requests",
    "data = reply.content",
    each(
        "import requests\n\n"
        'proxy = "{}"\n'
        'reply = requests.get("%(url)s", proxies={"http": proxy, "https": proxy})\n',
        SCHEMES,
    ),
)

URLLIB3 = PythonClient(
    "urllib3[socks]",
    "urllib3",
    "data = reply.data",
    each(
        "from urllib3.contrib.socks import SOCKSProxyManager\n\n"
        'proxy = SOCKSProxyManager("{}")\n'
        'reply = proxy.request("GET", "%(url)s", retries=False)\n',
        SCHEMES,
    ),
)

HTTPX = PythonClient(
    "httpx[socks]",
    "httpx",
    "data = reply.content",
    each(
        "import httpx\n\n"
        'with httpx.Client(proxy="{}") as client:\n'
        '    reply = client.get("%(url)s")\n',
        {
            "5": SCHEMES["5"],
            "5h": SCHEMES["5"],
            "password": "socks5://%(user)s:%(password)s@127.0.0.1:%(proxy)s",
        },
    ),
    literal=("5",),
)

RDNS = {
    "4": 'socks4://127.0.0.1:%(proxy)s", rdns=False',
    "4a": 'socks4://127.0.0.1:%(proxy)s", rdns=True',
    "5": 'socks5://127.0.0.1:%(proxy)s", rdns=False',
    "5h": 'socks5://127.0.0.1:%(proxy)s", rdns=True',
    "password": 'socks5://%(user)s:%(password)s@127.0.0.1:%(proxy)s", rdns=True',
}

PYTHON_SOCKS = PythonClient(
    "python-socks",
    "python_socks",
    READ_SOCKET % {"path": "/file"},
    each(
        "from python_socks.sync import Proxy\n\n"
        'proxy = Proxy.from_url("{})\n'
        'sock = proxy.connect("%(host)s", %(port)s)\n',
        RDNS,
    ),
)

AIOHTTP_SOCKS = PythonClient(
    "aiohttp-socks",
    "aiohttp_socks",
    "data = asyncio.run(get())",
    each(
        "import asyncio\n"
        "import aiohttp\n"
        "from aiohttp_socks import ProxyConnector\n\n"
        "async def get():\n"
        '    connector = ProxyConnector.from_url("{})\n'
        "    async with aiohttp.ClientSession(connector=connector) as session:\n"
        '        async with session.get("%(url)s") as reply:\n'
        "            return await reply.read()\n",
        RDNS,
    ),
)

NODE_SOCKS = NodeClient(
    "node: socks",
    """
function use(socket) {
  let answer = [];
  socket.on("data", data => answer.push(data));
  socket.on("end", () => {
    answer = Buffer.concat(answer);
    process.stdout.write(answer.subarray(answer.indexOf("\\r\\n\\r\\n") + 4));
  });
  socket.write("GET /file HTTP/1.0\\r\\n\\r\\n");
}
""",
    each(
        'const {SocksClient} = require("socks");\n\n'
        "SocksClient.createConnection({\n"
        '  proxy: {host: "127.0.0.1", port: %(proxy)s, {}},\n'
        '  command: "connect",\n'
        '  destination: {host: "%(host)s", port: %(port)s},\n'
        "}).then(({socket}) => use(socket));\n",
        {
            "4": "type: 4",
            "4a": "type: 4",
            "5": "type: 5",
            "5h": "type: 5",
            "password": 'type: 5, userId: "%(user)s", password: "%(password)s"',
        },
    ),
    literal=("4", "5"),
)

NODE_AGENT = NodeClient(
    "node: socks-proxy-agent",
    "function use(reply) { reply.pipe(process.stdout); }\n",
    each(
        'const http = require("http");\n'
        'const {SocksProxyAgent} = require("socks-proxy-agent");\n\n'
        'const agent = new SocksProxyAgent("{}");\n'
        'http.get("%(url)s", {agent}, use);\n',
        SCHEMES,
    ),
)

CHROMIUM = Client(
    "Chromium",
    each(
        "chromium %(options)s--proxy-server={} %(url)s",
        {"4": SCHEMES["4"], "5h": SCHEMES["5"]},
    ),
    programs=("chromium",),
    slow=True,
    saved_as="screenshot.png",
    path="/page.html",
    note="It knows no password for SOCKS, and leaves all lookups to a SOCKS5 proxy.",
)

#: In the order of the page.
CLIENTS = [
    CURL,
    GIT,
    SSH,
    NCAT_CLIENT,
    NC,
    SOCAT,
    PROXYCHAINS,
    SOCKSIFY,
    TSOCKS,
    PYSOCKS,
    REQUESTS,
    URLLIB3,
    HTTPX,
    PYTHON_SOCKS,
    AIOHTTP_SOCKS,
    NODE_SOCKS,
    NODE_AGENT,
    CHROMIUM,
]
