"""What all commands share: messages and progress on standard error, tables on standard output."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_CLEAR = "\r\x1b[K"


class Progress:
    """A live line on standard error, when that is a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown = 0.0

    def show(self, words: str, *, force: bool = False) -> None:
        """Replaces the line, at most ten times a second unless `force` is given."""
        now = time.monotonic()
        if self._live and (force or now - self._shown > 0.1):
            self._shown = now
            sys.stderr.write(f"{_CLEAR}{words}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Wipes the line, before anything else is printed."""
        if self._live:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()


def one_line(error: BaseException | str) -> str:
    """Returns a message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def complain(message: BaseException | str) -> None:
    """Prints one line about something that went wrong."""
    print(f"jaxclear: error: {one_line(message)}", file=sys.stderr)


def fitted(words: str, width: int) -> str:
    """Returns text of that width: filled up, or its end after an ellipsis."""
    return words.ljust(width) if len(words) <= width else "…" + words[1 - width :]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Returns rows in columns under a header; the first `left` columns are flush left, the others flush right."""
    widths = [max(len(row[k]) for row in (header, *rows)) for k in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(w) if k < left else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]])


def folder(path: Path, *, make: bool = True) -> Path:
    """Returns a folder for results, made if it is not there.

    Args:
        path: its name.
        make: False only checks that it is no file.

    Raises:
        ValueError: it cannot be made, or is a file.
    """
    try:
        if make or path.exists():
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"expected a folder for the results, got {str(path)!r}: {error.strerror or error}") from error
    return path


@contextlib.contextmanager
def insistent_interrupts() -> Iterator[None]:
    """Ctrl-C is raised again every two seconds until it gets through.

    Python drops what is raised within a callback of a library, of the garbage collector's among others, and with it an
    interrupt that happens to arrive there; what it would print of that is left out.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 2.0)
        raise KeyboardInterrupt

    hook = sys.unraisablehook

    def report(dropped: Any) -> None:
        if dropped.exc_type is not KeyboardInterrupt:
            hook(dropped)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGALRM)}
    sys.unraisablehook = report
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in before.items():
            signal.signal(number, handler)


def keep_compiled_programs() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX was told of another or none can be made.

    JAX_ENABLE_COMPILATION_CACHE=false in the environment turns it off.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxclear" / "compiled"
        try:
            base.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        if os.access(base, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(base))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def processors_as_devices(number: int | None) -> None:
    """Lets JAX have several devices on the host's processor, for programs that leave cores of one of them idle.

    Before anything is computed; nothing happens where the environment, or the process already, has a number.

    Args:
        number: how many; by default as many as this process may use cores.
    """
    import jax

    from jaxclear.cpu_threads import threads_for
    from jaxclear.worker_processes import cores

    told = jax.config.jax_num_cpu_devices != -1  # pyright: ignore[reportAttributeAccessIssue]
    if number is None and (told or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")):
        return
    # JAX refuses when it has its devices already.
    with contextlib.suppress(RuntimeError):
        number = number or cores()
        os.environ.setdefault("NPROC", str(threads_for(number)))
        jax.config.update("jax_num_cpu_devices", number)
