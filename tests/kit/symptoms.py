"""What goes wrong while it serves: what the log or the client says, why, what to do.

Pure data, for the documents and the tests.
"""

from kit.slips import SLIPS
from kit.starts import EXPLAINED, Mistake

__all__ = ["AT_THE_CLIENT", "CATALOGUE", "IN_THE_LOG"]

IN_THE_LOG = "In the log"
AT_THE_CLIENT = "At the client"

_SERVING = (
    Mistake(
        "not-reloaded",
        IN_THE_LOG,
        "not reloaded, the old settings stay: ...",
        "The new settings have a mistake, or need something that the system does not give. "
        "Nothing has changed, not even in part.",
        "Correct what the line names, and reload again; ``minisocks check`` finds mistakes "
        "beforehand.",
    ),
    Mistake(
        "needs-a-restart",
        IN_THE_LOG,
        "needs a restart: ...",
        "These settings have changed, but only a new process can use them. All other settings are "
        "in force.",
        "``minisocks stop``, or ``minisocks drain`` to let connections end by themselves; then "
        "start it.",
    ),
    Mistake(
        "lines-are-lost",
        IN_THE_LOG,
        "N lines of the log are lost: ...",
        "The disk was full, syslog was gone, or the reader of the log was too slow. The proxy "
        "waits for none of them.",
        "Mend what the line names. ``-q`` leaves out connections that went well, ``-qq`` refusals "
        "too.",
    ),
    Mistake(
        "repeats-are-not-shown",
        IN_THE_LOG,
        "last message N times: ...",
        "The log shows ten refusals of one client for one reason in a minute. This line says how "
        "many more there were, and shows the last one.",
        "Look at the address of the client: it is a scanner, or a program that tries again and "
        "again.",
    ),
    Mistake(
        "egress-not-up",
        IN_THE_LOG,
        "cannot connect to targets with OPTION: ...; the proxy serves, but connections fail until "
        "this works",
        "No interface has the address of ``--source``, or the interface of ``--interface`` does "
        "not exist. A VPN that is not up yet looks like this.",
        "``ip address`` shows what there is. Once it is up, the proxy uses it without a restart.",
        reply=1,
    ),
    Mistake(
        "no-source-of-this-family",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='HOST: no --source of this family'",
        "``--source`` has only an IPv4 address, or only an IPv6 address, and the target has none "
        "of that family. The proxy uses no other address than those that you named.",
        "Add a ``--source`` of the other family.",
        reply=3,
    ),
    Mistake(
        "client-not-allowed",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='clients from HOST may not come in; "
        "let them with --allow-lan (private networks), --user NAME:PASSWORD or --open'",
        "Without other settings only clients on the host of the proxy may use it.",
        "Start it with ``--allow-lan`` for devices on your network, or with ``--user`` for "
        "clients that have the password. With ``--open`` on a public address strangers reach the "
        "Internet through you.",
        reply=2,
    ),
    Mistake(
        "wrong-password",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='wrong user name or password, as \"NAME\"'",
        "The client sent a user name or a password that is not in force.",
        "Compare both; capital letters count. ``minisocks check`` shows the names in force and "
        "their source. In a URL write ``@``, ``:``, ``/`` and ``%`` as ``%40``, ``%3A``, ``%2F`` "
        "and ``%25``.",
    ),
    Mistake(
        "client-without-password",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='no common method: the client offers 00, "
        "and needs 02 (a password)'",
        "A password is needed (method 02), and the client offered only to have none (00).",
        "Enter name and password at the client: ``curl --proxy socks5h://ann:secret@HOST:1080``. "
        "Browsers cannot send a password to a SOCKS proxy: use ``--allow-lan`` for them.",
    ),
    Mistake(
        "socks4-where-a-password-is-needed",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='a password is needed; SOCKS4 cannot send one'",
        "The client gets 91.",
        "Set the client to SOCKS5, with name and password, or start the proxy with "
        "``--allow-lan``, which accepts clients on private networks without one.",
    ),
    Mistake(
        "no-identd",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='no identd at HOST: ...'",
        "With ``--ident`` a SOCKS4 client must be confirmed by its host, and that could not be "
        "asked. ``Connection refused``: it runs no identd. ``no answer in time``: a firewall "
        "drops packets to port 113. The client gets 92.",
        "Install an identd on the host of the client (Debian: ``oidentd``), and open port 113 "
        "there for the proxy. Or set the client to SOCKS5, which needs no ident.",
    ),
    Mistake(
        "identd-does-not-answer",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='the identd at HOST did not answer in time'",
        "A program listens on port 113 of the client's host, but sent no whole line in 30 s. The "
        "client gets 92.",
        "On the host of the proxy run ``nc HOST 113`` and type ``1, 2``: an error should come at "
        "once.",
    ),
    Mistake(
        "another-user-by-ident",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused "
        'why=\'it says that it is "NAME", its identd says "NAME"\'',
        "The USERID that the client sends is not the user that its host names. The client gets 93.",
        "Set the USERID of the client to the name of that user; capital letters count: ``curl "
        "--proxy socks4a://ann@HOST:1080``.",
    ),
    Mistake(
        "identd-names-no-user",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='its identd does not name its user: \"WORD\"'",
        "``HIDDEN-USER``: the user or the administrator of that host hides the name. ``NO-USER``: "
        "identd knows no such connection, for example because of a NAT. The client gets 93.",
        "Change that on the host of the client, or set the client to SOCKS5.",
    ),
    Mistake(
        "ident-where-a-password-is-needed",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused "
        "why='...; user \"NAME\" needs a password; SOCKS4 cannot send one'",
        "The answer of an identd proves nothing, so it cannot stand for the password of a user "
        "that has one. The client gets 91, as with any other name that no rule allows.",
        "Set the client to SOCKS5, with name and password.",
    ),
    Mistake(
        "this-host-refused",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='loopback addresses are not for clients from HOST'",
        "For a client on another host ``localhost`` and ``127.0.0.1`` would be the host of the "
        "proxy, with services that no other host is meant to reach. The same holds for "
        "link-local, metadata and unspecified addresses.",
        "Ask for an address that this host has in the network, and open the port there by a rule. "
        "If the service runs on the client itself, take localhost out of the proxy settings of "
        "the client.",
        reply=2,
    ),
    Mistake(
        "own-address-refused",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='HOST:PORT is this host, which HOST may not reach; "
        "a rule before all others opens it: allow from private to self port PORT'",
        "A connection to an address of its own host goes over loopback, past the firewall. So "
        "clients on other hosts reach no such address, nor the one of ``--public-address``.",
        "Put the rule that the line shows before the rules that allow more. For the pages of a "
        "router, or published ports of containers: ``allow from private to self port 80 443``.",
        reply=2,
    ),
    Mistake(
        "proxy-itself-refused",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='HOST:PORT is this proxy itself, no target of its "
        "own'",
        "If the proxy connected to itself, the client would seem to be on the host of the proxy, "
        "and rules and limits about the real client would not hold. No rule allows it.",
        "Find the program that is set to reach the proxy through the proxy, and remove one of the "
        "two. Two different proxies may be chained.",
        reply=2,
    ),
    Mistake(
        "private-network-refused",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='private addresses are not for clients from HOST'",
        "A client from a public address may not reach private networks behind the proxy, even "
        "with a password; nor may one from a link-local address or the network of a carrier "
        "(100.64/10, also Tailscale), unless ``--allow-lan`` is set.",
        "Let the client come from inside, by a VPN or an SSH tunnel. If the network of its "
        "address is yours, allow it: ``allow from 100.64.0.0/10 to private``.",
        reply=2,
    ),
    Mistake(
        "client-has-too-many-connections",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=limit why='HOST has N connections already "
        "(--max-per-client N)'",
        "The limit is reached for this client (with IPv6: for its /64).",
        "If it is an honest client, such as a browser with many pages, raise the limit; "
        "``minisocks status`` shows how many connections each client has.",
        reply=2,
    ),
    Mistake(
        "idle-for-too-long",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=idle",
        "No byte passed in either direction for the time of ``--idle-timeout``.",
        "If it ends connections that should live, such as SSH, raise it, or let the program send "
        "something regularly (``ServerAliveInterval``).",
    ),
    Mistake(
        "ended-for-memory",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=memory-limit why='shed: it held most of what its receiver does "
        "not take (--memory-limit N)'",
        "Data that receivers did not take had filled ``--memory-limit``, and this connection had "
        "most of it.",
        "Look at the client: a program that downloads and does not read has a bug or means harm. "
        "If all clients are honest, raise the limit.",
    ),
    Mistake(
        "guesses-passwords",
        IN_THE_LOG,
        "client=HOST has failed to log in N times as one user: from now on its logins as that user "
        "wait before they are checked",
        "The client guesses passwords, or a program has an old one.",
        "If you know the address, correct the password in that program. Otherwise there is "
        "nothing to do: each further guess takes up to half a minute.",
    ),
    Mistake(
        "denied-by-a-rule",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='rule N denies TARGET: ...'",
        "The first rule that matches denies this.",
        "``minisocks check --from CLIENT --to TARGET`` says why, and ``minisocks check`` shows "
        "the rules with their numbers. An ``allow`` before that rule lets it through.",
        reply=2,
    ),
    Mistake(
        "no-rule-allows-it",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='no rule allows TARGET to clients from HOST'",
        "There are rules, and what no rule matches is denied.",
        "Add an ``allow`` rule, for example ``--rule 'allow from 192.168.1.0/24'``: "
        "``docs/rules.rst``.",
        reply=2,
    ),
    Mistake(
        "name-unknown",
        IN_THE_LOG,
        'id=N client=CLIENT ... end=refused why=\'"NAME" cannot be resolved: [Errno -2] '
        "Name or service not known'",
        "The name servers of the proxy know no such name.",
        "Check the spelling. If only the network of the client knows the name, use the address.",
        reply=4,
    ),
    Mistake(
        "name-of-the-other-family",
        IN_THE_LOG,
        'id=N client=CLIENT ... end=refused why=\'"NAME" cannot be resolved: [Errno -5] it has no '
        "IPv4 address, and this host has none of another family to reach it from'",
        "The target has only IPv6 addresses, and the host of the proxy only IPv4, or the reverse. "
        "Loopback and link-local addresses do not count.",
        "``ip address`` shows the addresses of the host. Once it has one of that family, the "
        "target is reached without a restart.",
        reply=4,
    ),
    Mistake(
        "name-servers-unreachable",
        IN_THE_LOG,
        'id=N client=CLIENT ... end=refused why=\'"NAME" cannot be resolved: [Errno -3] '
        "Temporary failure in name resolution'",
        "The name servers of the proxy do not answer, or it has none.",
        "On the host of the proxy: ``cat /etc/resolv.conf`` shows them, ``nslookup example.org`` "
        "asks them.",
        reply=4,
    ),
    Mistake(
        "name-not-resolved-in-time",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='the name was not resolved in time'",
        "The name servers of the proxy took longer than ``--connect-timeout``.",
        "On the host of the proxy run ``nslookup example.org``, and remove a name server that "
        "never answers from ``/etc/resolv.conf``. If only ``nslookup -type=AAAA example.org`` "
        "hangs, start the proxy with ``--prefer ipv4-only``.",
        reply=6,
    ),
    Mistake(
        "resolver-stuck",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='all N resolver threads wait for name servers "
        "that do not answer'",
        "So many names wait for a name server that does not answer that there is no thread for "
        "another one. Targets given as addresses are still reached.",
        "Remove that name server from ``/etc/resolv.conf`` of the proxy; if it answers for IPv4 "
        "only, ``--prefer ipv4-only`` helps. The proxy recovers without a restart.",
        reply=1,
    ),
    Mistake(
        "target-refuses",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='ADDRESS: Connection refused'",
        "The target exists, but no program listens on this port, or a firewall refuses the "
        "connection.",
        "Check the port. ``curl http://TARGET:PORT/`` on the host of the proxy fails in the same "
        "way, if it is not the fault of the proxy.",
        reply=5,
    ),
    Mistake(
        "target-silent",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='ADDRESS: no answer in time'",
        "The target did not answer within ``--connect-timeout``: it is switched off, or a "
        "firewall drops the packets. ``(5 s after the FIN of its client)`` means that the client "
        "had closed its connection before.",
        "``ping TARGET`` and ``traceroute TARGET`` on the host of the proxy show how far packets "
        "go.",
        reply=6,
    ),
    Mistake(
        "network-unreachable",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='ADDRESS: Network is unreachable'",
        "The host of the proxy has no route to this network: it is offline, or has only IPv4 and "
        "the address is IPv6.",
        "``ip route`` and ``ip -6 route`` show the routes; there must be a ``default``.",
        reply=3,
    ),
    Mistake(
        "host-unreachable",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='ADDRESS: No route to host'",
        "The target does not answer in its own network, or a router reports that it does not "
        "exist.",
        "Check the address and the power. ``ip neighbour show TARGET`` says FAILED for a host of "
        "this network that does not answer.",
        reply=4,
    ),
    Mistake(
        "bind-peer-stays-away",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='no peer connected to ADDRESS in time'",
        "The client asked for BIND (FTP in active mode), and the server did not connect to this "
        "address within ``--bind-timeout``, because of a firewall or a NAT.",
        "Open a range of ports in the firewall, and name it with ``--bind-ports``; behind a NAT "
        "add ``--public-address``. Or use FTP in passive mode.",
        reply=6,
    ),
    Mistake(
        "bind-met-another-peer",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='ADDRESS connected to ADDRESS, but the client "
        "expects WORD'",
        "A peer connected that is not the one that the client named: a scanner, or the server "
        "from another of its addresses, for example behind a load balancer. The proxy reset it.",
        "If it is the server, let the client name the address that it comes from, or 0.0.0.0 for "
        "any; or use FTP in passive mode.",
    ),
    Mistake(
        "bind-ports-used-up",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=limit why='there are N BINDs that wait already (--bind-ports "
        "WORD)'",
        "Each BIND that waits has a port, and all of the range are taken; or this one waited for "
        "longest and made room for a client of another network.",
        "Give ``--bind-ports`` a wider range and open it in the firewall, or lower "
        "``--bind-timeout``.",
        reply=2,
    ),
    Mistake(
        "udp-without-an-address",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='UDP needs the address of the client: none is "
        "known on a unix socket or behind a forwarder'",
        "The proxy must know the address that datagrams of this client come from, or any program "
        "could send in its place.",
        "Let the client connect by TCP, and not through a forwarder.",
        reply=7,
    ),
    Mistake(
        "udp-ports-used-up",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=limit why='there are N associations already (--udp-ports "
        "WORD)'",
        "Each association has its own port, and all of the range are taken; or this one had no "
        "datagram for longest and made room for a client of another network.",
        "Give ``--udp-ports`` a wider range, and open it in the firewall.",
        reply=2,
    ),
    Mistake(
        "associations-used-up",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=limit why='there are N associations already "
        "(--max-associations N)'",
        "There are as many associations as may be; or this one had no datagram for longest and "
        "made room for a client of another network. Programs such as tun2socks open one for each "
        "program that sends datagrams.",
        "If the clients are honest, raise the limit; each association takes up to four "
        "descriptors.",
        reply=2,
    ),
    Mistake(
        "udp-from-another-port",
        IN_THE_LOG,
        "id=N client=CLIENT ... drops='stranger: N' ... end=client-fin",
        "Datagrams came from another address than the TCP connection of the client, or from "
        "another port than its first one: it has several sockets, or a NAT has changed the port.",
        "``--udp-clients any-port`` accepts every port of the client's address; read in "
        "``docs/udp.rst`` what that means where there are passwords.",
    ),
    Mistake(
        "udp-denied",
        IN_THE_LOG,
        "id=N client=CLIENT ... drops='denied: N' ... why='...'",
        "A rule denies the target of these datagrams; ``why`` has the rule for the first of them.",
        "``minisocks check --from CLIENT --to TARGET:PORT --command udp`` explains it; a rule can "
        "allow it.",
    ),
    Mistake(
        "tls-on-the-port",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=not-socks why='TLS instead of SOCKS: the client takes this "
        "for an HTTPS proxy or server'",
        "The client began with TLS: its user opened ``https://HOST:1080/``, or entered the proxy "
        "as an HTTPS proxy.",
        "Enter it at the client as a SOCKS proxy, SOCKS v5.",
    ),
    Mistake(
        "http-on-the-port",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=not-socks why='HTTP instead of SOCKS: the client takes this "
        "for an HTTP proxy'",
        "The proxy was entered at the client as an HTTP proxy, or its user opened "
        "``http://HOST:1080/``.",
        "Enter it at the client as a SOCKS proxy; the page that the client got says where.",
    ),
    Mistake(
        "ssh-on-the-port",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=not-socks why='SSH instead of SOCKS: is this the port that "
        "was meant?'",
        "An SSH client connected to this port without a proxy command.",
        "``ssh -o ProxyCommand='nc -X 5 -x HOST:1080 %h %p' TARGET``.",
    ),
    Mistake(
        "something-else-on-the-port",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=not-socks why='not SOCKS: the first byte is N'",
        "The bytes are of no protocol that minisocks knows. On the Internet it is a scanner.",
        "Nothing, if all programs work. Close the port in the firewall, if the Internet need not "
        "reach it.",
    ),
    Mistake(
        "forwarder-sends-a-header",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=not-socks why='a PROXY protocol header: the forwarder "
        "must not send one; see --forwarded'",
        "A forwarder in front of the proxy begins each connection with a line about its client.",
        "Switch that off there: no ``send-proxy`` in haproxy, no ``proxy_protocol on`` in nginx. "
        "And name the listener with ``--forwarded``, because otherwise all its clients count as "
        "clients on the host of the forwarder.",
    ),
    Mistake(
        "client-too-slow",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='the handshake took too long "
        "(--handshake-timeout)'",
        "The client began a SOCKS handshake and did not finish in time: it hangs, or its network "
        "is bad.",
        "One such line: nothing. If all clients of a slow network end so, give them more time: "
        "``--handshake-timeout 60``.",
    ),
    Mistake(
        "too-many-handshakes",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=limit why='there are too many unfinished handshakes "
        "(--max-handshakes N)'",
        "So many clients had begun a handshake and not finished it that the oldest of the address "
        "that had most was ended: a scanner or an attack.",
        "Block that address in the firewall. If the clients are honest, raise "
        "``--max-handshakes``.",
    ),
    Mistake(
        "client-stopped-halfway",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='the client closed before its request was "
        "complete'",
        "The client closed in the middle of the handshake: a scanner, a program that was ended, "
        "or one that did not understand an answer. A health check that greets and gets ``05 00`` "
        "has no line.",
        "One such line: nothing. If one program always ends so, try it with another version of "
        "SOCKS.",
    ),
    Mistake(
        "ended-by-the-proxy",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=shutdown",
        "The proxy was ended while this connection was open, and had waited for it as long as "
        "``--grace`` says.",
        "Give connections more time: ``--grace 60``.",
    ),
    Mistake(
        "descriptors-used-up",
        IN_THE_LOG,
        "at capacity: accept: Too many open files; waiting for connections to end",
        "As many connections are open as the system allows, with two descriptors each. New "
        "clients wait; the log says when there is room again.",
        "The line ``room for`` at the start says how many fit. ``ulimit -n 4096`` in the shell "
        "that starts it, or ``LimitNOFILE=4096`` for a service of systemd, makes room for 1900.",
    ),
    Mistake(
        "no-descriptor-for-the-target",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='ADDRESS: Too many open files'",
        "The client got the last descriptor, and there is none for its target.",
        "As for `Descriptors used up`_.",
        reply=1,
    ),
    Mistake(
        "threads-used-up",
        IN_THE_LOG,
        "at capacity: no new thread: can't start new thread; going on with N",
        "The system has no room for another thread. The existing threads serve the clients; the "
        "log says when there is room again.",
        "``ulimit -u`` shows how many threads the user may have, ``free`` how much memory is left.",
    ),
    Mistake(
        "no-proxy-listens",
        AT_THE_CLIENT,
        "curl: (7) Failed to connect to HOST port PORT...",
        "No proxy listens at this address: it does not run, it has another port, or it listens on "
        "127.0.0.1 only and the client is on another host.",
        "``ss -ltn`` on the host of the proxy shows the listeners. For clients on the network "
        "start it with ``-l :1080 --allow-lan``, and open the port in the firewall.",
    ),
    Mistake(
        "curl-shows-92",
        AT_THE_CLIENT,
        "curl: (N) Can't complete SOCKS4 connection to ... (92), request rejected because SOCKS "
        "server cannot connect to identd on the client.",
        "With ``--ident`` the proxy asks the host of a SOCKS4 client for the user, and this host "
        "could not be asked.",
        "Write ``socks5h://``; or see `No identd`_.",
    ),
    Mistake(
        "curl-shows-93",
        AT_THE_CLIENT,
        "curl: (N) Can't complete SOCKS4 connection to ... (93), request rejected because the "
        "client program and identd report different user-ids.",
        "The name in the URL of the proxy is not the user that this host names for curl; a URL "
        "without a name has none.",
        "``socks4a://NAME@HOST:1080`` with the name that ``id -un`` prints; or see `Another user "
        "by ident`_ and `Identd names no user`_.",
    ),
    Mistake(
        "http-proxy-set-at-the-client",
        AT_THE_CLIENT,
        "This is a SOCKS proxy, and it was spoken to in HTTP.",
        "The client uses this proxy as an HTTP proxy: a browser has it in the wrong field, or the "
        "variable ``http_proxy`` begins with ``http://``.",
        "Fill in the field for SOCKS v5, and empty the others. For programs that read variables: "
        "``ALL_PROXY=socks5h://HOST:1080``.",
    ),
    Mistake(
        "client-resolves-names-itself",
        AT_THE_CLIENT,
        "curl: (N) Could not resolve host: NAME",
        "With ``socks5://`` (or ``socks4://``) the client asks its own name servers: they may not "
        "know the name, and they learn where you go. In the log ``dst=`` then has addresses only.",
        'Write ``socks5h://`` (or ``socks4a://``); in Firefox tick "Proxy DNS when using SOCKS '
        'v5".',
    ),
)

#: All that there are, in the order of the document.
CATALOGUE = EXPLAINED + SLIPS + _SERVING
