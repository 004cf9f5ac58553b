"""Progress of a training on standard error: a live line on a terminal, one line an epoch elsewhere."""

import sys
import time

__all__ = ["Progress"]

_CLEAR = "\r\x1b[K"


class Progress:
    """Reports steps and epochs with rate, time left and accuracy.

    Attributes:
        epochs: Epochs of the whole training.
        steps: Steps of an epoch.
    """

    def __init__(self, epochs: int, steps: int, *, quiet: bool = False) -> None:
        self.epochs, self.steps = epochs, steps
        self._stream = None if quiet else sys.stderr
        self._live = self._stream is not None and self._stream.isatty()
        self._first = self._epoch_started = self._shown = time.monotonic()
        self._done = 0

    def step(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
        """Shows, at most five times a second, where step `step` (from 1) of epoch `epoch` (from 0) stands."""
        now = time.monotonic()
        if self._done == 0:
            self._first = now  # the first step compiles: it says nothing about the rate
        self._done += 1
        if self._stream is None or not self._live or self._done < 2 or (now - self._shown < 0.2 and step < self.steps):
            return
        self._shown = now
        self._stream.write(
            f"{_CLEAR}epoch {epoch + 1}/{self.epochs}  step {step}/{self.steps}  {self._pace(epoch, step, now)}  "
            f"loss {loss:.4f}  accuracy {accuracy:.2%}"
        )
        self._stream.flush()

    def epoch(self, epoch: int, loss: float, accuracy: float, validation_accuracy: float | None) -> None:
        """Closes epoch `epoch` (from 0) with a line of its own."""
        if self._stream is None:
            return
        now = time.monotonic()
        validation = "" if validation_accuracy is None else f"  validation {validation_accuracy:.2%}"
        self._stream.write(
            f"{_CLEAR if self._live else ''}epoch {epoch + 1}/{self.epochs}  loss {loss:.4f}  "
            f"accuracy {accuracy:.2%}{validation}  {_clock(now - self._epoch_started)}  "
            f"{self._pace(epoch, self.steps, now)}\n"
        )
        self._stream.flush()
        self._epoch_started = now

    def _pace(self, epoch: int, step: int, now: float) -> str:
        """Rate and time left, over all the steps since the first; a training of one step has no rate."""
        if self._done < 2:
            return "- steps/s  - left"
        rate = (self._done - 1) / max(now - self._first, 1e-9)
        left = (self.epochs - epoch) * self.steps - step
        return f"{rate:.1f} steps/s  {_clock(left / rate)} left"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
