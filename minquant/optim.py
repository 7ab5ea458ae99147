"""Optimizers that update named arrays in place, parameter groups, learning-rate schedules, gradient clipping."""

import math
from dataclasses import dataclass

import numpy as np

from .quantizers.base import Quantizer


@dataclass(frozen=True)
class Group:
    """Parameters that share settings: dotted names, learning rate relative to the schedule's, weight decay."""

    names: tuple
    lr_scale: float = 1.0
    weight_decay: float = 0.0


def parameter_groups(model, weight_decay=0.0):
    """The usual groups: decay on `weight` arrays only; quantizer parameters at their own `lr_scale`, never decayed."""
    members = {}
    for prefix, layer in model.named_layers():
        for name in layer.params:
            if isinstance(layer, Quantizer):
                key = (layer.lr_scale.get(name, 1.0), 0.0)
            else:
                key = (1.0, weight_decay if name == "weight" else 0.0)
            members.setdefault(key, []).append(f"{prefix}.{name}" if prefix else name)
    return [Group(tuple(names), *key) for key, names in members.items()]


class Optimizer:
    """Base: holds the parameters by name and one dict of arrays per kind of moment, so that a checkpoint can keep them.

    params : dict dotted name -> float array (the model's own arrays)
    groups : list of `Group` that together name every parameter once; None is one group without decay
    """

    moments = ()

    def __init__(self, params, groups=None):
        groups = [Group(tuple(params))] if groups is None else list(groups)
        named = [name for group in groups for name in group.names]
        if sorted(named) != sorted(params):
            raise ValueError("groups must name every parameter exactly once; "
                             f"missing {sorted(set(params) - set(named))[:5]}, "
                             f"unknown {sorted(set(named) - set(params))[:5]}, or one is named twice")
        self.params, self.groups, self.steps = params, groups, 0
        self.state = {kind: {name: np.zeros_like(p) for name, p in params.items()} for kind in self.moments}

    def step(self, grads, lr):
        """Update every parameter in place with its gradient; `lr` is the schedule's learning rate of this step."""
        missing = sorted(set(self.params) - set(grads))
        if missing:
            raise ValueError(f"no gradient for {missing[:5]}; backward must return one for every parameter")
        self.steps += 1
        for group in self.groups:
            for name in group.names:
                p = self.params[name]
                self._update(name, p, np.asarray(grads[name], p.dtype), lr * group.lr_scale, group.weight_decay)

    def arrays(self):
        """{kind/name: array} of everything a resumed run needs."""
        return {f"{kind}/{name}": array for kind, by_name in self.state.items() for name, array in by_name.items()}

    def load(self, arrays, steps):
        """Take back what `arrays` gave, and the number of steps done."""
        ours = self.arrays()
        if set(ours) != set(arrays):
            raise ValueError("the optimizer state is of another model or optimizer; "
                             "resume with the run's own configuration")
        for name, array in ours.items():
            array[...] = arrays[name]
        self.steps = int(steps)


class SGD(Optimizer):
    """v = momentum v + g + decay p;  p -= lr v, or with Nesterov's look-ahead  p -= lr (g + decay p + momentum v)."""

    moments = ("velocity",)

    def __init__(self, params, groups=None, momentum=0.9, nesterov=False):
        super().__init__(params, groups)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} is not in [0, 1)")
        self.momentum, self.nesterov = momentum, nesterov

    def _update(self, name, p, g, lr, decay):
        g = g + decay * p if decay else g
        v = self.state["velocity"][name]
        v *= self.momentum
        v += g
        p -= lr * (g + self.momentum * v if self.nesterov else v)


class Adam(Optimizer):
    """Kingma and Ba 2015, algorithm 1; the decay of a group is added to its gradient (L2 regularisation)."""

    moments = ("m", "v")

    def __init__(self, params, groups=None, beta1=0.9, beta2=0.999, eps=1e-8):
        super().__init__(params, groups)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def _update(self, name, p, g, lr, decay):
        self._adam(name, p, g + decay * p if decay else g, lr)

    def _adam(self, name, p, g, lr):
        m, v = self.state["m"][name], self.state["v"][name]
        m *= self.beta1
        m += (1 - self.beta1) * g
        v *= self.beta2
        v += (1 - self.beta2) * g * g
        corrected = np.sqrt(v / (1 - self.beta2 ** self.steps)) + self.eps
        p -= (lr / (1 - self.beta1 ** self.steps)) * m / corrected


class AdamW(Adam):
    """Adam with decoupled decay (Loshchilov and Hutter 2019, algorithm 2): p -= lr decay p, outside the moments."""

    def _update(self, name, p, g, lr, decay):
        if decay:
            p *= 1 - lr * decay
        self._adam(name, p, g, lr)


OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def constant(progress):
    """Factor 1 throughout. A schedule maps progress in [0, 1], the share of all steps done, to a factor of lr."""
    return 1.0


def cosine(progress):
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, eq. 5, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def step_decay(milestones=(0.5, 0.75), factor=0.1):
    """Multiply by `factor` at every milestone, given as shares of the whole training."""
    def schedule(progress):
        return factor ** sum(progress >= milestone for milestone in milestones)
    return schedule


def warm_up(schedule, share):
    """Rise linearly during the first `share` of all steps, then follow `schedule` over the rest."""
    if not 0 <= share < 1:
        raise ValueError(f"share={share} is not in [0, 1)")

    def warmed(progress):
        return progress / share if progress < share else schedule((progress - share) / (1 - share))
    return warmed


SCHEDULES = {"constant": constant, "cosine": cosine, "step": step_decay()}


def clip_gradients(grads, max_norm):
    """Scale all gradients by one factor so that their joint L2 norm is at most `max_norm`; return (grads, norm)."""
    norm = float(np.sqrt(sum(float(np.vdot(g, g)) for g in grads.values())))
    if norm > max_norm:
        grads = {name: g * np.asarray(max_norm / norm, g.dtype) for name, g in grads.items()}
    return grads, norm
