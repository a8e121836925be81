"""Runs on the Hugging Face Hub: `hf:ORG/NAME@REVISION` becomes a folder on the disk.

PyTorch is not loaded here, so that a command can refuse a repository before the seconds that this takes.
"""

from functools import lru_cache
from pathlib import Path

from segdistill.config.paths import CARD, HUB, WEIGHTS
from segdistill.files import first_line, read_json

CARD_KEYS = frozenset({"spec", "labels", "size"})
"""Of a model.json: what tells ours from that of another library."""


def split_revision(name: str) -> tuple[str, str | None]:
    """`ORG/NAME@REVISION` or `ORG/NAME` -> repository and revision; a folder has none."""
    if Path(name).is_dir():
        return name, None
    repository, _, revision = name.partition("@")
    return repository, revision or None


def find_run(spec: str | Path) -> Path | None:
    """The folder of a run with a trained student; None where `spec` is something else.

    Args:
        spec: a folder, or `hf:FOLDER`, or `hf:ORG/NAME[@REVISION]`, which is downloaded into the cache of
            huggingface_hub. REVISION is a branch, a tag or a commit; the main branch where absent.

    Raises:
        ValueError: there is no such repository or revision, or it can be neither reached nor found in the
            cache.
    """
    text = str(spec)
    name = text.removeprefix(HUB)
    if name == text or Path(name).is_dir():
        return Path(name) if (Path(name) / CARD).is_file() else None
    return _download(name)


def run_folder(spec: str | Path) -> Path:
    """The folder of a run, or the path that `spec` is where it is none."""
    return find_run(spec) or Path(spec)


def pinned(spec: str) -> str:
    """`hf:ORG/NAME` with the commit that is used, `hf:ORG/NAME@COMMIT`; any other spec as it is."""
    folder = find_run(spec) if spec.startswith(HUB) else None
    if folder is None or Path(spec.removeprefix(HUB)).is_dir():
        return spec
    return f"{HUB}{split_revision(spec.removeprefix(HUB))[0]}@{folder.name}"


@lru_cache  # one process uses one commit of a branch, whoever pushes meanwhile
def _download(name: str) -> Path | None:
    """The folder in the cache that a repository's run was downloaded to; None where it holds no run."""
    repository, revision = split_revision(name)
    card = _fetch(repository, CARD, revision)
    if card is None:
        return None
    content = read_json(card)
    if not (isinstance(content, dict) and content.keys() >= CARD_KEYS):
        return None
    if _fetch(repository, WEIGHTS, card.parent.name) is None:  # of the commit that the folder is called
        raise ValueError(f"{HUB}{name} has a {CARD} but no {WEIGHTS}: push the run again")
    return card.parent


def _fetch(repository: str, file: str, revision: str | None) -> Path | None:
    """A file of a repository, in the cache; None where the repository has no such file.

    Raises:
        ValueError: see `find_run`.
    """
    import huggingface_hub as hub  # not above: most commands need none of it
    from huggingface_hub import errors

    name = f"{HUB}{repository}" + (f"@{revision}" if revision else "")
    try:
        return Path(hub.hf_hub_download(repository, file, revision=revision))
    except errors.HFValidationError:
        raise ValueError(
            f"{name} is neither a folder that exists nor ORG/NAME[@REVISION] of a repository"
        ) from None
    except errors.LocalEntryNotFoundError as error:
        if isinstance(hub.try_to_load_from_cache(repository, "config.json", revision=revision), str):
            return None  # a network of transformers, which has no model.json
        cause = error.__cause__
        reason = first_line(cause if isinstance(cause, Exception) else error)
        raise ValueError(
            f"{name} is not in the cache of huggingface_hub, and {hub.constants.ENDPOINT} cannot be reached "
            f"({reason}): run `hf download {repository} --local-dir FOLDER` elsewhere, and name the folder "
            f"as {HUB}FOLDER"
        ) from None
    except errors.EntryNotFoundError:
        return None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{HUB}{repository} has no revision {revision!r}") from None
    except errors.RepositoryNotFoundError:
        raise ValueError(
            f"there is no folder {repository} and no repository of that name on {hub.constants.ENDPOINT}, or "
            "it is private: `hf auth login`, or the environment variable HF_TOKEN, gives access"
        ) from None
