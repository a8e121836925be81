"""Where onnxruntime-web comes from: a folder, or npm's archive of the pinned version, else a clear error."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from segdistill.config.deploy import ExportConfig, WebConfig
from segdistill.exporting.web import runtime
from segdistill.exporting.web.bundle import PageParts
from segdistill.exporting.web.runtime import WASM, find_runtime, stated_version, unpack

pytestmark = pytest.mark.unit


def test_a_folder_needs_the_files_of_its_runtimes_only(tmp_path: Path) -> None:
    for name in (WASM.script, WASM.wasm):
        (tmp_path / name).touch()
    assert find_runtime(WebConfig(runtime=str(tmp_path), gpu=False)) == tmp_path
    with pytest.raises(
        FileNotFoundError, match=r"lacks ort\.webgpu\.bundle\.min\.mjs, .*name the folder dist"
    ):
        find_runtime(WebConfig(runtime=str(tmp_path)))


def test_without_npm_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(runtime.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"there is no npm .*run `npm pack onnxruntime-web@.*web\.runtime"):
        find_runtime(WebConfig())


def test_what_npm_complains_of_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="npm error code ENOTFOUND\n")

    monkeypatch.setattr(runtime, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(runtime.shutil, "which", lambda name: "npm")
    monkeypatch.setattr(runtime.subprocess, "run", fail)
    with pytest.raises(ValueError, match=r"npm could not bring onnxruntime-web \(npm error code ENOTFOUND\)"):
        find_runtime(WebConfig())
    assert list(tmp_path.iterdir()) == []


def test_another_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "onnxruntime-web.tgz"
    archive.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"onnxruntime-web\.tgz is not onnxruntime-web .*SHA-512"):
        unpack(archive, [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "web", "output": "mask"}, "output is 'mask', but must be logits for web"),
        ({"format": "web", "input": "tensor"}, "input is 'tensor', but must be image for web"),
        ({"web": WebConfig(folder=True)}, "left alone for onnx"),
    ],
)
def test_settings_that_do_not_fit_a_page(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportConfig(**settings)


@pytest.mark.parametrize(
    ("script", "version"),
    [("/*!\n * ONNX Runtime Web v1.29.0-dev.2\n */\nvar a;", "1.29.0-dev.2"), ("var a;", "")],
)
def test_a_page_states_the_version_that_it_brings(script: str, version: str, tmp_path: Path) -> None:
    (tmp_path / WASM.script).write_text(script)
    parts = PageParts(
        card={}, model=tmp_path, size=None, max_side=1, tests=[], same_class=1, runtimes=[WASM],
        runtime_folder=tmp_path,
    )  # fmt: skip
    assert stated_version(script) == version
    assert parts.about.endswith(f"and onnxruntime-web {version}".rstrip() + " (MIT).")
