"""Files of Hugging Face's hub: from a folder, this machine's cache or the hub, in this order; never code."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from segdistill.files import first_line
from segdistill.models.hub_runs import split_revision
from segdistill.models.quiet import quiet


def import_transformers() -> ModuleType:
    """Hugging Face's transformers, which takes seconds to import.

    Raises:
        ValueError: it is not installed.
    """
    try:
        with quiet():
            importlib.import_module(
                "transformers.modeling_utils"
            )  # the rest of it is imported when it is used
            return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ValueError(f"hf: networks need {error.name}: install segdistill[hf]") from None


def open_pretrained(load: Callable[..., Any], source: str, **options: Any) -> Any:
    """What one of transformers' `from_pretrained` makes of a folder, or of a name on the hub.

    A name that is whole in the hub's cache on this machine needs no network connection. Code that the files
    bring is never run.

    Args:
        load: a class's `from_pretrained`.
        source: FOLDER or ORG/NAME[@REVISION].
        options: of `load`.

    Raises:
        FileNotFoundError: there is no such folder, or a file is missing in it.
        ValueError: the files cannot be had, or transformers cannot read them.
    """
    local = Path(source).is_dir()
    source, revision = split_revision(source)
    options = options if revision is None else {**options, "revision": revision}
    with quiet(), _without_bars(), _plain_errors(source, local=local):
        try:
            return load(source, local_files_only=True, trust_remote_code=False, **options)
        except OSError:
            if local:
                raise
        return load(source, trust_remote_code=False, **options)


@contextmanager
def _plain_errors(source: str, *, local: bool) -> Iterator[None]:
    """Whatever transformers raises becomes one line with what to do."""
    try:
        yield
    except OSError as error:
        if local:
            raise FileNotFoundError(f"hf:{source}: {first_line(error)}") from None
        raise ValueError(
            f"hf:{source} is no folder, is not in this machine's cache and could not be downloaded "
            f"({type(error).__name__}). With a network connection `hf download {source} --local-dir FOLDER` "
            "fetches it: bring that folder and name it with hf:FOLDER"
        ) from None
    except ImportError as error:  # transformers names the package that this network needs
        raise ValueError(f"hf:{source}: {' '.join(str(error).split())}") from None
    except Exception as error:  # files of strangers make it raise nearly anything
        raise ValueError(f"hf:{source} cannot be opened: {first_line(error)}") from None


@contextmanager
def _without_bars() -> Iterator[None]:
    """Within it, transformers shows no progress of reading weights."""
    logging = importlib.import_module("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
