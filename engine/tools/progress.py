"""How a long replay says how far it is: on stderr, a live bar on a terminal, else a plain line every two seconds.

Nothing here is on the path of a decision. The clock is an argument, so that tests own time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from types import TracebackType
from typing import Protocol, TextIO

# A line every two seconds is alive to a human and no burden to a log file; a bar is smooth at ten frames a second.
LINE_INTERVAL_S = 2.0
BAR_INTERVAL_S = 0.1


class Display(Protocol):
    """Where a snapshot of the progress goes."""

    interval_s: float

    def show(self, text: str, fraction: float | None) -> None:
        """Show the state of the run."""

    def finish(self, text: str) -> None:
        """Show the last state and let go of the stream."""


class Progress:
    """Counts of a running replay, shown now and then; a context manager.

    ``total_fraction`` returns how much of the input has been read, 0 to 1, or is None where that is not known: then
    neither percent nor time left are shown. ``stream`` is stderr by default.
    """

    def __init__(
        self,
        total_fraction: Callable[[], float] | None,
        stream: TextIO | None = None,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total_fraction = total_fraction
        self._clock = clock
        self._display = choose_display(sys.stderr if stream is None else stream) if enabled else None
        self._started_s = clock()
        self._shown_s = self._started_s
        self._shown_messages = 0
        self._due_s = self._started_s + (self._display.interval_s if self._display else 0)
        self._messages = 0
        self._liquidations = 0

    def update(self, messages: int, liquidations: int) -> None:
        """Take the counts so far; cheap enough to be called per batch, or per message."""
        self._messages = messages
        self._liquidations = liquidations
        if self._display is None:
            return
        now_s = self._clock()
        if now_s >= self._due_s:
            self._show(self._display, now_s)

    def close(self) -> None:
        """Show the result and stop; closing twice is closing once."""
        display, self._display = self._display, None
        if display is None:
            return
        elapsed_s = self._clock() - self._started_s
        rate = self._messages / elapsed_s if elapsed_s > 0 else 0.0
        display.finish(
            f"{self._messages:,} events in {seconds_text(elapsed_s)}, {rate:,.0f} events/s, "
            f"{self._liquidations:,} liquidations"
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _show(self, display: Display, now_s: float) -> None:
        rate = (self._messages - self._shown_messages) / (now_s - self._shown_s)
        fraction = None if self._total_fraction is None else min(max(self._total_fraction(), 0.0), 1.0)
        parts = [f"{self._messages:,} events", f"{rate:,.0f} events/s", f"{self._liquidations:,} liquidations"]
        if fraction:
            left_s = (now_s - self._started_s) * (1 - fraction) / fraction
            parts.append(f"{seconds_text(left_s)} left")
        display.show(", ".join(parts), fraction)
        self._shown_s, self._shown_messages = now_s, self._messages
        self._due_s = now_s + display.interval_s


def choose_display(stream: TextIO) -> Display:
    """Return a live bar where ``stream`` is a terminal and rich is installed, else plain lines."""
    if stream.isatty() and find_spec("rich") is not None:
        return Bar(stream)
    return Lines(stream)


class Lines:
    """Plain lines, for log files and pipes."""

    interval_s = LINE_INTERVAL_S

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, text: str, fraction: float | None) -> None:
        """Print one line."""
        percent = "" if fraction is None else f"{fraction:.1%}, "
        print(f"replay: {percent}{text}", file=self._stream, flush=True)

    def finish(self, text: str) -> None:
        """Print the last line."""
        print(f"replay: {text}", file=self._stream, flush=True)


class Bar:
    """A bar that stays in place; drawn by rich, without its refresh thread."""

    interval_s = BAR_INTERVAL_S

    def __init__(self, stream: TextIO) -> None:
        # rich belongs to the extra `cli`; it is imported where a terminal has been found to show it.
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._console = Console(file=stream)
        columns = (BarColumn(bar_width=28), TaskProgressColumn(), TextColumn("{task.description}"))
        self._progress = RichProgress(*columns, console=self._console, auto_refresh=False, transient=True)
        self._task = self._progress.add_task("", total=None)
        self._progress.start()

    def show(self, text: str, fraction: float | None) -> None:
        """Redraw the bar."""
        total = None if fraction is None else 1.0
        self._progress.update(self._task, description=text, total=total, completed=fraction or 0.0, refresh=True)

    def finish(self, text: str) -> None:
        """Remove the bar and leave one line."""
        self._progress.stop()
        self._console.print(text, highlight=False)


def seconds_text(seconds: float) -> str:
    """Return a duration as ``4.2 s``, ``3:05`` or ``1:02:03``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
