"""Time limits of a call: trainings stop softly before them, everything else is interrupted."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import NoReturn

__all__ = ["Deadline", "OutOfTime"]


class OutOfTime(BaseException):  # no library is to take it for an error of its own
    """The call has used up its time; what was done is on disk."""


class Deadline:
    """The end of a call.

    Parameters
    ----------
    seconds
        From now; None for no end.
    """

    def __init__(self, seconds: float | None) -> None:
        self.end = None
        if seconds is not None:
            margin = min(10.0, 0.1 * seconds)
            self.end = time.monotonic() + seconds - 1.5 * margin
            # What does not look at the clock is interrupted a little later; again if need be, for
            # an exception inside a destructor is lost.
            signal.signal(signal.SIGALRM, _interrupt)
            signal.setitimer(signal.ITIMER_REAL, seconds - margin, 1.0)

    @property
    def left(self) -> float:
        """Seconds left, without end if there is none."""
        return float("inf") if self.end is None else self.end - time.monotonic()

    def over(self) -> bool:
        """Whether it is time to write what is there, and stop."""
        return self.left <= 0

    def close(self) -> None:
        """Let the rest of the process take what time it needs."""
        if self.end is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001  as signal calls it
    raise OutOfTime
