"""A target that counts SIGUSR1 in a shared file: its first eight bytes are the count, the next eight SIGCONTs."""

import mmap
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
print("ready", flush=True)
while True:
    signal.pause()
