"""Pictures of a run, drawn without a screen:  python -m minquant.plot RUN

Colours are the Okabe-Ito palette, readable for colour-blind people. Figures are made without pyplot: nothing global is
set, and a notebook keeps its own backend.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from . import data
from .config import ConfigError, Parser
from .quantize import bits_of
from .quantizers.cpq import ClusterPromoting
from .quantizers.dgms import DGMSWeight
from .quantizers.dq import PowerOfTwo, Uniform
from .quantizers.gdrq import GDRQWeight
from .quantizers.lsq import LearnedStep
from .quantizers.minmax import MinMaxWeight
from .quantizers.qnet import QNetWeight
from .recording import quantized_layers, shared_levels
from .runs import COLUMNS, RunError, load_run, read_config, replacing
from .tasks import CLASSIFY, TASKS

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#7f7f7f"
CYCLE = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vPX*<>hp"
DPI = 120
STAGES = "float", "quantized"


def main(argv=None):
    """Run the command line; return 0 if every picture was drawn, 1 if something was missing."""
    parser = Parser(prog="python -m minquant.plot", description="Draw the pictures of a run again.")
    parser.add_argument("run", metavar="RUN", nargs="?", help="folder that python -m minquant.train made")
    parser.add_argument("--out", metavar="FOLDER", help="where the pictures go (default: RUN/plots)")
    parser.add_argument("--data-root", metavar="FOLDER", help="where the data set's files are")
    parser.add_argument("--estimators", metavar="FILE.png",
                        help="instead of a run: what each method's quantizer does to a weight, and its gradient")
    arguments = parser.parse_args(argv)
    if (arguments.run is None) == (arguments.estimators is None):
        parser.error("name either a RUN or --estimators FILE.png")
    if arguments.estimators:
        figure = responses(estimator_samples(), np.linspace(-3.6, 3.6, 1441), np.random.default_rng(0))
        save(figure, arguments.estimators)
        print(arguments.estimators)
        return 0
    folder = Path(arguments.run)
    out = Path(arguments.out or folder / "plots")
    try:
        if not folder.is_dir():
            raise RunError(f"there is no folder {folder}")
        drawn, missing = draw(folder, out, arguments.data_root)
    except (RunError, OSError) as error:
        print(f"minquant.plot: error: {error}", file=sys.stderr)
        return 1
    for path in drawn:
        print(path)
    for reason in missing:
        print(f"minquant.plot: not drawn: {reason}", file=sys.stderr)
    return 1 if missing else 0


def draw(folder, out, data_root=None):
    """Draw whatever a run folder has the files for; return (paths written, reasons why others are missing)."""
    from . import film  # which draws with this module
    missing, figures = [], {}

    def attempt(names, make):
        try:
            figures.update(zip(names, make()))
        except (RunError, ConfigError, data.DataError, ValueError, OSError) as error:
            missing.append(f"{', '.join(names)}: {error}")

    config = known_config(folder)
    attempt(["curves"], lambda: [curves(read_log(folder), TASKS[config.task] if config else CLASSIFY)])
    attempt(["weights", "bits"], lambda: [make(newest_model(folder, missing, data_root)) for make in (weights, bits)])
    attempt(["scenes", "precision_recall"], lambda: detector_pictures(folder, missing, data_root))
    if config is None or config.method != "float":
        attempt(list(film.STILLS), lambda: film.stills(film.read(folder)))
    written = [(figure, out / f"{name}.png") for name, figure in figures.items() if figure is not None]
    if written:
        out.mkdir(parents=True, exist_ok=True)
    for figure, path in written:
        save(figure, path)
    return [path for _, path in written], missing


def known_config(folder):
    """The configuration of a run folder, None where it cannot be read."""
    try:
        return read_config(folder)
    except (RunError, ConfigError):
        return None


def read_log(folder):
    """The history in a folder's log.csv, rows in the order of COLUMNS; [] of a run that only calibrates.

    Raises RunError where there is no such file.
    """
    path = Path(folder) / "log.csv"
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        history = [[float(STAGES.index(row["stage"])), *(float(row[name]) for name in COLUMNS[1:])] for row in rows]
    except FileNotFoundError:
        raise RunError(f"there is no {path}: no epoch was finished, or {folder} is not a run folder") from None
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunError(f"{path} is not the log of a run ({type(error).__name__}: {error})") from None
    return history


def newest_model(folder, notes, data_root=None):
    """The model of best.npz, or of last.npz where that cannot be read; the reason is then added to `notes`."""
    config = read_config(folder)
    dataset = data.load(config.data, data_root, validation=config.validation, seed=config.seed, limit=config.limit)
    try:
        return load_run(folder, dataset)[0]
    except RunError as error:
        model = load_run(folder, dataset, "last.npz")[0]
        notes.append(f"the best state ({error}); weights and bits are those of last.npz")
        return model


def detector_pictures(folder, notes, data_root=None):
    """The figures that only a detector has: test scenes with boxes, and precision over recall; [] for other runs."""
    config = read_config(folder)
    if config.task != "detect":
        return []
    from .detection import boxes, plots  # which draw with this module
    from .training import predict
    dataset = data.load(config.data, data_root, validation=config.validation, seed=config.seed, limit=config.limit)
    outputs = predict(newest_model(folder, notes, data_root), dataset.test.images, dataset.normalise)
    detections = boxes.decode(outputs, dataset.image_shape)
    return [plots.scenes(detections, dataset.test, dataset.classes),
            plots.precision_recall(detections, dataset.test.labels, dataset.classes)]


def subplots(rows=1, columns=1, size=(7, 4.2), **options):
    """A Figure and its axes, as `pyplot.subplots`; it belongs to nobody and needs no closing."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def save(figure, path, dpi=DPI):
    """Write a figure as PNG, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")


def run_plots(folder, model, history, task=CLASSIFY):
    """Write the pictures of a run into folder/plots: curves.png, weights.png, bits.png."""
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    for name, figure in (("curves", curves(history, task)), ("weights", weights(model)), ("bits", bits(model))):
        if figure is not None:
            save(figure, plots / f"{name}.png")


def comparison_plots(folder, spread, layer_bits, metric="accuracy"):
    """Write accuracy_bits.png, accuracy_size.png and layer_bits.png of a comparison.

    spread, layer_bits : what the functions of these names in `minquant.compare` return;  metric : what accuracy is
    """
    if not spread:
        return
    for name, column, label in (("accuracy_bits", 1, "bits of weights and activations"),
                                ("accuracy_size", 6, "model size (kB)")):
        save(accuracies(spread, column, label, metric), folder / f"{name}.png")
    save(bits_by_layer(layer_bits), folder / "layer_bits.png")


def accuracies(spread, column, label, metric="accuracy"):
    """Accuracy with its spread over a column of `spread`, a line per variant; over size also the Pareto front."""
    unit = 1024 if column == 6 else 1
    figure, axis = subplots(size=(8.5, 4.6))
    for i, variant in enumerate(dict.fromkeys(row[0] for row in spread)):
        points = sorted((row[column] / unit, 100 * row[2], 100 * row[3], 100 * row[4])
                        for row in spread if row[0] == variant)
        x, mean, low, high = np.array(points).T
        axis.errorbar(x, mean, (mean - low, high - mean), color=CYCLE[i % len(CYCLE)],
                      marker=MARKERS[i % len(MARKERS)], capsize=3, label=variant)
    if column == 1:
        axis.set_xticks(sorted({row[1] for row in spread}))
    else:
        front = pareto([(row[6] / unit, 100 * row[2]) for row in spread])
        axis.step(*np.array(front).T, where="post", color=GREY, linestyle=":", zorder=0, label="best of a size")
    axis.set_xlabel(label)
    axis.set_ylabel(f"test {metric} (%), lowest to highest seed")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def pareto(points):
    """The (size, accuracy) points that no smaller one reaches, by size."""
    front = []
    for size, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((size, accuracy))
    return front


def bits_by_layer(layer_bits):
    """A row per variant, a column per layer, the bits of its weights in the cell."""
    layers = list(dict.fromkeys(name for row in layer_bits.values() for name in row))
    values = np.array([[row.get(name, np.nan) for name in layers] for row in layer_bits.values()])
    label = max(map(len, layer_bits)) * 0.075
    figure, axis = subplots(size=(max(label + 0.5 + 0.55 * len(layers), 4), 1.6 + 0.28 * len(layer_bits)))
    axis.imshow(values, cmap="Blues", vmin=0, vmax=10, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        axis.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize=8)
    axis.set_xticks(range(len(layers)), layers, rotation=90, fontsize=8)
    axis.set_yticks(range(len(layer_bits)), layer_bits, fontsize=8)
    figure.suptitle("bits of the weights, mean over the seeds", fontsize=10)
    return figure


def curves(history, task=CLASSIFY):
    """Loss and score over the epochs, float stage and quantized stage one behind the other; None without epochs."""
    if not history:
        return None
    figure, axes = subplots(1, 2, (10, 3.6))
    for axis, what in zip(axes, ("loss", "accuracy")):
        curve(axis, history, what, task)
    return figure


def curve(axis, history, what, task=CLASSIFY):
    """Draw `what` ("loss" or "accuracy") over the epochs; a dashed line marks where the quantizers came in."""
    columns, epoch = dict(zip(COLUMNS, np.array(history).T)), np.arange(1, len(history) + 1)
    scale = 100 if what == "accuracy" else 1
    own = what == "accuracy" and task.training_metric != task.metric
    trained = f"training: {task.training_metric}" if own else "training"
    axis.plot(epoch, scale * columns[what], color=BLUE, marker=".", label=trained)
    axis.plot(epoch, scale * columns[f"validation_{what}"], color=ORANGE, marker=".", label="validation")
    axis.set_xlabel("epoch")
    axis.set_ylabel(task.loss_name if what == "loss" else f"{task.metric} (%)")
    axis.grid(alpha=0.3)
    for change in np.flatnonzero(np.diff(columns["stage"])) + 1:
        axis.axvline(change + 0.5, color=GREY, linestyle="--", label="quantizers in place")
    axis.legend(fontsize=9)


def weights(model, columns=3):
    """Histogram of the latent weights of every quantized layer against the levels they are rounded to."""
    layers = quantized_layers(model)
    if not layers:
        return None
    columns = min(columns, len(layers))
    rows = -(-len(layers) // columns)
    figure, axes = subplots(rows, columns, (4 * columns, 2.4 * rows), squeeze=False)
    for axis in axes.flat[len(layers):]:
        axis.set_axis_off()
    for axis, (name, layer) in zip(axes.flat, layers):
        weight = layer.params["weight"]
        stored = layer.children["weight_quantizer"].encode(weight)
        shown = shared_levels(stored)
        histogram(axis, weight.ravel(), shown)
        axis.set_title(f"{name}, {stored.bits} bits", fontsize=10)
        axis.set_xlabel("weight (lines: levels)" if len(shown) else "weight")
    return figure


def histogram(axis, values, levels=(), bins=100, limits=None):
    """Draw the distribution of `values` with a line for every level."""
    axis.hist(values, bins=bins, range=limits, color=BLUE, density=True)
    for level in levels:
        axis.axvline(level, color=RED, linewidth=0.8)
    axis.set_yticks([])


def bits(model):
    """Bits of weights and activations, a bar per quantizer; None for a float network."""
    found = bits_of(model)
    if not found:
        return None
    figure, axis = subplots(size=(max(6, 0.35 * len(found)), 3.6))
    bit_bars(axis, *zip(*found))
    return figure


def bit_bars(axis, names, values):
    """Draw a bar of bits per quantizer: blue for weights, orange for activations."""
    short = [name.removesuffix(".weight_quantizer").removesuffix("_quantizer") for name in names]
    colours = [BLUE if name.endswith("weight_quantizer") else ORANGE for name in names]
    axis.bar(range(len(names)), values, color=colours)
    axis.set_xticks(range(len(names)), short, rotation=90, fontsize=8)
    axis.set_ylabel("bits")
    axis.legend([Patch(color=c) for c in (BLUE, ORANGE)], ["weights", "activations"], fontsize=9)


def estimator_samples():
    """{title: weight quantizer}: one of every kind of gradient in `minquant.quantizers`, most at step size 1."""
    def made(quantizer, **values):
        for name, value in values.items():
            (quantizer.params if name in quantizer.params else quantizer.state)[name] = np.array(value, float)
        quantizer.state["ready"][...] = True
        return quantizer.astype(float)

    mixture = DGMSWeight(2, (1,))
    mixture.set_mixture([0, -1.5, 1, 2.5], np.ones(4), np.full(4, 0.4), 0.01)
    return {"minmax: straight through": made(MinMaxWeight(3)),
            "lsq: straight through, clipped": made(LearnedStep(3), step=1.0),
            "gdrq: masked by the clip": made(GDRQWeight(2, 1, alpha_mode="learned", grad_mode="mask"), alpha=[2.0]),
            "cpq: the chosen level": made(ClusterPromoting(2), log_alpha=0.0),
            "cpq, ste=full: all levels": made(ClusterPromoting(2, ste="full"), log_alpha=0.0),
            "dgms: soft average, tau = 0.3": made(mixture),
            "qnet: sigmoids, T = 10": made(QNetWeight(2), log_alpha=0.0, log_beta=0.0, biases=[-0.5, 0.5]),
            "dq: step and range": made(Uniform(3, "u3", learn_bits=True), d=1.0, q_max=3.0),
            "dq: powers of two": made(PowerOfTwo(3, "p3", learn_bits=True), q_min=0.25, q_max=2.0)}


def responses(quantizers, x, rng, columns=3):
    """What element-wise quantizers do to x and what they pretend about it: forward, and dx for an upstream gradient 1.

    quantizers : {title: quantizer that is ready}; forward runs in training mode.  x : 1-d, ascending
    """
    x = x[:, None]  # one output channel
    rows = -(-len(quantizers) // columns)
    figure, axes = subplots(rows, columns, (4 * columns, 2.6 * rows), squeeze=False, sharex=True)
    for axis in axes.flat[len(quantizers):]:
        axis.set_axis_off()
    for axis, (title, quantizer) in zip(axes.flat, quantizers.items()):
        y, cache = quantizer.forward(x, True, rng)
        dx, _ = quantizer.backward(np.ones_like(x), cache)
        axis.plot(x, y, color=BLUE, label="forward y(x)")
        axis.plot(x, dx, color=ORANGE, label="backward dy/dx")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("latent weight x")
    return figure


if __name__ == "__main__":
    sys.exit(main())
