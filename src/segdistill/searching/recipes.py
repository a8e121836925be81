"""How candidates are trained: the short trainings of the rungs, and the full recipe of the last two."""

from dataclasses import replace
from pathlib import Path

from segdistill.config.naming import setting
from segdistill.config.objective import ObjectiveConfig
from segdistill.config.search import SearchConfig
from segdistill.config.train import AugmentConfig, DataConfig, OptimConfig, TeacherConfig, TrainConfig
from segdistill.config.values import Scheduled
from segdistill.config.yaml import load
from segdistill.searching.candidates import GRID, Candidate

EMA = 0.99
"""Decay of the average that is scored in a rung where the recipe has none: at a constant rate it stands for
the fall of the rate that a full training ends with."""

CHECKPOINT_EVERY = 100
"""Most steps between checkpoints of a candidate."""


def read_recipe(config: SearchConfig) -> TrainConfig:
    """The full recipe, with the data and the teacher of the search where it names them.

    Raises:
        FileNotFoundError: its file does not exist.
        ValueError: its file is wrong, or the data have no validation split of their own.
    """
    if config.recipe is not None:
        recipe = load(TrainConfig, Path(config.recipe))
    else:
        recipe = TrainConfig(
            augment=AugmentConfig(scale=(0.6, 1.5)),
            objective=ObjectiveConfig(alpha=0.3, beta=0.7, temperature=1.0),
            optim=OptimConfig(lr=1e-3, weight_decay=0.01, warmup=100, clip=1.0, ema=0.998),
            size=max(GRID, round(0.8 * config.size / GRID) * GRID),
            batch=16,
            steps=5000,
            evaluate_size=config.size,
        )
    data = config.data if config.data.root else recipe.data
    teacher = config.teacher if config.teacher.specs else recipe.teacher
    if not data.root:
        raise ValueError(f"name the data set with {setting('data.root')} ROOT, or in the recipe")
    if data is not config.data and config.data != DataConfig():
        raise ValueError(
            f"settings of data need {setting('data.root')} beside them, or belong into the recipe"
        )
    if teacher is not config.teacher and config.teacher != TeacherConfig():
        raise ValueError(
            f"settings of the teacher need {setting('teacher.spec')} beside them, or belong into the recipe"
        )
    if data.val_share:
        raise ValueError(
            f"data.val_share is {data.val_share}, but a search holds its own images of {data.split} out: "
            "give the data set a validation split, such as `val: 0.1` in its dataset.yaml"
        )
    if teacher.specs and teacher.cache is None:
        teacher = replace(teacher, cache=str(Path(config.out) / "cache"))
    return replace(
        recipe, data=data, teacher=teacher, seed=config.seed, device=config.device,
        trackers=[], quantize=None,
    )  # fmt: skip


def full_recipe(recipe: TrainConfig, candidate: Candidate, config: SearchConfig, steps: int) -> TrainConfig:
    """The full recipe for a candidate: what it is scored on while it trains is the held-out part of `train`.

    Crops, and the objects in them, are as much smaller than the recipe's as the candidate's input.

    Args:
        recipe: for networks with an input of `config.size`.
        candidate: network and input size.
        config: of the search.
        steps: 0 for the recipe's own.
    """
    factor = candidate.size / config.size
    low, high = recipe.augment.scale
    specs = (recipe.student.spec, candidate.student.spec)
    same = specs[0] == specs[1] and recipe.student.decoder == candidate.student.decoder
    alike = specs[0] == specs[1] or all(spec.startswith("timm:") for spec in specs)
    evaluate_every = min(recipe.evaluate_every, steps) if steps else recipe.evaluate_every
    return replace(
        recipe,
        student=candidate.student,
        data=replace(recipe.data, val_share=config.choose_share, val_split="val"),
        objective=recipe.objective if same else replace(recipe.objective, student_layer=None),
        augment=replace(recipe.augment, scale=(low * factor, high * factor)),
        optim=replace(
            recipe.optim,
            lr=candidate.lr or recipe.optim.lr,
            groups=recipe.optim.groups if alike else {},  # names of modules
            warmup=min(recipe.optim.warmup, steps // 10) if steps else recipe.optim.warmup,
        ),
        size=max(GRID, round(recipe.size * factor / GRID) * GRID),
        evaluate_size=candidate.size,
        steps=steps or recipe.steps,
        evaluate_every=evaluate_every,
        checkpoint_every=min(recipe.checkpoint_every or CHECKPOINT_EVERY, CHECKPOINT_EVERY),
    )


def rung_recipe(full: TrainConfig, steps: int, first_steps: int) -> TrainConfig:
    """The training of a rung: at a constant rate, so that more steps go on where fewer ended.

    Args:
        full: the full recipe of the candidate.
        steps: of the candidate in all, after this rung.
        first_steps: of the first rung, which is also how often it is scored.
    """
    objective, optim = full.objective, full.optim
    config = replace(
        full,
        objective=replace(
            objective,
            alpha=_middle(objective.alpha),
            beta=_middle(objective.beta),
            temperature=_middle(objective.temperature),
            losses={
                name: {key: _middle(value) for key, value in loss.items()}
                if isinstance(loss, dict)
                else _middle(loss)
                for name, loss in objective.losses.items()
            },
        ),
        optim=replace(
            optim,
            schedule="constant",
            warmup=min(optim.warmup, first_steps // 4),
            ema=min(optim.ema or EMA, EMA),
        ),
        progressive=[],
        steps=steps,
        evaluate_every=first_steps,
    )
    assert config.open_ended
    return config


def _middle(value: Scheduled) -> Scheduled:
    """A number that changes over the steps, as it is half way."""
    return sum(value) / 2 if isinstance(value, tuple | list) else value
