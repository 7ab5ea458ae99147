"""Transfer of a learned sub-distribution: the mixtures of one run start those of another network or data set.

The claim of the DGMS paper (arXiv:2112.15139, abstract) that a mixture found on one network serves another.
"""

import zipfile
from pathlib import Path

import numpy as np

from ..estimators.mixture import smallest_width


def load_mixture(arrays, mixtures):
    """Start the mixtures of a model from those of a saved run, layer by layer; return the layers' names.

    mixtures : [(layer name, layer, DGMSWeight)] of the model
    arrays   : dict "params/<name>" -> array, as a checkpoint holds them: of every layer its `weight` and, below
               `weight_quantizer`, `mu`, `pi` and `sigma`
    Means and widths are scaled by std(w of this layer) / std(w of that layer), shares are taken as they are,
    the temperature is not taken. A layer without a namesake keeps its own mixture. Raises ValueError if no
    name is shared or the number of components differs.
    """
    started = []
    for name, layer, quantizer in mixtures:
        prefix = f"params/{name}."
        if f"{prefix}weight_quantizer.sigma" not in arrays:
            continue
        mu, pi, sigma = (arrays[f"{prefix}weight_quantizer.{part}"] for part in ("mu", "pi", "sigma"))
        if len(sigma) != quantizer.components:
            raise ValueError(f"layer '{name}': the saved mixture has {len(sigma)} components, here are "
                             f"{quantizer.components}; quantize with the bits of that run")
        weight = layer.params["weight"]
        here, there = float(weight.std()), float(arrays[f"{prefix}weight"].std())
        ratio = here / there if here > 0 and there > 0 else 1.0
        quantizer.set_mixture(np.append(0, mu) * ratio, pi, sigma * ratio, smallest_width(weight))
        quantizer.state["ready"][...] = True
        started.append(name)
    if not started:
        raise ValueError("the saved run has no DGMS mixture for a layer of this model; its layers need the "
                         f"names they have here: {', '.join(name for name, _, _ in mixtures)}")
    return started


def read_arrays(path):
    """The arrays of a checkpoint, or of the best one in a run folder. Raises ValueError if there is none."""
    path = Path(path)
    path = path / "best.npz" if path.is_dir() else path
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"init_mixture={path} is not a readable checkpoint ({error}); name a run folder or "
                         "one of its .npz files") from None
