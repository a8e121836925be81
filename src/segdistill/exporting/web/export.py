"""A network as a page that segments pictures in a browser, kept only if it gives PyTorch's masks there."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from segdistill.config.deploy import LONGEST_SIDE, ExportConfig
from segdistill.config.naming import setting
from segdistill.console import log
from segdistill.data.samples import FileSamples
from segdistill.exporting.export import Exported, write_checked
from segdistill.exporting.web.browser import run_self_test
from segdistill.exporting.web.bundle import MODEL, PageParts, write_file, write_folder
from segdistill.exporting.web.runtime import choose_runtimes, find_runtime
from segdistill.exporting.web.selftest import SelfTest, draw_tests
from segdistill.models.trained import TrainedNetwork
from segdistill.page.card import describe_network


def export_page(
    network: TrainedNetwork,
    path: Path,
    config: ExportConfig,
    *,
    samples: FileSamples | None = None,
    calibration: Sequence[Tensor] = (),
) -> Exported:
    """Write a network as a page, run its self-test in a browser, and keep it if it passes.

    Args:
        network: a PyTorch network, on the CPU.
        path: the HTML file, or the folder where the parts are to lie beside each other; its record is written
            beside it as PATH.json.
        config: format and limits.
        samples, calibration: see `segdistill.exporting.export.export`; they are for the page's ONNX file.

    Returns:
        What was written of the ONNX file; its record has `file`, `format` and `bytes` of the page, and
        `self_test`: the result in the browser, None where it was not run.

    Raises:
        FileNotFoundError: `config.web.runtime` lacks a file.
        ValueError: the network cannot be exported, onnxruntime-web or a browser is missing, or the page does
            not give PyTorch's masks; nothing is left behind then.
    """
    if network.output_stride is not None:
        raise ValueError(
            f"{network.spec} resizes its input for an output stride of {network.output_stride}, which the "
            f"page does not: export it with {setting('format')} onnx"
        )
    runtime = find_runtime(config.web)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as temporary:
        model = Path(temporary) / "onnx" / MODEL
        model.parent.mkdir()
        exported = write_checked(network, model, path, config, samples=samples, calibration=calibration)
        log(f"Writing {path.name}, with this file and its runtime")
        parts = PageParts(
            card=describe_network(network),
            model=model,
            size=network.size,
            max_side=LONGEST_SIDE,
            tests=_self_tests(network),
            same_class=smallest_same(config),
            runtimes=choose_runtimes(config.web),
            runtime_folder=runtime,
        )
        draft = Path(temporary) / path.name
        page = write_folder(draft, parts) if config.web.folder else write_file(draft, parts)
        result = check_page(page, config, path)
        files = [draft] if draft.is_file() else list(draft.iterdir())
        size = sum(file.stat().st_size for file in files)
        record = exported.record | {"format": "web", "bytes": size, "self_test": result}
        beside = draft.with_name(f"{draft.name}.json")
        beside.write_text(json.dumps(record, indent=2) + "\n")
        for file in (beside, draft):  # the page itself comes last
            file.replace(path.with_name(file.name))
    return replace(exported, record=record)


def _self_tests(network: TrainedNetwork) -> list[SelfTest]:
    """Pictures with PyTorch's masks; warns where they compare little."""
    tests = draw_tests(network, LONGEST_SIDE)
    if all(test.mask.min() == test.mask.max() for test in tests):
        log("Warning: each mask of the page's self-test has one class only, so it compares little")
    return tests


def smallest_same(config: ExportConfig) -> float:
    """Smallest fraction of the self-test's pixels that must have PyTorch's class."""
    return config.web.same_class_int8 if config.quantize == "int8" else config.same_class


def check_page(page: Path, config: ExportConfig, path: Path) -> dict[str, Any] | None:
    """The result of the page's self-test in a browser; None where it is not to be run.

    Raises:
        ValueError: there is no browser, the page does not work in it, or too few pixels have PyTorch's class.
    """
    if not config.web.check:
        log(f"Warning: {path} was not tried in a browser ({setting('web.check')} false)")
        return None
    log("Trying the page in a browser")
    result = run_self_test(page)
    least = smallest_same(config)
    if result["same"] < least:
        option = setting("web.same_class_int8") if config.quantize == "int8" else setting("same_class")
        raise ValueError(
            f"{path} was not written: in the browser {result['same']:.4%} of the self-test's pixels have "
            f"PyTorch's class, but {option} asks for {least:.4%}"
        )
    return result
