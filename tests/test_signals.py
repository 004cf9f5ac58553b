"""The program in a process of its own: interrupts and closed pipes end it quietly."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk

import jaxclear


@pytest.fixture
def copper(tmp_path):
    bulk("Cu").write(tmp_path / "Cu.cif")
    return tmp_path


def script(*arguments, **options):
    command = [sys.executable, "-m", "jaxclear", *map(str, arguments)]
    paths = [str(Path(jaxclear.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_signal_ends_the_program_without_a_traceback(copper):
    process = script("classify", "--no-pictures", *["Cu.cif"] * 1500, cwd=copper)
    assert process.stdout.readline().startswith("structure")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_closed_pipe_ends_quietly(copper):
    process = script("classify", "Cu.cif", "--no-pictures", cwd=copper)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) == 141
    assert err == ""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_an_interrupt_that_a_library_drops_comes_again():
    code = (
        "import gc, os, signal, time\n"
        "from jaxclear.commands.terminal import insistent_interrupts\n"
        "def collected(*_):\n"
        "    gc.callbacks.remove(collected)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "try:\n"
        "    with insistent_interrupts():\n"
        "        gc.callbacks.append(collected)\n"
        "        gc.collect()\n"
        "        print('dropped', flush=True)\n"
        "        time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    print('again')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    assert ended.stdout.split() == ["dropped", "again"]
    assert ended.stderr == ""
