"""What a search ends with: the student, its file and certificate, the front, and what all of it took."""

import shlex
from collections.abc import Mapping
from typing import Any

from segdistill import api
from segdistill.config.deploy import ExportConfig
from segdistill.config.evaluate import EvaluateConfig, EvaluationDataConfig
from segdistill.console import log, warn
from segdistill.engine.run_folder import RunFolder
from segdistill.files import read_json, write_atomic
from segdistill.models.file_formats import FORMATS
from segdistill.reporting.search_page import search_page
from segdistill.searching import halving
from segdistill.searching.folder import Rung, SearchFolder, Session
from segdistill.searching.input_sizes import choose_size
from segdistill.searching.latency import interval_text

Record = dict[str, Any]


def conclude(folder: SearchFolder, session: Session) -> Record:
    """Export the best of the last two, score both on the validation split, and write the report.

    Raises:
        ValueError: none of the two could be exported, which the report says too.
    """
    if folder.result_file.is_file():
        return summary(folder, read_json(folder.result_file))
    final = folder.rungs()[-1]
    sizes = {key: choose_size(folder, final, key) for key in halving.ranking(folder.results(final))}
    ranked = sorted(sizes, key=lambda key: -max(sizes[key].values()))
    session.tick()
    exports: dict[str, Record] = {}
    chosen = None
    for key in ranked:  # the second one only where the first cannot be exported
        try:
            exports[key] = export_student(folder, folder.run(final, key))
            chosen = key
            break
        except ValueError as error:
            warn(f"{key} is not exported: {error}")
            exports[key] = {"error": str(error)}
    validation = {key: score_validation(folder, folder.run(final, key)) for key in ranked}
    session.tick()
    record = describe(folder, final, chosen or ranked[0])
    record |= {"sizes": sizes, "export": exports, "validation": validation}
    write_atomic(folder.report_file, search_page(record))
    if chosen is None:
        reasons = "; ".join(f"{key}: {entry['error']}" for key, entry in exports.items())
        raise ValueError(f"no student could be exported: {reasons}. The report is {folder.report_file}")
    folder.write(folder.result_file, record)
    return summary(folder, record)


def export_student(folder: SearchFolder, run: RunFolder) -> Record:
    """Write the file of a trained student with its certificate; returns what is told of it."""
    config, data = folder.config, folder.recipe.data
    file = run.path / f"model{FORMATS[config.runtime].suffix}"
    settings = ExportConfig(
        format=config.runtime,
        quantize="int8" if config.precision == "int8" else None,
        out=str(file),
        data=EvaluationDataConfig(root=data.root, layout=data.layout, split=data.val_split, workers=0),
        max_loss=config.max_loss,
    )
    record = dict(api.export(run.path, settings))
    certificate = read_json(file.with_name(f"{file.name}.certificate.json"))
    return {
        "file": str(file), "bytes": record["bytes"],
        "certificate": str(file.with_name(f"{file.name}.certificate.html")),
        "verdict": certificate["verdict"]["text"],
    }  # fmt: skip


def score_validation(folder: SearchFolder, run: RunFolder) -> float | None:
    """Mean IoU on the validation split, which no choice was made on."""
    data = folder.recipe.data
    settings = EvaluateConfig(
        data=EvaluationDataConfig(root=data.root, layout=data.layout, split=data.val_split, workers=0),
        device=folder.config.device,
        out=str(run.path / "validation.json"),
    )
    return api.evaluate(run.path, settings)["miou"]


def describe(folder: SearchFolder, final: Rung, chosen: str) -> Record:
    """Everything about a search up to its last training, as JSON values."""
    rungs = folder.rungs()
    results = [folder.results(rung) for rung in rungs]
    reached: dict[str, int] = {}
    scored: dict[str, int] = {}
    scores: dict[str, float] = {}
    for rung, found in zip(rungs, results, strict=True):
        for key, result in found.items():
            reached[key] = rung.number
            if "failed" not in result:
                scores[key], scored[key] = result["miou"], rung.number
    rung_scores = [_scores(found) for found in results]
    measured = read_json(folder.latency_file)
    latencies = measured["candidates"]
    points = {key: (latencies[key]["median_ms"], score) for key, score in scores.items()}
    front = halving.pareto_front(points)
    last = folder.run(final, chosen).metrics["last"]
    assert last is not None  # it is written with the result
    plan = folder.plan
    reasons = {entry["name"]: entry["reason"] for entry in plan["left_out"]}
    failures = {k: r["failed"] for found in results for k, r in found.items() if "failed" in r}
    return {
        "kind": "segdistill search 1",
        "settings": folder.config.fixed,
        "recipe_steps": last["step"],
        "machine": measured["machine"],
        "budget": measured["budget"],
        "student": str(folder.run(final, chosen)),
        "chosen": chosen,
        "candidates": [
            latencies[key]
            | {
                "key": key, "family": candidate.family, "size": candidate.size,
                "lr": candidate.lr or folder.recipe.optim.lr, "rung": reached.get(key),
                "miou": scores.get(key), "scored_in": scored.get(key),
                "reason": failures.get(key) or reasons.get(key) or latencies[key]["reason"],
            }
            for key, candidate in folder.candidates.items()
        ],
        "left_out": folder.left_out,
        "rungs": [
            {
                "title": rung.title, "steps": rung.steps, "members": list(rung.members),
                "results": found, "seconds": sum(result["seconds"] for result in found.values()),
            }
            for rung, found in zip(rungs, results, strict=True)
        ],
        "correlations": halving.correlations(rung_scores),
        "whole_correlation": halving.whole_correlation(rung_scores),
        "curves": {key: _curve(folder, rungs, key) for key in reached},
        "spent": folder.spent(),
        "front": front,
        "commands": {key: train_command(folder, key) for key in front if key != chosen},
    }  # fmt: skip


def _scores(results: Mapping[str, Record]) -> dict[str, float]:
    return {key: result["miou"] for key, result in results.items() if "failed" not in result}


def _curve(folder: SearchFolder, rungs: list[Rung], key: str) -> list[tuple[int, float]]:
    """Steps and mean IoU of a candidate's evaluations in the rungs of short trainings."""
    first = next((rung for rung in rungs if key in rung.members and not rung.final), None)
    if first is None:
        return []
    _, evaluations = folder.run(first, key).history()
    return [(record["step"], record["miou"]) for record in evaluations if record.get("miou") is not None]


def train_command(folder: SearchFolder, key: str) -> str:
    """What trains a candidate with the full recipe."""
    return f"segdistill train --config {shlex.quote(str(folder.path / 'recipes' / f'{key}.yaml'))}"


def summary(folder: SearchFolder, record: Record) -> Record:
    """The result for machines, shown to people too."""
    chosen = record["chosen"]
    used = next(iter(record["sizes"][chosen]))  # the best size is the first
    found = next(candidate for candidate in record["candidates"] if candidate["key"] == used)
    exported, miou = record["export"][chosen], record["validation"][chosen]
    score = "no score" if miou is None else f"mean IoU {miou:.4f} on the validation split"
    log(
        f"The student is {chosen} at {found['size']} pixels: {score}, {interval_text(found)}, "
        f"{exported['bytes'] / 1e6:.1f} MB"
    )
    log(f"Its file is {exported['file']}; {exported['verdict']}")
    log(f"The report is {folder.report_file}")
    return {
        "out": str(folder), "student": record["student"], "file": exported["file"],
        "certificate": exported["certificate"], "candidate": chosen, "miou": miou,
        "size": found["size"], "latency_ms": found["median_ms"], "report": str(folder.report_file),
    }  # fmt: skip
