"""An exported page in a real browser, from file:// and without a server: its masks and its messages."""

import base64
import gzip
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect
from torchvision.transforms.v2.functional import pil_to_tensor

from segdistill import api
from segdistill.config.deploy import ExportConfig, PredictConfig, WebConfig
from segdistill.data.labels import LabelSet
from segdistill.data.shapes import draw
from segdistill.data.transforms import normalise, resize_long_side, scaled_size
from segdistill.engine.run_folder import RunFolder
from segdistill.exporting.export import Exported
from segdistill.exporting.web import export as exporting
from segdistill.exporting.web.bundle import script_url
from segdistill.exporting.web.runtime import cache_folder, choose_runtimes
from segdistill.exporting.web.selftest import SelfTest
from segdistill.inference.segment import class_mask
from segdistill.models.card import ModelCard
from segdistill.models.student import DSUNet
from segdistill.page.render import read_part

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)  # a busy machine is slow, not wrong
OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture(scope="session")
def mixed(student: DSUNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose masks have several classes: those of the tiny run are of one."""
    folder = tmp_path_factory.mktemp("runs") / "mixed"
    folder.mkdir()
    network = deepcopy(student)
    pictures = torch.stack([pil_to_tensor(draw(0, index, 64)[0]) for index in range(8)])
    with torch.no_grad():  # all classes are as likely on drawn pictures
        network.head.bias -= network(normalise(pictures)).mean(dim=(0, 2, 3))  # type: ignore[operator]
    card = ModelCard(width=0.1, labels=LabelSet(names=tuple("abcde")), size=64, evaluate_size=64)
    RunFolder(folder).save_student(network, card)
    return folder


@pytest.fixture(scope="session")
def page_file(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as a page with both runtimes; the export has tried it in a browser."""
    pytest.importorskip("onnxruntime")
    cached = all((cache_folder() / each.wasm).is_file() for each in choose_runtimes(WebConfig()))
    if not cached and shutil.which("npm") is None:
        pytest.skip("there is neither npm nor a cached onnxruntime-web (apt-get install npm)")
    out = tmp_path_factory.mktemp("pages") / "student.html"
    record = api.export(mixed, ExportConfig(format="web", out=str(out)))
    assert record["self_test"]["same"] >= 0.999
    assert record["self_test"]["runtime"] == "WebAssembly"  # an emulated graphics processor does not count
    assert record["bytes"] == out.stat().st_size
    assert sorted(each.name for each in out.parent.iterdir()) == ["student.html", "student.html.json"]
    return out


@pytest.fixture
def page(open_page: OpenPage, page_file: Path) -> Iterator[Page]:
    with open_page(page_file.as_uri()) as page:
        expect(page.locator("#model")).to_contain_text("WebAssembly")
        yield page


@pytest.fixture(scope="module")
def numerics(open_page: OpenPage) -> Iterator[Callable[..., Any]]:
    """Calls a function of resize.js with plain arrays."""
    with open_page("about:blank") as page:
        source = script_url(read_part("resize.js"))
        yield lambda body, *given: page.evaluate(
            f"async (given) => {{ const js = await import('{source}'); {body} }}", list(given)
        )


def test_sizes_are_rounded_as_in_python(numerics: Callable[..., Any]) -> None:
    cases = [(h, w, s) for h in (1, 37, 240, 375, 1001) for w in (5, 64, 333, 500) for s in (32, 289, 304)]
    found = numerics("return given[0].map((one) => js.scaledSize(...one));", cases)
    assert [tuple(size) for size in found] == [scaled_size((h, w), s / max(h, w)) for h, w, s in cases]


@pytest.mark.parametrize("size", [(48, 64), (97, 41), (33, 20), (1, 90), (32, 32), (7, 5)])
def test_pictures_are_resized_to_the_bit_as_in_torchvision(
    numerics: Callable[..., Any], size: tuple[int, int]
) -> None:
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = resize_long_side(image, 32).permute(1, 2, 0)
    rgba = np.concatenate([image.permute(1, 2, 0).numpy(), np.full((*size, 1), 255, np.uint8)], axis=2)
    found = numerics(
        "const [data, height, width, ...to] = given;"
        "return [...js.resizeImage({ data, height, width }, ...to)];",
        rgba.ravel().tolist(), *size, *expected.shape[:2],
    )  # fmt: skip
    assert found == expected.ravel().tolist()


@pytest.mark.parametrize("size", [(40, 61), (9, 12), (5, 7), (3, 200)])
def test_logits_are_upsampled_as_in_pytorch(numerics: Callable[..., Any], size: tuple[int, int]) -> None:
    logits = torch.randn(5, 9, 12, generator=torch.Generator().manual_seed(0))
    found = numerics(
        "return [...js.classMask(Float32Array.from(given[0]), [5, 9, 12], ...given[1])];",
        logits.ravel().tolist(), list(size),
    )  # fmt: skip
    assert np.mean(np.array(found) == class_mask(logits, size).ravel()) >= 0.999


def test_a_photograph_gets_the_mask_of_predict(page: Page, mixed: Path, tmp_path: Path, shots: Path) -> None:
    page.screenshot(path=shots / "web-start.png")
    draw(1, 0, 160)[0].crop((0, 0, 160, 100)).save(tmp_path / "photo.png")
    (_, predicted), *_ = api.predict(
        mixed, tmp_path / "photo.png", PredictConfig(out=str(tmp_path / "masks"), device="cpu")
    )
    assert max(predicted.shares.values()) < 0.9  # a mask of one class would compare little
    page.set_input_files("#file", tmp_path / "photo.png")
    expect(page.locator("#status")).to_contain_text("Done")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the mask").click()
    download.value.save_as(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        assert (mask.mode, mask.size) == ("P", (160, 100))
        assert np.mean(np.asarray(mask) == predicted.mask) >= 0.999
        assert mask.getpalette()[: 3 * 5] == predicted.labels.file_palette[: 3 * 5]  # type: ignore[index]
    page.screenshot(path=shots / "web-result.png")


def test_the_self_test_compares_with_pytorch(page: Page) -> None:
    page.get_by_role("button", name="Run the self-test").click()
    expect(page.locator("#self-test-result")).to_contain_text("Passed: ")


def test_webgpu_gives_the_same_masks(open_page: OpenPage, page_file: Path) -> None:
    with open_page(f"{page_file.as_uri()}#webgpu") as page:
        if not page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"):
            pytest.skip("this Chromium emulates no graphics processor")
        expect(page.locator("#model")).to_contain_text("WebGPU")
        page.get_by_role("button", name="Run the self-test").click()
        expect(page.locator("#self-test-result")).to_contain_text("Passed: ")


def test_pictures_at_the_same_time_get_their_own_masks_while_the_page_responds(page: Page) -> None:
    assert len(page.workers) == 1  # the network's
    same = page.evaluate(
        """async () => {
            const { backend } = await import("./backend.js");
            const drawn = [[300, 200], [200, 320]].map(([width, height]) => {
                const canvas = new OffscreenCanvas(width, height);
                canvas.getContext("2d").fillRect(0, 0, width / 2, height / 3);
                return canvas;
            });
            const alone = [await backend.segment(null, drawn[0]), await backend.segment(null, drawn[1])];
            const together = await Promise.all([0, 1, 0].map((at) => backend.segment(null, drawn[at])));
            return together.map(({ indices }, at) => indices.every((k, i) => k === alone[at % 2].indices[i]));
        }"""
    )
    assert same == [True, True, True]


def test_a_browser_without_workers_runs_the_network_in_the_page(open_page: OpenPage, page_file: Path) -> None:
    with open_page(page_file.as_uri(), "delete globalThis.Worker") as page:
        expect(page.locator("#model")).to_contain_text("WebAssembly")
        page.get_by_role("button", name="Run the self-test").click()
        expect(page.locator("#self-test-result")).to_contain_text("Passed: ")


def test_a_second_stream_plays_on_after_the_first_ones_start_is_broken_off(page: Page) -> None:
    found = page.evaluate(
        """async () => {
            const { Live } = await import("./live.js");
            const video = Object.assign(document.createElement("video"), { muted: true });
            const live = new Live(video, async () => {});
            const camera = () => navigator.mediaDevices.getUserMedia({ video: true });
            const [first, second] = [await camera(), await camera()];
            const broken = live.start(first).then(() => "played", (error) => error.name);
            await live.start(second);
            return [await broken, live.open, video.srcObject === second, first.active];
        }"""
    )
    assert found == ["AbortError", True, True, False]


def test_a_file_that_is_started_twice_plays(page: Page, clip: Path) -> None:
    found = page.evaluate(
        """async (bytes) => {
            const { Live } = await import("./live.js");
            const video = Object.assign(document.createElement("video"), { muted: true });
            const live = new Live(video, async () => {});
            const file = new Blob([new Uint8Array(bytes)], { type: "video/webm" });
            const broken = live.start(file).then(() => "played", (error) => error.name);
            await live.start(file);
            return [await broken, live.open, Boolean(video.src)];
        }""",
        [*clip.read_bytes()],
    )
    assert found == ["AbortError", True, True]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video of 4 seconds and 96 x 64 pixels."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "clip.webm"), "w") as video:
        stream = video.add_stream("libvpx", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(20):
            frame = draw(2, index, 96)[0].crop((0, 0, 96, 64))
            video.mux(stream.encode(av.VideoFrame.from_image(frame)))
        video.mux(stream.encode())
    return tmp_path / "clip.webm"


def test_a_video_plays_under_its_masks(page: Page, clip: Path) -> None:
    page.set_input_files("#file", clip)
    expect(page.locator("#status")).to_contain_text("frames per second")
    expect(page.locator("#timing")).to_contain_text("96 × 64")  # noqa: RUF001
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()  # it has ended
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#playback")).to_be_hidden()


def test_the_camera_is_segmented_until_it_is_stopped(page: Page, shots: Path) -> None:
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("#status")).to_contain_text("frames per second")
    box = page.locator("#classes input").first
    box.set_checked(not box.is_checked())
    checked, times = box.is_checked(), page.locator("#timing").text_content()
    expect(page.locator("#timing")).not_to_have_text(times or "")  # the next frame
    assert box.is_checked() == checked
    page.screenshot(path=shots / "web-camera.png")
    page.get_by_role("button", name="Stop").click()
    assert page.locator("#video").evaluate("video => video.srcObject") is None


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("torn.png", "image/png", "torn.png: the picture cannot be decoded"),
        ("torn.mp4", "video/mp4", "torn.mp4: this browser cannot play it"),
    ],
)
def test_a_broken_file_is_named_and_the_next_one_works(
    page: Page, tmp_path: Path, name: str, kind: str, message: str
) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": b"\x89PNG nothing"})
    expect(page.get_by_role("alert")).to_contain_text(message)
    expect(page.locator("#progress")).to_be_hidden()
    Image.new("RGB", (20, 10), "red").save(tmp_path / "red.png")
    page.set_input_files("#file", tmp_path / "red.png")
    expect(page.locator("#status")).to_contain_text("Done")
    expect(page.locator("#error")).to_be_hidden()


def test_a_browser_without_webassembly_is_told_what_it_lacks(open_page: OpenPage, page_file: Path) -> None:
    with open_page(page_file.as_uri(), "delete globalThis.WebAssembly") as page:
        expect(page.get_by_role("alert")).to_contain_text("This browser lacks WebAssembly with SIMD")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone(
    open_page: OpenPage, page_file: Path, tmp_path: Path, shots: Path, scheme: str
) -> None:
    draw(1, 0, 400)[0].save(tmp_path / "photo.png")
    viewport = {"width": 360, "height": 740}
    with open_page(page_file.as_uri(), viewport=viewport, color_scheme=scheme) as page:
        page.set_input_files("#file", tmp_path / "photo.png")
        expect(page.locator("#status")).to_contain_text("Done")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        for button in page.get_by_role("button").all():
            box = button.bounding_box()
            assert box is not None
            assert box["height"] >= 44  # a finger's width
        page.screenshot(path=shots / f"web-phone-{scheme}.png", full_page=True)


@pytest.fixture
def quick(page_file: Path, mixed: Path, monkeypatch: pytest.MonkeyPatch) -> ExportConfig:
    """Settings whose export takes the ONNX file out of the page, and only the smaller runtime."""
    record = json.loads(page_file.with_name(f"{page_file.name}.json").read_text())
    inlined = re.search(r'id="model\.onnx">([^<]+)<', page_file.read_text())
    assert inlined is not None
    model = gzip.decompress(base64.b64decode(inlined[1]))

    def write(network: Any, draft: Path, path: Path, *_: Any, **__: Any) -> Exported:
        draft.write_bytes(model)
        return Exported(path=path, record=record | {"file": path.name}, network=network, pair=None)

    monkeypatch.setattr(exporting, "write_checked", write)
    return ExportConfig(format="web", web=WebConfig(gpu=False))


def test_a_page_with_other_masks_than_pytorch_is_not_left_behind(
    quick: ExportConfig, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw_other(*_: Any) -> list[SelfTest]:
        return [SelfTest(Image.new("RGB", (8, 8)), np.full((8, 8), 7, np.uint8))]

    monkeypatch.setattr(exporting, "draw_tests", draw_other)
    with pytest.raises(ValueError, match=r"x\.html was not written: in the browser .*% of the self-test's"):
        api.export(mixed, replace(quick, out=str(tmp_path / "new" / "x.html")))
    assert list((tmp_path / "new").iterdir()) == []


def test_a_self_test_that_throws_is_told_at_once(
    quick: ExportConfig, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Torn(SelfTest):
        def to_urls(self) -> dict[str, str]:
            return super().to_urls() | {"picture": "data:image/png;base64,AAAA"}

    torn = Torn(Image.new("RGB", (8, 8)), np.zeros((8, 8), np.uint8))
    monkeypatch.setattr(exporting, "draw_tests", lambda *_: [torn])
    with pytest.raises(ValueError, match=r"self-test fails in the browser: .*could not be decoded"):
        api.export(mixed, replace(quick, out=str(tmp_path / "x.html")))
    assert list(tmp_path.iterdir()) == []


def test_a_page_tells_no_path_of_this_machine(page_file: Path, mixed: Path) -> None:
    html = page_file.read_text()
    inlined = re.search(r'id="model\.onnx">([^<]+)<', html)
    assert inlined is not None
    model = gzip.decompress(base64.b64decode(inlined[1]))
    for folder in (mixed.parent, Path(exporting.__file__).parents[2], Path(torch.__file__).parents[1]):
        assert str(folder) not in html
        assert str(folder).encode() not in model
    assert b'"mixed"' in model  # its source, by name


def test_the_parts_beside_each_other(quick: ExportConfig, mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    config = replace(quick, out=str(out), web=WebConfig(folder=True, gpu=False))
    assert api.export(mixed, config)["self_test"]["same"] >= 0.999
    assert {"index.html", "page.js", "model.onnx", "ort-wasm-simd-threaded.wasm"} <= {
        each.name for each in out.iterdir()
    }
    with pytest.raises(ValueError, match="is there already"):
        api.export(mixed, config)
