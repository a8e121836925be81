"""The verbs as functions: settings in, files and results out."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segdistill.build import (
    build_experiment,
    build_recorded,
    open_calibration,
    open_parity_images,
    open_scored,
)
from segdistill.config.deploy import (
    BenchmarkConfig,
    ExportConfig,
    PushConfig,
)
from segdistill.config.keywords import with_keywords
from segdistill.config.naming import setting
from segdistill.config.train import TrainConfig
from segdistill.console import counted, log, progress, warn
from segdistill.data.check import survey
from segdistill.data.worker import plain_failures
from segdistill.distillation.table import check_losses
from segdistill.engine.fill_caches import fill_caches, open_teacher_cache
from segdistill.engine.replay import replay as replay_batch
from segdistill.engine.resuming import resumed_config
from segdistill.engine.run_folder import RunFolder
from segdistill.engine.runtime import keep_freed_memory_on, make_accelerator, stop_signal
from segdistill.engine.trainer import Trainer
from segdistill.exporting.export import check_format, export_path, file_format, make_card
from segdistill.exporting.export import export as export_network
from segdistill.exporting.parity import parity_line
from segdistill.exporting.push import push as push_run
from segdistill.exporting.web.export import export_page
from segdistill.labelling import label as label
from segdistill.models.hub_runs import run_folder
from segdistill.models.trained import TrainedNetwork, load_network
from segdistill.predicting import load as load
from segdistill.predicting import predict as predict
from segdistill.predicting import serve as serve
from segdistill.profiling.benchmark import measure
from segdistill.profiling.cost import measure_cost
from segdistill.profiling.device import copy_there, measure_elsewhere
from segdistill.rechecking import verify_again as verify_again
from segdistill.reporting.examples import examples_or_reason
from segdistill.reporting.records import TEACHER, read_records, run_names
from segdistill.reporting.report import write_report
from segdistill.results import Benchmark, Export, FilledCache, Push, Run
from segdistill.scoring import calibrate as calibrate
from segdistill.scoring import compare as compare
from segdistill.scoring import evaluate as evaluate
from segdistill.verification import certify_export
from segdistill.verification import verify as verify

MASKS_SURVEYED = 200
"""Masks that a training looks at before its first step for classes that do not occur, and for void."""


def train(
    config: TrainConfig | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    report: bool = True,
    **settings: Any,
) -> Run:
    """Train a student, with a teacher or without, and leave a run folder.

    On a CPU the process keeps the memory that it frees from here on, see `keep_freed_memory`.

    Args:
        config: the whole experiment; where absent the defaults, or those of the run that is resumed.
        resume: continue the run in `out` from its newest checkpoint: `train(out="runs/mine", resume=True)`.
            Settings that are given must be the run's own, but for those that change no weight.
        overwrite: delete the run in `config.out` first.
        report: measure the latency of student and teacher at the end, and write report.html.
        settings: settings by name, `data="mydata", steps=5000, optim={"lr": 1e-3}`; they win over `config`.

    Returns:
        The run folder's path, which a notebook shows with scores, curves and examples.

    Raises:
        FileNotFoundError: a file or folder that a setting names does not exist.
        ValueError: settings do not fit each other, the data or the run folder, or a loss was not finite.
        segdistill.engine.runtime.Stopped: SIGINT or SIGTERM came; the state is saved.
    """
    if resume and config is None:
        config = resumed_config(settings)
    else:
        config = with_keywords(TrainConfig, config, settings)
    folder = RunFolder(config.out)
    with stop_signal(obey=True), plain_failures():
        distils, features_only = bool(config.teacher.specs), config.teacher.features_only
        check_losses(config.objective, distils=distils, features_only=features_only)
        folder.check(config, resume=resume, overwrite=overwrite)
        accelerator = make_accelerator(
            config.device, config.runtime.precision, trackers=config.trackers, out=folder.path
        )
        keep_freed_memory_on(accelerator.device)
        experiment = build_experiment(config)
        with folder.open(config, accelerator, resume=resume, overwrite=overwrite):
            accelerator.init_trackers("segdistill")
            log(f"{experiment.summary}; the run folder is {folder}", accelerator)
            for warning in survey(experiment.files, MASKS_SURVEYED).warnings:
                warn(warning, accelerator)
            trainer = Trainer(fill_caches(experiment, accelerator), accelerator, folder)
            trainer.train(resume=resume)
            trainer.calibrate()
            if report and accelerator.is_main_process:
                _report_training(trainer)
            accelerator.wait_for_everyone()
            accelerator.end_training()  # ends the group of processes too
    return Run(folder.path)


def _report_training(trainer: Trainer) -> None:
    """Measure the trained student and its teacher, and write the report; nothing is opened again."""
    experiment, folder = trainer.experiment, trainer.folder
    student, [name] = trainer.best_student(), run_names([folder.path])
    teacher: dict[str, nn.Module] = {} if experiment.teacher is None else {TEACHER: experiment.teacher}
    folder.write_cost(measure_cost({"student": student, **teacher}, size=experiment.config.size))
    records = [read_records(folder, name)]
    if experiment.config.teacher.features_only:  # which gives no masks to show
        teacher = {}
    examples = examples_or_reason(records, lambda: (experiment.val, {**teacher, name: student}))
    log(f"The report is {write_report(records, folder.report_file, examples)}")


def replay(file: str | Path) -> dict[str, Any]:
    """Compute the batch once more on which a run stopped because a loss was not finite.

    It is computed on the device and in the precision of the training; where the device is not there, on the
    CPU in float32.

    Args:
        file: the nonfinite.json (of another process: nonfinite-RANK.json) in its run folder.

    Returns:
        `step`, `terms`, `images` (terms by id), `nonfinite` (names of tensors, in the order of computation)
        and `bad` (ids of the images to blame).

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the files are not those of such a run.
    """
    folder = RunFolder(Path(file).parent)
    experiment = build_recorded(folder)
    try:
        accelerator = make_accelerator(folder.config.device, folder.config.runtime.precision)
    except ValueError as error:
        log(f"{error}. Computing on the CPU in float32 instead")
        accelerator = make_accelerator("cpu", "fp32")
    return replay_batch(Path(file), experiment, accelerator)


def cache(config: TrainConfig | None = None, **settings: Any) -> FilledCache:
    """Fill the teacher's cache ahead of training; what is there already is kept.

    Args:
        config: the training that it is for; `teacher.cache` names the folder. Settings by name win over it.

    Returns:
        `cache`, the folders (of logits, and of features where losses compare them); `images`, `bytes`, the
        `stride` of the first of these, and the `seconds` that this call took.

    Raises:
        FileNotFoundError: a file or folder that a setting names does not exist.
        ValueError: there is no teacher or no folder, or the settings do not fit each other.
    """
    config = with_keywords(TrainConfig, config, settings)
    if not config.teacher.specs or config.teacher.cache is None:
        raise ValueError(
            f"name the teacher with {setting('teacher')} and the folder with {setting('teacher.cache')}"
        )
    started = time.perf_counter()
    with stop_signal(obey=True), plain_failures():
        accelerator = make_accelerator(config.device, config.runtime.precision)
        keep_freed_memory_on(accelerator.device)
        experiment = build_experiment(config)
        images, teachers = counted(len(experiment.files), "image"), " and ".join(config.teacher.specs)
        log(f"Caching the outputs of {teachers} for {images} in {config.teacher.cache}", accelerator)
        filled = open_teacher_cache(experiment, accelerator)
    return FilledCache(
        cache=[str(cache.folder) for cache in filled.all],
        images=len(filled.all[0]),
        bytes=sum(cache.bytes for cache in filled.all),
        stride=filled.all[0].form.stride,
        seconds=round(time.perf_counter() - started, 1),
    )


def report(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write one self-contained HTML page about one run, or about several side by side.

    Args:
        runs: run folders.
        out: the file; report.html in the first run folder where absent.

    Returns:
        The file.

    Raises:
        FileNotFoundError: a folder is no run folder.
        ValueError: a record in it is not what segdistill writes.
    """
    folders = [RunFolder(run) for run in runs]
    names = run_names([folder.path for folder in folders])
    log(f"Writing a report on {counted(len(folders), 'run')}; the pictures take longest")
    records = [read_records(folder, name) for folder, name in zip(folders, names, strict=True)]
    examples = examples_or_reason(records, lambda: open_scored(dict(zip(names, folders, strict=True))))
    return write_report(records, Path(out) if out else folders[0].report_file, examples)


def load_student(run: str | Path) -> TrainedNetwork:
    """The student of a run folder, in eval mode, with `labels`, `mean`, `std` and `size`.

    It maps N x 3 x H x W ImageNet-normalised images to N x K x H x W logits; see
    `segdistill.data.transforms.normalise` for the images.

    Raises:
        FileNotFoundError: the folder is no run folder.
        ValueError: its files are damaged.
    """
    return RunFolder(run_folder(run)).student()


def pack(run: str | Path, out: str | Path) -> Path:
    """Copy of a run folder what using its student takes: weights in float16, card and settings.

    Args:
        run: a run folder, or `hf:ORG/NAME`.
        out: a folder that is not there, or is empty.

    Returns:
        `out`, a run folder of half a float32 one's size, without records, checkpoints and report.

    Raises:
        FileNotFoundError: `run` is no run folder.
        ValueError: its files are damaged, `out` is not empty, or a weight is beyond float16's range.
    """
    log(f"Packing {run} into {out}: float16 weights, card and settings")
    return RunFolder(run_folder(run)).pack(Path(out))


def push(run: str | Path, repository: str, config: PushConfig | None = None, **settings: Any) -> Push:
    """Upload a run's student to the Hugging Face Hub, where `hf:ORG/NAME` names it.

    The repository gets weights and card, figures of the report, and a page with scores and settings.

    Args:
        run: a run folder.
        repository: ORG/NAME.
        config: private, license, data sets, or a folder for a dry run.
        settings: settings by name, `private=True, license="apache-2.0"`; they win over `config`.

    Returns:
        `files` and their `bytes`; `repository`, `url` and `commit`, or the `folder` of a dry run.

    Raises:
        FileNotFoundError: the folder has no trained student.
        ValueError: its files are damaged, the name is none, or the hub refuses or cannot be reached.
    """
    config = with_keywords(PushConfig, config, settings)
    return Push(push_run(RunFolder(run), repository, config))


def export(target: str | Path, config: ExportConfig | None = None, **settings: Any) -> Export:
    """Write a run as a file for another runtime, checked there against PyTorch.

    Args:
        target: a run folder, or any network spec that PyTorch runs.
        config: format, input and output of the file, limits, ...; where `data.root` is named, a certificate
            (see `verify`) is written beside the file, but for a page.
        settings: settings by name, `format="onnx", quantize="int8"`; they win over `config`.

    Returns:
        The content of the JSON file beside it, `parity` included (of a page also `self_test`), and its path
        as `file`.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: it cannot be exported, or computes something else than PyTorch: no file is left behind.
    """
    config = with_keywords(ExportConfig, config, settings)
    check_format(config)
    path = export_path(str(target), config)
    log(f"Exporting {target} as {config.format} into {path}, and checking it against PyTorch")
    network = load_network(str(target))
    if not any(True for _ in network.module.parameters()):
        raise ValueError(
            f"{target} is not a network that PyTorch runs: export the run folder it was made from"
        )
    samples = open_parity_images(str(target), config)
    images: list[Tensor] = []
    if config.quantize == "int8" and (file_format(config.format).calibrated or samples is None):
        images = open_calibration(str(target), config, make_card(network, config))
    write = export_page if config.format == "web" else export_network
    with write(network, path, config, samples=samples, calibration=images) as exported:
        log(f"{path}, {exported.record['bytes'] / 1e6:.1f} MB: {parity_line(exported.record['parity'])}")
        if exported.network is None:
            log(f"On a Mac: segdistill verify {path} --against {target} --data.root FOLDER")
        elif config.data.root and config.format != "web":
            log(certify_export(network, exported, config))
    return Export(exported.record, file=str(path))


def benchmark(
    targets: Sequence[str | Path], config: BenchmarkConfig | None = None, **settings: Any
) -> Benchmark:
    """Measure run folders, exported files and networks of the zoo side by side.

    Args:
        targets: the first is what the others are compared with.
        config: forms, precisions, input, threads, repeats. Settings by name (`size=512`) win over it.

    Returns:
        See `segdistill.profiling.benchmark.measure`; with `device_file`, before that is there, `waiting_for`
        it alone.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a target cannot be measured as asked.
    """
    config = with_keywords(BenchmarkConfig, config, settings)
    if config.device_file is not None:
        found = measure_elsewhere([str(target) for target in targets], config)
        if found is None:
            log(copy_there(Path(config.device_file).parent))
            return Benchmark(waiting_for=config.device_file)
        return Benchmark(found)
    log(f"Measuring {counted(len(targets), 'network')}, {counted(config.repeats, 'time')} each, in turns")
    with progress() as bar:
        task = bar.add_task("benchmark", total=config.warmup + config.repeats)
        return Benchmark(measure([str(target) for target in targets], config, lambda: bar.advance(task)))
