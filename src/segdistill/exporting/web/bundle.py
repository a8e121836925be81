"""Writes a page with its network, scripts and runtimes: as one HTML file, or as files beside each other."""

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdistill.config.pins import ORT_WEB
from segdistill.exporting.web.runtime import WebRuntime, stated_version
from segdistill.exporting.web.selftest import SelfTest
from segdistill.files import data_url
from segdistill.page.render import (
    BROWSER_SCRIPTS,
    ICON,
    SCRIPT,
    STYLE_FILE,
    WebPage,
    read_part,
    render_page,
)
from segdistill.version import __version__

MODEL = "model.onnx"
"""The network's file, and the id of what is inlined of it."""

INDEX_FILE = "index.html"
"""The page itself, where its parts lie beside it."""


@dataclass(frozen=True, kw_only=True)
class PageParts:
    """What a page consists of.

    Attributes:
        card: of the network, see `describe_network`.
        model: its ONNX file.
        size: long side of its input in pixels; None for the picture's, up to `max_side`.
        max_side: see `size`.
        tests: of the self-test.
        same_class: smallest fraction of their pixels that must have PyTorch's class.
        runtimes: of onnxruntime-web, in the order in which they are tried.
        runtime_folder: where their files are.
    """

    card: dict[str, Any]
    model: Path
    size: int | None
    max_side: int
    tests: Sequence[SelfTest]
    same_class: float
    runtimes: Sequence[WebRuntime]
    runtime_folder: Path

    @property
    def manifest(self) -> dict[str, Any]:
        """What `browser.js` reads."""
        return {
            "card": self.card,
            "model": MODEL,
            "size": self.size,
            "max_side": self.max_side,
            "tests": [test.to_urls() for test in self.tests],
            "same_class": self.same_class,
            "runtimes": [
                {"name": each.name, "provider": each.provider, "module": each.module, "wasm": each.wasm}
                for each in self.runtimes
            ],
        }

    @property
    def data(self) -> dict[str, bytes]:
        """Network and WebAssembly, by file name."""
        wasm = {each.wasm: (self.runtime_folder / each.wasm).read_bytes() for each in self.runtimes}
        return {MODEL: self.model.read_bytes(), **wasm}

    def script(self, runtime: WebRuntime) -> str:
        """The module of a runtime."""
        return (self.runtime_folder / runtime.script).read_text(encoding="utf-8")

    @property
    def about(self) -> str:
        """What the page was made with, and the terms of what it brings."""
        package = f"{ORT_WEB} {stated_version(self.script(self.runtimes[0]))}".rstrip()
        return f"Made with segdistill {__version__} (Apache-2.0) and {package} (MIT)."

    def page(self, imports: dict[str, str], inlined: dict[str, str]) -> WebPage:
        """What the template is filled in with."""
        return WebPage(
            name=self.card["name"], about=self.about, imports=imports, manifest=self.manifest, parts=inlined
        )


def write_file(path: Path, parts: PageParts) -> Path:
    """Write one HTML file that has everything in it."""
    imports = {specifier: script_url(read_part(name)) for specifier, name in BROWSER_SCRIPTS.items()}
    imports |= {each.module: script_url(parts.script(each)) for each in parts.runtimes}
    web = parts.page(imports, {name: compress(content) for name, content in parts.data.items()})
    icon = data_url(read_part(ICON).encode(), "image/svg+xml")
    html = render_page(web, icon=icon, style=read_part(STYLE_FILE), script=read_part(SCRIPT))
    path.write_text(html, encoding="utf-8")
    return path


def write_folder(folder: Path, parts: PageParts) -> Path:
    """Write index.html with everything beside it, for a server of static files; returns index.html."""
    folder.mkdir()
    imports = {specifier: f"./{name}" for specifier, name in BROWSER_SCRIPTS.items()}
    imports |= {each.module: f"./{each.script}" for each in parts.runtimes}
    for name in (STYLE_FILE, SCRIPT, ICON, *BROWSER_SCRIPTS.values()):
        (folder / name).write_text(read_part(name), encoding="utf-8")
    for each in parts.runtimes:
        (folder / each.script).write_text(parts.script(each), encoding="utf-8")
    for name, content in parts.data.items():
        (folder / name).write_bytes(content)
    page = folder / INDEX_FILE
    page.write_text(render_page(parts.page(imports, {})), encoding="utf-8")
    return page


def compress(content: bytes) -> str:
    """Bytes as text for a page: gzip, then base64."""
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def script_url(text: str) -> str:
    """A module as a data URL."""
    return data_url(text.encode(), "text/javascript")
