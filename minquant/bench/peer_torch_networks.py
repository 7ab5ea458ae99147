"""Whole networks in PyTorch, float32 and int8: traced, frozen, in channels-last memory.

The int8 form is PyTorch's own static quantization (FX graph mode). Of several forms of the same width the fastest on
the given images takes part: frozen or rewritten for oneDNN in float32; by the engine `x86`, whose activations have 7
bits, or `onednn` in int8. `torch.compile` is left out: it needs a C++ compiler and seconds for a network.
"""

import warnings

import torch
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from .networks import CALIBRATION
from .peer_torch import translate
from .timing import interleaved, summary

ENGINES = ("x86", "onednn")


def contestants(model, images, threads):
    """{name: function that computes the logits of float32 NHWC images}; `model` has no batch norms.

    PyTorch has one number of threads for the process: the last call decides.
    """
    torch.set_num_threads(threads)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)  # NHWC in memory: channels last
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # both the tracer and the quantizer announce their successors
        traced = torch.jit.trace(_network(model), x)
        forms = {"float32": [torch.jit.freeze(traced), torch.jit.optimize_for_inference(traced)],
                 "int8": [torch.jit.freeze(torch.jit.trace(_int8(model, x, engine), x)) for engine in ENGINES
                          if engine in torch.backends.quantized.supported_engines]}
    return {f"torch {width}": _fastest([_call(form, x) for form in of_width])
            for width, of_width in forms.items() if of_width}


def _network(model):
    return translate(model).eval().to(memory_format=torch.channels_last)


def _int8(model, x, engine):
    torch.backends.quantized.engine = engine
    prepared = prepare_fx(_network(model), get_default_qconfig_mapping(engine), (x,))
    prepared(x[:CALIBRATION])
    return convert_fx(prepared)


def _call(network, x):
    def call():
        with torch.inference_mode():
            return network(x)

    return call


def _fastest(calls):
    times = summary(interleaved(dict(enumerate(calls)), 3))
    return calls[min(times, key=lambda i: times[i]["fastest"])]
