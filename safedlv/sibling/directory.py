"""A session's private directory, and in it the one that a container is given: for dlv's socket, and a FIFO, its log."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Final

from safedlv.session.launch import no_directory

LOG: Final = "log"
LOG_BYTES: Final = 1 << 20  # what a FIFO may hold for one without privilege (/proc/sys/fs/pipe-max-size, pipe(7))


def make(inside: str, links: dict[str, str]) -> int:
    """Make the session's directory and ``inside``, the one in it for the container; returns dlv's log, open.

    ``links``: symbolic links for the container, name to goal. Raises SafedlvError.
    """
    directory = os.path.dirname(inside)
    try:
        os.mkdir(directory, 0o700)
        os.mkdir(inside)
        os.chmod(inside, 0o777)  # noqa: S103  the directory around it lets nobody in but us
        fifo = os.path.join(inside, LOG)
        os.mkfifo(fifo)
        os.chmod(fifo, 0o666)  # noqa: S103  as above
        for name, goal in links.items():
            os.symlink(goal, os.path.join(inside, name))
        log = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # with a writer of our own it has no end
    except OSError as error:
        raise no_directory(directory, error) from error
    with contextlib.suppress(OSError):  # room for what dlv writes when we are killed and it must still leave
        fcntl.fcntl(log, fcntl.F_SETPIPE_SZ, LOG_BYTES)
    return log
