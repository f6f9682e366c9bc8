"""A target that counts SIGUSR1 in a shared file: its first eight bytes are the count, the next eight SIGCONTs."""

import mmap
import os
import signal
import struct
import sys

with open(sys.argv[1], "r+b") as file:
    shared = mmap.mmap(file.fileno(), 16)


def count(signum: int, _frame: object) -> None:
    at = 0 if signum == signal.SIGUSR1 else 8
    struct.pack_into("Q", shared, at, struct.unpack_from("Q", shared, at)[0] + 1)


signal.signal(signal.SIGUSR1, count)
if "--sigcont" in sys.argv:
    signal.signal(signal.SIGCONT, count)
wake_read, wake_write = os.pipe()
os.set_blocking(wake_write, False)
signal.set_wakeup_fd(wake_write)  # pause() alone would sleep over a signal that comes just before it
print("ready", flush=True)
while True:
    os.read(wake_read, 4096)
