"""Gradient estimators that the papers share: forward, backward and the surrogate each one claims."""
