"""What carries out each verb of the command line, importing what it needs itself, and shows the result."""

import json
import os
import shlex
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

import segdistill  # whose functions are imported when they are first used: `--help` needs no PyTorch
from segdistill.config.train import TrainConfig
from segdistill.config.verbs import Options, Result

RESULTS: ContextVar[TextIO] = ContextVar("results")
"""Standard output as the program got it."""


def print_json(record: Result) -> None:
    """The result for machines: one line, the last of standard output."""
    if is_main_process():
        print(json.dumps(record), file=RESULTS.get(), flush=True)


def is_main_process() -> bool:
    """Whether this is the first of the processes that `accelerate launch` started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def run_train(options: Options) -> Result:
    from segdistill.engine.run_folder import RunFolder

    if options.replay:
        return _replay(options.replay)
    run = segdistill.train(options.settings, resume=options.resume, overwrite=options.overwrite)
    best = RunFolder(run).best
    return {"run": str(run), "step": best["step"], **_scores(best)}


def resumed_settings(given: Mapping[str, Any]) -> TrainConfig:
    """The settings of the run that is resumed, with those that were typed."""
    from segdistill.engine.resuming import resumed_config

    return resumed_config(given)


def _replay(file: str) -> Result:
    from segdistill import api
    from segdistill.console import log
    from segdistill.engine.replay import printable
    from segdistill.reporting.tables import replay_lines

    found = api.replay(file)
    for line in replay_lines(found):
        log(line)
    return printable(found)


def run_search(options: Options) -> Result:
    return segdistill.search(options.settings)


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
        record = segdistill.verify(options.target, options.settings)
        lines = verdict_lines(record)
        console.print(comparison_table(record))
    for line in lines:
        log(line)
    return record


def run_calibrate(options: Options) -> Result:
    return segdistill.calibrate(options.run, options.settings)


def run_predict(options: Options) -> Result:
    from segdistill.console import log

    done, logged = 0, ""
    for mask, prediction in segdistill.predict(options.target, options.paths, options.settings):
        done += 1
        shares = ", ".join(f"{name} {share:.0%}" for name, share in list(prediction.shares.items())[:5])
        if mask.suffix != ".mp4" or logged != str(mask):  # of a video, the first frame only
            log(f"{mask}: {shares}")
        logged = str(mask)
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
    if "entries" not in record:
        return record
    console.print(benchmark_table(record))
    for line in benchmark_lines(record):
        log(line)
    return record


def run_serve(options: Options) -> None:
    def ready(url: str) -> None:
        print_json({"target": options.target, "url": url})

    segdistill.serve(options.target, options.settings, ready=ready)


def run_pack(options: Options) -> Result:
    return {"run": str(segdistill.pack(options.run, options.out))}


def run_push(options: Options) -> Result:
    from segdistill.console import log

    record = segdistill.push(options.run, options.repository, options.settings)
    if options.settings.dry_run is None:
        spec = f"hf:{record['repository']}"
        log(f"{record['url']} has commit {record['commit']}. Then: segdistill predict {spec} photo.jpg")
    return record


def run_version(options: Options) -> Result:
    if not options.all:
        return {"version": segdistill.__version__}
    from segdistill.console import log
    from segdistill.engine.about import about, about_lines

    record = about()
    for line in about_lines(record):
        log(line)
    return record


def run_demo(options: Options) -> Result:
    return segdistill.demo(options.settings, from_scratch=options.from_scratch, overwrite=options.overwrite)


def _scores(summary: Result) -> dict[str, float]:
    return {name: value for name, value in summary.items() if isinstance(value, float)}
