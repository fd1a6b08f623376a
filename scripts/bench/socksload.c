/* socksload: a load generator for SOCKS5 proxies, and the target it talks to through them.
 *
 *   socksload target                      listen on a free port, say "port=N", serve for ever
 *   socksload MODE PROXY_PORT TARGET_PORT CONNECTIONS SECONDS
 *
 * PROXY_PORT 0 means no proxy: straight to the target; PORT,PORT means a chain: the client asks
 * the first proxy for the second one, and that for the target.  Everything is on 127.0.0.1.
 *   down   each connection receives as fast as it can
 *   up     each connection sends as fast as it can
 *   both   both at once; bytes are the sum of the two directions
 *   ping   64 bytes there and back on each open connection, again and again
 *   conn   connect, handshake, one byte there and back, close, again
 *   name   as conn, but asks for the name "localhost" (ATYP 3) instead of 127.0.0.1
 *   udp    associations, each with 8 datagrams of 200 bytes on their way there and back
 *   keep   as hold, with associations that have sent nothing
 *   hold   open all, say "ready", wait, then count those that still echo
 * Prints "go" when the warm-up is over and "stop" when the measurement is, then one line of
 * key=value pairs.  TERM ends a measurement or a wait early, in good order.
 *
 * Whatever was not answered as it should be is counted in "failed", from the first handshake
 * on; so is what has had no answer at all by the end.
 *
 * The first byte a client sends tells the target what to do on that connection:
 * E echo, S send for ever, K swallow, B send for ever and swallow.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    BUF = 256 * 1024,
    MAXEV = 512,
    RAMP = 64,       /* handshakes at once while connections are opened */
    RAMP_LIMIT = 60, /* seconds for all of them */
    ECHO_LIMIT = 10, /* seconds for all held connections to echo */
    WINDOW = 8,      /* datagrams of an association on their way */
    DATAGRAM = 200,  /* bytes of data */
};
static char buf[BUF];
static int ep;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void say(const char *line)
{
    puts(line);
    fflush(stdout);
}

static void arm(int op, int fd, uint32_t events, void *p)
{
    struct epoll_event e = { .events = events, .data.ptr = p };
    if (epoll_ctl(ep, op, fd, &e)) die("epoll_ctl");
}

static struct sockaddr_in local(int port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static int is_sender(char kind) { return kind == 'S' || kind == 'B'; }

/* ---- target ---------------------------------------------------------- */
struct served { int fd; char kind; };

static void take_in(int listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct served *s = calloc(1, sizeof *s);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        s->fd = fd;
        arm(EPOLL_CTL_ADD, fd, EPOLLIN, s);
    }
}

/* Return 1 if bytes moved, 0 if none did, -1 if the connection is over. */
static int serve_once(struct served *s, uint32_t events)
{
    int busy = 0;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t r = recv(s->fd, buf, s->kind == 'E' ? 4096 : BUF, 0);
        if (r == 0 || (r < 0 && errno != EAGAIN)) return -1;
        if (r > 0) busy = 1;
        if (r > 0 && s->kind == 'E' && send(s->fd, buf, r, MSG_NOSIGNAL) != r) return -1;
    }
    if (is_sender(s->kind)) {
        ssize_t w = send(s->fd, buf, BUF, MSG_NOSIGNAL);
        if (w < 0 && errno != EAGAIN) return -1;
        if (w > 0) busy = 1;
    }
    return busy;
}

/* A few reads and writes, so that one connection cannot keep the others waiting. */
static void serve(struct served *s, uint32_t events)
{
    int state = 1;
    if (!s->kind) {
        if (read(s->fd, &s->kind, 1) != 1) state = -1;
        else if (is_sender(s->kind)) arm(EPOLL_CTL_MOD, s->fd, EPOLLIN | EPOLLOUT, s);
    }
    for (int k = 0; state > 0 && k < 4; k++) state = serve_once(s, events);
    if (state < 0) {
        close(s->fd);
        free(s);
    }
}

/* Echo datagrams on the port, in a process that ends with this one. */
static void echo_datagrams(struct sockaddr_in a)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0), big = 4 << 20;
    pid_t parent = getpid();
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &big, sizeof big);
    if (bind(fd, (void *)&a, sizeof a)) die("target, UDP");
    if (fork()) {
        close(fd);
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) exit(0); /* it has ended already */
    for (;;) {
        struct sockaddr_in from;
        socklen_t l = sizeof from;
        ssize_t r = recvfrom(fd, buf, BUF, 0, (void *)&from, &l);
        if (r >= 0) sendto(fd, buf, r, 0, (void *)&from, l);
    }
}

static void target(void)
{
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in a = local(0);
    socklen_t l = sizeof a;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    /* Not an ephemeral port: after a storm of connections all of them may be in TIME_WAIT. */
    for (int tries = 0; bind(listener, (void *)&a, sizeof a); tries++) {
        if (tries == 100) die("target");
        a.sin_port = htons(20000 + (getpid() * 31 + tries) % 12000);
    }
    if (listen(listener, 4096)) die("target");
    getsockname(listener, (void *)&a, &l);
    echo_datagrams(a);
    printf("port=%d\n", ntohs(a.sin_port));
    fflush(stdout);
    arm(EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
    for (;;) {
        struct epoll_event ev[MAXEV];
        int n = epoll_wait(ep, ev, MAXEV, -1);
        for (int i = 0; i < n; i++) {
            if (ev[i].data.ptr) serve(ev[i].data.ptr, ev[i].events);
            else take_in(listener);
        }
    }
}

/* ---- clients --------------------------------------------------------- */
enum state { CONNECTING, GREETED, REQUESTED, OPEN };
/* got: bytes of the reply, or of the echo, that are there.  t0: seconds, of the last start.
 * hop: proxies of the chain that have connected to the next one. */
struct conn { int fd; enum state st; int got; int hop; unsigned char in[300]; double t0; int echoed; };

static struct { int proxy_port, next_port, target_port, n; double secs; const char *name; } job;
static char mode_byte;
static int visits, by_name, holds, measuring; /* visits: each connection is closed, then made anew */
static volatile sig_atomic_t enough;
static double *took;                          /* seconds of each visit or ping */
static long ntook, captook, opened, failed, echoes;
static uint64_t bytes;

static void on_term(int sig) { enough = sig; }

static void note(double s)
{
    if (!measuring) return;
    if (ntook == captook) took = realloc(took, (captook = captook ? 2 * captook : 65536) * sizeof *took);
    took[ntook++] = s;
}

static int compare(const void *a, const void *b)
{
    double x = *(double *)a - *(double *)b;
    return x < 0 ? -1 : x > 0;
}

static double us(double quantile) { return ntook ? took[(long)(quantile * (ntook - 1))] * 1e6 : 0; }

static void start(struct conn *c)
{
    int one = 1;
    struct sockaddr_in a = local(job.proxy_port ? job.proxy_port : job.target_port);
    struct linger reset = { 1, 0 }; /* no TIME_WAIT on this side: ports are few */
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (visits) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    c->st = CONNECTING;
    c->got = c->hop = 0;
    c->t0 = now();
    if (connect(c->fd, (void *)&a, sizeof a) && errno != EINPROGRESS) die("connect");
    arm(EPOLL_CTL_ADD, c->fd, EPOLLOUT, c);
}

static void finish(struct conn *c, int ok)
{
    if (!ok) failed++;
    close(c->fd);
    c->fd = -1;
    if (visits) start(c);
}

/* What is sent always fits into an empty socket buffer; a reset shows at the next recv. */
static void put(struct conn *c, const void *p, int n) { (void)!send(c->fd, p, n, MSG_NOSIGNAL); }

static void ping(struct conn *c)
{
    c->got = 0;
    c->t0 = now();
    put(c, buf, 64);
}

static void granted(struct conn *c)
{
    c->st = OPEN;
    c->got = 0;
    opened++;
    put(c, &mode_byte, 1);
    if (mode_byte != 'E') {
        arm(EPOLL_CTL_MOD, c->fd, (mode_byte != 'K' ? EPOLLIN : 0) | (mode_byte != 'S' ? EPOLLOUT : 0), c);
        return;
    }
    arm(EPOLL_CTL_MOD, c->fd, EPOLLIN, c);
    if (visits) put(c, "x", 1);
    else if (!holds) ping(c);
}

static void request(struct conn *c)
{
    int chained = job.next_port && !c->hop, port = chained ? job.next_port : job.target_port;
    unsigned char q[] = { 5, 1, 0, 1, 127, 0, 0, 1, port >> 8, port };
    unsigned char named[] = "\5\1\0\3\11localhost..";
    if (!by_name || chained) {
        put(c, q, sizeof q);
        return;
    }
    memcpy(named + 14, q + 8, 2);
    put(c, named, 16);
}

static void greet(struct conn *c)
{
    put(c, "\5\1\0", 3);
    c->st = GREETED;
    c->got = 0;
}

/* Bytes of the message that is awaited, as far as those that are there tell. */
static int expected(struct conn *c)
{
    if (c->st == GREETED) return 2;
    if (c->got < 5) return 5;
    return c->in[3] == 1 ? 10 : c->in[3] == 4 ? 22 : 7 + c->in[4];
}

static void shake_hands(struct conn *c)
{
    do {
        ssize_t r = recv(c->fd, c->in + c->got, expected(c) - c->got, 0);
        if (r < 0 && errno == EAGAIN) return;
        if (r <= 0) { finish(c, 0); return; }
        c->got += r;
        if (c->got >= 2 && c->in[1]) { finish(c, 0); return; } /* METHOD or REP is not 0 */
    } while (c->got < expected(c));
    if (c->st == REQUESTED && job.next_port && !c->hop++) { greet(c); return; }
    if (c->st == REQUESTED) { granted(c); return; }
    c->st = REQUESTED;
    c->got = 0;
    request(c);
}

static void connected(struct conn *c)
{
    int err;
    socklen_t l = sizeof err;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &l);
    if (err) { finish(c, 0); return; }
    if (!job.proxy_port) { granted(c); return; }
    greet(c);
    arm(EPOLL_CTL_MOD, c->fd, EPOLLIN, c);
}

static void echoed(struct conn *c)
{
    ssize_t r = recv(c->fd, c->in, 64, 0);
    if (r < 0 && errno == EAGAIN) return;
    if (r <= 0) { finish(c, 0); return; }
    if (holds) { echoes += !c->echoed; c->echoed = 1; return; }
    if (!visits && (c->got += r) < 64) return;
    note(now() - c->t0);
    if (visits) finish(c, 1);
    else ping(c);
}

static void move_bytes(struct conn *c, uint32_t events)
{
    for (int k = 0, busy = 1; busy && k < 4; k++) {
        busy = 0;
        if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
            ssize_t r = recv(c->fd, buf, BUF, 0);
            if (r == 0 || (r < 0 && errno != EAGAIN)) { finish(c, 0); return; }
            if (r > 0) { bytes += measuring ? r : 0; busy = 1; }
        }
        if (mode_byte != 'S') {
            ssize_t w = send(c->fd, buf, BUF, MSG_NOSIGNAL);
            if (w < 0 && errno != EAGAIN) { finish(c, 0); return; }
            if (w > 0) { bytes += measuring ? w : 0; busy = 1; }
        }
    }
}

static void step(struct conn *c, uint32_t events)
{
    if (c->st == CONNECTING) connected(c);
    else if (c->st != OPEN) shake_hands(c);
    else if (mode_byte == 'E') echoed(c);
    else move_bytes(c, events);
}

static void spin(double until)
{
    double t;
    while (!enough && (t = now()) < until) {
        struct epoll_event ev[MAXEV];
        int n = epoll_wait(ep, ev, MAXEV, (int)((until - t) * 1000) + 1);
        for (int i = 0; i < n; i++) step(ev[i].data.ptr, ev[i].events);
    }
}

static void open_all(struct conn *c)
{
    int next = 0, ramp = visits ? job.n : RAMP;
    double limit = now() + RAMP_LIMIT;
    while (next < job.n && next < ramp) start(&c[next++]);
    while (!visits && opened + failed < job.n && now() < limit && !enough) {
        spin(now() + 0.002);
        while (next < job.n && next - (opened + failed) < ramp) start(&c[next++]);
    }
}

/* Connections that have waited for an answer since before the time given (seconds), or whose
 * turn to start never came. */
static long unanswered(struct conn *c, double since)
{
    long count = 0;
    for (int i = 0; i < job.n; i++)
        count += !c[i].t0 || (c[i].fd >= 0 && c[i].t0 < since && (c[i].st != OPEN || mode_byte == 'E'));
    return count;
}

static void hold(struct conn *c)
{
    long broken;
    double limit;
    printf("ready opened=%ld failed=%ld\n", opened, job.n - opened);
    fflush(stdout);
    spin(now() + job.secs);
    enough = 0;
    for (int i = 0; i < job.n; i++)
        if (c[i].fd >= 0 && c[i].st == OPEN) put(&c[i], "y", 1);
    for (limit = now() + ECHO_LIMIT; echoes < opened && now() < limit;) spin(now() + 0.01);
    broken = job.n - echoes;
    printf("mode=hold connections=%d alive=%ld failed=%ld\n", job.n, echoes, broken);
}

/* ---- datagrams ------------------------------------------------------- */
struct association { int fd; double heard; };

static void receive(int fd, int size)
{
    for (int got = 0, r; got < size; got += r)
        if ((r = recv(fd, buf + got, size - got, 0)) <= 0) die("handshake");
}

/* Have the proxy open an association; return where it takes datagrams. */
static struct sockaddr_in associate(void)
{
    static const unsigned char request[10] = { 5, 3, 0, 1 };
    struct sockaddr_in a = local(job.proxy_port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (void *)&a, sizeof a) || send(fd, "\5\1\0", 3, 0) != 3) die("connect");
    receive(fd, 2);
    if (send(fd, request, sizeof request, 0) != sizeof request) die("request");
    receive(fd, 10);
    if (buf[1]) {
        fprintf(stderr, "UDP ASSOCIATE: REP %d\n", buf[1]);
        exit(1);
    }
    memcpy(&a.sin_addr, buf + 4, 4);
    memcpy(&a.sin_port, buf + 8, 2);
    return a;
}

/* Say "ready", wait, then count the associations that still echo. */
static void keep(struct association *s, const void *full, int size)
{
    struct epoll_event ev[MAXEV];
    long alive = 0;
    printf("ready opened=%d failed=0\n", job.n);
    fflush(stdout);
    for (double until = now() + job.secs; !enough && now() < until;) epoll_wait(ep, ev, MAXEV, 1000);
    for (int i = 0; i < job.n; i++) send(s[i].fd, full, size, 0);
    for (double until = now() + ECHO_LIMIT; alive < job.n && now() < until;) {
        int k = epoll_wait(ep, ev, MAXEV, 50);
        for (int i = 0; i < k; i++) alive += recv(((struct association *)ev[i].data.ptr)->fd, buf, BUF, 0) == size;
    }
    printf("mode=keep connections=%d alive=%ld failed=%ld\n", job.n, alive, job.n - alive);
}

static void exchange(void)
{
    int keeps = !strcmp(job.name, "keep");
    struct association *s = calloc(job.n, sizeof *s);
    unsigned char full[10 + DATAGRAM] = { 0, 0, 0, 1, 127, 0, 0, 1, job.target_port >> 8, job.target_port };
    int skip = job.proxy_port ? 0 : 10, size = sizeof full - skip, big = 1 << 20;
    for (int i = 0; i < job.n; i++) {
        struct sockaddr_in to = job.proxy_port ? associate() : local(job.target_port);
        s[i].fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        setsockopt(s[i].fd, SOL_SOCKET, SO_RCVBUF, &big, sizeof big);
        if (connect(s[i].fd, (void *)&to, sizeof to)) die("connect, UDP");
        arm(EPOLL_CTL_ADD, s[i].fd, EPOLLIN, &s[i]);
        s[i].heard = now();
        for (int k = 0; !keeps && k < WINDOW; k++) send(s[i].fd, full + skip, size, 0);
    }
    if (keeps) {
        keep(s, full + skip, size);
        return;
    }
    long count = 0, lost = 0;
    double from = now() + (job.secs > 1 ? 0.5 : 0.1), t;
    while (!enough && (t = now()) < from + job.secs) {
        struct epoll_event ev[MAXEV];
        if (!measuring && t >= from) {
            measuring = 1;
            count = lost = 0;
            say("go");
        }
        int k = epoll_wait(ep, ev, MAXEV, 50);
        t = now();
        for (int i = 0; i < k; i++) {
            struct association *x = ev[i].data.ptr;
            while (recv(x->fd, buf, BUF, 0) > 0) {
                count++;
                x->heard = t;
                send(x->fd, full + skip, size, 0);
            }
        }
        for (int i = 0; i < job.n; i++) {
            if (t - s[i].heard < 0.2) continue;
            lost++; /* all of the window: begin anew */
            s[i].heard = t;
            send(s[i].fd, full + skip, size, 0);
        }
    }
    say("stop");
    printf("mode=udp connections=%d failed=%ld count=%ld per_s=%.1f\n", job.n, lost, count, count / job.secs);
}

static void measure(struct conn *c)
{
    double t, length;
    spin(now() + (job.secs > 1 ? 0.5 : 0.1)); /* warm-up */
    bytes = 0;
    measuring = 1;
    say("go");
    t = now();
    spin(t + job.secs);
    length = now() - t;
    say("stop");
    failed += unanswered(c, t);
    printf("mode=%s connections=%d failed=%ld ", job.name, job.n, failed);
    if (mode_byte != 'E') {
        printf("bytes=%llu bytes_per_s=%.0f\n", (unsigned long long)bytes, bytes / length);
        return;
    }
    qsort(took, ntook, sizeof *took, compare);
    printf("count=%ld per_s=%.1f us_p50=%.1f us_p99=%.1f\n", ntook, ntook / length, us(.5), us(.99));
}

/* Return whether there is such a mode. */
static int choose(const char *name)
{
    static const char modes[][5] = { "down", "up", "both", "ping", "conn", "name", "hold" };
    static const char kinds[] = "SKBEEEE";
    for (int i = 0; i < 7; i++)
        if (!strcmp(name, modes[i])) mode_byte = kinds[i];
    by_name = !strcmp(name, "name");
    visits = by_name || !strcmp(name, "conn");
    holds = !strcmp(name, "hold");
    return mode_byte;
}

int main(int argc, char **argv)
{
    struct rlimit files;
    struct conn *c;
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* never outlive the benchmark */
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    ep = epoll_create1(0);
    if (argc == 2 && !strcmp(argv[1], "target")) target();
    if (argc != 6 || (strcmp(argv[1], "udp") && strcmp(argv[1], "keep") && !choose(argv[1]))) {
        fprintf(stderr, "usage: socksload target\n"
                        "       socksload down|up|both|ping|conn|name|udp|keep|hold PROXY_PORT TARGET_PORT CONNECTIONS SECONDS\n");
        return 2;
    }
    signal(SIGTERM, on_term);
    job.name = argv[1];
    job.proxy_port = atoi(argv[2]);
    if (strchr(argv[2], ',')) job.next_port = atoi(strchr(argv[2], ',') + 1);
    job.target_port = atoi(argv[3]);
    job.n = atoi(argv[4]);
    job.secs = atof(argv[5]);
    if (!mode_byte) {
        exchange();
        return 0;
    }
    c = calloc(job.n, sizeof *c);
    for (int i = 0; i < job.n; i++) c[i].fd = -1;
    open_all(c);
    if (holds) hold(c);
    else measure(c);
    return 0;
}
