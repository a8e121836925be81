"""The command line: one table of verbs, each carried out by `segdistill.api`.

A verb is added by its entry in `VERBS`, with a function above it where it takes more than a line.
"""

import json
import os
import shlex
import signal
import sys
from contextlib import redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import TextIO

from jsonargparse import ArgumentError

import segdistill  # whose functions are imported when they are first used: `--help` needs no PyTorch
from segdistill.cli_checks import (
    check_calibration,
    check_comparison,
    check_label,
    check_networks,
    check_predict,
    check_run,
    check_scoring,
    check_train,
    check_training,
    check_verify,
)
from segdistill.cli_data import DATA_VERBS, TEXT
from segdistill.config import paths
from segdistill.config.deploy import (
    BenchmarkConfig,
    ExportConfig,
    LabelConfig,
    PredictConfig,
    PushConfig,
    ServeConfig,
)
from segdistill.config.evaluate import (
    CalibrateConfig,
    CompareConfig,
    EvaluateConfig,
)
from segdistill.config.train import TrainConfig
from segdistill.config.verbs import Options, Result, Verb, expand, make_parser, read_options, usage_error
from segdistill.config.verify import VerifyConfig

PURPOSE = "Distil a large semantic-segmentation network into a small one that you can deploy."
RESULTS: ContextVar[TextIO] = ContextVar("results")
"""Standard output as the program got it."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 1 refused or failed with a message, 2 wrong usage, 130 or 143 after a signal.
    """
    given = list(expand(sys.argv[1:] if arguments is None else arguments))
    parser = make_parser(VERBS, segdistill.__version__, PURPOSE)
    if not given:
        parser.print_help(sys.stderr)
        return 2
    try:
        verb, options = read_options(parser, VERBS, given)
        RESULTS.set(sys.stdout)
        with redirect_stdout(sys.stderr):  # networks and libraries print what is not for machines
            return carry_out(verb, options)
    except ArgumentError as error:
        return fail(usage_error(error, given, VERBS), 2)
    except (ValueError, OSError) as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def carry_out(verb: Verb, options: Options) -> int:
    """Do what was asked and print the result for machines; returns the exit code."""
    verb.check(options)
    try:
        result = verb.run(options)
    except SystemExit as stopped:  # by a signal, after the state was saved
        if not isinstance(stopped.code, int):
            raise
        return stopped.code
    if result is not None:
        print_json(result)
    return 1 if result and result.get("problems") else 0


def fail(error: object, code: int) -> int:
    """Write what is wrong on one line of standard error."""
    print(f"segdistill: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def print_json(record: Result) -> None:
    """The result for machines: one line, the last of standard output."""
    if is_main_process():
        print(json.dumps(record), file=RESULTS.get(), flush=True)


def is_main_process() -> bool:
    """Whether this is the first of the processes that `accelerate launch` started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


# What carries out each verb, importing what it needs itself.


def run_train(options: Options) -> Result:
    from segdistill.engine.run_folder import RunFolder

    if options.replay:
        return _replay(options.replay)
    run = segdistill.train(options.settings, resume=options.resume, overwrite=options.overwrite)
    best = RunFolder(run).best
    return {"run": str(run), "step": best["step"], **_scores(best)}


def _replay(file: str) -> Result:
    from segdistill import api
    from segdistill.console import log
    from segdistill.engine.replay import printable
    from segdistill.reporting.tables import replay_lines

    found = api.replay(file)
    for line in replay_lines(found):
        log(line)
    return printable(found)


def run_evaluate(options: Options) -> Result:
    from segdistill.console import console
    from segdistill.reporting.tables import score_table

    summary = segdistill.evaluate(options.target, options.settings)
    if is_main_process():
        console.print(score_table(summary))
    return {"target": options.target, "out": options.settings.out, **_scores(summary)}


def run_compare(options: Options) -> Result:
    from segdistill.console import console, log
    from segdistill.reporting.tables import comparison_lines, comparison_table

    record = segdistill.compare(options.targets, options.settings)
    if is_main_process():
        console.print(comparison_table(record))
        for line in comparison_lines(record):
            log(line)
    return record | {"out": options.settings.out}


def run_verify(options: Options) -> Result:
    from segdistill import api
    from segdistill.console import console, log
    from segdistill.reporting.tables import comparison_table, recheck_lines, verdict_lines

    if options.certificate:
        record = api.verify_again(Path(options.certificate), options.settings, options.target)
        lines = recheck_lines(record)
    else:
        record = api.verify(options.target, options.settings)
        lines = verdict_lines(record)
        console.print(comparison_table(record))
    for line in lines:
        log(line)
    return record


def run_calibrate(options: Options) -> Result:
    from segdistill import api

    return api.calibrate(options.run, options.settings)


def run_predict(options: Options) -> Result:
    from segdistill.console import log, progress
    from segdistill.inference.video import VIDEO_SUFFIXES, count_frames

    videos = [Path(path) for path in options.paths if Path(path).suffix.lower() in VIDEO_SUFFIXES]
    frames = [count_frames(path) for path in videos if path.is_file()]
    total = sum(filter(None, frames)) if len(frames) == len(options.paths) and all(frames) else None
    done, logged = 0, ""
    with progress() as bar:
        task = bar.add_task("predict", total=total, numbers="")
        for mask, prediction in segdistill.predict(options.target, options.paths, options.settings):
            done += 1
            shares = ", ".join(f"{name} {share:.0%}" for name, share in list(prediction.shares.items())[:5])
            if mask.suffix != ".mp4" or logged != str(mask):  # of a video, the first frame only
                log(f"{mask}: {shares}")
            logged = str(mask)
            bar.update(task, completed=done)
    return {"target": options.target, "out": options.settings.out, "images": done}


def run_label(options: Options) -> Result:
    from segdistill.console import console, log
    from segdistill.reporting.tables import label_table

    record = segdistill.label(options.target, options.paths, options.settings)
    if is_main_process():
        console.print(label_table(record))
        root = shlex.quote(record["out"])
        log(f"Look at {record['sheet']}. Then: segdistill train --data.root {root} --data.val_share 0.1")
    return record


def run_export(options: Options) -> Result:
    record = segdistill.export(options.target, options.settings)
    names = ("file", "format", "quantize", "bytes", "parity", "self_test")
    return {name: record[name] for name in names if name in record}


def run_benchmark(options: Options) -> Result:
    from segdistill.console import console, log
    from segdistill.reporting.tables import benchmark_lines, benchmark_table

    record = segdistill.benchmark(options.targets, options.settings)
    console.print(benchmark_table(record))
    for line in benchmark_lines(record):
        log(line)
    return record


def run_serve(options: Options) -> None:
    def ready(url: str) -> None:
        print_json({"target": options.target, "url": url})

    segdistill.serve(options.target, options.settings, ready=ready)


def run_pack(options: Options) -> Result:
    from segdistill import api

    return {"run": str(api.pack(options.run, options.out))}


def run_push(options: Options) -> Result:
    from segdistill import api
    from segdistill.console import log

    record = api.push(options.run, options.repository, options.settings)
    if options.settings.dry_run is None:
        spec = f"hf:{record['repository']}"
        log(f"{record['url']} has commit {record['commit']}. Then: segdistill predict {spec} photo.jpg")
    return record


def run_demo(options: Options) -> Result:
    from segdistill.demo import demo

    return demo(Path(options.out), seed=options.seed, device=options.device, overwrite=options.overwrite)


def _scores(summary: Result) -> dict[str, float]:
    return {name: value for name, value in summary.items() if isinstance(value, float)}


NETWORK = "run folder, or any network: fcn_resnet50, file.py:function, model.onnx, ... (a file's code is run)"
OVERWRITE = {"action": "store_true", "help": "delete the run in --out first"}
REPLAY = "compute the batch again that a run stopped on: RUN/nonfinite.json"

VERBS = {
    "train": Verb(
        help="train a student, with a teacher or without",
        run=run_train,
        check=check_train,
        settings=TrainConfig,
        arguments={
            "--resume": {"action": "store_true", "help": "continue the run in --out"},
            "--overwrite": OVERWRITE,
            "--replay": {"help": REPLAY, **TEXT},
        },
    ),
    "cache": Verb(
        help="compute the teacher's outputs of all training images ahead of a training",
        run=lambda options: segdistill.cache(options.settings),
        check=check_training,
        settings=TrainConfig,
    ),
    "evaluate": Verb(
        help="score a network on images with masks",
        run=run_evaluate,
        check=check_scoring,
        settings=EvaluateConfig,
        arguments={"target": {"help": NETWORK}},
    ),
    "compare": Verb(
        help="score networks on the same images: is a difference more than the choice of images?",
        run=run_compare,
        check=check_comparison,
        settings=CompareConfig,
        arguments={"targets": {"nargs": "+", "help": f"{NETWORK}; the others are compared with the first"}},
    ),
    "verify": Verb(
        help="certify that a network is as good as another one on the same images",
        run=run_verify,
        check=check_verify,
        settings=VerifyConfig,
        arguments={
            "target": {"nargs": "?", "help": f"what is certified: {NETWORK}"},
            "--certificate": {"help": "run an earlier certificate again, and compare: FILE.json", **TEXT},
        },
    ),
    "calibrate": Verb(
        help="fit the temperature of a run's probabilities once more; masks stay as they are",
        run=run_calibrate,
        check=check_calibration,
        settings=CalibrateConfig,
        arguments={"run": {"help": "a run folder; its card gets the temperature"}},
    ),
    "predict": Verb(
        help="segment images and videos",
        run=run_predict,
        check=check_predict,
        settings=PredictConfig,
        arguments={
            "target": {"help": NETWORK},
            "paths": {"nargs": "+", "help": "image files, folders of images, videos"},
        },
    ),
    "label": Verb(
        help="write a network's masks of images as a data set to train on",
        run=run_label,
        check=check_label,
        settings=LabelConfig,
        arguments={
            "target": {"help": NETWORK},
            "paths": {"nargs": "+", "help": "image files, folders of images"},
        },
    ),
    "export": Verb(
        help="write a file for another runtime, checked against PyTorch",
        run=run_export,
        check=check_scoring,
        settings=ExportConfig,
        arguments={"target": {"help": "run folder, or any network that PyTorch runs"}},
    ),
    "benchmark": Verb(
        help="measure latency, memory and size side by side",
        run=run_benchmark,
        check=lambda options: check_networks(*options.targets),
        settings=BenchmarkConfig,
        arguments={"targets": {"nargs": "+", "help": f"{NETWORK}; the others are compared with the first"}},
    ),
    "serve": Verb(
        help="serve a network over HTTP, with a page to try it",
        run=run_serve,
        check=lambda options: check_networks(options.target),
        settings=ServeConfig,
        arguments={
            "target": {"help": "run folder, exported file or built-in network (nothing that is code)"}
        },
    ),
    "report": Verb(
        help="write one HTML page about one or more runs",
        run=lambda options: {"report": str(segdistill.report(options.runs, options.out))},
        check=lambda options: paths.require_runs(options.runs),
        arguments={
            "runs": {"nargs": "+", "help": "run folders; several are compared with the first"},
            "--out": {"help": "the file; RUN/report.html where absent", **TEXT},
        },
    ),
    "pack": Verb(
        help="copy a student without its records: float16 weights, card, settings",
        run=run_pack,
        check=lambda options: check_run(options.run),
        arguments={
            "run": {"help": "a run folder"},
            "--out": {"required": True, "help": "the folder to make"},
        },
    ),
    "push": Verb(
        help="upload a student to the Hugging Face Hub, where hf:ORG/NAME names it",
        run=run_push,
        check=lambda options: paths.require_model(options.run),
        settings=PushConfig,
        arguments={
            "run": {"help": "a run folder"},
            "repository": {"help": "ORG/NAME; it is made where it is missing"},
        },
    ),
    "data": Verb(help="describe, check, show, convert, download or draw data sets", verbs=DATA_VERBS),
    "demo": Verb(
        help="draw a data set, train a teacher, a student alone and a distilled one; compare them",
        run=run_demo,
        arguments={
            "--out": {"default": "runs/demo", "help": "folder for the data set and the three runs"},
            "--seed": {"type": int, "default": 0, "help": "seeds data, weights and order"},
            "--device": {"default": "auto", "help": "auto, cpu, cuda or mps"},
            "--overwrite": {"action": "store_true", "help": "delete earlier runs in --out first"},
        },
    ),
}

if __name__ == "__main__":
    sys.exit(main())
