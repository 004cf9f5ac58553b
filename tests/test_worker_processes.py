"""Processes beside this one end when it is told to end, however often."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from effort import few_of
from jaxclear.worker_processes import mapped

INTERRUPTED = """
import os, signal, threading, time
from jaxclear.worker_processes import mapped

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

if __name__ == "__main__":
    try:
        with mapped(time.sleep, {processes}, chunk=1) as work:
            for number, _ in enumerate(work([0.0] + [{seconds}] * 9)):
                if number == 0:
                    threading.Timer(0.5, interrupt).start()
                    interrupt()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def busy(seconds):
    """Works for so long, by the processor's clock."""
    while time.process_time() < seconds:
        pass
    return seconds


@pytest.mark.skipif(os.name == "nt", reason="counted on POSIX")
def test_what_they_used_is_counted_when_they_have_ended():
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with mapped(busy, 1) as work:
        assert list(work([0.5])) == [0.5]
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before > 0.4


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("processes", few_of([1, 2], 2))
def test_a_second_interrupt_while_work_is_waited_for_does_not_leave_them_behind(processes, tmp_path):
    file = tmp_path / "interrupted.py"
    file.write_text(INTERRUPTED.format(processes=processes, seconds=2.0))
    begun = subprocess.Popen([sys.executable, file], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, _ = begun.communicate(timeout=60)  # until nobody has its standard output, the processes neither
    finally:
        if begun.poll() is None:
            os.killpg(begun.pid, signal.SIGKILL)
            begun.wait()
    assert out == "interrupted\n"
    assert begun.returncode == 0
