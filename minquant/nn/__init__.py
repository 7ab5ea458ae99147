"""The network stack: layers with explicit forward and backward, containers, losses, initialisers."""

from .base import Layer, tapped
from .containers import Concat, Residual, Sequential
from .layers import (AvgPool, BatchNorm, Conv2d, Dropout, Flatten, GlobalAvgPool, Linear, MaxPool, PadShortcut, ReLU,
                     skip_input_gradient)
from .losses import mean_squared_error, softmax_cross_entropy

__all__ = ["AvgPool", "BatchNorm", "Concat", "Conv2d", "Dropout", "Flatten", "GlobalAvgPool", "Layer", "Linear",
           "MaxPool", "PadShortcut", "ReLU", "Residual", "Sequential", "mean_squared_error", "skip_input_gradient",
           "softmax_cross_entropy", "tapped"]
