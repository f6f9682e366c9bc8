"""The target as the kernel shows it while dlv holds it, and how to bring it to a stand that can be left safely.

dlv halts a running target with kill(pid, SIGTRAP) (pkg/proc/native/proc_linux.go: requestManualStop). When the target
stops for another reason first, a breakpoint or the end of a step, that SIGTRAP stays queued; after the detach it is
delivered to a program that knows nothing of it, and a Go program dies. dlv does not look; the kernel shows it
(SigPnd and ShdPnd in /proc/PID/task/TID/status). Continuing once lets dlv take it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from itertools import cycle

from safedlv.session.wire import frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

STILL = 8  # samples in a row
SAMPLE = 0.003  # seconds between two samples: longer than dlv's own stops and starts within one step
OBEYS_WITHIN = 1.0  # seconds for dlv to act on a halt, before it is told again
OBEYS_SOON = 0.2  # the same where it will be told something else
GIVES_UP_AFTER = 15.0
TAKES_EVERY = 0.02  # seconds
CHUNK = 1 << 20
SIGTRAP_BIT = 1 << (signal.SIGTRAP - 1)
FIRST_ID = 1 << 40  # no client counts that far
FIRST_OF_RELAY = FIRST_ID + 1000
"""What the relay asks is numbered from here; the keeper from FIRST_ID."""
JSON_RPC = {
    "halt": b'{"method":"RPCServer.Command","params":[{"name":"halt"}],"id":%d}\n',
    "continue": b'{"method":"RPCServer.Command","params":[{"name":"continue"}],"id":%d}\n',
    "detach": b'{"method":"RPCServer.Detach","params":[{"Kill":false}],"id":%d}\n',
}
NUDGE = (
    b'{"seq":%d,"type":"request","command":"setBreakpoints",'
    b'"arguments":{"source":{"path":"/safedlv/no-such-source"},"breakpoints":[]}}'
)
"""Makes dlv stop the target and go on, and sets nothing. dlv since 1.26 drops every pause between the attach to a
program that uses cgo and its first stop: it takes the pause for a word to downloads of debug information that it might
be making (service/dap/server.go: onPauseRequest; pkg/proc/target_exec.go: cancelDownloads)."""
DAP = {
    "halt": b'{"seq":%d,"type":"request","command":"pause","arguments":{"threadId":1}}',
    "nudge": NUDGE,
    "continue": b'{"seq":%d,"type":"request","command":"continue","arguments":{"threadId":1}}',
    "detach": b'{"seq":%d,"type":"request","command":"disconnect","arguments":{"terminateDebuggee":false}}',
}


class Bystander:
    """Watches a target that process ``dlv`` debugs. ``voice``: a connection to dlv and the first byte sent on it.

    ``alone``: nobody else reads from that connection any more.
    """

    def __init__(
        self, dlv: int, pidfd: int, target: int, voice: tuple[socket.socket, bytes] | None, *, alone: bool = False
    ) -> None:
        self.dlv, self.pidfd, self.target, self.voice, self.alone = dlv, pidfd, target, voice, alone
        self.number = FIRST_ID

    def stand_still(self, within: float) -> bool:
        """Halt the target if it runs, and continue it as often as it takes for no SIGTRAP to be queued on it.

        Whether that is so after at most ``within`` seconds; it is also when dlv holds the target no more.
        """
        deadline = time.monotonic() + within
        told, orders = 0.0, cycle(self._orders())
        while time.monotonic() < deadline and not ended(self.pidfd, 0) and traces(self.dlv, self.target):
            self._take_answers()
            stands = self.stands()
            if stands and not self.trap_is_queued():
                return True
            if stands:
                self.tell("continue")
                self._wait_while(self.trap_is_queued)
            elif time.monotonic() - told > (OBEYS_SOON if self._is_dap() else OBEYS_WITHIN):
                self.tell(next(orders))
                told = time.monotonic()
        return ended(self.pidfd, 0) or not traces(self.dlv, self.target)

    def ends(self, within: float) -> bool:
        """Whether dlv ends within so many seconds."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            self._take_answers()
            if ended(self.pidfd, min(TAKES_EVERY, max(0.0, deadline - time.monotonic()))):
                return True
        return ended(self.pidfd, 0)

    def _take_answers(self) -> None:
        """Take what dlv still says off it: while it cannot say it, to a client that has vanished, it hears nothing."""
        if self.voice is None or not self.alone:
            return
        try:
            while self.voice[0].recv(CHUNK, socket.MSG_DONTWAIT):
                pass
        except OSError:  # nothing more for now, or it has ended
            return

    def _is_dap(self) -> bool:
        return self.voice is not None and self.voice[1] == b"C"

    def _orders(self) -> tuple[str, ...]:
        """What to tell dlv, one after the other, until the target stands."""
        return ("halt", "nudge") if self._is_dap() else ("halt",)

    def stands(self) -> bool:
        """Whether every thread is in a tracing stop, and stays there."""
        first = self.standing()
        for _ in range(STILL):
            if first is None or self.standing() != first:
                return False
            ended(self.pidfd, SAMPLE)
        return True

    def standing(self) -> list[bytes] | None:
        """How often each thread has gone to sleep so far (proc_pid_status(5)), where all are in a tracing stop: one
        that ran between two looks has gone to sleep once more. None when one is in no such stop.
        """
        texts = [_after(f"/proc/{self.target}/task/{tid}/status", b"\nState:\t") for tid in self._threads()]
        if not all(text.startswith(b"t") for text in texts):
            return None
        return [text.partition(b"voluntary_ctxt_switches:")[2] for text in texts]

    def trap_is_queued(self) -> bool:
        """Whether a SIGTRAP waits for it, which would kill it once dlv has let go."""
        masks = (
            _after(f"/proc/{self.target}/task/{tid}/status", key).split()
            for tid in self._threads()
            for key in (b"\nSigPnd:", b"\nShdPnd:")
        )
        return any(mask and int(mask[0], 16) & SIGTRAP_BIT for mask in masks)

    def _threads(self) -> list[str]:
        try:
            return os.listdir(f"/proc/{self.target}/task")
        except OSError:
            return []

    def _wait_while(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + OBEYS_WITHIN
        while condition() and time.monotonic() < deadline and not ended(self.pidfd, SAMPLE):
            pass

    def tell(self, what: str) -> bool:
        """Tell dlv to ``halt``, ``continue`` or ``detach``, in the protocol of the connection; False: nobody to tell.

        The reply is nobody's: dlv ends soon.
        """
        if self.voice is None:
            return False
        connection, first = self.voice
        self.number += 1
        message = frame(DAP[what] % self.number) if first == b"C" else JSON_RPC[what] % self.number
        try:
            connection.settimeout(OBEYS_WITHIN)
            connection.sendall(message)
        except OSError:
            return False
        return True


def traces(dlv: int, target: int) -> bool:
    """Whether a thread of process ``dlv`` traces ``target`` (TracerPid names the tracing thread)."""
    tracer = tracer_of(target)
    return tracer > 0 and _number(f"/proc/{tracer}/status", b"\nTgid:") == dlv


def tracer_of(tid: int) -> int:
    """The thread that traces a thread (TracerPid, proc_pid_status(5)); 0 for nobody, or when it has ended."""
    return _number(f"/proc/{tid}/status", b"\nTracerPid:")


def ended(pidfd: int, timeout: float) -> bool:
    """Whether the process behind ``pidfd`` ends within ``timeout`` seconds (pidfd_open(2))."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def _number(path: str, key: bytes) -> int:
    return int((_after(path, key).split() or [b"0"])[0])


def _after(path: str, key: bytes) -> bytes:
    """What follows the last ``key`` in a file; empty when either is not there."""
    try:
        with open(path, "rb") as file:
            before, _, rest = file.read().rpartition(key)
    except OSError:
        return b""
    return rest if before else b""
