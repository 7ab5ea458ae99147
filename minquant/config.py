"""The configuration of a training run: one dataclass that is the flags, the TOML file and the run's record at once."""

import argparse
import tomllib
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path

from .optim import OPTIMIZERS, SCHEDULES
from .quantize import FIRST_LAST
from .quantizers import METHODS


class ConfigError(ValueError):
    """A flag, key or value that does not make sense; the message says what it takes."""


def _setting(default, help, **more):
    return field(default=default, metadata={"help": help, **more})


@dataclass
class Config:
    """Everything that decides the result of a run. Fields left None get a default that depends on the data set."""

    task: str = _setting("classify", "what is learned: classify or detect")
    method: str = _setting("cpq", "quantization method, or 'float' to train the float network only")
    bits: int = _setting(4, "bits of the weights")
    act_bits: int | None = _setting(4, "bits of the activations, or 'float'")
    first_last: str | None = _setting(
        None, "weights of the first and last layer: same, 8 or float (default: by method)")
    model: str | None = _setting(None, "network (default: by task, lenet5 or vgg_detector)")
    data: str | None = _setting(None, "data set (default: by task, digits or digit-scenes)")
    float_epochs: int | None = _setting(None, "epochs of float pre-training (default: by data set)")
    epochs: int | None = _setting(None, "epochs of quantized training (default: by data set)")
    batch_size: int = _setting(64, "images per step")
    optimizer: str = _setting("adam", "optimizer: " + ", ".join(OPTIMIZERS))
    float_lr: float = _setting(2e-3, "peak learning rate of the float training")
    lr: float | None = _setting(None, "peak learning rate of the quantized training (default: by method)")
    schedule: str = _setting("cosine", "learning-rate schedule: " + ", ".join(SCHEDULES))
    warm_up: float = _setting(0.0, "share of the steps in which the learning rate rises linearly")
    weight_decay: float = _setting(1e-4, "weight decay of the float training (L2; decoupled with adamw)")
    quantized_weight_decay: float | None = _setting(None, "weight decay of the quantized training (default: by method)")
    smoothing: float = _setting(0.0, "label smoothing, 0 to 1")
    max_grad_norm: float | None = _setting(None, "largest joint L2 norm of all gradients, or 'none'")
    augment: str | None = _setting(None, "augmentation such as crop4,flip, or '' for none (default: by data set)")
    validation: float = _setting(0.1, "share of the training images held out for validation")
    limit: int | None = _setting(None, "use only the first so many images of the training and of the test files")
    seed: int = _setting(0, "seed of every random draw")
    float_from: str | None = _setting(None, "run folder or .npz whose float network replaces the pre-training")
    overrides: dict = _setting(None, "bits of single layers: PATTERN=BITS")
    options: dict = _setting(None, "options of the method: KEY=VALUE")

    def __post_init__(self):
        self.overrides = dict(self.overrides or {})
        self.options = dict(self.options or {})
        for name, value in _BY_TASK.get(self.task, {}).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        recommended = METHODS[self.method].training if self.method in METHODS else {}
        for name, value in {**_DEFAULTS, **_BY_DATA.get(self.data, {}), **recommended}.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        self._check()

    def _check(self):
        def need(ok, name, takes):
            if not ok:
                raise ConfigError(f"{name}={getattr(self, name)!r} does not work; it takes {takes}")

        need(self.task in _BY_TASK, "task", ", ".join(_BY_TASK))
        need(self.float_epochs >= 0, "float_epochs", "0 or more")
        need(self.epochs >= 0, "epochs", "0 (calibration only) or more")
        need(self.batch_size >= 2, "batch_size", "2 or more (batch norm needs more than one image)")
        need(self.optimizer in OPTIMIZERS, "optimizer", ", ".join(OPTIMIZERS))
        need(self.schedule in SCHEDULES, "schedule", ", ".join(SCHEDULES))
        need(self.first_last in FIRST_LAST, "first_last", ", ".join(FIRST_LAST))
        need(0 < self.lr < float("inf"), "lr", "a positive number")
        need(0 < self.float_lr < float("inf"), "float_lr", "a positive number")
        need(0 <= self.warm_up < 1, "warm_up", "a share from 0 to below 1")
        need(0 <= self.weight_decay < float("inf"), "weight_decay", "0 or more")
        need(0 <= self.quantized_weight_decay < float("inf"), "quantized_weight_decay", "0 or more")
        need(0 <= self.smoothing < 1, "smoothing", "a share from 0 to below 1")
        need(0 < self.validation < 1, "validation", "a share between 0 and 1")
        need(self.max_grad_norm is None or self.max_grad_norm > 0, "max_grad_norm", "a positive number or none")
        need(self.limit is None or self.limit >= 2, "limit", "2 or more")
        need(self.seed >= 0, "seed", "0 or more")

    @classmethod
    def from_toml(cls, text, where):
        """The configuration that `to_toml` wrote; `where` names it in errors. Raises ConfigError."""
        return cls(**parse_toml(text, where))

    def to_toml(self):
        """The configuration as TOML text; None is written as the word that the flags take."""
        lines, tables = [], []
        for name, value in asdict(self).items():
            if isinstance(value, dict):
                tables += ["", f"[{name}]"] + [f"{_toml(key)} = {_toml(item)}" for key, item in value.items()]
            else:
                lines.append(f"{name} = {_toml(value)}")
        return "\n".join(lines + tables) + "\n"


# What a field left None becomes: the task's network and data; the first row, the data set's, the method's own.
_DEFAULTS = {"float_epochs": 10, "epochs": 10, "augment": "", "first_last": "same", "lr": 1e-3,
             "quantized_weight_decay": 1e-4}
_BY_TASK = {"classify": {"model": "lenet5", "data": "digits"},
            "detect": {"model": "vgg_detector", "data": "digit-scenes"}}
_BY_DATA = {"digits": {"float_epochs": 30, "epochs": 30}, "cifar10": {"augment": "crop4,flip"},
            "fashion-scenes": {"float_epochs": 10, "epochs": 2, "augment": "crop8,flip"}, "voc": {"augment": "flip"}}


def _toml(value):
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    return repr(value)


FIELDS = {f.name: f for f in fields(Config)}
_OPTIONAL_WORDS = ("none", "float", "")


def parse_value(name, value):
    """Convert `value` (text from a flag, or a TOML value) to the type of the field `name`."""
    kind = FIELDS[name].type
    if kind in (str, str | None):
        return None if kind == (str | None) and value == "none" else str(value)
    if isinstance(value, str) and value.lower() in _OPTIONAL_WORDS:
        if "None" in str(kind):
            return None
        raise ConfigError(f"{name}={value!r} does not work; it takes {_type_name(kind)}")
    base = int if kind in (int, int | None) else float
    try:
        converted = base(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{name}={value!r} does not work; it takes {_type_name(kind)}") from None
    if base is int and isinstance(value, float) and value != converted or isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} does not work; it takes {_type_name(kind)}")
    return converted


def _type_name(kind):
    names = {int: "a whole number", float: "a number", int | None: "a whole number or none",
             float | None: "a number or none"}
    return names.get(kind, "text")


def read_toml(path):
    """Return the dict of a TOML configuration file, checked against the fields. Raises ConfigError."""
    try:
        return parse_toml(Path(path).read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from None


def parse_toml(text, where):
    """Return the dict of a TOML configuration, checked against the fields; `where` names it in errors."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"cannot read the configuration {where}: {error}") from None
    values = {}
    for key, value in raw.items():
        if key not in FIELDS:
            raise ConfigError(f"{where}: there is no setting '{key}'; nearest: {nearest(key, FIELDS)}")
        if FIELDS[key].type is dict:
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: [{key}] is a table of KEY = VALUE lines")
            values[key] = {k: parse_override(f"{k}={v}")[1] if key == "overrides" else v for k, v in value.items()}
        else:
            values[key] = parse_value(key, value)
    return values


def nearest(word, names):
    """The nearest valid names, for an error message."""
    return ", ".join(get_close_matches(word, list(names), n=3, cutoff=0.4)) or "none; all: " + ", ".join(names)


def split_pair(text, what):
    """'key=value' -> (key, value); anything else is a ConfigError."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ConfigError(f"{what} takes KEY=VALUE, got '{text}'")
    return key.strip(), value.strip()


def parse_override(text):
    """'block3_*.conv1=2' -> (pattern, bits or None)."""
    pattern, value = split_pair(text, "--override")
    if value.lower() in ("float", "none"):
        return pattern, None
    try:
        return pattern, int(value)
    except ValueError:
        raise ConfigError(f"override {pattern}={value!r} does not work; it takes 1..8 or float") from None


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaint about an unknown flag lists the nearest valid ones."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_args(self, args=None, namespace=None):
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            self.error(f"unknown argument {unknown[0]}; nearest: {nearest(unknown[0].split('=')[0], flags)}")
        return known


def add_flags(parser):
    """One flag per field; what is not given stays out of the namespace, so that a file's value can stand."""
    for name, f in FIELDS.items():
        if f.type is dict:
            continue
        default = "" if f.default is None else f" (default: {f.default or 'none'})"
        parser.add_argument("--" + name.replace("_", "-"), metavar=name.upper(), default=argparse.SUPPRESS,
                            help=f.metadata["help"] + default)
    parser.add_argument("--override", action="append", default=[], metavar="PATTERN=BITS",
                        help="bits (or 'float') of the layers whose name matches, may be repeated")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="any setting above, or an option of the method; may be repeated")
    parser.add_argument("--config", metavar="FILE.toml", help="settings from a file; flags win over it")


def given(arguments, method_options):
    """The settings a command line names: file first, then flags, then --set. `method_options`: name -> options."""
    values = read_toml(arguments.config) if arguments.config else {}
    values.update({name: parse_value(name, text) for name, text in vars(arguments).items() if name in FIELDS})
    pairs = [split_pair(text, "--set") for text in arguments.set]
    values.update({key: parse_value(key, value) for key, value in pairs if key in FIELDS})
    options = method_options(values.get("method", Config.method))
    for key, value in pairs:
        if key not in FIELDS:
            if key not in options:
                raise ConfigError(f"--set {key}: neither a setting nor an option of method "
                                  f"'{values.get('method', Config.method)}'; "
                                  f"nearest: {nearest(key, [*FIELDS, *options])}")
            values.setdefault("options", {})[key] = value
    if arguments.override:
        values["overrides"] = {**values.get("overrides", {}), **dict(map(parse_override, arguments.override))}
    return values
