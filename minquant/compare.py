"""Compare methods at equal effort: the same float start, epochs and schedule for each, over bits and seeds.

    python -m minquant.compare --methods cpq,minmax --bits 2,4 --seeds 0,1,2 --data fashion-mnist --runs runs/fashion

A method may carry options: `cpq:ste=full,dropbits=off` (join several with ';': `cpq;cpq:ste=full,dropbits=off`).
Every run keeps its folder below --runs, so an interrupted comparison goes on where it stopped. The summary (JSON,
CSV, a Markdown table and plots) goes to --out.
"""

import csv
import io
import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import data
from .config import Config, ConfigError, Parser, add_flags, given
from .data import DataError
from .plot import comparison_plots
from .progress import Progress
from .quantize import recipe_for
from .quantizers import METHODS
from .runs import RunError, bits_of_run, read_config, write_json, write_text
from .training import Diverged

COLUMNS = ("variant", "bits", "act_bits", "seed", "float_accuracy", "accuracy", "loss", "bytes", "mean_bits", "metric",
           "error")
SECONDS_TO_CONNECT = 10


def main(argv=None):
    """Run the command line; return the exit status."""
    arguments = make_parser().parse_args(argv)
    try:
        variants = parse_variants(arguments.methods)
        values = given(arguments, lambda method: {})
        seeds, bits = _integers(arguments.seeds, "--seeds"), _integers(arguments.bits_list, "--bits")
        jobs = plan(variants, bits, seeds, values, arguments.float_activations, arguments.bits_from)
        data.load(Config(**values).data, arguments.data_root, limit=2)  # fails here, not in every worker
    except (ConfigError, RunError, ValueError) as error:
        print(f"minquant.compare: error: {error}", file=sys.stderr)
        return 2
    try:
        rows = compare(arguments, jobs, values, seeds)
    except ConfigError as error:
        print(f"minquant.compare: error: {error}", file=sys.stderr)
        return 2
    print(markdown(rows))
    return 1 if any(row["error"] for row in rows) else 0


def compare(arguments, jobs, values, seeds):
    """Run the float networks of all seeds, then every job from them; write the summary; return its rows."""
    progress = Progress(quiet=arguments.quiet)
    folder = Path(arguments.runs)
    starts = [Config(**{**values, "method": "float", "seed": seed}) for seed in seeds]
    run_all([(c, folder / f"float-seed{c.seed}", arguments.data_root) for c in starts], arguments, progress)
    configs = [Config(**job.values, float_from=str(folder / f"float-seed{job.values['seed']}")) for job in jobs]
    results = run_all([(config, folder / job.name, arguments.data_root) for config, job in zip(configs, jobs)],
                      arguments, progress)
    rows = [_row(job, report) for job, report in zip(jobs, results)]
    write_summary(Path(arguments.out or folder), rows)
    return rows


def make_parser():
    """The flags of this command: those of training, with lists for methods, bits and seeds."""
    parser = Parser(prog="python -m minquant.compare", description=__doc__.splitlines()[0], conflict_handler="resolve")
    add_flags(parser)
    parser.add_argument("--methods", required=True, metavar="A,B;C:KEY=VALUE", help="methods, or variants with options")
    parser.add_argument("--bits", dest="bits_list", default="4", metavar="2,3,4",
                        help="bits of weights and activations")
    parser.add_argument("--float-activations", action="store_true", help="quantize weights only")
    parser.add_argument("--seeds", default="0", metavar="0,1,2", help="seeds; each has its own float network")
    parser.add_argument("--bits-from", metavar="FOLDER", help="give every layer the bits it has in this run of "
                        "another comparison, {seed} standing for the seed")
    parser.add_argument("--runs", required=True, metavar="FOLDER", help="where the runs are kept")
    parser.add_argument("--out", metavar="FOLDER", help="where the summary goes (default: the folder of --runs)")
    parser.add_argument("--data-root", metavar="FOLDER", help="where the data set's files are")
    parser.add_argument("--jobs", type=int, default=-1, metavar="N", help="runs at a time (default: one per core)")
    parser.add_argument("--dask", metavar="ADDRESS", help="run on the Dask cluster with this scheduler address")
    parser.add_argument("--quiet", action="store_true", help="print only the table")
    return parser


def parse_variants(text):
    """'cpq,minmax' or 'cpq;cpq:ste=full,dropbits=off' -> {label: (method, options)}, in the order given."""
    items = text.split(";") if ";" in text or ":" in text else text.split(",")
    variants = {}
    for item in filter(None, map(str.strip, items)):
        method, _, options = item.partition(":")
        pairs = [pair.partition("=") for pair in options.split(",") if pair]
        if any(not sign for _, sign, _ in pairs):
            raise ConfigError(f"--methods: options of '{item}' are KEY=VALUE, joined by commas")
        variants[item] = (method, {key: value for key, _, value in pairs})
    if not variants:
        raise ConfigError(f"--methods: no method named; there are {', '.join(METHODS)}")
    return variants


def _integers(text, flag):
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{flag} takes whole numbers joined by commas, got '{text}'") from None


@dataclass(frozen=True)
class Job:
    """One run of a comparison: the folder name it gets, the variant it belongs to, the settings of its Config."""

    name: str
    variant: str
    values: dict


def plan(variants, bits, seeds, values, float_activations=False, bits_from=None):
    """The list of Jobs. Bits that a method does not support are left out; options are checked here."""
    jobs = []
    given = values.get("overrides", {})
    overrides = {seed: {**bits_of_run(bits_from.format(seed=seed)), **given} if bits_from else given for seed in seeds}
    for variant, (method, options) in variants.items():
        allowed = METHODS[method].weight_bits if method in METHODS else bits
        if not set(bits) & set(allowed):
            raise ConfigError(f"method '{method}' supports none of the bits {bits}; it takes {allowed}")
        for b in filter(allowed.__contains__, bits):
            act_bits = None if float_activations else b
            recipe_for(method, b, act_bits, options)
            for seed in seeds:
                name = f"{variant.replace(':', '-').replace(',', '-').replace('=', '_')}-{b}bit-seed{seed}"
                own = {"method": method, "bits": b, "act_bits": act_bits, "seed": seed, "options": options}
                jobs.append(Job(name, variant, {**values, **own, "overrides": overrides[seed]}))
    return jobs


def run_one(config, folder, data_root):
    """Train one run, go on with it, or read its report if it is done. A failure becomes {'error': message}.

    A folder that holds a run with other settings is such a failure: its result would pass for another's.
    """
    from .run import Run
    report, record = Path(folder) / "report.json", Path(folder) / "config.toml"
    try:
        if record.is_file() and read_config(folder) != config:
            raise RunError(f"{folder} holds a run with other settings; choose another folder for --runs, or remove it")
        if report.is_file():
            return json.loads(report.read_text(encoding="utf-8"))
        dataset = data.load(config.data, data_root, validation=config.validation, seed=config.seed, limit=config.limit)
        resume = (Path(folder) / "last.npz").is_file()
        return Run(config, folder, dataset, Progress(quiet=True), resume=resume).train()
    except (RunError, Diverged, DataError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def run_all(jobs, arguments, progress):
    """Run every (config, folder, data_root) in parallel processes; return their reports in the order of the jobs."""
    results = []
    with engine(arguments) as parallel:
        import joblib
        for (_, folder, _), report in zip(jobs, parallel(joblib.delayed(run_one)(*job) for job in jobs)):
            results.append(report)
            told = report.get("error") or (f"{report['metric']} {report['accuracy']:.2%} "
                                           f"(float {report['float_accuracy']:.2%})")
            progress.line(f"[{len(results)}/{len(jobs)}] {folder.name}: {told}")
    return results


@contextmanager
def engine(arguments):
    """A joblib.Parallel over processes of this machine, one numerical thread each, or over a cluster's workers."""
    try:
        import joblib
        if arguments.dask:
            from distributed import Client
    except ImportError as error:
        raise ConfigError(f'comparing runs in parallel needs {error.name}: pip install "minquant[sweep]"') from None
    if not arguments.dask:
        with joblib.parallel_config("loky", n_jobs=arguments.jobs, inner_max_num_threads=1):
            yield joblib.Parallel(return_as="generator")
        return
    try:
        client = Client(arguments.dask, timeout=SECONDS_TO_CONNECT)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--dask {arguments.dask}: no scheduler answers there ({error}); start one with "
                          "`dask scheduler` and `dask worker ADDRESS`") from None
    with client, joblib.parallel_config("dask", wait_for_workers_timeout=30):
        yield joblib.Parallel(return_as="generator")


def _row(job, report):
    known = {"variant": job.variant, **{k: job.values[k] for k in ("bits", "act_bits", "seed")}, **report}
    layers = {row["name"]: row["bits"] for row in report.get("layers", [])}
    return {**{column: known.get(column) for column in COLUMNS}, "layer_bits": layers}


def layer_bits(rows):
    """{"variant, n bits": {layer: bits of its weights, mean over the seeds}}, in order."""
    found = {}
    for row in rows:
        if not row["error"]:
            found.setdefault(f"{row['variant']}, {row['bits']} bits", []).append(row["layer_bits"])
    return {label: {name: float(np.mean([seed[name] for seed in seeds])) for name in seeds[0]}
            for label, seeds in found.items()}


def metric_of(rows):
    """What `accuracy` is in these rows: the metric of their task."""
    return next((row["metric"] for row in rows if row["metric"]), "accuracy")


def spread(rows):
    """[(variant, bits, mean accuracy, lowest, highest, mean drop against float, mean bytes, seeds)], in order."""
    groups = {}
    for row in rows:
        if not row["error"]:
            groups.setdefault((row["variant"], row["bits"]), []).append(row)
    summary = []
    for (variant, bits), members in groups.items():
        accuracy = np.array([m["accuracy"] for m in members])
        drop = float(np.mean([m["float_accuracy"] - m["accuracy"] for m in members]))
        summary.append((variant, bits, float(accuracy.mean()), float(accuracy.min()), float(accuracy.max()), drop,
                        float(np.mean([m["bytes"] for m in members])), len(members)))
    return summary


def markdown(rows):
    """The comparison as a Markdown table; a run that failed is listed below it with its reason."""
    lines = [f"| method | bits | {metric_of(rows)} (lowest .. highest) | below float | size | seeds |",
             "|---|---|---|---|---|---|"]
    for variant, bits, mean, low, high, drop, size, seeds in spread(rows):
        lines.append(f"| {variant} | {bits} | {mean:.2%} ({low:.2%} .. {high:.2%}) | {100 * drop:.2f} points | "
                     f"{size / 1024:.1f} kB | {seeds} |")
    failed = [row for row in rows if row["error"]]
    lines += [f"\nfailed: {r['variant']}, {r['bits']} bits, seed {r['seed']}: {r['error']}" for r in failed]
    return "\n".join(lines)


def write_summary(folder, rows):
    """summary.json, summary.csv, table.md and the plots, each written whole."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "summary.csv", text.getvalue())
    write_text(folder / "table.md", markdown(rows) + "\n")
    comparison_plots(folder, spread(rows), layer_bits(rows), metric_of(rows))


if __name__ == "__main__":
    sys.exit(main())
