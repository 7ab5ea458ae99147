"""The contract of a quantizer, the tensor it hands to deployment, and the recipe (method) that surrounds it.

A *quantizer* maps floats onto at most 2^bits levels and knows its own backward. A *method* is what a paper adds to
it: which quantizers go where, how they start, what changes from step to step, and at which learning rate they move.
"""

from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from ..nn.base import Layer, prefixed


@dataclass(frozen=True)
class QTensor:
    """What a device stores of one tensor; `levels[codes] * scale` is the evaluation-mode forward, to the last bit.

    codes  : uint8, shape of the tensor; an index into `levels`
    levels : (at most 2^bits,) ascending table: int8 (weights, signed activations), uint8 (unsigned activations),
             or float for a real codebook that has not been hardened (scale is 1 then)
    scale  : float array that broadcasts against the tensor: () per tensor, or the size of `axis` along `axis`
    bits   : 1..8
    axis   : None, or the axis along which `scale` varies
    """

    codes: np.ndarray
    levels: np.ndarray
    scale: np.ndarray
    bits: int
    axis: int | None = None

    def __post_init__(self):
        if self.codes.dtype != np.uint8:
            raise ValueError(f"codes are {self.codes.dtype}, they must be uint8")
        if len(self.levels) > 2 ** self.bits:
            raise ValueError(f"{len(self.levels)} levels do not fit {self.bits} bits; at most {2 ** self.bits} do")
        if self.codes.size and int(self.codes.max()) >= len(self.levels):
            raise ValueError(f"code {int(self.codes.max())} has no level (there are {len(self.levels)})")

    def decode(self):
        """levels[codes] * scale, in the dtype of `scale`."""
        scale = np.asarray(self.scale)
        if self.axis is not None:
            scale = scale.reshape([-1 if i == self.axis % self.codes.ndim else 1 for i in range(self.codes.ndim)])
        return self.levels.astype(scale.dtype)[self.codes] * scale


@dataclass(frozen=True)
class Staircase:
    """An activation quantizer in evaluation mode as a monotone step function, for exact lowering.

    code(x) = number of thresholds t_j with x > t_j, or x >= t_j where `inclusive[j]` (a tie then takes the upper code).

    thresholds : (levels-1,) ascending floats, in the units of x
    inclusive  : (levels-1,) bool: half-up is all True, half-even alternates, strict comparison is all False
    levels     : (levels,) ascending integer table, uint8 or int8
    scale      : float scalar; the level's real value is levels[code] * scale
    """

    thresholds: np.ndarray
    inclusive: np.ndarray
    levels: np.ndarray
    scale: np.ndarray

    def codes(self, x):
        """Code of every element of x (uint8), by comparison alone: the definition that kernels must meet."""
        below = np.searchsorted(self.thresholds, x, side="left")
        up_to = np.searchsorted(self.thresholds, x, side="right")
        tie = up_to > below
        upper = tie & self.inclusive[np.minimum(below, len(self.inclusive) - 1)]
        return (below + np.where(upper, up_to - below, 0)).astype(np.uint8)


class Quantizer(Layer):
    """Base of all quantizers; a subclass lists its learned arrays in `params` and everything else it keeps in `state`.

    bits     : 1..8, an integer (a method that learns bits keeps them here as the current value)
    signed   : True for weights and signed activations, False after a ReLU
    lr_scale : class attribute, learned parameter -> learning rate relative to the weights' (1.0 where not listed);
               parameters of quantizers never get weight decay
    idempotent : class attribute, False where the grid follows the data, so that quantized values move once more
    saturates  : class attribute, True where dx is exactly 0 for values beyond the last level

    `state["ready"]` turns True in `init_from`. Parameters and state have their final shapes from construction on,
    so that a checkpoint can be loaded into a freshly built model.
    """

    lr_scale = {}
    idempotent = True
    saturates = False

    def __init__(self, bits, signed=True):
        super().__init__()
        check_bits(bits)
        self.bits = int(bits)
        self.signed = bool(signed)
        self.state["ready"] = np.zeros((), bool)

    def init_from(self, x, rng):
        """Set the parameters from a pre-trained weight tensor or a batch of activations."""
        raise TypeError(f"{type(self).__name__} defines no init_from")

    def surrogate(self, x):
        """The smooth function of x whose exact derivative `backward` claims to be (straight-through methods).

        Methods with rounding residuals need `freeze(x)` first.
        """
        raise TypeError(f"{type(self).__name__} is differentiated exactly; it has no surrogate")

    def freeze(self, x, rng=None):
        """Fix the point whose rounding residuals `surrogate` keeps; nothing to fix for most."""

    def penalty(self):
        """Return (value, grads): this quantizer's own regularisation term and its gradient; (0.0, {}) for most."""
        return 0.0, {}

    def project(self):
        """Put the parameters back into their feasible set after an optimizer step."""

    def harden(self):
        """Round a real codebook to int8 levels times a scale; nothing to do where the grid is already integral."""

    def encode(self, x):
        """Return the QTensor a device stores for x."""
        raise TypeError(f"{type(self).__name__} defines no encode")

    def staircase(self):
        """Return the Staircase of an activation quantizer (evaluation mode)."""
        raise TypeError(f"{type(self).__name__} quantizes weights only; it has no staircase")

    def require_ready(self):
        """Raise RuntimeError unless init_from (or a checkpoint) has set the parameters."""
        if not self.state["ready"]:
            raise RuntimeError(f"{type(self).__name__} has no parameters yet; "
                               "call minquant.calibrate(model, images, rng) or init_from(x, rng) first")


@dataclass(frozen=True)
class Option:
    """One option of a method: its default, what it takes (a tuple of choices, or a type), and what it does."""

    default: object
    takes: object
    help: str

    def parse(self, name, value):
        """Return `value` converted; a string from the command line is accepted for every type."""
        if isinstance(self.takes, tuple):
            if value not in self.takes:
                raise ValueError(f"option {name}={value!r} is not one of {', '.join(map(str, self.takes))}")
            return value
        if self.takes is bool:
            words = ("false", "no", "off", "0", "true", "yes", "on", "1")
            if isinstance(value, str) and value.lower() in words:
                return words.index(value.lower()) >= 4
            if isinstance(value, (bool, np.bool_)):
                return bool(value)
            raise ValueError(f"option {name}={value!r} is not a truth value; use true or false")
        try:
            converted = self.takes(value)
        except (TypeError, ValueError):
            raise ValueError(f"option {name}={value!r} is not a {self.takes.__name__}") from None
        if isinstance(value, float) and self.takes is int and converted != value:
            raise ValueError(f"option {name}={value!r} is not an int")
        return converted


class Method:
    """A paper's recipe. Subclasses fill the class attributes, make quantizers, and override the hooks they need.

    name, title, paper, learns : strings for `--list-methods`
    weight_bits, act_bits      : the bit-widths allowed; None in act_bits means activations may stay float
    options                    : dict name -> Option
    training                   : settings of the quantized training that this method recommends, by their names in
                                 `Config`; they hold where the user names none
    """

    name = title = paper = learns = ""
    weight_bits = tuple(range(1, 9))
    act_bits = tuple(range(1, 9)) + (None,)
    options = {}
    training = {}

    def __init__(self, **options):
        for key in options:
            if key not in self.options:
                near = get_close_matches(key, self.options, n=3)
                raise ValueError(f"method '{self.name}' has no option '{key}'; nearest: {', '.join(near) or 'none'}; "
                                 f"it takes: {self.describe_options() or 'no options'}")
        self.settings = {key: option.parse(key, options.get(key, option.default))
                         for key, option in self.options.items()}

    @classmethod
    def describe_options(cls):
        """`name=default` of every option, in one line."""
        return ", ".join(f"{key}={option.default}" for key, option in cls.options.items())

    def weight_quantizer(self, bits, shape):
        """Return a new Quantizer for a weight of this shape (HWIO or (in, out))."""
        raise TypeError(f"method '{self.name}' makes no weight quantizer")

    def activation_quantizer(self, bits, signed=False):
        """Return a new Quantizer for activations (unsigned after a ReLU)."""
        raise TypeError(f"method '{self.name}' makes no activation quantizer")

    def calibrate(self, model, images, rng):
        """Called at the end of `minquant.calibrate` with its images (normalised, NHWC); by default it only starts."""
        self.start(model, rng)

    def start(self, model, rng):
        """Called once, after all quantizers of the model are initialised and before the first step."""

    def step_begin(self, model, epoch, progress):
        """Called before every step: `epoch` counts from 1, `progress` in [0, 1) is the share of all steps done."""

    def penalty(self, model):
        """Return (value, grads under dotted names) added to the loss; by default the sum of the quantizers' own."""
        total, grads = 0.0, {}
        for name, quantizer in quantizers(model):
            value, own = quantizer.penalty()
            total += value
            grads.update(prefixed(name, own))
        return total, grads

    def edit_gradients(self, model, grads):
        """Change the gradients of a step (clip, freeze) before the optimizer sees them; return them."""
        return grads

    def step_end(self, model):
        """Called after every optimizer step; by default every quantizer projects its parameters."""
        for _, quantizer in quantizers(model):
            quantizer.project()

    def feasible(self, model):
        """False while a constraint of the method (a memory budget) is violated; such a state is never `best`."""
        return True

    def finish(self, model):
        """Called after the last step: bring the model into the form that is stored (fix bits, harden codebooks)."""
        for _, quantizer in quantizers(model):
            quantizer.harden()


def quantizers(model):
    """Return [(dotted name, quantizer)] of a model, in the order of the computation."""
    return [(name, layer) for name, layer in model.named_layers() if isinstance(layer, Quantizer)]


def check_bits(bits, allowed=range(1, 9), what="bits"):
    """Raise ValueError unless `bits` is an integer in `allowed`; `what` is what the message calls it."""
    if isinstance(bits, (bool, np.bool_)) or not isinstance(bits, (int, np.integer)) or bits not in allowed:
        raise ValueError(f"{what}={bits!r} is not in {min(allowed)}..{max(allowed)} (codes are stored in uint8)")


def check_finite(x, what="weights"):
    """Raise ValueError if x holds NaN or infinity, with the count and the first place."""
    bad = ~np.isfinite(x)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{int(bad.sum())} of {x.size} {what} are NaN or infinite, first at index {where}; "
                         "quantizers need finite values: check the learning rate of the training that made them")


def uniform_staircase(step, n_min, n_max, ties="up"):
    """Staircase of the uniform grid step * {n_min..n_max}; ties: 'up' | 'even' | 'away' from zero | 'down'."""
    n = np.arange(n_min, n_max + 1)
    inclusive = {"up": np.ones(len(n) - 1, bool), "down": np.zeros(len(n) - 1, bool),
                 "even": n[1:] % 2 == 0, "away": n[1:] > 0}[ties]
    step = np.asarray(step)
    levels = n.astype(np.int8 if n_min < 0 else np.uint8)
    return Staircase((n[:-1] + np.asarray(0.5, step.dtype)) * step, inclusive, levels, step)
