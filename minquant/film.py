"""A film of a run, as an animated GIF:  python -m minquant.film RUN

Frame by frame, an epoch each: how the weights gather on their levels, the function the quantizer computes (it hardens
where a temperature anneals it), the bits of every layer, and the accuracy. `stills` puts the same into three pictures.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from . import plot
from .config import ConfigError, Parser
from .recording import Recording
from .runs import RunError, read_config, replacing
from .tasks import CLASSIFY, TASKS

STILLS = "weights_by_epoch", "functions", "bits_by_epoch"
MOST_LAYERS, COLOURS = 5, 64
SHADES = colormaps["cividis"]


class Film(NamedTuple):
    """What is shown: a Recording, the run's history (rows of `runs.COLUMNS`, may be empty) and task, a title, and notes
    on what was missing."""

    recording: Recording
    history: list
    task: object
    title: str
    notes: list

    @property
    def epochs(self):
        return self.recording.epochs

    def layers(self, wanted=None):
        """Indices of the layers shown: those asked for, or up to MOST_LAYERS evenly spaced. Raises ValueError."""
        names = self.recording.names["layers"]
        if not names:
            raise ValueError("no layer of this run has quantized weights; there is nothing to show")
        if wanted:
            unknown = [name for name in wanted if name not in names]
            if unknown:
                raise ValueError(f"there is no quantized layer '{unknown[0]}'; there are {', '.join(names)}")
            return [names.index(name) for name in wanted][:MOST_LAYERS]
        return sorted({int(i) for i in np.linspace(0, len(names) - 1, MOST_LAYERS).round()})

    def name(self, layer):
        return self.recording.names["layers"][layer]

    def reach(self, layer):
        """(low, high) that hold nearly all weights and all levels of a layer, in every epoch."""
        values = np.concatenate([epoch[part][layer] for epoch in self.epochs for part in ("weights", "levels")])
        low, high = np.nanquantile(values, [0.002, 0.998])
        levels = np.concatenate([epoch["levels"][layer] for epoch in self.epochs])
        if np.isfinite(levels).any():
            low, high = min(low, np.nanmin(levels)), max(high, np.nanmax(levels))
        margin = 0.06 * (high - low) or 1.0
        return low - margin, high + margin


def main(argv=None):
    """Run the command line; return the exit status."""
    parser = Parser(prog="python -m minquant.film", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="folder that python -m minquant.train made")
    parser.add_argument("--out", metavar="FILE.gif", help="where the film goes (default: RUN/film.gif)")
    parser.add_argument("--layers", metavar="A,B", help=f"layers to show, at most {MOST_LAYERS} (default: spread out)")
    parser.add_argument("--fps", type=float, default=4.0, metavar="N", help="epochs per second (default: 4)")
    parser.add_argument("--width", type=int, default=800, metavar="PIXELS", help="width of the film (default: 800)")
    arguments = parser.parse_args(argv)
    out = Path(arguments.out or Path(arguments.run) / "film.gif")
    try:
        if not (0.1 <= arguments.fps <= 50 and 200 <= arguments.width <= 4000):
            raise ValueError(f"--fps {arguments.fps} --width {arguments.width} does not work; "
                             "they take 0.1..50 and 200..4000")
        found = read(arguments.run)
        size = write(found, out, arguments.layers.split(",") if arguments.layers else None, arguments.fps,
                     arguments.width)
    except (RunError, ValueError, OSError) as error:
        print(f"minquant.film: error: {error}", file=sys.stderr)
        return 1
    for note in found.notes:
        print(f"minquant.film: note: {note}", file=sys.stderr)
    print(f"{out}: {len(found.epochs)} frames, {size / 1024:.0f} kB")
    return 0


def read(folder):
    """The Film of a run folder. Raises RunError without film.npz; anything else that is missing becomes a note."""
    folder, notes, history, task, title = Path(folder), [], [], CLASSIFY, ""
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}")
    recording = Recording.load(folder / "film.npz")
    try:
        config = read_config(folder)
        task = TASKS[config.task]
        title = f"{config.method} {config.bits} bits, {config.model} on {config.data}"
    except (RunError, ConfigError) as error:
        notes.append(f"no title: {error}")
    try:
        history = plot.read_log(folder)
    except RunError as error:
        notes.append(f"no accuracy: {error}")
    if not (folder / "report.json").is_file():
        notes.append(f"the run is not finished; its film ends at epoch {int(recording.epochs[-1]['epoch'])}")
    return Film(recording, history, task, title, notes)


def write(film, path, layers=None, fps=4.0, width=800):
    """Write the film as GIF, whole or not at all; return its bytes. The last frame stays for two seconds."""
    shown, images = film.layers(layers), []
    for index in range(len(film.epochs)):
        canvas = FigureCanvasAgg(frame(film, index, shown, width))
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
        images.append(picture.quantize(COLOURS, dither=Image.Dither.NONE))
    durations = [1000 / fps] * (len(images) - 1) + [2000]
    with replacing(path) as temporary:
        images[0].save(temporary, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0,
                       optimize=True)
        return temporary.stat().st_size


def frame(film, index, layers, width=800):
    """The Figure of one epoch."""
    entry, cells = film.epochs[index], len(layers) + 1
    columns = 2 if cells == 4 else min(3, cells)
    rows = -(-cells // columns)
    heights = 1.75 * rows + 0.2, 2.2
    figure = Figure(figsize=(8, sum(heights)), dpi=width / 8, layout="constrained")
    figure.suptitle(f"{film.title}, epoch {int(entry['epoch'])}".lstrip(", "), fontsize=11)
    upper, lower = figure.subfigures(2, 1, height_ratios=heights)
    axes = upper.subplots(rows, columns, squeeze=False).flat
    for axis, layer in zip(axes, layers):
        plot.histogram(axis, entry["weights"][layer], entry["levels"][layer], 60, film.reach(layer))
        axis.set_xlim(film.reach(layer))
        axis.set_title(film.name(layer), fontsize=9)
    for axis in axes[cells:]:
        axis.set_axis_off()
    upper.supxlabel("latent weight (lines: levels)", fontsize=9)
    response(axes[cells - 1], film, index, layers[len(layers) // 2])
    bits_axis, curve_axis = lower.subplots(1, 2)
    plot.bit_bars(bits_axis, film.recording.names["quantizers"], entry["bits"])
    bits_axis.set_ylim(0, 1.35 * max(epoch["bits"].max() for epoch in film.epochs))
    progress(curve_axis, film, int(entry["epoch"]))
    for axis in figure.axes:
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_size(9)
        axis.yaxis.label.set_size(9)
    return figure


def response(axis, film, index, layer):
    """The function that a layer's quantizer computes in training, as seen on the sampled weights."""
    entry = film.epochs[index]
    order = np.argsort(entry["weights"][layer])
    style = {} if np.isfinite(entry["temperature"][layer]) else {"marker": ".", "linestyle": "", "markersize": 3}
    axis.plot(entry["weights"][layer][order], entry["quantized"][layer][order], color=plot.ORANGE, **style)
    axis.set_xlim(film.reach(layer))
    axis.set_ylim(film.reach(layer))
    heat = entry["temperature"][layer]
    axis.set_title(f"{film.name(layer)}: weight used" + (f", T = {heat:.3g}" if np.isfinite(heat) else ""), fontsize=9)
    axis.grid(alpha=0.3)


def progress(axis, film, epoch):
    """The accuracy over the epochs of the quantized stage, with a dot at the present one."""
    rows = [row for row in film.history if row[0] == 1]
    if not rows:
        axis.set_axis_off()
        return
    plot.curve(axis, rows, "accuracy", film.task)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for line in axis.lines[:2] if 1 <= epoch <= len(rows) else ():
        axis.plot(epoch, line.get_ydata()[epoch - 1], "o", color=line.get_color(), markersize=5)


def stills(film):
    """Figures in the order of STILLS; None where there is nothing to show."""
    return weights_by_epoch(film), functions(film), bits_by_epoch(film)


def grid(film, layers, height=2.6):
    """A figure with an axis per layer."""
    columns = min(3, len(layers))
    rows = -(-len(layers) // columns)
    figure, axes = plot.subplots(rows, columns, (4 * columns, height * rows), squeeze=False)
    for axis in axes.flat[len(layers):]:
        axis.set_axis_off()
    for axis, layer in zip(axes.flat, layers):
        axis.set_title(film.name(layer), fontsize=10)
    return figure, list(zip(axes.flat, layers))


def weights_by_epoch(film):
    """Density of the latent weights (dark: many) over the epochs, with the levels as lines."""
    figure, axes = grid(film, film.layers())
    epochs = [int(entry["epoch"]) for entry in film.epochs]
    for axis, layer in axes:
        edges = np.linspace(*film.reach(layer), 61)
        density = np.array([np.histogram(entry["weights"][layer], edges)[0] for entry in film.epochs], float)
        density /= density.max(1, keepdims=True)
        borders = np.append(np.array(epochs) - 0.5, epochs[-1] + 0.5)
        axis.pcolormesh(borders, edges, np.sqrt(density).T, cmap="Blues", rasterized=True)
        axis.plot(epochs, [entry["levels"][layer] for entry in film.epochs], color=plot.RED, linewidth=0.8)
        axis.set_xlabel("epoch")
        axis.set_ylabel("weight (lines: levels)")
    return figure


def functions(film, most=6):
    """What the relaxed quantizers compute, from the first epoch (light) to the last (dark); None without any."""
    layers = [i for i in film.layers() if np.isfinite(film.epochs[0]["temperature"][i])]
    if not layers:
        return None
    figure, axes = grid(film, layers)
    chosen = [film.epochs[i] for i in sorted(set(np.linspace(0, len(film.epochs) - 1, most).round().astype(int)))]
    for axis, layer in axes:
        for i, entry in enumerate(chosen):
            order = np.argsort(entry["weights"][layer])
            axis.plot(entry["weights"][layer][order], entry["quantized"][layer][order], linewidth=1.2,
                      color=SHADES(1 - i / max(1, len(chosen) - 1)),
                      label=f"epoch {int(entry['epoch'])}, T {entry['temperature'][layer]:.3g}")
        axis.set_xlabel("latent weight")
        axis.set_ylabel("weight used in training")
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    return figure


def bits_by_epoch(film):
    """Bits of every weight tensor over the epochs; None where none changes."""
    names, bits = film.recording.names["quantizers"], np.array([entry["bits"] for entry in film.epochs])
    if (bits == bits[0]).all():
        return None
    shown = [i for i, name in enumerate(names) if name.endswith("weight_quantizer")]
    figure, axis = plot.subplots()
    epochs = [int(entry["epoch"]) for entry in film.epochs]
    for n, i in enumerate(shown):
        shift = 0.08 * (n - len(shown) / 2) / max(1, len(shown))  # lines of equal bits would hide each other
        axis.plot(epochs, bits[:, i] + shift, color=plot.CYCLE[n % len(plot.CYCLE)], drawstyle="steps-post",
                  marker=plot.MARKERS[n % len(plot.MARKERS)], markersize=4,
                  label=names[i].removesuffix(".weight_quantizer"))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("epoch")
    axis.set_ylabel("bits of the weights")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, ncols=2)
    return figure


if __name__ == "__main__":
    sys.exit(main())
