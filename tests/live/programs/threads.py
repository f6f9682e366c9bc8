"""A target with many threads (``threads.py 1000``), or one that starts and ends threads all the time (``churn``)."""

import sys
import threading

forever = threading.Event()
threading.stack_size(256 * 1024)
if sys.argv[1] == "churn":
    print("ready", flush=True)
    while True:
        batch = [threading.Thread(target=int) for _ in range(4)]
        for thread in batch:
            thread.start()
        for thread in batch:
            thread.join()
for _ in range(int(sys.argv[1]) - 1):
    threading.Thread(target=forever.wait, daemon=True).start()
print("ready", flush=True)
forever.wait()
