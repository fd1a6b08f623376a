"""The command line as other systems' Python would run it: without what that one lacks.

::

    python other_systems.py windows status -l 1080

A kernel can only be had by having it; but what raises AttributeError or ImportError there does
so here, too.
"""

import os
import runpy
import sys

#: What is there on Linux and not on the other system: modules by name, and names by module.
#: Of CPython's documentation ("Availability"), for 3.6 to 3.13, where one of them lacks it.
#: SOCK_NONBLOCK stays: Python 3.6 itself takes that bit, which this kernel gives, from a type.
LACKS = {
    "windows": {
        "modules": (
            "_posixsubprocess crypt fcntl grp pty pwd readline resource spwd syslog termios tty"
        ),
        "os": (
            "O_CLOEXEC O_DIRECTORY O_NDELAY O_NOATIME O_NOCTTY O_NOFOLLOW O_NONBLOCK "
            "O_PATH O_SYNC O_TMPFILE WNOHANG chown confstr ctermid eventfd fchdir fchmod "
            "fchown fork forkpty get_blocking getegid geteuid getgid getgroups getloadavg "
            "getpgid getpgrp getpriority getresgid getresuid getsid getuid initgroups "
            "killpg lchown lockf major mkfifo mknod nice pathconf pidfd_open pipe2 "
            "posix_fadvise posix_fallocate posix_spawn pread preadv pwrite pwritev readv "
            "register_at_fork sched_get_priority_max sched_getaffinity sched_getparam "
            "sched_getscheduler sched_setaffinity sched_setparam sched_setscheduler "
            "sched_yield sendfile set_blocking setegid seteuid setgid setgroups setpgid "
            "setpriority setregid setresgid setresuid setreuid setsid setuid splice "
            "statvfs fstatvfs sync sysconf sysconf_names tcgetpgrp tcsetpgrp ttyname "
            "uname wait wait3 wait4 waitid writev"
        ),
        "select": "epoll poll EPOLLIN EPOLLOUT EPOLLRDHUP POLLIN POLLOUT POLLRDHUP",
        "signal": (
            "SIGALRM SIGCHLD SIGCONT SIGHUP SIGIO SIGKILL SIGPIPE SIGPOLL SIGPROF SIGQUIT "
            "SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGUSR1 SIGUSR2 SIGWINCH alarm pause "
            "pthread_kill pthread_sigmask setitimer siginterrupt sigpending sigtimedwait "
            "sigwait sigwaitinfo"
        ),
        "socket": (
            "AF_NETLINK AF_PACKET AF_UNIX CMSG_LEN CMSG_SPACE IP_BIND_ADDRESS_NO_PORT "
            "MSG_DONTWAIT MSG_ERRQUEUE MSG_NOSIGNAL SCM_RIGHTS SO_BINDTODEVICE SO_DOMAIN "
            "SO_INCOMING_CPU SO_MARK SO_PEERCRED SO_PRIORITY SO_PROTOCOL SO_REUSEPORT "
            "TCP_CONGESTION TCP_CORK TCP_DEFER_ACCEPT TCP_INFO TCP_KEEPCNT TCP_KEEPIDLE "
            "TCP_KEEPINTVL TCP_QUICKACK TCP_USER_TIMEOUT sethostname"
        ),
    },
    "darwin": {
        "modules": "spwd",
        "os": (
            "O_NOATIME O_PATH O_TMPFILE eventfd getresgid getresuid pidfd_open pipe2 "
            "posix_fadvise posix_fallocate sched_getaffinity sched_getparam "
            "sched_getscheduler sched_setaffinity sched_setparam sched_setscheduler "
            "setresgid setresuid splice"
        ),
        "select": "epoll EPOLLIN EPOLLOUT EPOLLRDHUP POLLRDHUP",
        "signal": "SIGPOLL sigtimedwait sigwaitinfo",
        "fcntl": "DN_ACCESS DN_CREATE DN_DELETE DN_MULTISHOT DN_RENAME F_NOTIFY F_SETSIG",
        "socket": (
            "AF_NETLINK AF_PACKET IP_BIND_ADDRESS_NO_PORT MSG_ERRQUEUE MSG_NOSIGNAL "
            "SO_BINDTODEVICE SO_DOMAIN SO_INCOMING_CPU SO_MARK SO_PEERCRED SO_PRIORITY "
            "SO_PROTOCOL TCP_CONGESTION TCP_CORK TCP_DEFER_ACCEPT TCP_INFO TCP_KEEPIDLE "
            "TCP_QUICKACK TCP_USER_TIMEOUT"
        ),
    },
}

#: Methods of sockets that Windows lacks.
METHODS = {"windows": ("sendmsg", "recvmsg", "recvmsg_into", "sendmsg_afalg"), "darwin": ()}


def become(system):
    """Take from this process what *system* lacks."""
    import _socket
    import logging.handlers  # noqa: F401  # with what it needs: these know what they may use
    import socketserver
    import subprocess  # noqa: F401

    import click  # noqa: F401

    lacks = dict(LACKS[system])
    for name in lacks.pop("modules").split():
        sys.modules[name] = None
    for module, names in lacks.items():
        for name in names.split():
            for owner in [__import__(module)] + [_socket] * (module == "socket"):
                if hasattr(owner, name):
                    delattr(owner, name)
    for name in METHODS[system]:
        _take_method(name)
    if system == "windows":
        socketserver.socket.socketpair = _socketpair
    sys.platform = {"windows": "win32", "darwin": "darwin"}[system]
    if system == "windows":
        os.supports_dir_fd = os.supports_effective_ids = os.supports_fd = set()


def _socketpair():
    """Return two TCP sockets: what the standard library makes of it there."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        one = socket.create_connection(listener.getsockname())
        return one, listener.accept()[0]


def _take_method(name):
    """Have sockets raise AttributeError: their class is C's, and keeps its methods."""
    import socket

    def missing(self):
        raise AttributeError("no %s" % name)

    setattr(socket.socket, name, property(missing))


if __name__ == "__main__":
    become(sys.argv[1])
    sys.argv[:2] = ["minisocks"]
    sys.path[0] = os.getcwd()
    runpy.run_module("minisocks", run_name="__main__", alter_sys=True)
