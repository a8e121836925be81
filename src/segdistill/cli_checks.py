"""What the command line refuses before PyTorch is loaded, which takes seconds."""

from pathlib import Path

from segdistill.config import paths
from segdistill.config.evaluate import EvaluationDataConfig
from segdistill.config.train import DataConfig
from segdistill.config.verbs import Options
from segdistill.console import log
from segdistill.data.formats.table import open_layout, open_training_layout
from segdistill.data.formats.tar import find_tars
from segdistill.data.inputs import expand, require_inputs
from segdistill.data.label_folder import LabelFolder
from segdistill.models.hub_runs import find_run, pinned


def check_train(options: Options) -> None:
    config = options.settings
    if options.replay:
        paths.require_paths([options.replay])
        return
    paths.require_writable(Path(config.out), resume=options.resume, overwrite=options.overwrite)
    check_training(options)


def check_training(options: Options) -> None:
    config = options.settings
    open_training_layout(config.data)
    for extra in config.data.extra:
        open_layout(extra.partition("@")[0])
    check_unlabelled(config.data)
    if config.student.init is not None:
        check_run(config.student.init)
    check_networks(*config.teacher.specs)
    paths.require_paths([config.teacher.weights])


def check_search(options: Options) -> None:
    config = options.settings
    if not config.latency:
        raise ValueError("name the budget with --latency, such as --latency 10ms")
    if config.data.root:
        open_training_layout(config.data)
    check_networks(*config.teacher.specs, *([config.baseline] if config.baseline else []))
    files = [weights for weights in config.encoders.values() if weights != "imagenet"]
    paths.require_paths([config.recipe, config.candidates, config.teacher.weights, *files])


def check_demo(options: Options) -> None:
    config = options.settings
    if config.data.root:
        open_training_layout(config.data)
        check_unlabelled(config.data)
    check_networks(*config.teacher.specs)
    paths.require_paths([config.teacher.weights])


def check_scoring(options: Options) -> None:
    check_networks(options.target)
    check_images(options.settings.data)


def check_comparison(options: Options) -> None:
    if len(options.targets) < 2:
        raise ValueError(f"compare takes two targets or more, but {options.targets[0]} is alone")
    check_networks(*options.targets)
    check_images(options.settings.data)


def check_verify(options: Options) -> None:
    config = options.settings
    if options.certificate:
        paths.require_paths([options.certificate])
    elif not options.target or not config.against:
        raise ValueError(
            "verify takes a network and what it is compared with, FILE --against RUN, or --certificate "
            "FILE.json"
        )
    check_networks(*filter(None, (options.target, config.against)))
    check_images(config.data)


def check_calibration(options: Options) -> None:
    paths.require_model(options.run)
    check_images(options.settings.data)


def check_predict(options: Options) -> None:
    check_networks(options.target)
    require_inputs(options.paths)


def check_label(options: Options) -> None:
    check_networks(options.target)
    LabelFolder(options.settings.out).check(path for given in options.paths for path in expand(given))


def check_images(data: EvaluationDataConfig) -> None:
    if data.root:
        open_layout(data.root, data.layout)


def check_unlabelled(data: DataConfig) -> None:
    for source in data.unlabelled:
        find_tars(source)


def check_networks(*specs: str) -> None:
    for spec in specs:
        if spec.startswith(paths.HUB):
            fetch(spec)
        else:
            paths.require_network(spec)


def check_run(run: str) -> None:
    if not fetch(run):
        paths.require_model(run)


def fetch(spec: str) -> bool:
    """Whether `spec` is a run of the Hugging Face Hub; it is downloaded, and its commit logged."""
    folder = find_run(spec) if spec.startswith(paths.HUB) else None
    if folder is not None and pinned(spec) != spec:
        log(f"{spec} is {pinned(spec)}, in {folder}")
    return folder is not None
