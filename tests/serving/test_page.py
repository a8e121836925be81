"""The page in a real browser: what a visitor does, and which colours then are on the screen."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, ViewportSize, expect

pytestmark = pytest.mark.browser
PHONE: ViewportSize = {"width": 360, "height": 740}
expect.set_options(timeout=30_000)  # a busy machine is slow, not wrong

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture(scope="module")
def server(serve: Any) -> Iterator[Any]:
    with serve(max_bytes=200_000) as running:
        yield running


@pytest.fixture
def page(open_page: OpenPage, server: Any) -> Iterator[Page]:
    """The page; it fails where it asked any other host, or where a script failed."""
    with open_page(server.url) as page:
        yield page


def upload(page: Page, data: bytes, name: str = "photo.png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})


def pixel(page: Page, x: int, y: int) -> list[int]:
    """Red, green and blue of a pixel of the picture as it is drawn."""
    script = "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data.slice(0, 3)]"
    return page.locator("#canvas").evaluate(script, [x, y])


def near(expected: list[int]) -> Any:
    return pytest.approx(expected, abs=1)  # a browser rounds in its own way


def test_an_uploaded_picture_is_shown_under_its_colours(
    page: Page, encoded: Callable[..., bytes], shots: Path
) -> None:
    expect(page.locator("#model")).to_contain_text("colours · 3 classes")
    expect(page.locator("#chips")).to_contain_text("green")
    page.screenshot(path=shots / "start.png")
    upload(page, encoded())
    expect(page.locator("#status")).to_contain_text("Done: 2 classes in")
    # 60 % of the class's colour over the picture's: 0.6 * 200 + 0.4 * 255 = 222 of red on the left.
    assert pixel(page, 5, 5) == near([222, 0, 0])
    assert pixel(page, 60, 5) == near([0, 102, 120])
    legend = page.locator("#classes li")
    assert [text.split() for text in legend.all_inner_texts()] == [
        ["red", "50.0", "%"],
        ["green", "50.0", "%"],
    ]
    swatch = legend.nth(1).locator(".swatch")
    assert swatch.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(0, 0, 200)"
    expect(page.locator("#timing")).to_contain_text("64 × 32")  # noqa: RUF001
    page.screenshot(path=shots / "result.png")


def test_classes_can_be_hidden_and_shown(page: Page, encoded: Callable[..., bytes]) -> None:
    upload(page, encoded())
    page.get_by_role("checkbox", name="red").uncheck()
    assert pixel(page, 5, 5) == [255, 0, 0]
    assert pixel(page, 60, 5) == near([0, 102, 120])
    page.get_by_role("button", name="Hide all").click()
    assert pixel(page, 60, 5) == [0, 255, 0]
    page.get_by_role("button", name="Show all").click()
    assert pixel(page, 5, 5) == near([222, 0, 0])


def test_background_starts_without_colour(page: Page, encoded: Callable[..., bytes]) -> None:
    image = Image.new("RGB", (20, 10), (30, 20, 90))  # dark: neither red nor green
    image.paste((255, 0, 0), (10, 0, 20, 10))
    upload(page, encoded(image))
    expect(page.get_by_role("checkbox", name="background")).not_to_be_checked()
    assert pixel(page, 2, 2) == [30, 20, 90]
    page.get_by_role("checkbox", name="background").check()
    assert pixel(page, 2, 2) == near([12, 8, 36])


def test_the_slider_changes_the_opacity_by_keyboard(page: Page, encoded: Callable[..., bytes]) -> None:
    upload(page, encoded())
    slider = page.get_by_role("slider", name="Opacity of the colours")
    slider.focus()
    page.keyboard.press("End")
    assert pixel(page, 60, 5) == [0, 0, 200]
    expect(page.locator("#percent")).to_have_text("100 %")
    page.keyboard.press("Home")
    assert pixel(page, 60, 5) == [0, 255, 0]


def test_a_broken_file_is_said_clearly_and_the_next_one_works(
    page: Page, encoded: Callable[..., bytes], shots: Path
) -> None:
    upload(page, encoded()[:-40], "holiday.png")
    expect(page.get_by_role("alert")).to_contain_text("holiday.png: the image cannot be decoded")
    expect(page.locator("#progress")).to_be_hidden()
    page.screenshot(path=shots / "broken.png")
    upload(page, b"text", "notes.txt")
    expect(page.get_by_role("alert")).to_contain_text("notes.txt: the file is not a JPEG")
    upload(page, bytes(300_000), "film.png")
    expect(page.get_by_role("alert")).to_contain_text("0.3 MB, more than this server takes")
    upload(page, encoded())
    expect(page.locator("#status")).to_contain_text("Done")
    expect(page.locator("#error")).to_be_hidden()


def test_progress_is_shown_while_the_server_works(
    page: Page, server: Any, encoded: Callable[..., bytes]
) -> None:
    server.network.gate.clear()
    upload(page, encoded())
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.locator("#status")).to_have_text("Segmenting photo.png …")
    server.network.gate.set()
    expect(page.get_by_role("progressbar")).to_be_hidden()


def test_the_mask_is_downloaded_as_a_palette_png(
    page: Page, encoded: Callable[..., bytes], tmp_path: Path
) -> None:
    upload(page, encoded())
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the mask").click()
    assert download.value.suggested_filename == "photo_mask.png"
    download.value.save_as(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        assert np.asarray(mask).tolist() == [[1] * 32 + [2] * 32] * 32


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_pictures_can_be_dropped_and_pasted(page: Page, encoded: Callable[..., bytes], event: str) -> None:
    page.evaluate(
        """([event, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "photo.png", { type: "image/png" }));
            const dropped = new DragEvent("drop", { dataTransfer: data, bubbles: true });
            const pasted = new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
            document.body.dispatchEvent(event === "drop" ? dropped : pasted);
        }""",
        [event, list(encoded())],
    )
    expect(page.locator("#status")).to_contain_text("Done")
    assert pixel(page, 5, 5) == near([222, 0, 0])


def test_the_camera_takes_a_picture(page: Page) -> None:
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.wait_for_selector("#preview")
    page.locator("#preview").evaluate("v => v.videoWidth || new Promise(r => v.onloadeddata = r)")
    page.get_by_role("button", name="Take the picture").click()
    expect(page.locator("#status")).to_contain_text("Done")
    assert page.locator("#preview").evaluate("video => video.srcObject") is None  # the camera is off


def test_a_picture_that_the_browser_cannot_show_still_gets_its_colours(
    page: Page, encoded: Callable[..., bytes]
) -> None:
    upload(page, encoded(kind="TIFF"), "scan.tif")
    expect(page.locator("#status")).to_contain_text("cannot show the picture itself")
    page.get_by_role("slider").press("End")
    assert pixel(page, 5, 5) == [200, 0, 0]


def test_the_class_under_the_pointer_is_named(page: Page, encoded: Callable[..., bytes]) -> None:
    upload(page, encoded())
    expect(page.locator("#status")).to_contain_text("Done")  # only then is the canvas there
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    for share, name in ((0.25, "red"), (0.75, "green")):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        expect(page.locator("#hovered")).to_have_text(f"Under the pointer: {name}")


def test_the_keyboard_reaches_everything_and_shows_where_it_is(
    page: Page, encoded: Callable[..., bytes]
) -> None:
    upload(page, encoded())
    expect(page.locator("#status")).to_contain_text("Done")
    expected = ["opacity", "red", "green", "all", "none", "download", "choose-again", "camera-again", "API"]
    seen = []
    for _ in expected:
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        seen.append(
            focused.evaluate("e => e.id || e.closest('label')?.innerText.split('\\n')[0] || e.innerText")
        )
        assert focused.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    assert [name.strip() for name in seen] == expected


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone(
    open_page: OpenPage, server: Any, encoded: Callable[..., bytes], shots: Path, scheme: Any
) -> None:
    colours = {"light": "rgb(246, 247, 248)", "dark": "rgb(18, 20, 23)"}
    picture = Image.effect_mandelbrot((900, 600), (-2, -1.2, 1, 1.2), 60).convert("RGB")
    with open_page(server.url, viewport=PHONE, color_scheme=scheme) as page:
        body = page.locator("body")
        assert body.evaluate("e => getComputedStyle(e).backgroundColor") == colours[scheme]
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        upload(page, encoded(picture, "JPEG"))
        expect(page.locator("#status")).to_contain_text("Done")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        for button in page.get_by_role("button").all():
            box = button.bounding_box()
            assert box is not None
            assert box["height"] >= 44  # a finger's width
        page.screenshot(path=shots / f"phone-{scheme}.png", full_page=True)
        hidden = """list => {
            for (let i = 0; i < 40; i++) list.append(list.lastElementChild.cloneNode(true));
            return list.scrollHeight - list.clientHeight;
        }"""
        assert page.locator("#classes").evaluate(hidden) == 0  # also of a list of many classes
        page.goto(f"{server.url}/docs")
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_a_server_with_a_token_asks_for_it(
    open_page: OpenPage, serve: Any, encoded: Callable[..., bytes]
) -> None:
    with serve(token="sesame") as running:
        with open_page(running.url) as page:
            page.get_by_label("This server wants a token").fill("wrong")
            page.keyboard.press("Enter")
            expect(page.get_by_role("alert")).to_contain_text("refuses this token")
            page.get_by_label("This server wants a token").fill("sesame")
            page.keyboard.press("Enter")
            expect(page.locator("#model")).to_contain_text("colours")
            upload(page, encoded())
            expect(page.locator("#status")).to_contain_text("Done")
