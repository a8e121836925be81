"""The command line: one table of verbs, each carried out by `segdistill.api`.

A verb is added by its entry in `VERBS`, with a function in `cli_runs` where it takes more than a line.
"""

import signal
import sys
from contextlib import redirect_stdout

from jsonargparse import ArgumentError

import segdistill  # whose functions are imported when they are first used: `--help` needs no PyTorch
from segdistill.cli_checks import (
    check_calibration,
    check_comparison,
    check_demo,
    check_label,
    check_networks,
    check_predict,
    check_run,
    check_scoring,
    check_search,
    check_train,
    check_training,
    check_verify,
)
from segdistill.cli_data import DATA_VERBS, TEXT
from segdistill.cli_examples import EXAMPLES, SEARCH_FIRST, TRAIN_FIRST
from segdistill.cli_runs import (
    RESULTS,
    print_json,
    resumed_settings,
    run_benchmark,
    run_calibrate,
    run_compare,
    run_demo,
    run_evaluate,
    run_export,
    run_label,
    run_pack,
    run_predict,
    run_push,
    run_search,
    run_serve,
    run_train,
    run_verify,
    run_version,
)
from segdistill.config import paths
from segdistill.config.completion import SHELLS, completion_script
from segdistill.config.demo import DemoConfig
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
from segdistill.config.mistakes import usage_error
from segdistill.config.naming import options_named
from segdistill.config.search import SearchConfig
from segdistill.config.train import TrainConfig
from segdistill.config.verbs import Options, Verb, expand, make_parser, read_options
from segdistill.config.verify import VerifyConfig
from segdistill.console import verbosity

PURPOSE = "Distil a large semantic-segmentation network into a small one that you can deploy."
USUAL_WAY = """\
segdistill {version}: distil a large semantic-segmentation network into a small one that you can deploy

The usual way, from your images (mydata) and a teacher (mynet.py:teacher) to a file that you deploy:
  segdistill data check mydata
  segdistill evaluate mynet.py:teacher --data mydata
  segdistill train --data mydata --teacher mynet.py:teacher --steps 20000 --out runs/mine
  segdistill predict runs/mine photos --out masks
  segdistill export runs/mine --format onnx

Nothing at hand yet? segdistill demo draws images and shows the whole way in minutes, offline.
All commands: segdistill --help. The options of one: segdistill train --help. Explained: README.md and docs/.
"""
"""What the program prints where no command is given."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 1 refused or failed with a message, 2 wrong usage, 130 or 143 after a signal.
    """
    given = list(expand(sys.argv[1:] if arguments is None else arguments))
    parser = make_parser(VERBS, segdistill.__version__, PURPOSE, given)
    if not given:
        sys.stderr.write(USUAL_WAY.format(version=segdistill.__version__))
        return 2
    try:
        with options_named():
            verb, options = read_options(parser, VERBS, given)
            RESULTS.set(sys.stdout)
            with (
                redirect_stdout(sys.stderr),  # networks and libraries print what is not for machines
                verbosity(quiet=options.quiet, verbose=options.verbose),
            ):
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


def run_completion(options: Options) -> None:
    parser = make_parser(VERBS, segdistill.__version__, PURPOSE)
    print(completion_script(parser, options.shell), file=RESULTS.get())


NETWORK = "run folder, or any network: fcn_resnet50, file.py:function, model.onnx, ... (a file's code is run)"
OVERWRITE = {"action": "store_true", "help": "delete the run in --out first"}
RESUME = "continue the run in --out, with its own settings where no --config names them"
PICTURES = (
    "image files, folders of images, quoted patterns such as 'photos/**/*.jpg', videos, - (one image from "
    "standard input), camera or camera:1"
)
REPLAY = "compute the batch again that a run stopped on: RUN/nonfinite.json"

VERBS = {
    "train": Verb(
        help="train a student, with a teacher or without",
        run=run_train,
        check=check_train,
        settings=TrainConfig,
        resumed=resumed_settings,
        arguments={
            "--resume": {"action": "store_true", "help": RESUME},
            "--overwrite": OVERWRITE,
            "--replay": {"help": REPLAY, **TEXT},
        },
        first=TRAIN_FIRST,
        examples=EXAMPLES["train"],
    ),
    "search": Verb(
        help="find, train and export the best student within a budget of latency",
        run=run_search,
        check=check_search,
        settings=SearchConfig,
        first=SEARCH_FIRST,
        examples=EXAMPLES["search"],
    ),
    "cache": Verb(
        help="compute the teacher's outputs of all training images ahead of a training",
        run=lambda options: segdistill.cache(options.settings),
        check=check_training,
        settings=TrainConfig,
        first={name: TRAIN_FIRST[name] for name in ("--data", "--teacher")} | {"--teacher.cache": "cache"},
        examples=EXAMPLES["cache"],
    ),
    "evaluate": Verb(
        help="score a network on images with masks",
        run=run_evaluate,
        check=check_scoring,
        settings=EvaluateConfig,
        first={
            "--data": "mydata",
            "--data.split": "test",
            "--size": "512",
            "--flip": "true",
            "--classes": "cat,dog",
            "--teacher": "fcn_resnet50",
            "--map": "'{auto: car}'",
            "--precision": "bf16",
            "--device": "cuda",
            "--out": "scores.json",
        },
        arguments={"target": {"help": NETWORK}},
        examples=EXAMPLES["evaluate"],
    ),
    "compare": Verb(
        help="score networks on the same images: is a difference more than the choice of images?",
        run=run_compare,
        check=check_comparison,
        settings=CompareConfig,
        first={
            "--data": "mydata",
            "--data.split": "test",
            "--size": "'[384, null]'",
            "--flip": "true",
            "--classes": "cat,dog",
            "--resamples": "2000",
            "--device": "cuda",
            "--out": "scores.json",
        },
        arguments={"targets": {"nargs": "+", "help": f"{NETWORK}; the others are compared with the first"}},
        examples=EXAMPLES["compare"],
    ),
    "verify": Verb(
        help="certify that a network is as good as another one on the same images",
        run=run_verify,
        check=check_verify,
        settings=VerifyConfig,
        first={
            "--against": "teacher.onnx",
            "--data": "mydata",
            "--data.split": "test",
            "--images": "200",
            "--size": "512",
            "--max_loss": "1",
            "--device": "cuda",
            "--out": "certificate.json",
        },
        arguments={
            "target": {"nargs": "?", "help": f"what is certified: {NETWORK}"},
            "--certificate": {"help": "run an earlier certificate again, and compare: FILE.json", **TEXT},
        },
        examples=EXAMPLES["verify"],
    ),
    "calibrate": Verb(
        help="fit the temperature of a run's probabilities once more; masks stay as they are",
        run=run_calibrate,
        check=check_calibration,
        settings=CalibrateConfig,
        arguments={"run": {"help": "a run folder; its card gets the temperature"}},
        examples=EXAMPLES["calibrate"],
    ),
    "predict": Verb(
        help="segment images and videos",
        run=run_predict,
        check=check_predict,
        settings=PredictConfig,
        first={
            "--out": "masks",
            "--size": "512",
            "--flip": "true",
            "--probabilities": "true",
            "--tile": "1024",
            "--overlap": "256",
            "--mask_video": "true",
            "--precision": "bf16",
            "--device": "cuda",
        },
        arguments={
            "target": {"help": NETWORK},
            "paths": {"nargs": "+", "help": PICTURES},
        },
        examples=EXAMPLES["predict"],
    ),
    "label": Verb(
        help="write a network's masks of images as a data set to train on",
        run=run_label,
        check=check_label,
        settings=LabelConfig,
        arguments={
            "target": {"help": NETWORK},
            "paths": {
                "nargs": "+",
                "help": "image files, folders of images, quoted patterns: 'photos/*.jpg'",
            },
        },
        examples=EXAMPLES["label"],
    ),
    "export": Verb(
        help="write a file for another runtime, checked against PyTorch",
        run=run_export,
        check=check_scoring,
        settings=ExportConfig,
        first={
            "--format": "openvino",
            "--quantize": "int8",
            "--input": "tensor",
            "--output": "mask",
            "--out": "mine.onnx",
            "--data": "mydata",
            "--calibration": "photos",
            "--max_loss": "0.5",
        },
        arguments={"target": {"help": "run folder, or any network that PyTorch runs"}},
        examples=EXAMPLES["export"],
    ),
    "benchmark": Verb(
        help="measure latency, memory and size side by side",
        run=run_benchmark,
        check=lambda options: check_networks(*options.targets),
        settings=BenchmarkConfig,
        arguments={"targets": {"nargs": "+", "help": f"{NETWORK}; the others are compared with the first"}},
        examples=EXAMPLES["benchmark"],
    ),
    "serve": Verb(
        help="serve a network over HTTP, with a page to try it",
        run=run_serve,
        check=lambda options: check_networks(options.target),
        settings=ServeConfig,
        first={
            "--host": "0.0.0.0",
            "--port": "80",
            "--token": "SECRET",
            "--size": "512",
            "--precision": "bf16",
            "--device": "cuda",
            "--max_batch": "16",
            "--max_bytes": "4194304",
        },
        arguments={
            "target": {"help": "run folder, exported file or built-in network (nothing that is code)"}
        },
        examples=EXAMPLES["serve"],
    ),
    "report": Verb(
        help="write one HTML page about one or more runs",
        run=lambda options: {"report": str(segdistill.report(options.runs, options.out))},
        check=lambda options: paths.require_runs(options.runs),
        arguments={
            "runs": {"nargs": "+", "help": "run folders; several are compared with the first"},
            "--out": {"help": "the file; RUN/report.html where absent", **TEXT},
        },
        examples=EXAMPLES["report"],
    ),
    "pack": Verb(
        help="copy a student without its records: float16 weights, card, settings",
        run=run_pack,
        check=lambda options: check_run(options.run),
        arguments={
            "run": {"help": "a run folder"},
            "--out": {"required": True, "help": "the folder to make"},
        },
        examples=EXAMPLES["pack"],
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
        examples=EXAMPLES["push"],
    ),
    "data": Verb(help="describe, check, show, convert, shard, download or draw data sets", verbs=DATA_VERBS),
    "version": Verb(
        help="print the version, and with --all what a report of a bug needs",
        run=run_version,
        arguments={"--all": {"action": "store_true", "help": "packages, platform, devices and extras too"}},
        examples=EXAMPLES["version"],
    ),
    "completion": Verb(
        help="print a script that completes commands, options and choices in a shell",
        run=run_completion,
        arguments={"shell": {"choices": SHELLS, "help": "the shell that is to complete"}},
        examples=EXAMPLES["completion"],
    ),
    "demo": Verb(
        help="train a small student alone and with a teacher, over three seeds, and compare: minutes",
        run=run_demo,
        check=check_demo,
        settings=DemoConfig,
        first={
            "--data": "mydata",
            "--teacher": "mynet.py:teacher",
            "--teacher.scale": "2",
            "--data.val_share": "0.2",
            "--steps": "1000",
            "--seed": "1",
            "--device": "cuda",
            "--out": "runs/demo",
        },
        arguments={
            "--from_scratch": {"action": "store_true", "help": "train the teacher of the drawn images first"},
            "--overwrite": {"action": "store_true", "help": "delete earlier runs in --out first"},
        },
        examples=EXAMPLES["demo"],
    ),
}

if __name__ == "__main__":
    sys.exit(main())
