"""The batch on which a run stopped: dumped beside the run's records, and computed again to find the cause."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save
from torch import Tensor, nn

from segdistill.data.batch import Batch
from segdistill.engine.experiment import Experiment
from segdistill.engine.run_folder import RunFolder
from segdistill.engine.runtime import precision_of
from segdistill.engine.state import TrainingState
from segdistill.files import read_json, write_together
from segdistill.models.card import read_weights

MODULES = ("student", "adapter", "ranges")
"""Prefixes of the weights in a dump: the student, what the losses train along, the ranges of 8-bit maps."""
RENAMED = {
    "inside": "valid",
    "known": "teacher_logits",
    "features": "teacher_features",
    "partner": "target_b",
    "share": "lam",
}
"""Names of tensors in the dumps of version 0.1.0 -> their names now; its `known` repeats `knowledge`."""


def diagnose(state: TrainingState, experiment: Experiment, batch: Batch, step: int) -> dict[str, Any]:
    """Compute the terms of one batch as training does, and find where numbers stop being finite.

    Args:
        state: its weights, losses and precision; its batch norms take in the batch once more.
        experiment: its settings.
        batch: N crops on the device, with the teacher's logits.
        step: of the batch, from 0.

    Returns:
        `terms`, `images` (the terms of each image alone, by id), `nonfinite` (names of tensors, in the order
        of computation) and `bad` (ids of the images that caused it, all where one cannot tell).
    """
    student, objective = state.student, state.objective
    progress = experiment.progress(step)
    found = [f"weight {name}" for name, p in student.named_parameters() if not p.isfinite().all()]
    found += ["images"] if not batch.image.isfinite().all() else []
    if batch.teacher_logits is not None and not batch.teacher_logits.isfinite().all():
        found.append("the teacher's logits")
    state.begin_step(experiment, step)
    with state.accelerator.autocast(), nonfinite_layers(student, found):
        outputs = state.forward(state.network, batch)
    terms = objective(batch, outputs, progress)
    found += [f"{name} loss" for name, term in terms.items() if name != "loss" and not term.isfinite()]
    # Not `backward`, which in a training of several processes would add up with the others' gradients.
    parameters = {name: p for name, p in student.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(terms["loss"], list(parameters.values()), allow_unused=True)
    found += [
        f"gradient of {name}"
        for name, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None and not gradient.isfinite().all()
    ]
    images: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        for index, name in enumerate(batch.id):
            values = objective(pick(batch, index), outputs.pick(index), progress)
            images[name] = {key: float(term) for key, term in values.items()}
    return {
        "terms": {name: float(term.detach()) for name, term in terms.items()},
        "images": images,
        "nonfinite": found,
        "bad": bad_images(batch, images),
    }


def bad_images(batch: Batch, images: dict[str, dict[str, float]]) -> list[str]:
    """Ids of the images that are not finite, or the teacher's logits of them, or a term of them alone."""
    for tensor in (batch.image, batch.teacher_logits):
        if tensor is not None:
            whole = tensor.isfinite().flatten(1).all(dim=1).tolist()
            if not all(whole):
                return [name for name, finite in zip(batch.id, whole, strict=True) if not finite]
    alone = [n for n, terms in images.items() if not torch.tensor(list(terms.values())).isfinite().all()]
    return alone or list(batch.id)


def pick(batch: Batch, index: int) -> Batch:
    """One image of a batch, as a batch."""
    tensors: dict[str, Any] = {
        name: value[index : index + 1] for name, value in vars(batch).items() if isinstance(value, Tensor)
    }
    return replace(batch, id=[batch.id[index]], **tensors)


@contextmanager
def nonfinite_layers(network: nn.Module, found: list[str]) -> Iterator[None]:
    """Within it, each layer of a network whose output is not finite adds its name to `found`."""

    def add(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            del module, inputs
            if isinstance(output, Tensor) and not output.isfinite().all():
                found.append(f"layer {name}")

        return hook

    layers = [(name, layer) for name, layer in network.named_modules() if not list(layer.children())]
    handles = [layer.register_forward_hook(add(name)) for name, layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def dump_batch(folder: RunFolder, record: dict[str, Any], batch: Batch, state: TrainingState) -> Path:
    """Write a record as JSON and all tensors beside it, in files of this process; returns the JSON file."""
    path = folder.nonfinite_file(state.accelerator.process_index)
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    for prefix, module in _modules(state).items():
        tensors |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    record = record | {"precision": precision_of(state.accelerator)}
    write_together({path.with_suffix(".safetensors"): save(plain), path: as_json(record)})
    return path


@dataclass(frozen=True, kw_only=True)
class Dump:
    """What `dump_batch` wrote.

    Attributes:
        record: step, rank, ids, terms, precision.
        batch: N crops, with the teacher's logits.
        weights: state dicts by the names in `MODULES`.
    """

    record: dict[str, Any]
    batch: Batch
    weights: dict[str, dict[str, Tensor]]


def load_dump(path: Path) -> Dump:
    """Read what `dump_batch` wrote.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the files are not what `dump_batch` writes.
    """
    path = path.with_suffix(".json")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    record, tensors = read_json(path), read_weights(path.with_suffix(".safetensors"))
    weights: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in MODULES}
    for prefix, state in weights.items():
        for name in [name for name in tensors if name.startswith(f"{prefix}.")]:
            state[name.removeprefix(f"{prefix}.")] = tensors.pop(name)
    try:
        if "known" in tensors:
            tensors.pop("knowledge", None)
        fields: dict[str, Any] = {RENAMED.get(name, name): value for name, value in tensors.items()}
        batch = Batch(id=[str(name) for name in record["ids"]], **fields)
        if not isinstance(record["step"], int) or len(batch.id) != len(batch.image):
            raise ValueError("step or ids do not fit the tensors")
    except (TypeError, LookupError, ValueError) as error:
        raise ValueError(f"{path} is not the record of a batch: {error}") from None
    return Dump(record=record, batch=batch, weights=weights)


def replay(path: Path, experiment: Experiment, accelerator: Accelerator) -> dict[str, Any]:
    """Compute the dumped batch of `path` again, with the weights, losses and precision of the training.

    Returns:
        What `diagnose` returns, and the `step` (from 1).
    """
    dump = load_dump(path)
    state = TrainingState.of(experiment, accelerator)
    try:
        for prefix, module in _modules(state).items():
            module.load_state_dict(dump.weights[prefix])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"the weights beside {path} do not fit: {reason}") from None
    batch = dump.batch.to(accelerator.device)
    if experiment.config.runtime.channels_last:  # the order in memory decides what dropout draws
        batch = replace(batch, image=batch.image.contiguous(memory_format=torch.channels_last))
    state.rank = int(dump.record.get("rank", 0))
    return {"step": dump.record["step"], **diagnose(state, experiment, batch, dump.record["step"] - 1)}


def _modules(state: TrainingState) -> dict[str, nn.Module]:
    """The modules whose weights are in a dump, by prefix."""
    modules: dict[str, nn.Module] = {"student": state.student, "adapter": state.objective.adapters}
    if state.quantized is not None:
        modules["ranges"] = state.quantized.ranges
    return modules


def as_json(record: dict[str, Any]) -> str:
    """The text of a record; numbers that are not finite, which JSON lacks, become text."""
    return json.dumps(printable(record), indent=2) + "\n"


def printable(value: Any) -> Any:
    """A value that JSON has: numbers that are not finite become text."""
    if isinstance(value, dict):
        return {key: printable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [printable(part) for part in value]
    return str(value) if isinstance(value, float) and not (-1e308 < value < 1e308) else value
