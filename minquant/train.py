"""Train a network and quantize it:  python -m minquant.train --method cpq --bits 4 --act-bits 4 --data fashion-mnist"""

import json
import sys
from pathlib import Path

from . import data
from .check import BitExactError
from .config import Config, ConfigError, Parser, add_flags, given, nearest
from .data.sources import source_of
from .export import export_finished
from .progress import Progress
from .quantize import recipe_for
from .quantizers import METHODS
from .runs import RunError, bits_of_run, read_config
from .summary import table
from .tasks import TASKS
from .threads import set_threads
from .training import Diverged


def main(argv=None):
    """Run the command line; return the exit status (0 done, 1 failed, 2 wrong usage, 130 interrupted)."""
    arguments = make_parser().parse_args(argv)
    if arguments.list_methods:
        print(list_methods())
        return 0
    progress = Progress(quiet=arguments.quiet)
    folder = None
    try:
        set_threads(arguments.threads, "minquant.train", argv)
        config, folder = resolve(arguments)
        dataset = data.load(config.data, arguments.data_root, validation=config.validation, seed=config.seed,
                            limit=config.limit)
        progress.line(f"{config.data}: {len(dataset.train)} training, {len(dataset.validation)} validation, "
                      f"{len(dataset.test)} test images ({dataset.source})")
        from .run import Run  # matplotlib is imported with it, and --help should not wait for that
        report = Run(config, folder, dataset, progress, resume=arguments.resume is not None).train()
        if not arguments.no_export:
            report["program"] = export_finished(folder, config, dataset)
    except (ConfigError, data.DataError, RunError, ValueError, OSError, BitExactError) as error:
        print(f"minquant.train: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except Diverged as error:
        last = folder / "last.npz"
        kept = f"the last good checkpoint is {last}" if last.is_file() else "no epoch was finished"
        print(f"minquant.train: error: {error}; {kept}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        progress.line("interrupted" + (f"; go on with: python -m minquant.train --resume {folder}" if folder else ""))
        return 130
    print(json.dumps({**report, "folder": str(folder)}, indent=2) if arguments.json else show(report, folder))
    return 0


def make_parser():
    """The flags of this command."""
    parser = Parser(prog="python -m minquant.train", description=__doc__.splitlines()[0],
                    epilog="Everything that decides the result is written to the run folder's config.toml.")
    add_flags(parser)
    parser.add_argument("--out", metavar="FOLDER", help="run folder (default: runs/DATA-MODEL-METHOD-...)")
    parser.add_argument("--resume", metavar="FOLDER", help="go on with an interrupted run")
    parser.add_argument("--bits-from", metavar="RUN", help="give every layer the bits it has in a finished run")
    parser.add_argument("--init-mixture", dest="set", action="append", default=[], metavar="RUN",
                        type="init_mixture={}".format, help="start from the mixtures of a run of method dgms")
    parser.add_argument("--data-root", metavar="FOLDER", help="where the data set's files are")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the products and compiled helpers")
    parser.add_argument("--no-export", action="store_true",
                        help="do not write and check the integer program model.mqz at the end")
    parser.add_argument("--quiet", action="store_true", help="print only the result")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--list-methods", action="store_true", help="print the methods and their options, and stop")
    return parser


def resolve(arguments):
    """Return (Config, run folder) of a command line. Raises ConfigError or RunError."""
    resumed = read_config(arguments.resume) if arguments.resume else None

    def options(method):
        method = resumed.method if resumed else method
        return METHODS[method].options if method in METHODS else {}

    values = given(arguments, options)
    if arguments.bits_from:
        values["overrides"] = {**bits_of_run(arguments.bits_from), **values.get("overrides", {})}
    if "data" in values:
        values["data"] = source_of(values["data"]).name
    if resumed:
        if arguments.out:
            raise ConfigError("--out does not go with --resume; the run goes on in its own folder")
        refuse_changes(resumed, values)
        return resumed, Path(arguments.resume)
    config = Config(**values)
    for what, name, known in (("method", config.method, [*METHODS, "float"]),
                              ("model", config.model, TASKS[config.task].models),
                              ("data set", config.data, data.names())):
        if name not in known:
            raise ConfigError(f"there is no {what} '{name}'; nearest: {nearest(name, known)}")
    if source_of(config.data).task != config.task:
        fitting = [name for name in data.names() if source_of(name).task == config.task]
        raise ConfigError(f"data set '{config.data}' is not for --task {config.task}; that takes {', '.join(fitting)}")
    TASKS[config.task].augmentation(config.augment)  # raises before any work is done, like the next line
    if config.method != "float":
        recipe_for(config.method, config.bits, config.act_bits, config.options)
    return config, run_folder(arguments.out, config)


def refuse_changes(config, values):
    """Raise ConfigError if a value given beside --resume differs from the run's own; options compare as parsed."""
    changed = [name for name, value in values.items() if name != "options" and getattr(config, name) != value]
    if values.get("options"):
        method = METHODS[config.method]
        if method(**{**config.options, **values["options"]}).settings != method(**config.options).settings:
            changed.append("options")
    if changed:
        name = changed[0]
        raise ConfigError(f"--resume cannot change {name} from {getattr(config, name)!r} to {values[name]!r}: the "
                          "resumed run would not be the run; start a new one with --out")


def run_folder(out, config):
    """The folder of a new run: `out`, which must not hold a run, or the first free runs/DATA-MODEL-METHOD-... name."""
    if out:
        if (Path(out) / "config.toml").exists():
            raise ConfigError(f"--out {out} holds a run already; go on with --resume {out}, or choose another folder")
        return Path(out)
    act = "32" if config.act_bits is None else config.act_bits
    bits = "" if config.method == "float" else f"-w{config.bits}a{act}"
    base = Path("runs") / f"{config.data}-{config.model}-{config.method}{bits}-seed{config.seed}"
    numbered = [base] + [base.with_name(f"{base.name}-{i}") for i in range(2, 10000)]
    return next(path for path in numbered if not path.exists())


def show(report, folder):
    """The closing table as text."""
    rows = [(r["name"], "x".join(map(str, r["shape"])), r["bits"] if r["bits"] < 32 else "float",
             r["act_bits"] if r["act_bits"] < 32 else "float", r["levels"], f"{r['zeros']:.0%}", f"{r['bytes']:,}")
            for r in report["layers"]]
    metric = report["metric"]
    lines = [table(("layer", "shape", "bits", "input bits", "levels", "zeros", "bytes"), rows), "",
             f"{'float ' + metric:<20}{report['float_accuracy']:.2%}  (test)",
             f"{'quantized ' + metric:<19} {report['accuracy']:.2%}  "
             f"(test, epoch {report['best_epoch']} by validation)",
             f"model size          {report['bytes'] / 1024:.1f} kB, {report['compression']:.1f}x smaller than float32 "
             f"({report['float32_bytes'] / 1024:.1f} kB)",
             f"files               {folder}/  (report.json, log.csv, best.npz, plots/)"]
    sizes = [row["bytes"] for row in report["activations"]]
    if sizes:
        lines.insert(-1, f"activations         {sum(sizes):,} bytes an image, the largest {max(sizes):,}")
    if report["method"] == "float":
        del lines[3]
    return "\n".join(lines + show_program(report.get("program", {})))


def show_program(exported):
    """What `export_finished` gives, as lines."""
    if "refused" in exported:
        return [f"integer program     none: {exported['refused']}"]
    if not exported:
        return []
    return [f"integer program     {exported['file']}, {exported['bytes']:,} bytes",
            f"checked             {exported['codes']:,} codes on {exported['images']} test images: "
            f"network in float64 = {' = '.join(exported['backends'])}"]


def list_methods():
    """Every method: name, paper, what it learns, bits, options with defaults."""
    def span(bits):
        numbers = [b for b in bits if b is not None]
        return f"{min(numbers)}..{max(numbers)}" + (", float" if None in bits else "") if numbers else "float"

    blocks = []
    for method in METHODS.values():
        lines = [f"{method.name}: {method.title}", f"    paper    {method.paper}", f"    learns   {method.learns}",
                 f"    bits     weights {span(method.weight_bits)}; activations {span(method.act_bits)}"]
        for name, option in method.options.items():
            takes = "|".join(map(str, option.takes)) if isinstance(option.takes, tuple) else option.takes.__name__
            lines.append(f"    --set {name}={option.default}  ({takes}) {option.help}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


if __name__ == "__main__":
    sys.exit(main())
