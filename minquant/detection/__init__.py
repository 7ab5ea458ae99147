"""Object detection: boxes and the detector's map, losses with gradients by hand, average precision, pictures."""
