"""Measurements: one file per sub-command of `python -m minquant.bench`, with `add_arguments` and `run`."""
