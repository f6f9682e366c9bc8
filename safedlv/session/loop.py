"""One poller, and who reacts to what: the loop that a session runs in."""

from __future__ import annotations

import contextlib
import os
import select
import signal

from safedlv.session.duties import Duties
from safedlv.session.launch import LEAVING, release_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from safedlv.session.channel import Channel

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Loop:
    """Descriptors and the calls to make when they can be read or written.

    On epoll(7) itself: what the module selectors adds is as much work as all else that a request costs here.
    """

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.watched: dict[int, tuple[int, Callable[[int], object]]] = {}
        self.duties = Duties()

    def round(self) -> None:
        """Wait until something happens or a duty is due, and react to it."""
        ready = [(fd, mask, self.watched.get(fd)) for fd, mask in self.epoll.poll(self.duties.wait())]
        for fd, mask, known in ready:
            if known is not None and self.watched.get(fd) is known:  # not dropped by an earlier event of this round
                known[1](mask)
        self.duties.run()

    def on_leaving(self, leave: Callable[[int], None]) -> None:
        """Call ``leave(signal)`` on SIGINT, SIGTERM and SIGHUP, which may have been held back until now."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for sign in LEAVING:
            signal.signal(sign, lambda signum, _frame: leave(signum))
        release_signals()
        self.watch(wake_read, READ, lambda _: os.read(wake_read, 64))

    def watch(self, fd: int, events: int, call: Callable[[int], object]) -> None:
        """Call ``call(mask)`` when one of ``events`` happens on ``fd``; with no events: watch it no more."""
        known = self.watched.get(fd)
        if known is None:
            if events:
                self.epoll.register(fd, events)
                self.watched[fd] = (events, call)
        elif not events:
            self.unwatch(fd)
        elif known[0] != events or known[1] is not call:
            self.epoll.modify(fd, events)
            self.watched[fd] = (events, call)

    def unwatch(self, fd: int) -> None:
        """Watch it no more; no matter whether it was watched."""
        if self.watched.pop(fd, None):
            with contextlib.suppress(OSError):  # it was closed before
                self.epoll.unregister(fd)

    def watch_channel(self, channel: Channel, call: Callable[[int], object], *, reads: bool) -> None:
        """Call ``call(mask)`` when the channel has something to read, if ``reads``, or has room for what waits."""
        writes = WRITE if channel.waiting else 0
        if channel.source == channel.sink:
            self.watch(channel.source, (READ if reads else 0) | writes, call)
        else:
            self.watch(channel.source, READ if reads else 0, call)
            self.watch(channel.sink, writes, call)

    def unwatch_channel(self, channel: Channel) -> None:
        self.unwatch(channel.source)
        self.unwatch(channel.sink)
