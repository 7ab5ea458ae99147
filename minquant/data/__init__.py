"""Data sets from standard files, batches and augmentation; the embedded `digits` need no files at all."""

from .augment import Augmentation
from .batches import batches, hold_out
from .boxes import BoxAugmentation, BoxSplit
from .dataset import DataError, DataNotFoundError, Dataset, Split
from .loading import load
from .locate import search_path
from .sources import names

__all__ = ["Augmentation", "BoxAugmentation", "BoxSplit", "DataError", "DataNotFoundError", "Dataset", "Split",
           "batches", "hold_out", "load", "names", "search_path"]
