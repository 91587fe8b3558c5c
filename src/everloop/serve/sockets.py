"""Binds where a server listens and sees to the files that connections need. Knows nothing of what is served."""

import resource
import signal
import socket

from everloop.serve.journal import say

BACKLOG = 1024
OTHER_FILES = 256
GIVE = b"?"
"""Asks a process, over its channel, for the socket on which it listens."""
REPLACED = signal.SIGUSR2
"""Tells a process that another one has its place: it finishes what it has, and ends."""
DRAIN_SECONDS = 20.0
"""How long what is in flight may take when a process ends. Whoever ends one waits longer than this."""


def listen(host: str, port: int, *, share_port: bool) -> socket.socket:
    """A bound TCP socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def allow_files(connections: int) -> None:
    """Let this process have a file for each connection, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if most > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < wanted:
            say("few files", connections=connections, files=most, remedy="raise the limit of open files (ulimit -n)")


def cannot_listen(host: str, port: int | str, error: OSError | OverflowError) -> str:
    because = getattr(error, "strerror", None) or str(error)
    return f"Cannot listen on {host}:{port}: {because}. Choose another --port or --host."
