"""The command line: one verb per command, parsed by jsonargparse, carried out by `segdistill.api`."""

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TextIO

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from segdistill.config.deploy import BenchmarkConfig, ExportConfig, PredictConfig, ServeConfig
from segdistill.config.evaluate import EvaluateConfig
from segdistill.config.train import TrainConfig
from segdistill.version import __version__

SHORT = {"--student": "--student.spec", "--teacher": "--teacher.spec", "--init": "--student.init"}
"""Options under the name of a group of settings stand for the network itself; and another short one."""
RESULTS: ContextVar[TextIO] = ContextVar("results")
"""Standard output as the program got it."""
NETWORK = "run folder, or any network: fcn_resnet50, file.py:function, model.onnx, ... (a file's code is run)"


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 1 refused or failed with a message, 2 wrong usage, 130 or 143 after a signal.
    """
    given = list(expand(sys.argv[1:] if arguments is None else arguments))
    parser = make_parser()
    if not given:
        parser.print_help(sys.stderr)
        return 2
    try:
        options = parser.parse_args(given)
        refuse_empty_groups(options[options.subcommand])
        RESULTS.set(sys.stdout)
        with redirect_stdout(sys.stderr):  # networks and libraries print what is not for machines
            return VERBS[options.subcommand](parser.instantiate(options)[options.subcommand])
    except ArgumentError as error:
        return fail(f"{error} (segdistill {given[0]} --help lists the options)", 2)
    except (ValueError, OSError) as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def expand(arguments: Iterable[str]) -> Iterator[str]:
    """`--teacher SPEC`, `--student SPEC` and `--init RUN` in full: `--teacher.spec SPEC` and so on."""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        yield SHORT.get(name, name) + equals + value


def refuse_empty_groups(options: Namespace) -> None:
    """A group of settings that a file gives as null, `teacher:` with nothing below it, is an error.

    Raises:
        ValueError: there is one.
    """
    for group in (field.name for field in fields(TrainConfig) if is_dataclass(field.type)):
        if group in options and options[group] is None:
            raise ValueError(f"{group} is null, but is a group of settings: leave it out for the defaults")


def fail(error: object, code: int) -> int:
    """Say on one line of standard error what is wrong."""
    print(f"segdistill: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def make_parser() -> ArgumentParser:
    """The parser of all verbs."""
    parser = ArgumentParser(
        prog="segdistill",
        version=__version__,
        exit_on_error=False,
        description="Distil a large semantic-segmentation network into a small one that you can deploy.",
    )
    verbs = parser.add_subcommands()
    _add_training_verbs(verbs)
    _add_deploying_verbs(verbs)
    _add_report_verbs(verbs)
    return parser


def _add_training_verbs(verbs: Any) -> None:
    train = ArgumentParser(exit_on_error=False, description="Train a student, with a teacher or without.")
    train.add_argument("--config", action="config", help="YAML file of settings; later options override it")
    train.add_class_arguments(TrainConfig, None)
    train.add_argument("--resume", action="store_true", help="continue the run in --out")
    train.add_argument("--overwrite", action="store_true", help="delete the run in --out first")
    help_replay = "compute the batch again that a run stopped on: RUN/nonfinite.json"
    train.add_argument("--replay", type=str | None, default=None, help=help_replay)
    verbs.add_subcommand("train", train, help="train a student, with a teacher or without")

    cache = ArgumentParser(exit_on_error=False, description="Fill the cache of a teacher's logits ahead.")
    cache.add_argument("--config", action="config", help="YAML file of the training it is for")
    cache.add_class_arguments(TrainConfig, None)
    verbs.add_subcommand("cache", cache, help="let the teacher look at all training images ahead")

    evaluate = ArgumentParser(exit_on_error=False, description="Score a network on images with masks.")
    evaluate.add_argument("target", help=NETWORK)
    evaluate.add_argument("--config", action="config", help="YAML file of settings")
    evaluate.add_class_arguments(EvaluateConfig, None)
    verbs.add_subcommand("evaluate", evaluate, help="score a network on images with masks")


def _add_deploying_verbs(verbs: Any) -> None:
    predict = ArgumentParser(exit_on_error=False, description="Segment images and videos.")
    predict.add_argument("target", help=NETWORK)
    predict.add_argument("paths", nargs="+", help="image files, folders of images, videos")
    predict.add_argument("--config", action="config", help="YAML file of settings")
    predict.add_class_arguments(PredictConfig, None)
    verbs.add_subcommand("predict", predict, help="segment images and videos")

    export = ArgumentParser(exit_on_error=False, description="Write a run as a file for another runtime.")
    export.add_argument("target", help="run folder, or any network that PyTorch runs")
    export.add_argument("--config", action="config", help="YAML file of settings")
    export.add_class_arguments(ExportConfig, None)
    verbs.add_subcommand("export", export, help="write a file for another runtime, checked against PyTorch")

    benchmark = ArgumentParser(exit_on_error=False, description="Latency, memory and size, side by side.")
    benchmark.add_argument("targets", nargs="+", help=f"{NETWORK}; the others are compared with the first")
    benchmark.add_argument("--config", action="config", help="YAML file of settings")
    benchmark.add_class_arguments(BenchmarkConfig, None)
    verbs.add_subcommand("benchmark", benchmark, help="measure latency, memory and size side by side")

    serve = ArgumentParser(
        exit_on_error=False, description="Serve a network over HTTP, with a page to try it."
    )
    serve.add_argument("target", help="run folder, exported file or built-in network (nothing that is code)")
    serve.add_argument("--config", action="config", help="YAML file of settings")
    serve.add_class_arguments(ServeConfig, None)
    verbs.add_subcommand("serve", serve, help="serve a network over HTTP, with a page")


def _add_report_verbs(verbs: Any) -> None:
    report = ArgumentParser(exit_on_error=False, description="Write one HTML page about one or more runs.")
    report.add_argument("runs", nargs="+", help="run folders; several are compared with the first")
    report.add_argument("--out", type=str | None, default=None, help="the file; RUN/report.html where absent")
    verbs.add_subcommand("report", report, help="write an HTML page about runs")

    pack = ArgumentParser(
        exit_on_error=False, description="Copy what using a student takes: float16 weights, card, settings."
    )
    pack.add_argument("run", help="a run folder")
    pack.add_argument("--out", required=True, help="the folder to make")
    verbs.add_subcommand("pack", pack, help="copy a student without its records, at half the weight")

    data = ArgumentParser(exit_on_error=False, description="Check, download or draw data sets.")
    verbs.add_subcommand("data", data, help="check, download or draw data sets")
    _add_data_verbs(data)

    demo = ArgumentParser(
        exit_on_error=False,
        description="Draw a data set, train a teacher, a student alone and a distilled one; compare them.",
    )
    demo.add_argument("--out", default="runs/demo", help="folder for the data set and the three runs")
    demo.add_argument("--seed", type=int, default=0, help="seeds data, weights and order")
    demo.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    demo.add_argument("--overwrite", action="store_true", help="delete earlier runs in --out first")
    verbs.add_subcommand("demo", demo, help="everything once, offline, in minutes")


def _add_data_verbs(parser: ArgumentParser) -> None:
    verbs = parser.add_subcommands()
    check = ArgumentParser(exit_on_error=False, description="Read every pair and name each bad file.")
    check.add_argument("path", help="the data set's folder")
    check.add_argument("--layout", type=str | None, default=None, help="a dataset.yaml kept elsewhere")
    check.add_argument("--split", type=str | None, default=None, help="one split; all where absent")
    verbs.add_subcommand("check", check, help="read every pair and name each bad file")
    download = ArgumentParser(exit_on_error=False, description="Download PASCAL VOC 2012 (2 GB).")
    download.add_argument("name", choices=["voc"], help="the data set")
    download.add_argument("--root", required=True, help="the folder that gets VOCdevkit")
    verbs.add_subcommand("download", download, help="download PASCAL VOC 2012")
    shapes = ArgumentParser(exit_on_error=False, description="Draw the embedded data set, in VOC layout.")
    shapes.add_argument("--out", required=True, help="the folder that gets VOCdevkit")
    shapes.add_argument("--train", type=int, default=600, help="training images")
    shapes.add_argument("--val", type=int, default=150, help="validation images")
    shapes.add_argument("--size", type=int, default=128, help="side in pixels")
    shapes.add_argument("--seed", type=int, default=0, help="seeds the drawing")
    verbs.add_subcommand("shapes", shapes, help="draw the embedded data set")


# The verbs import what they need themselves: PyTorch takes seconds to load, and `--help` needs none of it.


def run_train(options: Namespace) -> int:
    """Segdistill train."""
    from segdistill import api
    from segdistill.engine.run_folder import RunFolder
    from segdistill.engine.runtime import Stopped

    if options.replay:
        return _replay(options.replay)
    own = {"config", "resume", "overwrite", "replay"}
    settings = {k: v for k, v in vars(options).items() if k not in own}
    try:
        run = api.train(TrainConfig(**settings), resume=options.resume, overwrite=options.overwrite)
    except Stopped as stopped:
        return stopped.exit_code
    metrics = RunFolder(run).best
    print_json({"run": str(run), "step": metrics["step"], **_scores(metrics)})
    return 0


def _replay(file: str) -> int:
    """Say which tensors of a kept batch are not finite, and the terms of each image."""
    from segdistill import api
    from segdistill.console import log
    from segdistill.engine.replay import printable

    seen = api.replay(file)
    log(f"step {seen['step']}: " + ", ".join(f"{name} {value:.4g}" for name, value in seen["terms"].items()))
    for name, terms in seen["images"].items():
        mark = "  <- not finite" if name in seen["bad"] and seen["nonfinite"] else ""
        log(f"  {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in terms.items()) + mark)
    log(f"not finite, in this order: {', '.join(seen['nonfinite'][:12]) or 'nothing'}")
    print_json(printable(seen))
    return 0


def run_cache(options: Namespace) -> int:
    """Segdistill cache."""
    from segdistill import api
    from segdistill.engine.runtime import Stopped

    try:
        print_json(api.cache(TrainConfig(**{k: v for k, v in vars(options).items() if k != "config"})))
    except Stopped as stopped:
        return stopped.exit_code
    return 0


def run_evaluate(options: Namespace) -> int:
    """Segdistill evaluate."""
    from segdistill import api
    from segdistill.console import console
    from segdistill.reporting.tables import score_table

    config = EvaluateConfig(**{k: v for k, v in vars(options).items() if k not in {"config", "target"}})
    summary = api.evaluate(options.target, config)
    if is_main_process():
        console.print(score_table(summary))
    print_json({"target": options.target, "out": config.out, **_scores(summary)})
    return 0


def run_predict(options: Namespace) -> int:
    """Segdistill predict."""
    from segdistill import api as api_deploy
    from segdistill.console import log, progress
    from segdistill.inference.video import VIDEO_SUFFIXES, count_frames

    given = {k: v for k, v in vars(options).items() if k not in {"config", "target", "paths"}}
    config = PredictConfig(**given)
    videos = [Path(path) for path in options.paths if Path(path).suffix.lower() in VIDEO_SUFFIXES]
    frames = [count_frames(path) for path in videos if path.is_file()]
    total = sum(filter(None, frames)) if len(frames) == len(options.paths) and all(frames) else None
    done, said = 0, ""
    with progress() as bar:
        task = bar.add_task("predict", total=total, numbers="")
        for mask, prediction in api_deploy.predict(options.target, options.paths, config):
            done += 1
            seen = ", ".join(f"{name} {share:.0%}" for name, share in list(prediction.shares.items())[:5])
            if mask.suffix != ".mp4" or said != str(mask):  # of a video, what its first frame shows
                log(f"{mask}: {seen}")
            said = str(mask)
            bar.update(task, completed=done)
    print_json({"target": options.target, "out": config.out, "images": done})
    return 0


def run_serve(options: Namespace) -> int:
    """Segdistill serve."""
    from segdistill import api as api_deploy

    config = ServeConfig(**{k: v for k, v in vars(options).items() if k not in {"config", "target"}})
    api_deploy.serve(
        options.target, config, ready=lambda url: print_json({"target": options.target, "url": url})
    )
    return 0


def run_export(options: Namespace) -> int:
    """Segdistill export."""
    from segdistill import api as api_deploy

    config = ExportConfig(**{k: v for k, v in vars(options).items() if k not in {"config", "target"}})
    record = api_deploy.export(options.target, config)
    print_json({name: record[name] for name in ("file", "format", "quantize", "bytes", "parity")})
    return 0


def run_benchmark(options: Namespace) -> int:
    """Segdistill benchmark."""
    from segdistill import api as api_deploy
    from segdistill.console import console
    from segdistill.reporting.tables import benchmark_table

    config = BenchmarkConfig(**{k: v for k, v in vars(options).items() if k not in {"config", "targets"}})
    record = api_deploy.benchmark(options.targets, config)
    console.print(benchmark_table(record))
    print_json(record)
    return 0


def run_report(options: Namespace) -> int:
    """Segdistill report."""
    from segdistill import api

    print_json({"report": str(api.report(options.runs, options.out))})
    return 0


def run_pack(options: Namespace) -> int:
    """Segdistill pack."""
    from segdistill import api

    print_json({"run": str(api.pack(options.run, options.out))})
    return 0


def run_data(options: Namespace) -> int:
    """Segdistill data check | download | shapes."""
    from segdistill.data.download import download_voc
    from segdistill.data.shapes import write_shapes

    chosen = options[options.subcommand]
    if options.subcommand == "check":
        return _check(chosen)
    if options.subcommand == "download":
        devkit = download_voc(Path(chosen.root))
    else:
        devkit = write_shapes(
            Path(chosen.out), seed=chosen.seed, train=chosen.train, val=chosen.val, size=chosen.size
        )
    print_json({"devkit": str(devkit)})
    return 0


def _check(options: Namespace) -> int:
    from segdistill.console import log, progress
    from segdistill.data.check import check
    from segdistill.data.datasets import open_dataset, splits

    found = [options.split] if options.split else splits(options.path, options.layout)
    pairs, problems = 0, 0
    # A VOC devkit without lists, say: opening it says what is missing.
    for split in found or ["train"]:
        dataset = open_dataset(options.path, split, layout=options.layout, strict=False)
        with progress() as bar:
            task = bar.add_task(f"check {split}", total=len(dataset), numbers="")
            for problem in check(dataset):
                pairs += 1
                if problem:
                    problems += 1
                    log(f"{split} {problem.id}: {problem.reason}")
                bar.advance(task)
    print_json({"path": options.path, "splits": found, "pairs": pairs, "problems": problems})
    return 1 if problems else 0


def run_demo(options: Namespace) -> int:
    """Segdistill demo."""
    from segdistill.demo import demo
    from segdistill.engine.runtime import Stopped

    try:
        out = Path(options.out)
        print_json(demo(out, seed=options.seed, device=options.device, overwrite=options.overwrite))
    except Stopped as stopped:
        return stopped.exit_code
    return 0


def print_json(record: dict[str, Any]) -> None:
    """The result for machines: one line, the last of standard output."""
    if is_main_process():
        print(json.dumps(record), file=RESULTS.get(), flush=True)


def is_main_process() -> bool:
    """Whether this is the first of the processes that `accelerate launch` started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _scores(summary: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in summary.items() if isinstance(value, float)}


VERBS = {
    "train": run_train,
    "cache": run_cache,
    "evaluate": run_evaluate,
    "predict": run_predict,
    "export": run_export,
    "benchmark": run_benchmark,
    "serve": run_serve,
    "report": run_report,
    "pack": run_pack,
    "data": run_data,
    "demo": run_demo,
}
"""What carries out each verb."""

if __name__ == "__main__":
    sys.exit(main())
