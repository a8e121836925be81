"""A run as a repository of the Hugging Face Hub: weights, card, pictures, and the page that describes them.

What downloads it again is `segdistill.models.hub_runs`.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCardData, errors
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from segdistill.config.deploy import PushConfig
from segdistill.config.naming import setting
from segdistill.config.paths import CARD, WEIGHTS
from segdistill.config.train import TrainConfig
from segdistill.console import counted, log
from segdistill.engine.run_folder import RunFolder
from segdistill.files import first_line, write_atomic
from segdistill.models.card import ModelCard, read_model
from segdistill.models.spec import display_name, parse_architecture
from segdistill.page.templates import open_template
from segdistill.version import __version__

PAGE = "README.md"
HUB_TASK = "image-segmentation"
"""The hub's name of the task."""
MESSAGE = "Upload a student of segdistill"
"""Of the commit."""
TAGS = ["semantic-segmentation", "knowledge-distillation"]
HUB_SCORES = {
    "miou": ("mean_iou", "mean IoU"),
    "pixel_accuracy": ("pixel_accuracy", "pixel accuracy"),
    "mean_accuracy": ("mean_accuracy", "mean accuracy of the classes"),
    "boundary_iou": ("boundary_iou", "boundary IoU"),
}
"""Scores of a run -> the hub's identifier of the metric, and its name on the page."""
PICTURES = {
    "examples": "Validation images, their masks, and what is predicted",
    "curves": "Losses and scores over the steps",
    "iou": "IoU of each class",
    "confusion": "Confusion of the classes",
}
"""Figures of a run's report that go along, with their captions."""


def push(run: RunFolder, repository: str, config: PushConfig) -> dict[str, Any]:
    """Write and upload a run's student, see `segdistill.push`."""
    check_repository(repository)
    log(f"Making weights, card and page of {run} ready for {repository}")
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(config.dry_run or temporary)
        files = write_repository(run, out, repository, config)
        sizes = [(out / file).stat().st_size for file in files]
        for file, size in zip(files, sizes, strict=True):
            log(f"{file}, {size:,} bytes")
        record: dict[str, Any] = {"files": [file.as_posix() for file in files], "bytes": sum(sizes)}
        if config.dry_run is not None:
            log(f"Nothing was sent; {out} holds what {repository} would get")
            return record | {"repository": repository, "folder": str(out)}
        log(f"Uploading {counted(len(files), 'file')}, {sum(sizes) / 1e6:.1f} MB, to {repository}")
        return record | upload(out, repository, private=config.private)


def check_repository(name: str) -> None:
    """Raise a `ValueError` unless `name` can be that of a repository."""
    try:
        validate_repo_id(name)
    except errors.HFValidationError as error:
        raise ValueError(f"repository {name!r} is not of the form ORG/NAME: {first_line(error)}") from None


def write_repository(run: RunFolder, out: Path, repository: str, config: PushConfig) -> list[Path]:
    """Write what a repository gets into a folder.

    Args:
        run: with a trained student.
        out: a folder that is not there, or is empty.
        repository: its name, which the page tells how to use.
        config: license and data sets.

    Returns:
        The files, relative to `out`.

    Raises:
        FileNotFoundError: there is no trained student.
        ValueError: its files are damaged, or `out` is not empty.
    """
    card, state = read_model(run.path)  # both whole: nobody can mend what is damaged there
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty; name another folder with {setting('dry_run')}")
    pictures = [name for name in PICTURES if (run.figures / f"{name}.png").is_file()]
    out.mkdir(parents=True, exist_ok=True)
    for name in pictures:
        (out / "figures").mkdir(exist_ok=True)
        shutil.copyfile(run.figures / f"{name}.png", out / "figures" / f"{name}.png")
    card = without_paths(card)
    shutil.copyfile(run.path / WEIGHTS, out / WEIGHTS)
    write_atomic(out / CARD, card.to_json())
    parameters = sum(value.numel() for name, value in state.items() if not _is_buffer(name))
    settings = run.config if run.config_file.is_file() else None
    best = run.metrics["best"] or card.metrics
    data = _data_set(settings, config)
    page = open_template("segdistill.exporting", "model_page.md.j2").render(
        metadata=_metadata(repository, config, best, data).to_yaml(),
        repository=repository,
        card=card,
        parameters=parameters,
        is_code=parse_architecture(card.spec).is_code,
        data=data,
        scores=[(title, best[key]) for key, (_, title) in HUB_SCORES.items() if _is_score(best.get(key))],
        classes=list((best.get("iou") or {}).items()),
        training=_training(card, settings),
        pictures=[(name, PICTURES[name]) for name in pictures],
        version=__version__,
    )  # fmt: skip
    write_atomic(out / PAGE, page)
    return sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())


def without_paths(card: ModelCard) -> ModelCard:
    """The card with student and teacher by their names, without the folders of this machine."""
    teacher = card.teacher
    if teacher is not None and "spec" in teacher:
        specs = teacher["spec"]
        named = [display_name(spec) for spec in specs] if isinstance(specs, list) else display_name(specs)
        teacher = teacher | {"spec": named}
    return replace(card, spec=display_name(card.spec), teacher=teacher)


def upload(folder: Path, repository: str, *, private: bool) -> dict[str, Any]:
    """Upload a folder as one commit; the repository is made where it is missing.

    Returns:
        `repository`, its `url` and the `commit`.

    Raises:
        ValueError: there is no access, the hub cannot be reached, or a repository that should be private is
            there and is not.
    """
    api = HfApi(library_name="segdistill", library_version=__version__)
    with _plain_errors(api.endpoint, repository):
        made = api.create_repo(repository, private=private or None, exist_ok=True)
        is_public = private and not api.repo_info(made.repo_id).private
    if is_public:
        raise ValueError(
            f"{made} is there and is public: make it private on its page, or leave {setting('private')} out"
        )
    with _plain_errors(api.endpoint, repository):
        commit = api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=MESSAGE)
    return {"repository": made.repo_id, "url": str(made), "commit": commit.oid}


@contextmanager
def _plain_errors(endpoint: str, repository: str) -> Iterator[None]:
    """What the hub refuses, and a hub that cannot be reached, become a `ValueError` with what to do."""
    try:
        yield
    except (errors.LocalTokenNotFoundError, errors.HfHubHTTPError) as error:
        raise ValueError(
            f"{endpoint} refused {repository}: {first_line(error)}. `hf auth login`, or the environment "
            "variable HF_TOKEN, gives access; the token must be allowed to write"
        ) from None
    except Exception as error:  # the library's HTTP client is httpx or httpx2: no name of its errors holds
        raise ValueError(
            f"{endpoint} cannot be reached ({first_line(error)}): {setting('dry_run')} DIR writes what "
            "would be sent"
        ) from None


def _metadata(repository: str, config: PushConfig, best: dict[str, Any], data: str) -> ModelCardData:
    """The head of the page, with the scores where the hub looks for them (`model-index`)."""
    results = [
        EvalResult(
            task_type=HUB_TASK,
            dataset_type=config.datasets[0] if config.datasets else data,
            dataset_name=data,
            metric_type=kind,
            metric_name=title,
            metric_value=round(best[key], 4),
        )
        for key, (kind, title) in HUB_SCORES.items()
        if data and _is_score(best.get(key))
    ]
    return ModelCardData(
        library_name="segdistill",
        pipeline_tag=HUB_TASK,
        tags=TAGS,
        license=config.license,
        datasets=config.datasets or None,
        metrics=[result.metric_type for result in results] or None,
        model_name=repository.rpartition("/")[2],
        eval_results=results or None,
    )


def _data_set(settings: TrainConfig | None, config: PushConfig) -> str:
    """What the scores were computed on: a name for people, empty where there is none."""
    named = ", ".join(config.datasets)
    if settings is None or not settings.data.root:
        return named
    return f"{named or display_name(settings.data.root)}, {settings.data.scored_split}"


def _training(card: ModelCard, settings: TrainConfig | None) -> dict[str, str]:
    """How the student was trained, for people."""
    rows = {"student": f"`{card.spec}`"}
    specs = (card.teacher or {}).get("spec")
    teachers = [specs] if isinstance(specs, str) else list(specs or [])
    rows["teacher"] = ", ".join(f"`{spec}`" for spec in teachers) or "none"
    rows["crops"] = f"{card.size} x {card.size}"
    if settings is not None:
        objective, optim = settings.objective, settings.optim
        losses = "".join(f", {name} {objective.weight(name)}" for name in objective.weighted)
        rows["losses"] = f"alpha {objective.alpha}, beta {objective.beta}{losses}, T {objective.temperature}"
        rows["steps"] = f"{settings.steps or f'{settings.epochs:g} epochs'}, batch {settings.batch}"
        rows["optimizer"] = f"{optim.name}, learning rate {optim.lr:g}, {optim.schedule}"
    return rows


def _is_score(value: object) -> bool:
    return isinstance(value, float)


def _is_buffer(name: str) -> bool:
    """Whether a tensor of a state dict is a statistic of a norm, and no parameter."""
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))
