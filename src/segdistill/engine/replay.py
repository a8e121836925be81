"""The batch on which a run stopped: kept beside the run's records, and computed again to find the cause."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from segdistill.config.train import TrainConfig
from segdistill.data.batch import Batch
from segdistill.distillation.objective import Objective
from segdistill.engine.runtime import seed_step
from segdistill.files import read_json, write_together
from segdistill.models.card import read_weights
from segdistill.models.teacher import Teacher

RECORD = "nonfinite.json"
ADAPTER = "adapter."
STUDENT = "student."


def diagnose(
    student: nn.Module, objective: Objective, batch: Batch, known: Tensor | None, progress: float
) -> dict[str, Any]:
    """Compute the terms of one batch as training does, and say where numbers stop being finite.

    Args:
        student: the network, whose batch norms take in the batch once more.
        objective: its losses.
        batch: N views on the device.
        known: the teacher's logits of them, N x K x H x W.
        progress: of training, 0 to 1.

    Returns:
        `terms`, `images` (the terms of each image alone, by id), `nonfinite` (names of tensors, in the order
        of computation) and `bad` (ids of the images that brought it about, all where one cannot tell).
    """
    found = [f"weight {name}" for name, p in student.named_parameters() if not p.isfinite().all()]
    found += ["images"] if not batch.image.isfinite().all() else []
    found += ["the teacher's logits"] if known is not None and not known.isfinite().all() else []
    student.train()
    with listen(student, found):
        logits = student(batch.image)
    hooks = [*objective.heads, *(objective.hooks or ())]
    features = [hook.value for hook in hooks]
    terms = objective(batch, logits, known, progress)
    terms["loss"].backward()
    found += [f"{name} loss" for name, term in terms.items() if name != "loss" and not term.isfinite()]
    found += [
        f"gradient of {name}"
        for name, p in student.named_parameters()
        if p.grad is not None and not p.grad.isfinite().all()
    ]
    images: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        for index, name in enumerate(batch.id):
            for hook, value in zip(hooks, features, strict=True):
                hook.value = None if value is None else value[index : index + 1]
            one = pick(batch, index)
            theirs = None if known is None else known[index : index + 1]
            parts = objective(one, logits[index : index + 1], theirs, progress)
            images[name] = {key: float(term) for key, term in parts.items()}
    return {
        "terms": {name: float(term.detach()) for name, term in terms.items()},
        "images": images,
        "nonfinite": found,
        "bad": bad_images(batch, known, images),
    }


def bad_images(batch: Batch, known: Tensor | None, images: dict[str, dict[str, float]]) -> list[str]:
    """Ids of the images that are not finite, or the teacher's answer to them, or a term of them alone."""
    for tensor in (batch.image, known):
        if tensor is not None:
            whole = tensor.isfinite().flatten(1).all(dim=1).tolist()
            if not all(whole):
                return [name for name, fine in zip(batch.id, whole, strict=True) if not fine]
    alone = [n for n, terms in images.items() if not torch.tensor(list(terms.values())).isfinite().all()]
    return alone or list(batch.id)


def pick(batch: Batch, index: int) -> Batch:
    """One image of a batch, as a batch."""
    tensors = {
        name: value[index : index + 1] for name, value in vars(batch).items() if isinstance(value, Tensor)
    }
    return replace(batch, id=[batch.id[index]], **tensors)


@contextmanager
def listen(network: nn.Module, found: list[str]) -> Iterator[None]:
    """Within it, each layer of a network whose output is not finite adds its name to `found`."""

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            del module, inputs
            if isinstance(output, Tensor) and not output.isfinite().all():
                found.append(f"layer {name}")

        return hook

    layers = [(name, layer) for name, layer in network.named_modules() if not list(layer.children())]
    handles = [layer.register_forward_hook(look(name)) for name, layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def dump_batch(run: Path, record: dict[str, Any], batch: Batch, known: Tensor | None, rank: int,
         student: nn.Module, objective: Objective) -> Path:  # fmt: skip
    """Write the record as JSON and all tensors beside it; returns the JSON file."""
    path = run / (RECORD if rank == 0 else f"nonfinite-{rank}.json")
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    if known is not None:
        tensors["known"] = known
    tensors |= {STUDENT + name: value for name, value in student.state_dict().items()}
    tensors |= {ADAPTER + name: value for name, value in objective.adapters.state_dict().items()}
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_together({path.with_suffix(".safetensors"): save(plain), path: as_json(record)})
    return path


def load_batch(path: Path) -> tuple[dict[str, Any], Batch, Tensor | None, dict[str, dict[str, Tensor]]]:
    """What `dump_batch` wrote: the record, the batch, the teacher's logits, and weights by module.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the files are not what `dump_batch` writes.
    """
    path = path.with_suffix(".json")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    record, tensors = read_json(path), read_weights(path.with_suffix(".safetensors"))
    weights: dict[str, dict[str, Tensor]] = {STUDENT: {}, ADAPTER: {}}
    for prefix, part in weights.items():
        for name in [name for name in tensors if name.startswith(prefix)]:
            part[name.removeprefix(prefix)] = tensors.pop(name)
    try:
        known = tensors.pop("known", None)
        batch = Batch(id=[str(name) for name in record["ids"]], **tensors)
        if not isinstance(record["step"], int) or len(batch.id) != len(batch.image):
            raise ValueError("step or ids do not fit the tensors")
    except (TypeError, LookupError, ValueError) as error:
        raise ValueError(f"{path} is not the record of a batch: {error}") from None
    return record, batch, known, weights


def replay(path: Path, config: TrainConfig, student: nn.Module, teacher: Teacher | None,
           class_weights: Tensor | None, steps: int) -> dict[str, Any]:  # fmt: skip
    """Compute the kept batch of `path` again, on the CPU, with the weights it was kept with.

    Returns:
        What `diagnose` returns, and the `step`.
    """
    record, batch, known, weights = load_batch(path)
    objective = Objective(config.objective, student, teacher, class_weights)
    try:
        student.load_state_dict(weights[STUDENT])
        objective.adapters.load_state_dict(weights[ADAPTER])
    except RuntimeError as error:
        raise ValueError(
            f"the weights beside {path} do not fit: {' '.join(str(error).split())[:300]}"
        ) from None
    if config.runtime.channels_last:  # the order in memory decides what dropout draws
        student = student.to(memory_format=torch.channels_last)
        batch = replace(batch, image=batch.image.contiguous(memory_format=torch.channels_last))
    if teacher is not None and objective.hooks is not None:
        teacher(batch.image)  # for its features
    seed_step(config.seed, record["step"] - 1, int(record.get("rank", 0)))
    progress = (record["step"] - 1) / max(1, steps - 1)
    return {"step": record["step"], **diagnose(student, objective, batch, known, progress)}


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
