"""What the tutorials share: how long they take, where their pictures go, and a network to start from.

    MINQUANT_SHORT=1            a few seconds: fewer epochs, smaller arrays; every claim is still checked
    MINQUANT_PICTURES=FOLDER    where pictures go (default: the folder `pictures` beside this file)
"""

import os
import sys
from pathlib import Path

import numpy as np

from minquant import calibrate, models, plot, quantize
from minquant.config import Config
from minquant.training import Stage, evaluate, make_optimizer, train_epoch

SHORT = os.environ.get("MINQUANT_SHORT", "0") not in ("", "0")
PICTURES = Path(os.environ.get("MINQUANT_PICTURES") or Path(__file__).parent / "pictures")


def picture(figure, name):
    """Save a figure as PICTURES/name.png, and show it where a notebook runs."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{name}.png"
    plot.save(figure, path, dpi=100)
    print(f"picture: {path}")
    if "ipykernel" in sys.modules:
        from IPython.display import Image, display
        display(Image(path))


def fit(model, dataset, epochs, watch=None, **settings):
    """Train a float or quantized model in place as `minquant.train` does; return the test accuracy.

    watch(epoch, model) is called after every epoch, and once before the first with epoch 0.
    """
    method = getattr(model, "method", None)
    config = Config(method=method.name if method else "float", data=dataset.name, **settings)
    stage = (Stage("quantized", epochs, config.lr, config.quantized_weight_decay) if method else
             Stage("float", epochs, config.float_lr, config.weight_decay))
    optimizer = make_optimizer(model, config, stage)
    for epoch in range(epochs + 1):
        if epoch:
            train_epoch(model, optimizer, dataset, config, stage, epoch)
        if watch:
            watch(epoch, model)
    if method:
        method.finish(model)
    return evaluate(model, dataset.test, dataset.normalise)[1]


def float_network(dataset, epochs, name="mlp", **settings):
    """A float network of `minquant.models`, trained for some epochs; return (model, test accuracy or mAP)."""
    model = models.build(name, dataset.image_shape, len(dataset.classes), np.random.default_rng(0))
    return model, fit(model, dataset, epochs, **settings)


def quantized(model, dataset, method, bits, act_bits=4, **options):
    """A calibrated copy of a float model with the quantizers of `method`, not trained yet."""
    rng = np.random.default_rng(0)
    copy = quantize(model, method, bits, act_bits, rng=rng, **options)
    calibrate(copy, dataset.normalise(dataset.train.images[:256]), rng)
    return copy
