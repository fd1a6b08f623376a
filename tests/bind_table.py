"""The table of clients that wait for a peer (BIND): what a user types for each, by protocol.

curl is among them with socksify in front of it: by itself it has no active FTP through a
SOCKS proxy, and says so (``--ftp-port`` is ignored, and PASV used).  PySocks, python-socks,
proxychains4, tsocks and ncat have no BIND.
"""

from client_table import PACKAGED, each
from socks_clients import Client, NodeClient
from udp_table import DANTE, WITH_PASSWORD

#: The client names an address; those of SOCKS4a and names are for other clients.
BIND_PROTOCOLS = ("4", "5", "password")

DANTE_FILE = """\
resolveprotocol: fake
route {
    from: 0.0.0.0/0 to: 0.0.0.0/0 via: 127.0.0.1 port = %%(proxy)s
    proxyprotocol: %s
    protocol: tcp
    command: connect bind
    method: %s
}
"""
DANTE_FILES = {
    "4": DANTE_FILE % ("socks_v4", "none"),
    "5": DANTE_FILE % ("socks_v5", "none"),
    "password": DANTE_FILE % ("socks_v5", "username"),
}


def by_socksify(title, download, upload, program, **others):
    """Return the client that gets a file with one line, and puts one with another."""
    lines = {}
    for protocol in BIND_PROTOCOLS:
        before = DANTE + WITH_PASSWORD * (protocol == "password") + "socksify "
        lines[protocol] = before + download + "\n" + before + upload
    return Client(
        title + " by socksify (Dante), BIND",
        lines,
        file=("socks.conf", DANTE_FILES),
        programs=("socksify", program, "vsftpd"),
        version=PACKAGED + ["dante-client"],
        literal=BIND_PROTOCOLS,
        example={"port": "21"},
        site="ftp",
        **others,
    )


CURL = by_socksify(
    "curl --ftp-port",
    "curl --ftp-port - ftp://%(host)s:%(port)s/file",
    "curl --ftp-port - --upload-file upload ftp://%(host)s:%(port)s/up/",
    "curl",
    package="dante-client, curl, vsftpd",
    note="FTP in active mode, a file there and one back. The version is Dante's, whose\n"
    "SOCKS_AUTOADD_LANROUTES=no is needed only for servers on networks that this host is in.\n"
    "Without socksify curl has no active mode by a proxy.",
)

TNFTP = by_socksify(
    "tnftp",
    "tnftp -A -o - ftp://%(host)s:%(port)s/file",
    "tnftp -A -u ftp://%(host)s:%(port)s/up/ upload",
    "tnftp",
    package="dante-client, tnftp, vsftpd",
    note="FTP in active mode, a file there and one back. The version is Dante's.",
)

NODE = NodeClient(
    "node: socks",
    "const use = data => process.stdout.write(data);\n"
    "const tell = text => {\n"
    '  const [port, host] = process.env.TELL.split(" ");\n'
    '  require("net").connect(port, host).end(text + "\\n");\n'
    "};\n",
    each(
        'const {SocksClient} = require("socks");\n\n'
        "const client = new SocksClient({\n"
        '  proxy: {host: "127.0.0.1", port: %(proxy)s, {}},\n'
        '  command: "bind",\n'
        '  destination: {host: "%(host)s", port: 0},\n'
        "});\n"
        'client.on("bound", ({remoteHost}) => tell(`${remoteHost.host} ${remoteHost.port}`));\n'
        'client.on("established", ({socket}) => {\n'
        '  socket.on("data", use);\n'
        "  socket.resume();\n"
        "});\n"
        "client.connect();\n",
        {
            "4": 'type: 4, userId: "%(user)s"',
            "5": "type: 5",
            "password": 'type: 5, userId: "%(user)s", password: "%(password)s"',
        },
    ),
    literal=BIND_PROTOCOLS,
    site="peer",
    note="``tell`` is what has the peer connect.",
)
NODE.title += ", BIND"

PERL = Client(
    "IO::Socket::Socks, BIND",
    {
        protocol: "perl -MIO::Socket::Socks -e '\n"
        "my $sock = IO::Socket::Socks->new(\n"
        '    ProxyAddr => "127.0.0.1", ProxyPort => %(proxy)s, SocksVersion => ' + how + ",\n"
        '    BindAddr => "%(host)s", BindPort => 0,\n'
        ") or die $SOCKS_ERROR;\n"
        'meet(join " ", ($sock->dst)[0, 1]);\n'
        "$sock->accept or die $SOCKS_ERROR;\n"
        "print while <$sock>;\n"
        "%(meet)s'"
        for protocol, how in {
            "5": "5",
            "password": '5, AuthType => "userpass", Username => "%(user)s", '
            'Password => "%(password)s"',
        }.items()
    },
    programs=("perl",),
    package="libio-socket-socks-perl",
    version=["perl", "-MIO::Socket::Socks", "-e", "print $IO::Socket::Socks::VERSION"],
    literal=BIND_PROTOCOLS,
    example={"meet": ""},
    site="peer",
    note="``meet`` is what has the peer connect. SOCKS4 it can say, but it reads the second reply\n"
    "as one of SOCKS5.",
)

#: In the order of the page.
BIND_CLIENTS = [CURL, TNFTP, NODE, PERL]
