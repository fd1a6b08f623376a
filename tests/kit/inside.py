"""What the tests know of the package's private parts: each private name stands here only.

A test that has to look inside says by these functions what it looks for, so that a change
inside the package changes one line here.
"""

import functools

import minisocks
from minisocks import compat
from minisocks.net import capacity, lookup, pipes, threads
from minisocks.net.loop import Loop, run_in
from minisocks.policy import passwords
from minisocks.relay.pair import Pair
from minisocks.service import pidfile

# The loop


def jobs(loop, kind=object):
    """Return the jobs of *loop* that are of *kind*."""
    return [job for job in list(loop._jobs) if isinstance(job, kind)]


def add_job(loop, job):
    """Count *job* among those of *loop*, which does not run."""
    loop._jobs.add(job)


def forget_jobs(loop):
    """Have *loop* have no job: what stands for one in a test cannot be closed."""
    loop._jobs.clear()


def has_calls(loop):
    """Return whether *loop* has something to do that another thread has asked for."""
    return bool(loop._calls)


def timers(loop):
    """Return all timers of *loop*, cancelled ones too."""
    return [entry[2] for entry in list(loop._timers.entries)]


def timer_entries(loop):
    """Return when each timer of *loop* comes, its number, and the timer."""
    return list(loop._timers.entries)


def cancelled_timers(loop):
    """Return how many timers of *loop* are cancelled, and how many it counts as that."""
    timers = loop._timers
    return sum(timer.callback is None for _, _, timer in timers.entries), timers.cancelled


def seconds_to_timer(loop):
    """Return the seconds until *loop* wakes by a timer; -1.0: it does not."""
    return run_in(loop, loop._timers.seconds_left)


def wake(loop):
    """Have *loop* make a round."""
    loop._waker.wake()


def sleeps(loop):
    """Return whether *loop* waits, or is about to."""
    return loop._sleeping


def watched(loop):
    """Return the descriptors that *loop* watches."""
    return set(loop._watching)


def wrap_poller(loop, kind):
    """Have *loop* wait by a *kind* around its poller; return it."""
    loop._poller = kind(loop._poller)
    return loop._poller


def bulk_descriptors(loop):
    """Return the descriptors that *loop* keeps apart because they move much."""
    return loop._bulk


def has_bulk_poller(loop):
    """Return whether *loop* has a poller for those."""
    return loop._bulk_poller is not None


def forbid_bulk_poller(monkeypatch):
    """Have no loop make a poller for those, as where there is no epoll."""
    monkeypatch.setattr(Loop, "_nest_poller", lambda loop: False)


def end_wait_for_look(loop):
    """Have *loop* look at its processor again as soon as it counts enough rounds."""
    loop._look_at = 0.0


# Relayed connections


def flows(pair):
    """Return both directions of *pair*: the client's bytes, the target's."""
    return pair._up, pair._down


def record(job):
    """Return the record of a *job*: a pair, or an association."""
    return job._record


def wrap_pump(monkeypatch, wrapper):
    """Have pairs move bytes by *wrapper*: it gets the real function, the pair and the flow."""
    real = Pair._pump
    monkeypatch.setattr(Pair, "_pump", lambda *args: wrapper(real, *args))


def wrap_bulk_pump(monkeypatch, wrapper):
    """Likewise for bytes that go through a pipe; *wrapper* gets the pipe, too."""
    real = Pair._pump_bulk
    monkeypatch.setattr(Pair, "_pump_bulk", lambda *args: wrapper(real, *args))


def check_kept_pipe(pair, up, down):
    """Have *pair* look whether its receivers have taken bytes since *up* and *down*."""
    pair._kept.check(up, down)


def shed(memory):
    """Have *memory* look at once whether connections have to end."""
    memory._shed()


def memory_limit(memory):
    """Return its limit, in bytes."""
    return memory._limit


def set_memory_limit(memory, limit):
    """Have *memory* keep to *limit*, in bytes."""
    memory._limit = limit


def looks_for_stalled(memory, loop):
    """Return whether *loop* tells *memory* when a connection has stalled."""
    return memory._check == loop.on_stalled


def look_at_idle(idle):
    """Have *idle* look at once whether nothing has come since its last look."""
    idle._look()


def kept_bytes(pipes):
    """Return how many bytes are in pipes that wait to be used again."""
    return pipes._kept_bytes


def is_pipe_missed(pipes):
    """Return whether *pipes* had none to give, and waits before it tries again."""
    return bool(pipes._retry_at)


def end_wait_for_pipes(pipes):
    """Have *pipes* try again at once to make one."""
    pipes._retry_at = 0.001


def pipe_ends(pipe):
    """Return the descriptors of *pipe*: to read, and to write."""
    return pipe._reader, pipe._writer


def replace_splice(monkeypatch, wrapper):
    """Have pipes splice by *wrapper*, which gets the real function first; None: there is none."""
    real = pipes._splice
    monkeypatch.setattr(pipes, "_splice", wrapper and functools.partial(wrapper, real))


# Rates


def throttles(rates):
    """Return the throttles of *rates*, one for each client."""
    return list(rates._throttles.values())


def tokens(bucket):
    """Return the bytes that *bucket* gives at once."""
    return bucket._tokens


def set_tokens(bucket, count):
    """Have *bucket* give *count* bytes at once."""
    bucket._tokens = count


def depth(bucket):
    """Return the most bytes that *bucket* holds."""
    return bucket._depth


def spent_tokens(bucket):
    """Return the bytes that *bucket* has given."""
    return bucket._depth - bucket._tokens


def rate_of(bucket):
    """Return how many bytes come into *bucket* each second."""
    return bucket._rate


def waiting_in(lane):
    """Return the jobs that wait for tokens in *lane*, the next one first."""
    return [job for job, _budget in list(lane._waiting)]


def lane_timer(lane):
    """Return the timer by which *lane* reads on; None while it needs none."""
    return lane._timer


def read_on(lane):
    """Have what waits in *lane* read on at once, as far as there are tokens."""
    lane._resume()


def share(job):
    """Return what a *job*, a pair or an association, has of its client's rate; None: no limit."""
    return job._share


# Requests that wait


def session(job):
    """Return the session of a *job* that waits for a peer, a name or a connection."""
    return job._session


def end_waiting(job):
    """Have the time of a *job* that waits be over."""
    job._session.services.loop.call_soon(job, job._end)


def wrap_listener(bind, kind):
    """Have *bind* accept its peer from a *kind* around its listening socket."""
    bind._listener.sock = kind(bind._listener.sock)


def is_dialing(connect):
    """Return whether *connect* has addresses, and waits for a connection to one of them."""
    return bool(connect._dial)


def after_new_dial(monkeypatch, kind, action):
    """Have *action* called each time that a *kind*, a ``Connect``, has made its dial."""
    new_dial = kind._new_dial

    def make(connect, addresses):
        dial = new_dial(connect, addresses)
        action()
        return dial

    monkeypatch.setattr(kind, "_new_dial", make)


# Associations


def relay_socket(association):
    """Return the socket that the client sends to."""
    return association._relay


def target_sockets(association):
    """Return the sockets towards targets."""
    return list(association._targets.values())


def read_target(association, sock):
    """Have *association* read *sock*, for a target whose header has *size* bytes."""
    association._from_target(sock, (4, ""))


def control_connection(association):
    """Return the TCP connection that the association lives as long as."""
    return association._control


def replace_control(association, other):
    """Have *other* stand for that connection."""
    association._control = other


def client_ports(association):
    """Return from which ports the client may send."""
    return association._ports


def names_timer(routes):
    """Return the timer by which *routes* forgets names whose addresses may have changed."""
    return routes._timer


def lookups(routes):
    """Return the lookups that *routes* waits for."""
    return [lookup for lookup, _waiting in routes._names._lookups.values()]


def routes(association):
    """Return where the association's datagrams go."""
    return association._routes


def is_known_target(mappings, ip, port):
    """Return whether *mappings* knows that target, without a use of it."""
    return any(
        ip in contacts and (ip, port) in contacts for contacts in (mappings._new, mappings._old)
    )


def used_ports(table):
    """Return the ports of the range that are taken."""
    return table.ports._used


def shares(table):
    """Return what clients share: associations, and sockets for targets."""
    return table._associations, table._targets


def held_datagrams(table):
    """Return the allowance of bytes that wait, for all clients."""
    return table._held


# Quotas and limits


def items(quota):
    """Return what *quota* counts, by client."""
    return quota._items


def sums(quota):
    """Return the sums that *quota* keeps by group; None while it needs none."""
    return quota._sums


def is_empty(queue):
    """Return whether *queue* keeps nothing, of no client."""
    return not queue._waiting and not queue._counts


def by_group(allowance):
    """Return what each group holds of *allowance*."""
    return allowance._by_group


def counted(limits):
    """Return the connections that *limits* counts: by client, and by user."""
    return limits._clients, limits._users


def pending_quota(pending):
    """Return the quota of pending handshakes."""
    return pending._quota


def waiting_derivations(logins):
    """Return how many logins wait for their password to be derived."""
    return len(logins._derivations)


def forget_verified(logins, verified):
    """Have *logins* know of no right password but those in *verified*."""
    logins._verified = verified


def derive_by_hand(*args):
    """Derive a key as without OpenSSL: hash function, password, salt, iterations, pause."""
    return passwords._by_hand(*args)


def wrap_derivation_by_hand(monkeypatch, wrapper):
    """Have keys be derived by *wrapper*, which gets the real function first."""
    monkeypatch.setattr(passwords, "_by_hand", functools.partial(wrapper, passwords._by_hand))


def set_iterations_at_once(monkeypatch, count):
    """Have a derivation pause after each *count* iterations."""
    monkeypatch.setattr(passwords, "_ITERATIONS_AT_ONCE", count)


def set_derivation_seconds(logins, seconds):
    """Have a derivation take *seconds*, as far as *logins* knows."""
    logins._derivation_seconds = seconds


def wait_seconds(logins, conn, credentials, users):
    """Return the seconds that a login by *conn* would have to wait now."""
    from minisocks.server.logins import _Login

    return logins._wait_seconds(_Login(conn, credentials, users))


def row_of(client, user, users):
    """Return the row in which failures of *user* at *client* are counted."""
    from minisocks.server.logins import _row_of

    return _row_of(client, user, users)


def replace_clock(owner, clock):
    """Have *owner* (logins, answers) go by *clock*."""
    owner._clock = clock


# Rules


def kept_decisions(decisions):
    """Return what *decisions* remembers."""
    return decisions._kept


def known_sources(rules):
    """Return the addresses of clients of which *rules* remembers which rules may match."""
    return rules._by_source


# Extra attempts of dials


def look_at_attempts(extras):
    """Have *extras* look at once whether attempts have to be given up."""
    extras._look()


def leave_no_room(extras):
    """Have no attempt begin any more: as if three descriptors too many were in use."""
    extras._room = lambda: -3


def attempts_timer(extras):
    """Return the timer by which *extras* looks."""
    return extras._timer


def held_attempts(extras):
    """Return the attempts that *extras* may give up."""
    return extras._held


# The acceptor, the resolver, the log


def servers_polled(acceptor):
    """Return the servers that *acceptor* accepts for, by descriptor."""
    return acceptor._listeners.servers


def handler_counts(acceptor):
    """Return how many handler threads of *acceptor* have not begun, and how many there are."""
    return acceptor._fresh, acceptor._count


def slow_handlers(acceptor):
    """Return how many handler threads of *acceptor* are slow."""
    return acceptor._slow_count


def waits_for_descriptors(acceptor):
    """Return whether *acceptor* waits because no descriptor is left."""
    return acceptor._listeners._descriptors._is_short


def services_of(acceptor):
    """Return the services that *acceptor* uses."""
    return acceptor._services


def call_before_look(conn, call):
    """Have *call* made just before the thread of *conn* looks whether its client has left."""
    look = type(conn)._has_closed

    class Watched(type(conn)):
        __slots__ = ()

        def _has_closed(self, why):
            call()
            return look(self, why)

    conn.__class__ = Watched


def acceptor_of(proxy):
    """Return the acceptor of a *proxy* that runs."""
    return proxy._run.acceptor


def end_of_run(proxy):
    """Return the event that is set when all of a *proxy* that runs has ended."""
    return proxy._run.ended


def endpoints(proxy):
    """Return what listens for a *proxy* that runs, each with its listener."""
    return proxy._run._all_endpoints()


def has_thread(reporter):
    """Return whether the thread of *reporter* runs."""
    return bool(reporter._workers.threads)


def busy_threads(resolver):
    """Return how many threads of *resolver* are at work."""
    return len(resolver._busy)


def known_names(answers):
    """Return what *answers* keeps, by name: until when, its size and the outcome."""
    return answers._known.copy()


def waiting_lines(log):
    """Return how many lines wait for the thread that writes *log*."""
    return len(log._waiting)


def descriptor_of(log):
    """Return the descriptor of a log's file."""
    return log._fd


def forget_last_look(log):
    """Have *log* look again at once whether its file is still there."""
    log._looked_at -= 1.0


def forget_last_try(log):
    """Have *log* try again at once to reach syslog."""
    log._tried_at -= 1.0


def counted_groups(suppression):
    """Return how many groups of repeated lines are counted."""
    return suppression._size


def count_of_kinds(suppression):
    """Return how many kinds of repeated lines are known."""
    return len(suppression._kinds)


def known_sites(budget):
    """Return the places in the source of which *budget* has seen the first line."""
    return budget._sites


def end_record(record, end, seconds):
    """Have *record* be one that has ended as *end*, after *seconds*."""
    record.end, record._clock = end, -seconds


# The pidfile


def pidfile_directories():
    """Return the directories for pidfiles of users other than root."""
    return list(pidfile._directories())


#: A statement for a child process, in which there is no directory for pidfiles then.
NO_PIDFILE_DIRECTORIES = "import minisocks.service.pidfile as p; p._directories = tuple"


def set_pidfile_directories(monkeypatch, paths):
    """Have *paths* be those directories."""
    monkeypatch.setattr(pidfile, "_directories", lambda: iter(paths))


# Signals

#: Lines for a child process: ``Noting`` is ``Signals`` that adds each signal to ``called``.
NOTING_SIGNALS = """
from minisocks.service.signals import Signals
class Noting(Signals):
    def _note(self, number, frame):
        called.append(number)
"""


# The system, and the package


def homes():
    """Return from which module of the package each public name is loaded."""
    return minisocks._HOMES


def hide_linux(monkeypatch):
    """Have ``compat`` take this system for another one."""
    monkeypatch.setattr(compat, "_IS_LINUX", False)


def replace_thread_start(monkeypatch, start):
    """Have threads start by *start*, which gets the thread."""
    monkeypatch.setattr(threads, "_start_without_signals", start)


def set_available_memory(monkeypatch, count):
    """Have the system have *count* bytes of memory; 0 or None: that is not known."""
    monkeypatch.setattr(capacity, "_available_memory", lambda: count)


def replace_getaddrinfo(monkeypatch, function):
    """Have the system's resolver be *function*."""
    monkeypatch.setattr(lookup, "_getaddrinfo", function)


def set_no_data_error(monkeypatch, code):
    """Have *code* be the error of getaddrinfo for a name without an address of the family."""
    monkeypatch.setattr(lookup, "_NO_DATA", code)


def wrap_bind(ports, wrapper):
    """Have *ports* bind sockets by *wrapper*, which gets the real method first."""
    ports._bind = functools.partial(wrapper, ports._bind)


def kernel_of(own_addresses):
    """Return the ``KernelRoutes`` that *own_addresses* asks."""
    return own_addresses._kernel


def open_sockets(kernel):
    """Return the sockets that *kernel* asks by, one for each process."""
    return kernel._by_process


def forget_answers(netlink):
    """Have *netlink* forget its answers, as when another thread hears of a change."""
    netlink._answers = {}


# The control channel


def control_socket(control):
    """Return the socket that commands connect to."""
    return control._sock


def replace_control_socket(control, other):
    """Have *other* stand for that socket."""
    control._sock = other
