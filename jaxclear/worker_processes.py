"""Processes beside this one for work on the host: they never outlive it, and leave its devices and Ctrl-C to it."""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import multiprocessing.context
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import jax

__all__ = ["TransientError", "cores", "mapped", "pool"]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class TransientError(OSError):
    """What may well succeed when the same is started again: a process was killed, a disk full, a device failed."""

    exit_code = 75
    """Of a command, as sysexits.h has it."""


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def pool(
    number: int, prepare: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[concurrent.futures.Executor]:
    """Gives a pool of processes; in the end what it has not begun is dropped, and what it has begun is waited for.

    Args:
        number: how many.
        prepare: called in each before its first work, with the arguments.
        arguments: sent once a process.

    Raises:
        TransientError: a process ended by itself.
    """
    context = _Started()
    executor = _Pool(number, context, _begin, (prepare, arguments))
    try:
        yield executor
    except BrokenProcessPool as error:
        raise TransientError(
            "a worker process ended by itself: killed for its memory, or crashed by what it was given; start again "
            "with fewer workers; in Python, 0 workers show the crash in this process"
        ) from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        context.wait()


@contextlib.contextmanager
def mapped(
    function: Callable[[Any], Any], number: int, *, chunk: int = 4
) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """Gives a function that applies `function` to many things, in order: here, or in processes of its own.

    Args:
        function: that can be pickled, where processes are asked for.
        number: of processes; 0 for this one alone.
        chunk: things that a process is sent at once.
    """
    if number == 0:
        yield functools.partial(map, function)
        return
    with pool(number) as executor:
        yield functools.partial(executor.map, function, chunksize=chunk)


class _Started(multiprocessing.context.SpawnContext):
    """Starts processes, and waits for them; a forked process would inherit the locks of JAX's threads.

    The executor would wait for its thread. Python 3.11 takes a thread for ended where Ctrl-C breaks such a wait off,
    and so ends before the thread has told the processes to end: both are then there for ever.
    """

    def __init__(self) -> None:
        super().__init__()
        self._processes: list[multiprocessing.context.SpawnProcess] = []

    def Process(  # noqa: N802  # pyright: ignore[reportIncompatibleVariableOverride]  # a class, but it is only called
        self, *args: Any, **kwargs: Any
    ) -> multiprocessing.context.SpawnProcess:
        """Returns a process that is not started yet."""
        process = super().Process(*args, **kwargs)
        self._processes.append(process)
        return process

    def wait(self) -> None:
        """Waits until those that were started have ended."""
        for process in self._processes:
            if process.pid is not None:
                process.join()


class _Pool(concurrent.futures.ProcessPoolExecutor):
    """Starts a process when work is submitted, with what it inherits from the thread that submits."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        with _without_interrupts(), _one_thread_each():
            return super().submit(fn, *args, **kwargs)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that this thread starts do not hear Ctrl-C: the one who started them does, and ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Linear algebra of the processes keeps to one thread each, unless the user has set how many.

    As many threads as cores in each of them would stand in each other's way.
    """
    unset = [name for name in _THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, "1"))
    try:
        yield
    finally:
        for name in unset:
            os.environ.pop(name, None)


def _begin(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    jax.config.update("jax_platforms", "cpu")
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _end_with(parent: Any) -> None:
    """Ends this worker when its parent was killed: nobody else would."""
    parent.join()
    os._exit(1)
