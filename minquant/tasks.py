"""What a network is trained for: the loss of its outputs, how they are judged, and what a report and its plots add.

    task = TASKS[dataset.task]        # classify | detect

Everything else of a run (steps, epochs, checkpoints, quantization, export) is the same for every task.
"""

from .data import Augmentation, BoxAugmentation
from .detection import boxes, losses, metrics
from .models import DETECTORS, MODELS
from .nn import softmax_cross_entropy


class Classification:
    """One class per image. outputs: logits (N, classes);  labels: integers (N,)."""

    name, metric, models = "classify", "accuracy", MODELS
    loss_name, training_metric = "cross-entropy loss (nats)", "accuracy"
    output_axes = 1

    def augmentation(self, spec):
        """f(images, labels, rng) -> (images, labels) of an augmentation string. Raises DataError."""
        transform = Augmentation(spec)
        return lambda images, labels, rng: (transform(images, rng), labels)

    def loss(self, outputs, labels, image_shape, smoothing=0.0):
        """(mean loss, its gradient by the outputs)."""
        return softmax_cross_entropy(outputs, labels, smoothing)

    def right(self, outputs, labels, image_shape):
        """How many images of a training batch are right."""
        return int((outputs.argmax(1) == labels).sum())

    def score(self, outputs, labels, image_shape):
        """The figure by which the best epoch is chosen, in 0 .. 1: the accuracy."""
        return float((outputs.argmax(1) == labels).mean())

    def details(self, outputs, split, classes):
        """What the report says beyond loss and score."""
        return {}

    def plots(self, folder, outputs, split, classes):
        """Write the pictures that only this task has."""


class Detection:
    """Objects with boxes. outputs: maps (N, h, w, classes + 4), see `detection.boxes`; labels: objects (N, M, 6)."""

    name, metric, models = "detect", "mAP@0.5", DETECTORS
    loss_name, training_metric = "focal + box loss", "class accuracy at centres"
    output_axes = 3

    def augmentation(self, spec):
        return BoxAugmentation(spec)

    def loss(self, outputs, labels, image_shape, smoothing=0.0):
        if smoothing:
            raise ValueError(f"smoothing={smoothing} does not go with detection, whose heat-map is smooth; use 0")
        return losses.detection_loss(outputs, labels, image_shape)

    def right(self, outputs, labels, image_shape):
        """Per image, the share of objects whose cell ranks their class first (1 where there are none), summed."""
        targets = boxes.encode(labels, outputs.shape[1:], image_shape)
        hits = outputs[targets.n, targets.i, targets.j, :-4].argmax(1) == targets.classes
        shares = {image: hits[targets.n == image].mean() for image in set(targets.n.tolist())}
        return float(sum(shares.get(image, 1.0) for image in range(len(outputs))))

    def score(self, outputs, labels, image_shape):
        """Mean average precision at IoU 0.5, all-point."""
        detections = boxes.decode(outputs, image_shape)
        return metrics.mean_average_precision(detections, labels, outputs.shape[3] - 4)

    def details(self, outputs, split, classes):
        detections = boxes.decode(outputs, split.images.shape[1:])
        return {"detection": metrics.evaluate(detections, split.labels, classes)}

    def plots(self, folder, outputs, split, classes):
        from .detection import plots  # matplotlib is imported with it
        plots.detection_plots(folder, boxes.decode(outputs, split.images.shape[1:]), split, classes)


CLASSIFY, DETECT = Classification(), Detection()
TASKS = {task.name: task for task in (CLASSIFY, DETECT)}
