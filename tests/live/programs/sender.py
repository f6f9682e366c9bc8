"""Send SIGUSR1 a thousand times a second, each when the one before was counted; stops at the end of its input.

Prints how many were sent. A signal that is never counted is a lost one: then it fails, with the number.
"""

import mmap
import os
import select
import signal
import struct
import sys
import time

pid, path = int(sys.argv[1]), sys.argv[2]
with open(path, "r+b") as file:
    shared = mmap.mmap(file.fileno(), 16)
sent = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    os.kill(pid, signal.SIGUSR1)
    sent += 1
    deadline = time.monotonic() + 10
    while struct.unpack_from("Q", shared)[0] < sent:
        if time.monotonic() > deadline:
            sys.exit(f"signal {sent} was lost")
        time.sleep(0.0002)
    time.sleep(0.0005)
print(sent)
