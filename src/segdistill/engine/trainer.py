"""The training loop: batches, logits of student and teacher, the objective, an optimizer step."""

import copy
import shlex
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils import get_total_norm

from segdistill.config.naming import call
from segdistill.console import ProgressBar, log, progress
from segdistill.data.batch import Batch
from segdistill.data.loaders import training_batches
from segdistill.data.mixing import mix
from segdistill.data.sampler import RankSlice
from segdistill.data.worker import with_plain_errors
from segdistill.distillation.table import compares_features_alone
from segdistill.engine.evaluate import EvaluationOptions, evaluate
from segdistill.engine.experiment import Experiment
from segdistill.engine.history import History
from segdistill.engine.metrics import Metrics
from segdistill.engine.monitor import GRADIENT, LossMonitor, NonFiniteLossError
from segdistill.engine.pictures import COUNT, ExamplePictures
from segdistill.engine.replay import as_json, diagnose, dump_batch
from segdistill.engine.run_folder import RunFolder
from segdistill.engine.runtime import Stopped, StopSignal, precision_of, stop_signal
from segdistill.engine.state import TrainingState
from segdistill.engine.temperature import calibrate, count_passes, fit_line
from segdistill.files import write_atomic
from segdistill.models.teacher import Teacher
from segdistill.models.trained import TrainedNetwork

LOG_EVERY = 10
"""Steps between lines of history.jsonl, where the settings name none."""
MIXING = 1
"""Tells the random numbers of mixing from those of the crops, which are seeded by three numbers."""


class Trainer:
    """Trains the student of an experiment, and leaves it with its records in a run folder.

    Args:
        experiment: what to train, on what.
        accelerator: device, precision and processes.
        folder: the run folder, already there.
    """

    def __init__(self, experiment: Experiment, accelerator: Accelerator, folder: RunFolder) -> None:
        self.experiment, self.config = experiment, experiment.config
        self.accelerator, self.folder = accelerator, folder
        self.state = TrainingState.of(experiment, accelerator)
        self.monitor = LossMonitor(folder, accelerator.process_index)
        self.best_weights: dict[str, Tensor] | None = None
        self.temperature: float | None = None

    def train(self, *, resume: bool = False) -> None:
        """Train to the last step; `resume` continues from the newest checkpoint, if there is one.

        Raises:
            NonFiniteLossError: a loss term was not finite; the batch is dumped into the run folder.
            Stopped: SIGINT or SIGTERM came; the state is saved.
        """
        start = self._load_checkpoint() if resume else 0
        try:
            with stop_signal() as stop, progress(self.accelerator.is_main_process) as bar:
                self._train(start, stop, bar)
        except NonFiniteLossError as error:
            raise self._dump(error) from None
        if stop.number is not None:
            raise Stopped(stop.exit_code)

    def _train(self, start: int, stop: StopSignal, bar: ProgressBar) -> None:
        """The steps after `start`, and the evaluations and checkpoints between them."""
        config, steps, state = self.config, self.experiment.steps, self.state
        history = History(self.folder.history_file, start, self.accelerator, state.scored)
        batches = device_batches(self.experiment, self.accelerator, range(start, steps), state.forward.stride)
        evaluate_every = config.evaluate_every or max(1, steps // 10)
        log_every = config.log_every or LOG_EVERY
        note = ", evaluations not counted"
        task = bar.add_task("train", total=steps, completed=start, unit="step", note=note)
        if start and (start % evaluate_every == 0 or start == steps) and state.scored < start:
            self._evaluate(start, history, stop, bar)  # a signal had ended it
        for step in range(start + 1, steps + 1):
            rate = self.optimizer_step(step - 1, batches)
            if step % log_every == 0 or step == steps:
                terms = self.monitor.means() | {"lr": rate}
                bar.update(task, completed=step, numbers=history.log(step, terms, config.batch))
                if config.log_every is not None:
                    bar.write_line(task)
            else:
                bar.update(task, completed=step)
            if step % evaluate_every == 0 or step == steps:
                self.monitor.flush()
                self._evaluate(step, history, stop, bar)
            elif config.checkpoint_every and step % config.checkpoint_every == 0:
                self._save_checkpoint(step)
                history.restart_clock(step)
            if must_stop(stop, self.accelerator):
                self._save_checkpoint(step)
                again = call(
                    f"segdistill train --config {shlex.quote(str(self.folder.config_file))} --resume",
                    f"segdistill.train(out={str(self.folder)!r}, resume=True)",
                )
                log(
                    f"Stopped after step {step} of {steps}; its state is saved. Continue with:\n  {again}",
                    self.accelerator,
                )
                raise Stopped(stop.exit_code)

    def optimizer_step(self, step: int, batches: Iterator[Batch]) -> float:
        """One step (counted from 0) over `optim.accumulate` micro-batches; returns its learning rate.

        Nothing in it waits for the device, so that the host can prepare the next step meanwhile.

        Raises:
            NonFiniteLossError: a term is not finite.
        """
        state, accelerator = self.state, self.accelerator
        micro_batches = self.config.optim.accumulate
        rate = state.begin_step(self.experiment, step)
        for micro_batch in range(micro_batches):
            batch = next(batches)
            last = micro_batch == micro_batches - 1
            with nullcontext() if last else accelerator.no_sync(state.wrapped):
                with accelerator.autocast():
                    outputs = state.forward(state.wrapped, batch)
                terms = state.objective(batch, outputs, self.experiment.progress(step))
                self.monitor.record(step + 1, batch.id, terms)
                accelerator.backward(terms["loss"] / micro_batches)
        self._check_gradient(step, batch)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        if state.average is not None:
            state.average.update_parameters(state.student)
        return rate

    def _check_gradient(self, step: int, batch: Batch) -> None:
        """Clip the gradient, and check its norm."""
        clip, parameters = self.config.optim.clip, self.state.parameters
        if clip:
            norm = self.accelerator.clip_grad_norm_(parameters, clip)
        else:
            norm = get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
        if self.accelerator.scaler is None:
            self.monitor.record(step + 1, batch.id, {GRADIENT: norm}, log=clip > 0)
        elif clip:  # fp16, where the scaler itself skips a gradient that is not finite
            self.monitor.log(GRADIENT, norm)

    def _evaluate(self, step: int, history: History, stop: StopSignal, bar: ProgressBar) -> None:
        """Score the student; write metrics.json, the weights if best, and a checkpoint.

        A signal ends it without a score; the evaluation is then made when the run is resumed.
        """
        world = self.accelerator.num_processes
        pictures = ExamplePictures(self.experiment.val, world, COUNT if history.takes_pictures else 0)
        metrics = self._score(stop, bar, pictures)
        summary = metrics.summary()
        if must_stop(stop, self.accelerator):
            return
        history.pictures(step, pictures.drawn)
        history.evaluation(step, summary)
        score, best = summary["miou"], self.state.best
        # Where nothing trains the logits, their scores say nothing: the newest student is kept.
        newest = compares_features_alone(self.config.objective)
        better = newest or best is None or score > best
        if better:
            self.state.best = score
            self.best_weights = {
                name: value.detach().cpu().clone()
                for name, value in self.state.evaluated.state_dict().items()
            }
        if self.accelerator.is_main_process:
            if better:  # first, for metrics.json must not praise weights that are not there
                scores = {name: value for name, value in summary.items() if isinstance(value, float)}
                card = replace(self.experiment.card, metrics=scores | {"step": step})
                self.folder.save_student(self.state.evaluated, card)
            evaluation = {"step": step, **summary}
            self.folder.write_evaluation(evaluation, best=better, counts=metrics.counts)
        note = ", the best so far" if better else f" (best {best:.4f})"
        note = " of logits that no loss trains; the newest student is kept" if newest else note
        log(
            f"step {step}: mIoU {score:.4f}, pixel accuracy {summary['pixel_accuracy']:.4f}{note}",
            self.accelerator,
        )
        self.state.scored = step
        self._save_checkpoint(step)

    def _score(self, stop: StopSignal, bar: ProgressBar, pictures: ExamplePictures) -> Metrics:
        """The sums for all scores on the validation images, over all processes; some images are drawn."""
        val, accelerator = self.experiment.val, self.accelerator
        task = bar.add_task("evaluate", total=-(-len(val) // accelerator.num_processes), unit="image")
        self.state.broadcast_buffers()
        card = self.experiment.card
        network = TrainedNetwork(self.state.scoring, card.labels, card.spec, mean=card.mean, std=card.std)
        metrics = evaluate(
            network.to(accelerator.device),
            val,
            self.experiment.labels,
            accelerator,
            EvaluationOptions(
                size=self.config.evaluate_size,
                workers=self.config.data.workers,
                advance=lambda: bar.advance(task),
                stopped=lambda: stop.number is not None,
                observe=pictures.observe,
            ),
        )
        bar.remove_task(task)
        return metrics

    def calibrate(self) -> None:
        """Fit the temperature of the best student on the validation images, and write it with its scores.

        Weights and random numbers stay as they are; a training that is resumed at its end does it again.
        Logits that no loss trains have none.
        """
        if compares_features_alone(self.config.objective):
            return
        val, accelerator = self.experiment.val, self.accelerator
        # One layout, whether the student is in memory or was read from its file: rounding depends on it.
        student = self.best_student().to(accelerator.device).to(memory_format=torch.channels_last)
        with progress(accelerator.is_main_process) as bar:
            total = count_passes(val, accelerator.num_processes)
            task = bar.add_task("calibrate", total=total, unit="image")
            fitted, scores = calibrate(
                student,
                val,
                accelerator,
                EvaluationOptions(
                    size=self.config.evaluate_size,
                    workers=self.config.data.workers,
                    advance=lambda: bar.advance(task),
                ),
            )
        self.temperature = fitted.temperature
        if accelerator.is_main_process:
            self.folder.write_temperature(fitted.temperature, scores)
        log(fit_line(fitted), accelerator)

    def best_student(self) -> TrainedNetwork:
        """The student with the best score, in eval mode on the CPU."""
        if self.best_weights is None:  # from before a resume
            return self.folder.student()
        card = self.experiment.card
        student = copy.deepcopy(self.state.student).cpu()
        student.load_state_dict(self.best_weights)
        network = TrainedNetwork(
            student, card.labels, str(self.folder), mean=card.mean, std=card.std, size=card.evaluate_size
        )
        network.temperature, network.bits = self.temperature or 1.0, card.bits
        return network.eval()

    def _save_checkpoint(self, step: int) -> None:
        """Write a checkpoint after `step` steps, from the main process."""
        self.monitor.flush()
        if self.accelerator.is_main_process:
            self.folder.checkpoints.save(step, self.state.state_dict())
        self.accelerator.wait_for_everyone()

    def _load_checkpoint(self) -> int:
        """Load the newest checkpoint; returns the steps done, 0 where there is none."""
        found = self.folder.checkpoints.load()
        if found is None:
            log(f"{self.folder} has no checkpoint yet; starting from step 0", self.accelerator)
            return 0
        step, state = found
        self.state.load_state_dict(state)
        log(f"resuming {self.folder} after step {step}", self.accelerator)
        return step

    def _dump(self, error: NonFiniteLossError) -> NonFiniteLossError:
        """Draw the batch of an error once more, and dump all that `train --replay` needs.

        Returns:
            The error, naming the images that caused it.
        """
        config, accelerator, rank = self.config, self.accelerator, self.accelerator.process_index
        # Crops depend on the seed alone, and so does how they are mixed.
        again = replace(self.experiment, config=replace(config, data=replace(config.data, workers=0)))
        step = error.step - 1
        drawn = device_batches(again, accelerator, range(step, step + 1), self.state.forward.stride)
        batch = next((batch for batch in drawn if batch.id == error.ids), None)
        if batch is None:
            return error
        teacher = self.experiment.teacher
        if isinstance(teacher, Teacher) and batch.teacher_logits is None:
            with accelerator.autocast():
                batch = replace(batch, teacher_logits=teacher(batch.image))
        path = dump_batch(self.folder, error.record(rank), batch, self.state)
        found = diagnose(self.state, self.experiment, batch, step)
        newest = self.folder.checkpoints.newest
        record = error.record(rank) | {name: found[name] for name in ("bad", "nonfinite", "images")}
        record |= {"checkpoint": newest and newest.name, "precision": precision_of(accelerator)}
        write_atomic(path, as_json(record))
        first = (found["nonfinite"] or ["nothing, computed again"])[0]
        return error.on(
            found["bad"], f"first in: {first}. `segdistill train --replay {path}` computes the batch again. "
        )


def must_stop(stop: StopSignal, accelerator: Accelerator) -> bool:
    """Whether any process got a stop signal: all must stop after the same step."""
    if accelerator.num_processes == 1:
        return stop.number is not None
    flag = torch.tensor(stop.number or 0, device=accelerator.device)
    number = int(accelerator.gather(flag.view(1)).max())
    if number:  # a signal that came during the exchange waits for the next one
        stop.number = number
    return number > 0


def device_batches(
    experiment: Experiment, accelerator: Accelerator, steps: range, stride: int = 1
) -> Iterator[Batch]:
    """This process's micro-batches of `steps`, on the device, mixed there where `augment` says so.

    A live teacher gets the mixed images too (function matching, Beyer et al. 2022). `stride` is the pixels of
    a crop per feature of the student.
    """
    config, rank = experiment.config, accelerator.process_index
    loader = training_batches(
        experiment.train,
        config,
        steps,
        total=experiment.steps,
        cache=experiment.cache and replace(experiment.cache, stride=stride),
        process=RankSlice(rank, accelerator.num_processes),
    )
    layout = torch.channels_last if config.runtime.channels_last else torch.contiguous_format
    for number, batch in enumerate(with_plain_errors(loader)):
        step, micro_batch = divmod(number, config.optim.accumulate)
        rng = np.random.default_rng((config.seed, steps.start + step, micro_batch, rank, MIXING))
        yield mix(batch.to(accelerator.device).normalized(layout), config.augment, rng)
