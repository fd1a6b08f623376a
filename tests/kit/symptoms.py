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
        "HUP or ``minisocks reload`` found a mistake in the settings, or something that they want "
        "cannot be had. Nothing has changed, not even in part.",
        "Mend what it says, and reload again; ``minisocks check`` finds mistakes beforehand.",
    ),
    Mistake(
        "needs-a-restart",
        IN_THE_LOG,
        "needs a restart: ...",
        "These settings have changed, but only a new process can go by them. All others are in "
        "force.",
        "``minisocks stop``, or ``minisocks drain`` where connections should end by themselves; "
        "then start it.",
    ),
    Mistake(
        "lines-are-lost",
        IN_THE_LOG,
        "N lines of the log are lost: ...",
        "The disk was full, syslog was gone, or whoever reads the log was too slow. The proxy "
        "does not wait for any of them.",
        "See to what it says. ``-q`` leaves out connections that went well, ``-qq`` refusals, too; "
        "repeats are folded anyway.",
    ),
    Mistake(
        "repeats-are-folded",
        IN_THE_LOG,
        "last message N times: ...",
        "Of refusals of one client for one reason ten are written in a minute; this says how "
        "many more there were, and shows the last one.",
        "It is a scan, or a program that does not give up: look at the client's address.",
    ),
    Mistake(
        "road-not-up",
        IN_THE_LOG,
        "targets cannot be dialed with OPTION: ...; going on, it may come up",
        "No interface has the address of ``--source``, or the interface of ``--interface`` is "
        "not there. A VPN that is not up yet looks like that.",
        "``ip address`` shows what there is. Once it is up, nothing has to be started again.",
        reply=1,
    ),
    Mistake(
        "no-source-of-this-family",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='HOST: no --source of this family'",
        "There is a ``--source`` for IPv4 only, or for IPv6 only, and the target has no address "
        "of that family. Nothing goes another way than the one you named.",
        "Add a ``--source`` of the other family.",
        reply=3,
    ),
    Mistake(
        "client-not-allowed",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='clients from HOST may not come in; "
        "let them with --allow-lan (private networks), --user NAME:PASSWORD or --open'",
        "Unless told otherwise, only clients on the proxy's own host may come in.",
        "Start it with ``--allow-lan`` for the devices on your network, or ``--user`` for "
        "whoever has the password. ``--open`` on an address that the Internet can reach makes "
        "you the way out for strangers.",
        reply=2,
    ),
    Mistake(
        "wrong-password",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='wrong user name or password, as \"NAME\"'",
        "The client sent a user name or a password that is not among those in force.",
        "Compare both, small and capital letters count. ``minisocks check`` shows the names in "
        "force and where they come from. In a URL ``@``, ``:``, ``/`` and ``%`` are written as "
        "``%40``, ``%3A``, ``%2F`` and ``%25``. The client hears that the password was "
        "rejected.",
    ),
    Mistake(
        "client-without-password",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='no common method: the client offers 00, "
        "wanted is 02'",
        "A password is needed (method 02), and the client only offered to come without one "
        "(00). It hears that no method is acceptable.",
        "Enter name and password at the client: ``curl --proxy socks5h://ann:secret@HOST:1080``. "
        "Browsers cannot send one to a SOCKS proxy: for them use ``--allow-lan``.",
    ),
    Mistake(
        "socks4-where-a-password-is-needed",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='a password is needed, and SOCKS4 has none'",
        "SOCKS4 knows no passwords. The client hears 91.",
        "Set the client to SOCKS5, with name and password, or start the proxy with "
        "``--allow-lan``, which asks clients on private networks for none.",
    ),
    Mistake(
        "no-identd",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='no identd at HOST: ...'",
        "With ``--ident`` a SOCKS4 client is only let in if its host confirms its user, and nobody "
        "could be asked there. ``Connection refused``: it has no identd. ``no answer in time``: a "
        "firewall drops what comes in for port 113. The client hears 92.",
        "Install an identd on the client's host (Debian: ``oidentd``) and let the proxy's address "
        "through to port 113. Or set the client to SOCKS5, which is not asked about.",
    ),
    Mistake(
        "identd-does-not-answer",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='the identd at HOST did not answer in time'",
        "Something listens at port 113 of the client's host, and said no whole line in 30 s. The "
        "client hears 92.",
        "On the proxy's host ``nc HOST 113``, and a line ``1, 2``, should bring an error at once.",
    ),
    Mistake(
        "another-user-by-ident",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused "
        'why=\'it says that it is "NAME", its identd says "NAME"\'',
        "The USERID that the client sends is not the user that its host says it runs as. The "
        "client hears 93.",
        "Set the client's USERID to the user's name there, capitals count: ``curl --proxy "
        "socks4a://ann@HOST:1080``.",
    ),
    Mistake(
        "identd-names-nobody",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='its identd does not say who it is: \"WORD\"'",
        "``HIDDEN-USER``: the user, or the host's administrator, does not want it told. "
        "``NO-USER``: it knows no such connection; a NAT is in between, say. The client hears 93.",
        "See to it at the client's host; or set the client to SOCKS5.",
    ),
    Mistake(
        "ident-where-a-password-is-needed",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused "
        "why='...; user \"NAME\" needs a password; SOCKS4 cannot send one'",
        "What an identd says proves nothing, so a client that has shown no password is not a user "
        "who has one. The client hears 91, as with any other name that no rule allows.",
        "Set the client to SOCKS5, with name and password.",
    ),
    Mistake(
        "this-host-refused",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='loopback addresses are not for clients from HOST'",
        "For a client on another host, ``localhost`` and ``127.0.0.1`` would be the proxy's own "
        "host, with all that listens there because nobody else can reach it. The same holds for "
        "linklocal, metadata and unspecified addresses.",
        "Ask for an address that the proxy's host has in the network, and open the port there by "
        "a rule. For what runs on the client itself, take localhost out of the client's proxy "
        "settings.",
        reply=2,
    ),
    Mistake(
        "own-address-refused",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='HOST:PORT is this host, which HOST may not reach; "
        "a rule before all others opens it: allow from private to self port PORT'",
        "To an address of its own this host connects over loopback, past the firewall. So clients "
        "on other hosts reach none of them, nor the address that --public-address names.",
        "Open what they need: put the rule that the line shows into the settings, before those "
        "that allow more (the pages of a router or a Raspberry Pi, published ports of containers: "
        "``allow from private to self port 80 443``).",
        reply=2,
    ),
    Mistake(
        "proxy-itself-refused",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='HOST:PORT is this proxy itself, no target of its "
        "own'",
        "A client that the proxy connected to the proxy would be one on the proxy's host, and no "
        "rule or limit about the real one would hold. No rule opens this.",
        "Look for the program that is set to reach the proxy through the proxy, and take one of "
        "the two out of its settings. Two proxies may be chained.",
        reply=2,
    ),
    Mistake(
        "private-network-refused",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='private addresses are not for clients from HOST'",
        "A client from a public address may not reach the private network behind the proxy, "
        "even with a password; nor may one from a link-local address or a carrier's NAT "
        "(100.64/10, also Tailscale) without ``--allow-lan``.",
        "Let the client come from inside: through a VPN or an SSH tunnel. If the network of its "
        "address is yours, allow it with a rule: ``allow from 100.64.0.0/10 to private``.",
        reply=2,
    ),
    Mistake(
        "client-has-its-share",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=limit why='HOST has N connections already "
        "(--max-per-client N)'",
        "The limit is reached, for this client (in IPv6: for its /64).",
        "If these are honest connections, a browser with many pages say, raise the limit; "
        "``minisocks status`` shows who has how many.",
        reply=2,
    ),
    Mistake(
        "idle-for-too-long",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=idle",
        "Nothing was said in either direction for as long as ``--idle-timeout`` allows.",
        "Where that ends what should live, such as SSH, raise it, or have the program send "
        "something now and then (``ServerAliveInterval``).",
    ),
    Mistake(
        "shed-for-memory",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=memory-limit why='shed: it held most of what its receiver does "
        "not take (--memory-limit N)'",
        "Receivers that take nothing had filled what ``--memory-limit`` allows, and this "
        "connection's had most.",
        "Look at who the client is: one that downloads and does not read is broken, or means "
        "harm. Where all of them are honest, raise the limit.",
    ),
    Mistake(
        "guesses-passwords",
        IN_THE_LOG,
        "client=HOST has failed to log in N times as one user: from now on its logins as that user "
        "wait before they are checked",
        "A client guesses passwords, or a program has an old one.",
        "If the address is known, mend the password in the program. Else there is nothing to do: "
        "each further guess takes up to half a minute.",
    ),
    Mistake(
        "denied-by-a-rule",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='rule N denies TARGET: ...'",
        "A rule of the settings denies this, the first one that matches.",
        "``minisocks check --from CLIENT --to TARGET`` shows what the rules say; they are numbered "
        "as ``minisocks check`` shows them. An ``allow`` before that rule lets it through.",
        reply=2,
    ),
    Mistake(
        "no-rule-allows-it",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='no rule allows TARGET to clients from HOST'",
        "There are rules in the settings, and what none of them matches is denied.",
        "Add an ``allow`` for it, say ``--rule 'allow from 192.168.1.0/24'``; see "
        "``docs/rules.rst``.",
        reply=2,
    ),
    Mistake(
        "name-unknown",
        IN_THE_LOG,
        'id=N client=CLIENT ... end=refused why=\'"NAME" cannot be resolved: [Errno -2] '
        "Name or service not known'",
        "The proxy's host asked its name servers, and they know no such name.",
        "Look for a slip of the pen in the address. If the client's own network knows the name "
        "and the proxy's does not, ask for the address instead.",
        reply=4,
    ),
    Mistake(
        "name-of-the-other-family",
        IN_THE_LOG,
        'id=N client=CLIENT ... end=refused why=\'"NAME" cannot be resolved: [Errno -5] it has no '
        "IPv4 address, and this host has none of another family to reach it from'",
        "The target has IPv6 addresses only, and the proxy's host has only IPv4, or the other way "
        "round. Loopback and link-local addresses are not counted.",
        "``ip address`` shows which ones the proxy's host has. The target is reached when there is "
        "one of its family; nothing has to be started again.",
        reply=4,
    ),
    Mistake(
        "name-servers-unreachable",
        IN_THE_LOG,
        'id=N client=CLIENT ... end=refused why=\'"NAME" cannot be resolved: [Errno -3] '
        "Temporary failure in name resolution'",
        "The name servers of the proxy's host do not answer; or it has none.",
        "On the proxy's host: ``cat /etc/resolv.conf`` shows whom it asks, "
        "``nslookup example.org`` whether they answer.",
        reply=4,
    ),
    Mistake(
        "name-not-resolved-in-time",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='the name was not resolved in time'",
        "The name servers of the proxy's host took longer than ``--connect-timeout``.",
        "On the proxy's host, try ``nslookup example.org``; take a name server in "
        "``/etc/resolv.conf`` away that never answers. If it answers for IPv4 addresses only "
        "(``nslookup -type=AAAA example.org`` waits), start the proxy with ``--prefer ipv4-only``.",
        reply=6,
    ),
    Mistake(
        "resolver-stuck",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='all N resolver threads wait for name servers "
        "that do not answer'",
        "So many names wait for a dead name server that there is no thread for another one. "
        "Targets given as addresses are reached all the same.",
        "Find the dead name server in ``/etc/resolv.conf`` of the proxy's host. It "
        "goes on by itself when one answers again. One that answers for IPv4 addresses only is "
        "cured by ``--prefer ipv4-only``.",
        reply=1,
    ),
    Mistake(
        "target-refuses",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='ADDRESS: Connection refused'",
        "The target is there, but nobody listens on this port; or a firewall says so.",
        "Check the port. From the proxy's host, ``curl http://TARGET:PORT/`` must fail the same "
        "way: then it is not the proxy.",
        reply=5,
    ),
    Mistake(
        "target-silent",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='ADDRESS: no answer in time'",
        "The target did not answer within ``--connect-timeout``: it is switched off, or a "
        "firewall on the way drops what is sent there. With ``(5 s after the FIN of its client)`` "
        "behind it, the client had closed its connection before.",
        "From the proxy's host, ``ping TARGET`` and ``traceroute TARGET`` show how far it goes.",
        reply=6,
    ),
    Mistake(
        "network-unreachable",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='ADDRESS: Network is unreachable'",
        "The proxy's host has no route to this network: it is offline; or the address is IPv6 "
        "and it has only IPv4.",
        "``ip route`` and ``ip -6 route`` show the routes; ``default`` must be among them.",
        reply=3,
    ),
    Mistake(
        "host-unreachable",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='ADDRESS: No route to host'",
        "The network is there and the host in it is not: it does not answer on its own wire, or "
        "a router on the way says that nobody is there.",
        "Check the address, and that the target is switched on; "
        "``ip neighbour show TARGET`` says FAILED for one that is not on this wire.",
        reply=4,
    ),
    Mistake(
        "bind-peer-stays-away",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='no peer connected to ADDRESS in time'",
        "The client asked for BIND (FTP in active mode), and the server it waited for did not "
        "connect to this address within ``--bind-timeout``: a firewall on the way, or a NAT.",
        "Let the firewall pass the ports of a range, and give ``--bind-ports`` the same; behind a "
        "NAT give ``--public-address`` too. Or use FTP in passive mode.",
        reply=6,
    ),
    Mistake(
        "bind-met-a-stranger",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='ADDRESS connected to ADDRESS, where WORD was "
        "waited for'",
        "Another peer connected than the one that the client had named: a scanner, or a server "
        "that connects from another of its addresses, as behind a load balancer. It was reset. A "
        "client that waits by SOCKS4 hears 91 then, as the memo says; by SOCKS5 it waits on, and "
        "when no other peer comes the line says so as well.",
        "If it is the server, have the client name the address that it comes from, or 0.0.0.0 for "
        "any; or use FTP in passive mode.",
    ),
    Mistake(
        "bind-ports-used-up",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=limit why='there are N BINDs that wait already (--bind-ports "
        "WORD)'",
        "Each BIND that waits has a port, and all of the range are taken, by other clients of "
        "this one's network or by one of each network; or it has waited for longest, and made room "
        "for another network's.",
        "Give ``--bind-ports`` a wider range, and let the firewall pass it; or a smaller "
        "``--bind-timeout``.",
        reply=2,
    ),
    Mistake(
        "udp-without-an-address",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='UDP needs the address of the client: none is "
        "known on a unix socket or behind a forwarder'",
        "Datagrams come from an address. The proxy does not know that of this client, so any other "
        "program could send in its place.",
        "Have the client connect by TCP, and not through a forwarder.",
        reply=7,
    ),
    Mistake(
        "udp-ports-used-up",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=limit why='there are N associations already (--udp-ports "
        "WORD)'",
        "Each association has a port of its own, and all of the range are taken, by other clients "
        "of this one's network or by one of each network; or it had no datagram for longest, and "
        "made room for another network's.",
        "Give ``--udp-ports`` a wider range, and let the firewall pass it.",
        reply=2,
    ),
    Mistake(
        "associations-used-up",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=limit why='there are N associations already "
        "(--max-associations N)'",
        "There are as many as may be, and this client's network has no fewer of them than others; "
        "or it had no datagram for longest, and made room for another network's. tun2socks and "
        "its like open one for each program that sends datagrams.",
        "If they are honest, raise it; each takes up to four descriptors.",
        reply=2,
    ),
    Mistake(
        "udp-from-another-port",
        IN_THE_LOG,
        "id=N client=CLIENT ... drops='stranger: N' ... end=client-fin",
        "Datagrams came from another address than the client's TCP connection, or from another "
        "port than the client's first one: the client has several sockets, or a NAT in between "
        "has changed the port.",
        "``--udp-clients any-port`` takes datagrams from every port of the client's address; see "
        "``docs/udp.rst`` for what that means where there are passwords.",
    ),
    Mistake(
        "udp-denied",
        IN_THE_LOG,
        "id=N client=CLIENT ... drops='denied: N' ... why='...'",
        "Datagrams were not sent on, because a rule is against their target: ``why`` says which, "
        "of the first of them.",
        "``minisocks check --from CLIENT --to TARGET:PORT --command udp`` says the same; a rule "
        "can allow it.",
    ),
    Mistake(
        "tls-on-the-port",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=not-socks why='TLS instead of SOCKS: the client takes this "
        "for an HTTPS proxy or server'",
        "The client began with TLS: somebody opened ``https://HOST:1080/``, or entered the proxy "
        "as an HTTPS proxy.",
        "Enter it at the client as a SOCKS proxy, SOCKS v5.",
    ),
    Mistake(
        "http-on-the-port",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=not-socks why='HTTP instead of SOCKS: the client takes this "
        "for an HTTP proxy'",
        "Somebody entered the proxy as an HTTP proxy, or opened ``http://HOST:1080/``.",
        "Enter it at the client as a SOCKS proxy; the page that it was sent says where.",
    ),
    Mistake(
        "ssh-on-the-port",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=not-socks why='SSH instead of SOCKS: is this the port that "
        "was meant?'",
        "An SSH client was sent to this port. To go through the proxy it needs to be told how.",
        "``ssh -o ProxyCommand='nc -X 5 -x HOST:1080 %h %p' TARGET``.",
    ),
    Mistake(
        "something-else-on-the-port",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=not-socks why='not SOCKS: the first byte is N'",
        "What came is no protocol that is known here. On the Internet that is a scanner.",
        "Nothing, if nobody complains. If the port need not be reachable from the Internet, "
        "close it in the firewall.",
    ),
    Mistake(
        "forwarder-sends-a-header",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=not-socks why='a PROXY protocol header: the forwarder "
        "must not send one; see --forwarded'",
        "A forwarder in front of the proxy begins each connection with a line about the client.",
        "Switch that off there: no ``send-proxy`` in haproxy, no ``proxy_protocol on`` in nginx. "
        "And name the listener with ``--forwarded``, or the forwarder's clients all count as the "
        "forwarder's host (``forwarder.rst``).",
    ),
    Mistake(
        "client-too-slow",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='the handshake took too long "
        "(--handshake-timeout)'",
        "The client began to speak SOCKS and did not finish in time: it hangs, or the line to "
        "it is bad.",
        "A single one: nothing. If all clients of a bad line end so, give them more time: "
        "``--handshake-timeout 60``.",
    ),
    Mistake(
        "too-many-handshakes",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=limit why='there are too many unfinished handshakes "
        "(--max-handshakes N)'",
        "So many clients had begun to speak and not finished that the oldest had to go, of the "
        "address that had most: a scanner or an attack.",
        "Block that address in the firewall. If they are honest clients, raise "
        "``--max-handshakes``.",
    ),
    Mistake(
        "client-stopped-halfway",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='the client closed before it had said all'",
        "The client left in the middle of the handshake: a port scanner, a program that was "
        "ended, or one that does not understand the answer it got. A health check that greets and "
        "hears ``05 00`` has no line.",
        "A single one: nothing. If one program always ends so, try it with another version of "
        "SOCKS.",
    ),
    Mistake(
        "ended-by-the-proxy",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=shutdown",
        "The proxy was asked to end while this connection was open, and waited for it as long "
        "as ``--grace`` says.",
        "Give connections more time with ``--grace 60``.",
    ),
    Mistake(
        "descriptors-used-up",
        IN_THE_LOG,
        "at capacity: accept: Too many open files; waiting for connections to end",
        "As many connections are open as the system lets this process have; two descriptors "
        "each. New clients wait; when there is room again, the log says so.",
        "The line ``room for`` at the start says how many fit. ``ulimit -n 4096`` in the shell "
        "that starts it, or ``LimitNOFILE=4096`` for a service of systemd, makes room for "
        "1900.",
    ),
    Mistake(
        "no-descriptor-for-the-target",
        IN_THE_LOG,
        "id=N client=CLIENT ... end=refused why='ADDRESS: Too many open files'",
        "The client got the last descriptor, and there is none for the connection to its target.",
        "Make room as for `Descriptors used up`_.",
        reply=1,
    ),
    Mistake(
        "threads-used-up",
        IN_THE_LOG,
        "at capacity: no new thread: can't start new thread; going on with N",
        "The system has no room for another thread. Clients are served by those that there are; "
        "when there is room again, the log says so.",
        "``ulimit -u`` shows how many the user may have, ``free`` what memory is left.",
    ),
    Mistake(
        "nobody-listens",
        AT_THE_CLIENT,
        "curl: (7) Failed to connect to HOST port PORT...",
        "No proxy listens at this address: it does not run, or on another port, or only on "
        "127.0.0.1 while the client is on another host.",
        "On the proxy's host, ``ss -ltn`` shows who listens where. For clients on the network "
        "start it with ``-l :1080 --allow-lan``, and let the port through the firewall.",
    ),
    Mistake(
        "curl-shows-92",
        AT_THE_CLIENT,
        "curl: (N) Can't complete SOCKS4 connection to ... (92), request rejected because SOCKS "
        "server cannot connect to identd on the client.",
        "The proxy asks the hosts of SOCKS4 clients who they are (``--ident``), and this one could "
        "not be asked.",
        "Write ``socks5h://``; or see `No identd`_.",
    ),
    Mistake(
        "curl-shows-93",
        AT_THE_CLIENT,
        "curl: (N) Can't complete SOCKS4 connection to ... (93), request rejected because the "
        "client program and identd report different user-ids.",
        "The name in the proxy's URL (without one: none) is not the user that this host says curl "
        "runs as.",
        "``socks4a://NAME@HOST:1080`` with the name that ``id -un`` prints; or see `Another user "
        "by ident`_ and `Identd names nobody`_.",
    ),
    Mistake(
        "http-proxy-set-at-the-client",
        AT_THE_CLIENT,
        "This is a SOCKS proxy, and it was spoken to in HTTP.",
        "The client is set to use this as an HTTP proxy: in a browser, the wrong field is filled "
        "in; or the variable ``http_proxy`` begins with ``http://``.",
        "Fill in the field for SOCKS, v5, and empty the others. For programs that read "
        "variables: ``ALL_PROXY=socks5h://HOST:1080``.",
    ),
    Mistake(
        "client-resolves-names-itself",
        AT_THE_CLIENT,
        "curl: (N) Could not resolve host: NAME",
        "With ``socks5://`` (or ``socks4://``) the client asks its own name servers before it "
        "speaks to the proxy: they may not know the name, and they learn where you go. In the "
        "log ``dst=`` then shows addresses only.",
        "Write ``socks5h://`` (or ``socks4a://``); in Firefox tick "
        '"Proxy DNS when using SOCKS v5".',
    ),
)

#: All that there are, in the order of the document.
CATALOGUE = EXPLAINED + SLIPS + _SERVING
