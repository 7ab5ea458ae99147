"""Time that can be compared: contestants take turns in one run, and their medians are set side by side."""

import math
import time
from statistics import median

# Between two contestants: the idle threads of one library must have stopped spinning before the other starts.
PAUSE_S = 0.02
# A turn repeats a short function for about this long: caches and clock rate then are what they are in a run.
TURN_S = 0.1


def interleaved(contestants, repeats):
    """Return {name: [milliseconds per call, a mean for each turn]} of {name: function}, warmed up.

    A machine that slows down for a while then slows down all of them alike.
    """
    calls = {}
    for name, function in contestants.items():
        function()
        calls[name] = max(1, math.ceil(TURN_S / max(1e-6, seconds(function, 1))))
    times = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, function in contestants.items():
            time.sleep(PAUSE_S)
            times[name].append(1e3 * seconds(function, calls[name]))
    return times


def seconds(function, calls):
    """Mean duration of a call."""
    started = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - started) / calls


def summary(times):
    """{name: dict(median, fastest)} in milliseconds."""
    return {name: {"median": median(values), "fastest": min(values)} for name, values in times.items()}
