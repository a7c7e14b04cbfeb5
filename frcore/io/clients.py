"""Programs that fetch, pip and npm, watched: whether they wait for an answer or are just slow."""

import contextlib
import os
import re
import subprocess
import sys
import time

# a source that has said nothing is given up after a client has waited so long; what a busy machine
# or a slow disk takes is no waiting for an answer, but has an end as well
ANSWER_S, BUSY_S = 3.8, 120.0


class NoAnswer(Exception):
    """A client that waits in vain, or does not come to ask."""


def watch(process: subprocess.Popen, arriving: bytes | None = None) -> str:
    """A client's output, when it has ended. Raises NoAnswer where it waited for ANSWER_S.

    arriving: what it says when the answer is there; then it may take its time.
    """
    output, waited, began = b"", 0.0, time.monotonic()
    stream = process.stdout.buffer  # type: ignore[union-attr]  # a pipe of text
    os.set_blocking(stream.fileno(), False)
    last = began
    while True:
        chunk = stream.raw.read(65536)
        output += chunk or b""
        if chunk == b"" and process.poll() is not None:
            return output.decode(errors="replace")
        now = time.monotonic()
        if _waits(process.pid):
            waited += min(now - last, 0.1)  # this process may have been kept waiting itself
        last = now
        if not (arriving and re.search(arriving, output)):
            if waited > ANSWER_S:
                raise NoAnswer("no answer")
            if now - began > BUSY_S:
                raise NoAnswer(f"this machine is too busy to ask: after {BUSY_S:.0f} s no answer")
        time.sleep(0.02)


def _waits(pid: int) -> bool:
    """Whether a process waits for others; not for the processor, nor for a disk."""
    if sys.platform != "linux":  # nobody tells the one from the other
        return True
    import psutil

    try:
        return psutil.Process(pid).status() == psutil.STATUS_SLEEPING
    except psutil.Error:
        return False


def kill(process: subprocess.Popen) -> None:
    """End a client that still runs, and its children."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
