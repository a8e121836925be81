"""onnxruntime-web, which runs the network in a browser: its npm package, checked and cached, or a folder."""

import base64
import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from segdistill.config.deploy import WebConfig
from segdistill.config.naming import setting
from segdistill.config.pins import ORT_WEB, ORT_WEB_SHA512, ORT_WEB_VERSION
from segdistill.files import write_together

DIST = "package/dist/"
"""Where the archive has its built files."""

NPM_SECONDS = 300.0


@dataclass(frozen=True)
class WebRuntime:
    """A build of onnxruntime-web that brings its own loader, and its WebAssembly.

    Attributes:
        name: what people call it.
        provider: onnxruntime's execution provider.
        script: the module.
        wasm: the WebAssembly that it loads.
    """

    name: str
    provider: str
    script: str
    wasm: str

    @property
    def module(self) -> str:
        """What the page imports it as."""
        return f"{ORT_WEB}/{self.provider}"


WEBGPU = WebRuntime("WebGPU", "webgpu", "ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm")
WASM = WebRuntime("WebAssembly", "wasm", "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""It has a file of its own, for that of WebGPU takes more than twice its time on a CPU."""


def choose_runtimes(config: WebConfig) -> tuple[WebRuntime, ...]:
    """The runtimes of a page, in the order in which they are tried."""
    return (WEBGPU, WASM) if config.gpu else (WASM,)


def find_runtime(config: WebConfig) -> Path:
    """The folder with the files of onnxruntime-web: that of the settings, else a cache that npm fills.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: npm is missing or failed, or what it brought is not the pinned version.
    """
    names = [name for runtime in (WEBGPU, WASM) for name in (runtime.script, runtime.wasm)]
    if config.runtime is not None:
        wanted = [name for runtime in choose_runtimes(config) for name in (runtime.script, runtime.wasm)]
        lacking = [name for name in wanted if not (Path(config.runtime) / name).is_file()]
        if lacking:
            raise FileNotFoundError(
                f"{config.runtime} lacks {', '.join(lacking)}: name the folder dist of the package {ORT_WEB}"
            )
        return Path(config.runtime)
    folder = cache_folder()
    if not all((folder / name).is_file() for name in names):
        with tempfile.TemporaryDirectory() as temporary:
            archive = download_package(Path(temporary))
            write_together({folder / name: content for name, content in unpack(archive, names).items()})
    return folder


def stated_version(script: str) -> str:
    """The version that the banner of a module of onnxruntime-web states; empty where it states none."""
    found = re.search(r"ONNX Runtime Web v([\w.+-]+)", script[:1000])
    return found[1] if found else ""


def cache_folder() -> Path:
    """The folder of this version in the user's cache."""
    return user_cache_path("segdistill") / f"{ORT_WEB}-{ORT_WEB_VERSION}"


def download_package(folder: Path) -> Path:
    """Have npm bring the package's archive, from the registry that it is configured for.

    Raises:
        ValueError: there is no npm, or it failed.
    """
    npm = shutil.which("npm")
    command = f"npm pack {ORT_WEB}@{ORT_WEB_VERSION}"
    if npm is None:
        raise ValueError(
            f"the page needs {ORT_WEB}, and there is no npm to bring it: where there is one run `{command}`, "
            f"unpack the archive here and name its folder with {setting('web.runtime')} package/dist"
        )
    try:
        subprocess.run(
            [npm, *command.split()[1:], "--pack-destination", str(folder), "--ignore-scripts"],
            capture_output=True, text=True, check=True, timeout=NPM_SECONDS, cwd=folder,
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError) as error:
        reason = " ".join((getattr(error, "stderr", None) or str(error)).split())[:300]
        raise ValueError(
            f"npm could not bring {ORT_WEB} ({reason}): run `{command}` where that works, unpack the archive "
            f"here and name its folder with {setting('web.runtime')} package/dist"
        ) from None
    return folder / f"{ORT_WEB}-{ORT_WEB_VERSION}.tgz"


def unpack(archive: Path, names: list[str]) -> dict[str, bytes]:
    """The named built files of the package's archive.

    Raises:
        ValueError: its checksum is not that of the pinned version.
    """
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != ORT_WEB_SHA512:
        raise ValueError(
            f"{archive.name} is not {ORT_WEB} {ORT_WEB_VERSION} as published: its SHA-512 is {found}, not "
            f"{ORT_WEB_SHA512}"
        )
    contents = {}
    with tarfile.open(archive) as members:
        for name in names:
            member = members.extractfile(DIST + name)
            assert member is not None
            contents[name] = member.read()
    return contents
