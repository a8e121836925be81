"""What the demonstration does after its first line: train, compare, show and export."""

from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from torch import nn

from segdistill.api import export, report, train, verify
from segdistill.build import build_experiment
from segdistill.config.demo import DemoConfig
from segdistill.config.deploy import ExportConfig
from segdistill.config.train import TrainConfig
from segdistill.config.verify import VerifyConfig
from segdistill.console import console, log
from segdistill.demonstrating.plan import Plan, draw_images
from segdistill.demonstrating.shown import (
    Demonstration,
    can_show,
    next_commands,
    result_table,
    terminal_picture,
    verdict,
)
from segdistill.demonstrating.side_by_side import train_side_by_side
from segdistill.engine.evaluate import EvaluationOptions, evaluate
from segdistill.engine.experiment import Experiment
from segdistill.engine.fill_caches import fill_caches
from segdistill.engine.run_folder import RunFolder
from segdistill.engine.runtime import make_accelerator, stop_signal
from segdistill.models.teacher import Teacher
from segdistill.profiling.timing import count_parameters
from segdistill.reporting.examples import Example, example_grid, make_examples
from segdistill.reporting.records import TEACHER
from segdistill.reporting.style import save_png

Record = dict[str, Any]


def carry_out(plan: Plan, config: DemoConfig, *, overwrite: bool) -> Demonstration:
    """Draw, train, compare and write; returns what `segdistill.demonstrating.start.demo` does."""
    out = Path(config.out)
    with stop_signal(obey=True):
        draw_images(plan, config)
        if plan.teacher_training is not None:
            log(f"First the teacher: {plan.teacher_training.steps:,} steps")
            train(plan.teacher_training, overwrite=overwrite, report=False)
        experiment = prepare(plan.distilled[0])
        train_side_by_side(plan.students, out / "trainings")
        record = Demonstration(measure(plan, experiment, config) | write_results(plan, experiment, out))
    console.print(result_table(record))
    log(verdict(record))
    log(f"Report: {record['report']}")
    for name in ("picture", "exported", "certificate"):
        if name in record:
            log(f"{name.capitalize()}: {record[name]}")
    log(next_commands(config.data.root, config.teacher.specs[0] if config.teacher.specs else None))
    return record


def prepare(config: TrainConfig) -> Experiment:
    """A distilled training with its caches filled, which all others then share."""
    experiment = build_experiment(config)
    log(experiment.summary)
    return fill_caches(experiment, make_accelerator(config.device, config.runtime.precision))


def measure(plan: Plan, experiment: Experiment, config: DemoConfig) -> Record:
    """Mean IoU of the teacher and of all students on the validation images."""
    assert isinstance(experiment.teacher, Teacher)
    accelerator = make_accelerator(config.device, "fp32")
    teacher = experiment.teacher.to(accelerator.device)
    options = EvaluationOptions(size=plan.alone[0].evaluate_size)
    score = evaluate(teacher, experiment.val, experiment.labels, accelerator, options).summary()["miou"]
    networks: Record = {"teacher": {"miou": [score], "parameters": count_parameters(teacher)}}
    for name, trainings in {"alone": plan.alone, "distilled": plan.distilled}.items():
        networks[name] = {
            "miou": [RunFolder(one.out).best["miou"] for one in trainings],
            "parameters": count_parameters(experiment.student),
        }
    pairs = zip(networks["alone"]["miou"], networks["distilled"]["miou"], strict=True)
    gains = [100 * (distilled - alone) for alone, distilled in pairs]
    return {
        "images": len(experiment.val),
        "steps": config.steps,
        "seeds": [one.seed for one in plan.alone],
        "networks": networks,
        "gains": gains,
        "gain_points": mean(gains),
        "gain_deviation": stdev(gains),
    }


def write_results(plan: Plan, experiment: Experiment, out: Path) -> Record:
    """The report, the picture, and the exported file with its certificate; returns their paths."""
    first = [plan.distilled[0], plan.alone[0]]
    page = report([one.out for one in (*plan.alone, *plan.distilled)], out / "report.html")
    examples = pick(first, experiment)
    written: Record = {"report": str(page)}
    figure = example_grid(examples, experiment.labels)
    if figure is not None:
        save_png(figure, out / "examples.png")
        written["picture"] = str(out / "examples.png")
    typical = next((example for example in examples if example.role == "median"), None)
    if typical is not None and can_show(console):
        picture = terminal_picture(typical, experiment.labels, console.width)
        if picture is not None:
            console.print(picture)
    if find_spec("onnx") is None or find_spec("onnxruntime") is None:
        log("No file is exported: that takes segdistill[onnx]")
        return written
    run, file = first[0].out, out / "student.onnx"
    export(run, ExportConfig(out=str(file)))
    certificate = verify(file, VerifyConfig(against=run, out=f"{file}.certificate.json", device="cpu"))
    log(f"Verdict: {certificate['verdict']['text']}")
    return written | {"exported": str(file), "certificate": certificate["out"]}


def pick(configs: list[TrainConfig], experiment: Experiment) -> list[Example]:
    """The best, median and worst image of the first of some runs, with the masks of teacher and students."""
    assert experiment.teacher is not None
    runs = {Path(one.out).name: RunFolder(one.out) for one in configs}
    networks: dict[str, nn.Module] = {TEACHER: experiment.teacher.cpu()}
    networks |= {name: run.student() for name, run in runs.items()}
    scores = {name: run.image_scores for name, run in runs.items()}
    return make_examples(experiment.val, networks, scores, count=1)
