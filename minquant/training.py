"""The training loop: one step, one epoch, evaluation, written out.

Every epoch draws from a Generator made of (seed, stage, epoch) alone, so a run that was interrupted between epochs
and resumed is the uninterrupted run, bit for bit.
"""

import time
from dataclasses import dataclass

import numpy as np

from .data import batches
from .nn import tapped
from .optim import OPTIMIZERS, SCHEDULES, clip_gradients, parameter_groups, warm_up
from .tasks import CLASSIFY, TASKS

STAGES = ("float", "quantized")


class Diverged(RuntimeError):
    """The loss is NaN or infinite; the message names epoch, step and the first layer that produced such a value."""


@dataclass(frozen=True)
class Stage:
    """One part of a run: 'float' or 'quantized' training."""

    name: str
    epochs: int
    lr: float
    weight_decay: float

    def rng(self, seed, epoch):
        """The Generator of one epoch (counted from 1)."""
        return np.random.default_rng([seed, STAGES.index(self.name), epoch])


def step(model, optimizer, images, labels, lr, rng, epoch=1, progress=0.0, smoothing=0.0, max_grad_norm=None,
         task=CLASSIFY):
    """One update from one batch; return (loss without the method's penalty, number of right predictions).

    images (N, H, W, C) normalised floats, labels as the task takes them: integers (N,) for a classifier;
    `progress` in [0, 1) is the share of all steps done.
    Raises Diverged, before anything more is touched, if the loss or an updated parameter is not finite.
    """
    method = getattr(model, "method", None)
    if method is not None:
        method.step_begin(model, epoch, progress)
    outputs, cache = model.forward(images, train=True, rng=rng)
    loss, doutputs = task.loss(outputs, labels, images.shape[1:], smoothing)
    if not np.isfinite(loss):
        raise Diverged(f"the loss became {loss}; {first_bad(model, images)}")
    _, grads = model.backward(doutputs, cache)
    if method is not None:
        for name, extra in method.penalty(model)[1].items():
            grads[name] = grads[name] + extra
        grads = method.edit_gradients(model, grads)
    if max_grad_norm is not None:
        grads, _ = clip_gradients(grads, max_grad_norm)
    optimizer.step(grads, lr)
    for name, array in optimizer.params.items():
        if not np.isfinite(array).all():
            raise Diverged(f"the update made parameter '{name}' infinite or NaN")
    if method is not None:
        method.step_end(model)
    return loss, task.right(outputs, labels, images.shape[1:])


def make_optimizer(model, config, stage):
    """The optimizer of a configuration over a model's parameters: the usual groups, the stage's weight decay."""
    return OPTIMIZERS[config.optimizer](model.named_params(), parameter_groups(model, stage.weight_decay))


def train_epoch(model, optimizer, dataset, config, stage, epoch, watch=None):
    """Train one epoch in place; return dict(lr, loss, accuracy, images_per_s).

    watch : None, or watch(done, total, loss, accuracy) called after every step
    Raises Diverged as soon as a loss is not finite.
    """
    rng = stage.rng(config.seed, epoch)
    task = TASKS[dataset.task]
    augment = task.augmentation(config.augment)
    images, labels = dataset.train.images, dataset.train.labels
    schedule = warm_up(SCHEDULES[config.schedule], config.warm_up)
    order = [b for b in batches(len(images), config.batch_size, rng) if len(b) > 1]  # batch norm needs two images
    started, seen, total_loss, right = time.perf_counter(), 0, 0.0, 0
    for i, index in enumerate(order):
        progress = ((epoch - 1) * len(order) + i) / (stage.epochs * len(order))
        lr = stage.lr * schedule(progress)
        batch, truth = augment(images[index], labels[index], rng)
        try:
            loss, hits = step(model, optimizer, dataset.normalise(batch), truth, lr, rng, epoch, progress,
                              config.smoothing, config.max_grad_norm, task)
        except (Diverged, ZeroDivisionError, OverflowError) as error:
            raise Diverged(f"{stage.name} epoch {epoch}, step {i + 1} of {len(order)}: {error}; "
                           f"try a smaller learning rate (this one is {lr:.3g}) or --max-grad-norm") from error
        seen, total_loss, right = seen + len(index), total_loss + loss * len(index), right + hits
        if watch:
            watch(seen, len(images), total_loss / seen, right / seen)
    seconds = time.perf_counter() - started
    return {"lr": float(lr), "loss": total_loss / seen, "accuracy": right / seen, "images_per_s": seen / seconds}


def evaluate(model, split, normalise, batch_size=200):
    """Return (mean loss, score) of a model in evaluation mode on a `Split`; the score is accuracy or mAP."""
    return judge(predict(model, split.images, normalise, batch_size), split)


def judge(outputs, split):
    """(mean loss, score) of a network's outputs on a `Split`."""
    task, image_shape = TASKS[split.task], split.images.shape[1:]
    return task.loss(outputs, split.labels, image_shape)[0], task.score(outputs, split.labels, image_shape)


def predict(model, images, normalise, batch_size=200):
    """Logits (N, ...) of uint8 images in evaluation mode. Raises ValueError for no images and for NaN logits."""
    if len(images) == 0:
        raise ValueError("there are no images to evaluate; the data set or this part of it is empty")
    logits = np.concatenate([model.forward(normalise(images[i:i + batch_size]))[0]
                             for i in range(0, len(images), batch_size)])
    bad = np.flatnonzero(~np.isfinite(logits).reshape(len(logits), -1).all(1))
    if len(bad):
        raise ValueError(f"{len(bad)} of {len(logits)} images have NaN or infinite logits, first image {bad[0]}; "
                         f"{first_bad(model, normalise(images[bad[:1]]))}")
    return logits


def first_bad(model, images):
    """Name the first parameter or layer output that is not finite, in words."""
    for name, array in model.named_params().items():
        if not np.isfinite(array).all():
            return f"parameter '{name}' is no longer finite"
    found = []

    def look(name, layer, x, y):
        if not found and not np.isfinite(y).all():
            found.append(name)

    with tapped(model, after=look):
        model.forward(images)
    return f"layer '{found[0]}' is the first with a value that is not finite" if found else "every layer is finite"
