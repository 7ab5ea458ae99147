"""One training run from configuration to report: float pre-training, quantized training, the stored form."""

from pathlib import Path

import numpy as np

from . import __version__, plot, runs
from .config import Config
from .nn import skip_input_gradient
from .quantize import calibrate
from .recording import Recording
from .summary import activation_rows, as_dicts, summarise
from .tasks import TASKS
from .training import STAGES, Stage, evaluate, judge, make_optimizer, predict, train_epoch

CALIBRATION_IMAGES = 512


class Run:
    """A run in its folder. `Run(...).train()` does it all and returns the report; `resume=True` goes on after the
    newest whole epoch.

    config   : `Config`;  folder : Path, made if absent;  dataset : `Dataset`
    progress : `Progress` for the lines a user sees
    """

    def __init__(self, config, folder, dataset, progress, resume=False):
        self.config, self.folder, self.dataset, self.progress = config, Path(folder), dataset, progress
        float_epochs = 0 if config.float_from else config.float_epochs
        self.stages = {"float": Stage("float", float_epochs, config.float_lr, config.weight_decay)}
        if config.method != "float":
            self.stages["quantized"] = Stage("quantized", config.epochs, config.lr, config.quantized_weight_decay)
        self.history, self.best, self.float_accuracy, self.epoch = [], -1.0, float("nan"), 0
        self.recording = Recording()
        if resume and (self.folder / "last.npz").is_file():
            self._resume()
        else:  # a run that was stopped in its first epoch has nothing to go on from but its configuration
            self._start()
        skip_input_gradient(self.model)

    @property
    def task(self):
        return TASKS[self.config.task]

    def _start(self):
        self.model = runs.float_model(self.config, self.dataset)
        if "quantized" in self.stages:
            runs.quantized_model(self.config, self.model)  # a setting that cannot work is refused before any training
        if self.config.float_from:
            path = Path(self.config.float_from)
            path = path / "float.npz" if path.is_dir() else path
            runs.load_model(self.model, runs.read_checkpoint(path), path)
        self.folder.mkdir(parents=True, exist_ok=True)
        runs.write_text(self.folder / "config.toml", self.config.to_toml())
        self._enter("float")

    def _resume(self):
        path = self.folder / "last.npz"
        parts = runs.read_checkpoint(path)
        meta = parts["meta"]
        if not {"config", "stage", "epoch", "best", "float_accuracy", "history", "steps"} <= set(meta):
            raise runs.RunError(f"{path} is no checkpoint to go on from (it holds no optimizer); "
                                "restore the run's own last.npz, or start a new run with --out")
        if Config.from_toml(str(meta["config"]), path) != self.config:
            raise runs.RunError(f"{path} was made with another configuration than {self.folder / 'config.toml'}; "
                                "restore that file, or start a new run with --out")
        self.model = runs.float_model(self.config, self.dataset)
        self.stage = STAGES[int(meta["stage"])]
        if self.stage == "quantized":
            self.model = runs.quantized_model(self.config, self.model)
        runs.load_model(self.model, parts, path)
        self.optimizer = make_optimizer(self.model, self.config, self.stages[self.stage])
        self.optimizer.load(parts["optimizer"], meta["steps"])
        self.epoch, self.best = int(meta["epoch"]), float(meta["best"])
        self.float_accuracy = float(meta["float_accuracy"])
        self.history = meta["history"].tolist()
        if self.stage == "quantized":
            try:
                self.recording = Recording.load(self.folder / "film.npz", last=self.epoch)
            except runs.RunError as error:
                self.progress.line(f"the film will begin here: {error}")

    def _enter(self, stage):
        self.stage, self.epoch, self.best = stage, 0, -1.0
        self.optimizer = make_optimizer(self.model, self.config, self.stages[self.stage])

    def train(self):
        """Run what is left of every stage; write the folder; return the report as a dict."""
        self._epochs()
        if self.stage == "float":
            self._finish_float()
            if "quantized" in self.stages:
                self._quantize()
                self._epochs()
        return self._report()

    def _epochs(self):
        stage = self.stages[self.stage]
        while self.epoch < stage.epochs:
            epoch = self.epoch + 1
            title = f"{stage.name} {epoch:>{len(str(stage.epochs))}}/{stage.epochs}"
            row = train_epoch(self.model, self.optimizer, self.dataset, self.config, stage, epoch,
                              self.progress.begin(title, stage.epochs - epoch))
            loss, accuracy = evaluate(self.model, self.dataset.validation, self.dataset.normalise)
            self.epoch = epoch
            mean_bits = summarise(self.model, self.dataset.image_shape)[1]["mean_bits"]
            self.history.append([float(STAGES.index(stage.name)), float(epoch), row["lr"], row["loss"], row["accuracy"],
                                 loss, accuracy, mean_bits])
            if stage.name == "quantized":
                self.recording.add(epoch, self.model)
            self._save(accuracy)
            self.progress.line(f"{title}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.2%}  "
                               f"validation {self.task.metric} {accuracy:.2%}  {row['images_per_s']:,.0f} images/s")

    def _save(self, accuracy):
        """The best state first, then the newest, then the log: a kill in between loses nothing that was whole.

        The record may be ahead of the newest state: resuming cuts it.
        """
        method = getattr(self.model, "method", None)
        final = self.stage == list(self.stages)[-1]
        if final and accuracy >= self.best and (method is None or method.feasible(self.model)):
            self.best = accuracy
            runs.save_checkpoint(self.folder / "best.npz", self.model, stage=STAGES.index(self.stage), epoch=self.epoch,
                                 finished=False)
        if self.recording.epochs:
            self.recording.save(self.folder / "film.npz")
        runs.save_checkpoint(self.folder / "last.npz", self.model, self.optimizer, stage=STAGES.index(self.stage),
                             epoch=self.epoch, best=self.best, float_accuracy=self.float_accuracy,
                             history=np.array(self.history), config=self.config.to_toml())
        runs.write_log(self.folder / "log.csv", self.history)

    def _finish_float(self):
        _, self.float_accuracy = evaluate(self.model, self.dataset.test, self.dataset.normalise)
        runs.save_checkpoint(self.folder / "float.npz", self.model, stage=0, epoch=self.epoch)
        self.progress.line(f"float network: test {self.task.metric} {self.float_accuracy:.2%}")

    def _quantize(self):
        self.model = runs.quantized_model(self.config, self.model)
        rng = np.random.default_rng([self.config.seed, 102])
        images = self.dataset.train.images
        sample = rng.permutation(len(images))[:CALIBRATION_IMAGES]
        calibrate(self.model, self.dataset.normalise(images[sample]), rng)
        skip_input_gradient(self.model)
        self._enter("quantized")
        self.recording.add(0, self.model)
        if self.config.epochs == 0:  # post-training quantization: the calibrated state is the result
            _, accuracy = evaluate(self.model, self.dataset.validation, self.dataset.normalise)
            self._save(accuracy)

    def _report(self):
        path = self.folder / "best.npz"
        if not path.is_file():  # no epoch met the method's constraint, or there was no epoch at all
            why = ("nothing was trained" if self.config.method == "float" else
                   f"no epoch met the constraint of method '{self.config.method}': loosen it, or")
            raise runs.RunError(f"{self.folder} has no result: {why} train longer (--epochs, --float-epochs)")
        parts = runs.read_checkpoint(path)
        runs.load_model(self.model, parts, path)
        method = getattr(self.model, "method", None)
        if method is not None and not parts["meta"]["finished"]:
            method.finish(self.model)
            runs.save_checkpoint(path, self.model, stage=STAGES.index(self.stage), epoch=parts["meta"]["epoch"],
                                 finished=True)
        test = self.dataset.test
        outputs = predict(self.model, test.images, self.dataset.normalise)
        loss, accuracy = judge(outputs, test)
        rows, totals = summarise(self.model, self.dataset.image_shape)
        report = {"version": __version__, "method": self.config.method, "model": self.config.model,
                  "data": self.config.data, "data_source": self.dataset.source, "seed": self.config.seed,
                  "best_epoch": int(parts["meta"]["epoch"]), "float_accuracy": self.float_accuracy,
                  "metric": self.task.metric, "accuracy": accuracy, "loss": loss, "validation_accuracy": self.best,
                  **self.task.details(outputs, test, self.dataset.classes), **totals,
                  "layers": as_dicts(rows), "activations": activation_rows(self.model, self.dataset.image_shape)}
        runs.write_json(self.folder / "report.json", report)
        plot.run_plots(self.folder, self.model, self.history, self.task)
        self.task.plots(self.folder, outputs, test, self.dataset.classes)
        return report
