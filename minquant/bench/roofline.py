"""The limits of this machine, and the measured kernels under them: a roofline plot."""

import time

import numpy as np

from ..isa import compiled

# Levels of memory that are read, in bytes: inside the second-level cache, inside the last one, beyond most caches.
READS = {"L2 read": 1 << 19, "L3 read": 1 << 23, "DRAM read": 1 << 28}


def limits(isas, repeats=5):
    """{"products": {isa: GMAC/s in registers}, "reads": {level: GB/s}} of one thread, best of some; {} in NumPy."""
    module = compiled()
    if module is None:
        return {}
    products = {isa: best(lambda isa=isa: module.machine_products(isa), repeats) for isa in isas}
    found = {isa: rate for isa, rate in products.items() if rate}
    reads = {}
    for level, size in READS.items():
        x, turns = np.zeros(size // 8, np.uint64), max(1, (1 << 26) // size)
        reads[level] = best(lambda: sum(module.machine_read(x) * 0 + x.nbytes for _ in range(turns)), repeats)
    return {"products": found, "reads": reads}


def best(run, repeats):
    """Greatest of (what run() returns, per nanosecond)."""
    rates = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        amount = run()
        rates.append(amount / (time.perf_counter() - started) / 1e9)
    return max(rates)


def plot(facts, path):
    """Write the roofline of `bench kernels` as a picture: rate over multiply-adds per byte."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xscale="log", yscale="log", ylabel="GMAC/s",
                              xlabel="multiply-adds per byte of weights, inputs and outputs",
                              title=f"{facts['machine']}, {facts['threads']} thread(s)")
    rows = [row for row in facts["rows"] if row["what"] == "matmul"]
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    names = list(dict.fromkeys(row["name"] for row in rows))
    markers, ours = "osD^vP*Xph<>", {row["name"] for row in rows if row["bits"]}
    for i, name in enumerate(names):
        points = [(row["macs_per_byte"], row["gmacs"]) for row in rows if row["name"] == name]
        style = {"s": 60} if name in ours else {"s": 28, "facecolors": "none", "edgecolors": f"C{i % 10}"}
        axes.scatter(*zip(*points), marker=markers[i % len(markers)], label=name, color=f"C{i % 10}" if name in ours
                     else None, zorder=3, **style)
    draw_roofs(axes, facts, rows)
    for i, shape in enumerate(shapes):
        x = min(row["macs_per_byte"] for row in rows if row["shape"] == shape)
        y = min(row["gmacs"] for row in rows if row["shape"] == shape)
        axes.annotate(shape, (x, y), textcoords="offset points", xytext=(0, -14 - 11 * (i % 2)), fontsize=8,
                      ha="center")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120, format="png")


def draw_roofs(axes, facts, rows):
    """Lines that no kernel can cross: bytes times bandwidth up to the products of the instruction set."""
    roof = facts.get("limits") or {}
    if not roof or not rows:
        return
    left, right = (f(row["macs_per_byte"] for row in rows) for f in (min, max))
    x = np.geomspace(left / 2, right * 2, 200)
    threads = facts["threads"]
    peak = max(roof["products"].values(), default=np.inf) * threads
    for (level, rate), style in zip(roof["reads"].items(), ("-", "--", ":")):
        axes.plot(x, np.minimum(x * rate * threads, peak), style, color="0.6", lw=1,
                  label=f"{level} {rate * threads:.0f} GB/s")
    for isa, rate in roof["products"].items():
        axes.axhline(rate * threads, color="0.6", lw=0.8)
        axes.annotate(f"{isa} {rate * threads:.0f}", (x[0], rate * threads), fontsize=8, va="bottom", color="0.4")
