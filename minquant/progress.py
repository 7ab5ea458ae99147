"""What a run shows while it works: a line that redraws itself on a terminal, one line per epoch when piped."""

import shutil
import sys
import time


class Progress:
    """Status of the current epoch on a terminal; nothing between epochs' lines elsewhere.

    quiet : print nothing at all;  stream : where to write (standard error, so that --json can own standard output)
    """

    def __init__(self, quiet=False, stream=None):
        self.stream = stream or sys.stderr
        self.quiet = quiet
        self.live = not quiet and self.stream.isatty()
        self._drawn = self._started = 0.0

    def begin(self, title, epochs_after=0):
        """Start an epoch called `title`; return the function that `train_epoch` calls after every step.

        epochs_after : epochs still to come, which count for the time left
        """
        self._started = time.perf_counter()

        def watch(done, total, loss, accuracy):
            now = time.perf_counter()
            if not self.live or now - self._drawn < 0.1:
                return
            self._drawn = now
            rate = done / max(now - self._started, 1e-9)
            bar = "#" * (10 * done // total)
            self._draw(f"{title} [{bar:<10}] loss {loss:.4f} accuracy {accuracy:.1%} {rate:,.0f} images/s "
                       f"{(total - done + epochs_after * total) / rate:.0f} s left")

        return watch

    def _draw(self, text):
        """Replace the status by `text`, cut and padded to the width of the terminal."""
        width = shutil.get_terminal_size().columns - 1
        self.stream.write("\r" + text[:width].ljust(width))
        self.stream.flush()

    def line(self, text):
        """One line that stays, in the place of the status."""
        if self.quiet:
            return
        if self.live:
            self._draw("")
            self.stream.write("\r")
        self.stream.write(text + "\n")
        self.stream.flush()
