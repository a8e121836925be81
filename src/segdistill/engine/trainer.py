"""The training loop: from batches to logits, to the objective, to a step, to the run folder."""

import json
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from segdistill.config.train import TrainConfig
from segdistill.console import log, progress
from segdistill.data.batch import Batch
from segdistill.data.cache.teacher import TeacherCache
from segdistill.data.frequencies import class_weights
from segdistill.data.loaders import training_batches
from segdistill.data.mixing import mix
from segdistill.data.sampler import RankSlice, batch_pools
from segdistill.data.samples import FileSamples, Samples
from segdistill.data.worker import with_plain_errors
from segdistill.distillation.objective import Objective
from segdistill.engine.evaluate import evaluate
from segdistill.engine.history import History
from segdistill.engine.monitor import GRADIENT, LossMonitor, NonFiniteLossError
from segdistill.engine.replay import as_json, diagnose, dump_batch
from segdistill.engine.run_folder import load_checkpoint, save_checkpoint, save_student
from segdistill.engine.runtime import Stopped, StopSignal, seed_step, stop_signal
from segdistill.engine.state import TrainingState, learning_rate
from segdistill.files import read_json, write_atomic
from segdistill.models.card import ModelCard
from segdistill.models.teacher import Teacher

__all__ = ["Experiment", "NonFiniteLossError", "Stopped", "train"]

RANGES_UNTIL = 0.5
"""Share of the steps after which a student that trains as if in 8 bits has its maps' final ranges."""

MIXING = 1
"""Tells the random numbers of mixing from those of the views, which are seeded by three numbers."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that a training run is made of.

    Attributes:
        config: the settings.
        student: the network to train, with the weights it starts from.
        teacher: the frozen one, or None for supervised training.
        train: what is trained on; unlabelled images have void masks.
        cache: what the teacher says of `train`, None to ask it live.
        val: what is evaluated on.
        card: describes the student; scores are filled in.
    """

    config: TrainConfig
    student: nn.Module
    teacher: Teacher | None
    train: Samples
    val: FileSamples
    card: ModelCard
    cache: TeacherCache | None = None

    @property
    def steps(self) -> int:
        """Optimiser steps in all; an epoch is a pass over the labelled images where these have a share."""
        passed = batch_pools(self.train, self.config)[0]
        return self.config.steps or math.ceil(self.config.epochs * len(passed.indices) / passed.drawn)


def train(experiment: Experiment, accelerator: Accelerator, run: Path, *, resume: bool = False) -> None:
    """Train a student and leave it, with its records, in the run folder.

    Args:
        experiment: what to train, on what.
        accelerator: device, precision and processes.
        run: the run folder, already there.
        resume: continue from the newest checkpoint in `run`, if there is one.

    Raises:
        NonFiniteLossError: a loss term was not finite; the batch's ids are in `nonfinite.json`.
        Stopped: SIGINT or SIGTERM came; the state is saved.
    """
    config, teacher = experiment.config, experiment.teacher
    weights = class_weights(experiment.train, len(experiment.card.labels), config.objective.class_weights)
    objective = Objective(config.objective, experiment.student, teacher, weights)
    if teacher is not None:
        teacher.to(accelerator.device)
    state = TrainingState(
        experiment.student, objective, config.optim, accelerator, quantize=config.quantize is not None
    )
    start = resume_from(run, state) if resume else 0
    try:
        train_on(experiment, state, accelerator, run, start)
    except NonFiniteLossError as error:
        raise keep_batch(error, experiment, state, accelerator, run) from None


def train_on(
    experiment: Experiment, state: TrainingState, accelerator: Accelerator, run: Path, start: int
) -> None:
    """The steps after `start`, with all that happens between them."""
    config, steps = experiment.config, experiment.steps
    history = History(run / "history.jsonl", start, steps, accelerator, state.scored)
    monitor = LossMonitor(run)
    batches = device_batches(experiment, accelerator, range(start, steps), state.objective.stride)
    evaluate_every = config.evaluate_every or max(1, steps // 10)

    with stop_signal() as stop, progress(accelerator.is_main_process) as bar:
        task = bar.add_task("train", total=steps, completed=start, numbers="")
        if start and (start % evaluate_every == 0 or start == steps) and state.scored < start:
            # A signal came during this evaluation.
            evaluate_and_keep(start, experiment, state, accelerator, run, bar, history, stop)
        for step in range(start + 1, steps + 1):
            rate = optimizer_step(step - 1, experiment, state, batches, accelerator, monitor)
            bar.update(task, completed=step)
            if step % config.log_every == 0 or step == steps:
                terms = monitor.means() | {"lr": rate}
                bar.update(task, numbers=history.log(step, terms, config.batch))
            if step % evaluate_every == 0 or step == steps:
                monitor.settle()
                evaluate_and_keep(step, experiment, state, accelerator, run, bar, history, stop)
            elif config.checkpoint_every and step % config.checkpoint_every == 0:
                monitor.settle()
                save_state(run, step, state)
                history.restart_clock(step)
            if asked_to_stop(stop, accelerator):
                monitor.settle()
                save_state(run, step, state)
                log(f"Stopped after step {step} of {steps}; its state is saved. Continue with:\n"
                    f"  segdistill train --config {run / 'config.yaml'} --resume", accelerator)  # fmt: skip
                raise Stopped(stop.exit_code)
    if stop.number is not None:
        raise Stopped(stop.exit_code)


def optimizer_step(
    step: int,
    experiment: Experiment,
    state: TrainingState,
    batches: Iterator[Batch],
    accelerator: Accelerator,
    monitor: LossMonitor,
) -> float:
    """One step (counted from 0) over `optim.accumulate` micro-batches; returns its learning rate.

    Nothing in it waits for the device, so that the host can prepare the next step meanwhile.

    Raises:
        NonFiniteLossError: a term is not finite.
    """
    config, teacher = experiment.config, experiment.teacher
    passes = config.optim.accumulate
    rate = learning_rate(config.optim, step, experiment.steps)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    seed_step(config.seed, step, accelerator.process_index)
    state.wrapped.train()
    if state.quantized is not None:
        state.quantized.observing = step < RANGES_UNTIL * experiment.steps
    for part in range(passes):
        batch = next(batches)
        with nullcontext() if part == passes - 1 else accelerator.no_sync(state.wrapped):
            with accelerator.autocast():
                logits = state.wrapped(batch.image)
                teacher_logits = batch.teacher_logits
                if teacher is not None and teacher_logits is None:
                    teacher_logits = teacher(batch.image)
            terms = state.objective(batch, logits, teacher_logits, step / max(1, experiment.steps - 1))
            monitor.watch(step + 1, batch.id, terms)
            accelerator.backward(terms["loss"] / passes)
    norm = gradient_norm(config.optim.clip, state, accelerator)
    if accelerator.scaler is None:
        monitor.watch(step + 1, batch.id, {GRADIENT: norm}, log=config.optim.clip > 0)
    elif config.optim.clip:  # fp16, where the scaler itself passes over a gradient that is not finite
        monitor.add(GRADIENT, norm)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    if state.average is not None:
        state.average.update_parameters(state.student)
    return rate


def gradient_norm(clip: float, state: TrainingState, accelerator: Accelerator) -> Tensor:
    """The norm of the gradient, which is clipped to `clip` unless that is 0."""
    if clip:
        return accelerator.clip_grad_norm_(state.parameters, clip)
    return get_total_norm([p.grad for p in state.parameters if p.grad is not None], foreach=True)


def keep_batch(
    error: NonFiniteLossError,
    experiment: Experiment,
    state: TrainingState,
    accelerator: Accelerator,
    run: Path,
) -> NonFiniteLossError:
    """Draw the batch of an error once more, and keep it with all that `train --replay` needs.

    Returns:
        The error, which names the images that are to blame.
    """
    config, rank = experiment.config, accelerator.process_index
    # Views depend on the seed alone, and so does how they are mixed.
    again = replace(experiment, config=replace(config, data=replace(config.data, workers=0)))
    drawn = device_batches(again, accelerator, range(error.step - 1, error.step), state.objective.stride)
    batch = next((batch for batch in drawn if batch.id == error.ids), None)
    if batch is None:
        return error
    known = batch.teacher_logits
    if experiment.teacher is not None:
        asked = experiment.teacher(batch.image)  # always: its features may be compared, too
        known = asked if known is None else known.float()
    path = dump_batch(run, error.record(rank), batch, known, rank, state.student, state.objective)
    seed_step(config.seed, error.step - 1, rank)
    progress = (error.step - 1) / max(1, experiment.steps - 1)
    seen = diagnose(state.student, state.objective, batch, known, progress)
    newest = max((run / "checkpoints").glob("step-*.pt"), default=None)
    record = error.record(rank) | {
        "bad": seen["bad"],
        "nonfinite": seen["nonfinite"],
        "images": seen["images"],
        "checkpoint": newest and newest.name,
    }
    write_atomic(path, as_json(record))
    return error.on(
        seen["bad"], f"first in: {(seen['nonfinite'] or ['nothing, computed again'])[0]}. "
        f"`segdistill train --replay {path}` computes the batch again. "
    )  # fmt: skip


def device_batches(
    experiment: Experiment, accelerator: Accelerator, steps: range, stride: int = 1
) -> Iterator[Batch]:
    """This process's micro-batches of `steps`, on the device, mixed there where `augment` says so.

    A live teacher sees the mixed images too (function matching, Beyer et al. 2022). `stride` is the pixels of
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
        step, part = divmod(number, config.optim.accumulate)
        rng = np.random.default_rng((config.seed, steps.start + step, part, rank, MIXING))
        yield mix(batch.to(accelerator.device).normalized(layout), config.augment, rng)


def evaluate_and_keep(
    step: int,
    experiment: Experiment,
    state: TrainingState,
    accelerator: Accelerator,
    run: Path,
    bar: Any,
    history: History,
    stop: StopSignal,
) -> None:
    """Score the student on the validation split; write metrics.json, the weights if best, and the state.

    A signal ends it without a score; the evaluation is then made when the run is resumed.
    """
    config, labels = experiment.config, experiment.card.labels
    task = bar.add_task("evaluate", total=-(-len(experiment.val) // accelerator.num_processes), numbers="")
    state.share_buffers()
    metrics = evaluate(
        state.scoring,
        experiment.val,
        labels,
        accelerator=accelerator,
        size=config.evaluate_size,
        workers=config.data.workers,
        advance=lambda: bar.advance(task),
        stopped=lambda: stop.number is not None,
    )
    bar.remove_task(task)
    if asked_to_stop(stop, accelerator):
        return
    summary = metrics.summary()
    history.evaluation(step, summary)
    score = summary["miou"]
    better = state.best is None or score > state.best
    state.best = score if better else state.best
    if accelerator.is_main_process:
        path = run / "metrics.json"
        kept = read_json(path) if path.is_file() and not better else {"best": None}
        last = {"step": step, **summary}
        if better:  # first, for metrics.json must not praise weights that are not there
            scores = {name: value for name, value in summary.items() if isinstance(value, float)}
            save_student(run, state.evaluated, replace(experiment.card, metrics=scores | {"step": step}))
        write_atomic(path, json.dumps({"last": last, "best": last if better else kept["best"]}))
    log(f"step {step}: mIoU {score:.4f}, pixel accuracy {summary['pixel_accuracy']:.4f}"
        f"{', the best so far' if better else f' (best {state.best:.4f})'}", accelerator)  # fmt: skip
    state.scored = step
    save_state(run, step, state)


def save_state(run: Path, step: int, state: TrainingState) -> None:
    """Write a checkpoint after `step` steps, from the main process."""
    if state.accelerator.is_main_process:
        save_checkpoint(run / "checkpoints", step, state.state_dict())
    state.accelerator.wait_for_everyone()


def resume_from(run: Path, state: TrainingState) -> int:
    """Load the newest checkpoint of a run into `state`; returns the steps done, 0 where there is none."""
    found = load_checkpoint(run / "checkpoints")
    if found is None:
        log(f"{run} has no checkpoint yet; starting from step 0", state.accelerator)
        return 0
    step, saved = found
    state.load_state_dict(saved)
    log(f"resuming {run} after step {step}", state.accelerator)
    return step


def asked_to_stop(stop: StopSignal, accelerator: Accelerator) -> bool:
    """Whether any process got a stop signal: all must stop after the same step."""
    if accelerator.num_processes == 1:
        return stop.number is not None
    flag = torch.tensor(stop.number or 0, device=accelerator.device)
    number = int(accelerator.gather(flag.view(1)).max())
    if number:  # a signal that came during the exchange waits for the next one
        stop.number = number
    return number > 0
