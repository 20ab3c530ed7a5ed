"""Runs a command and kills it when standard input ends: a child dies with its parent where the kernel offers no such thing.

`python -I -S guard.py COMMAND...`: the parent holds the other end of the pipe on standard input and writes nothing, so
the pipe ends when the parent closes it or dies, whatever killed it. Only the standard library: it runs without the
environment's paths.
"""

import os
import signal
import subprocess
import sys
import threading


def main(argv: list[str]) -> int:
    """Runs `argv` until it ends or standard input does. Returns its exit code; a signal's number is re-raised on itself."""
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)

    def forward(number: int, _frame: object) -> None:
        child.send_signal(number)

    def kill_at_end_of_input() -> None:
        while os.read(0, 4096):
            pass
        child.kill()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    threading.Thread(target=kill_at_end_of_input, daemon=True).start()
    code = child.wait()
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
