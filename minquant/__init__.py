"""Low-bit neural networks: five papers, each in one file, down to integers in C."""

__version__ = "0.1.0"
