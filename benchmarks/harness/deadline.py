"""Time limits of a call: trainings stop softly before the limit, everything else is interrupted."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import NoReturn, Self

__all__ = ["INTERRUPTED", "Deadline", "OutOfTime"]

#: Exit code of a call that ran out of time; the next call continues.
INTERRUPTED = 75


class OutOfTime(BaseException):  # not an Exception, which a library might catch and swallow
    """The call has used up its time; its results so far are on disk."""


class Deadline:
    """The end of a call: a context that ends its block when the time is over.

    Parameters
    ----------
    seconds
        From now; None for no end.
    """

    def __init__(self, seconds: float | None) -> None:
        self.end = None
        self.exit_code = 0
        if seconds is not None:
            margin = min(10.0, 0.1 * seconds)
            self.end = time.monotonic() + seconds - 1.5 * margin
            # Code that does not look at the clock is interrupted a little later; again if need be,
            # for an exception inside a destructor is lost.
            signal.signal(signal.SIGALRM, _interrupt)
            signal.setitimer(signal.ITIMER_REAL, seconds - margin, 1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if self.end is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if kind is not OutOfTime:
            return False
        self.exit_code = INTERRUPTED
        print("out of time: run the same command again to continue", flush=True)
        return True

    def over(self) -> bool:
        """Return True when it is time to write the results so far, and stop."""
        return self.end is not None and time.monotonic() >= self.end


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001  as signal calls it
    raise OutOfTime
