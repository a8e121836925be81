"""An exported page in headless Chromium beside PyTorch: milliseconds per picture, on one thread each.

    segdistill export TARGET --format web --out page.html
    python benchmarks/web.py TARGET photo.jpg page.html [OTHER.html ...]
    python benchmarks/web.py TARGET path/to/photographs page.html [OTHER.html ...] --count 100

PyTorch and the pages take turns, so that a machine that slows down slows all alike; medians are printed. With
a folder it compares masks instead: each page segments the first COUNT photographs and its "Download the mask"
is pressed, as a visitor would.
"""

import argparse
import itertools
import json
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from playwright.sync_api import Page, expect, sync_playwright
from rich.console import Console
from rich.table import Table

import segdistill
from segdistill.data.images import list_images, read_image, read_mask
from segdistill.exporting.web.browser import find_browser
from segdistill.inference.prediction import network_input
from segdistill.inference.segment import class_mask, run_network
from segdistill.models.trained import TrainedNetwork, load_network

STEPS = ("Resizing the picture", "Network", "Mask")
"""As the page calls them."""


def time_pytorch(network: TrainedNetwork, photo: Path) -> dict[str, float]:
    """Milliseconds of each step."""
    image = read_image(photo)
    marks = [time.perf_counter()]
    pixels = network_input(image, network.size)
    marks.append(time.perf_counter())
    logits = run_network(network, pixels[None])[0]
    marks.append(time.perf_counter())
    class_mask(logits, (image.height, image.width))
    marks.append(time.perf_counter())
    return {step: 1000 * (marks[i + 1] - marks[i]) for i, step in enumerate(STEPS)}


def time_page(page: Page, photo: Path) -> dict[str, float]:
    """Milliseconds of each step, as the page shows them."""
    page.evaluate("document.getElementById('status').textContent = ''")
    page.set_input_files("#file", photo)
    expect(page.locator("#status")).to_contain_text("Done", timeout=120_000)
    shown = page.locator("#timing").evaluate(
        "list => [...list.querySelectorAll('dt')].map((e) => [e.innerText, e.nextSibling.innerText])"
    )
    return {name: float(value.split()[0]) for name, value in shown if name in STEPS}


def measure(target: str, photo: Path, pages: list[Path], repeats: int) -> dict[str, dict[str, float]]:
    """Medians by name and step, after one pass of each that does not count."""
    torch.set_num_threads(1)
    network = load_network(target)
    times: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser())
        opened = {path.name: browser.new_page() for path in pages}
        for path, page in zip(pages, opened.values(), strict=True):
            page.goto(path.absolute().as_uri())
        for _ in range(repeats + 1):
            times["PyTorch, eager"].append(time_pytorch(network, photo))
            for name, page in opened.items():
                times[name].append(time_page(page, photo))
        browser.close()
    return {
        name: {step: round(median(each[step] for each in passes[1:]), 1) for step in STEPS}
        for name, passes in times.items()
    }


def download_mask(page: Page, photo: Path) -> np.ndarray:
    """The indices that the page saves for a photograph, H x W."""
    page.evaluate("document.getElementById('status').textContent = ''")
    page.set_input_files("#file", photo)
    expect(page.locator("#status")).to_contain_text("Done", timeout=120_000)
    with page.expect_download() as download:
        page.click("#download")
    return read_mask(download.value.path())


def compare(target: str, photos: list[Path], pages: list[Path]) -> dict[str, dict[str, float]]:
    """By page the fraction of all pixels with PyTorch's class, and that of the worst photograph."""
    with TemporaryDirectory() as out:
        masks = [read_mask(file) for file, _ in segdistill.predict(target, photos, out=out, device="cpu")]
    found = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser())
        for path in pages:
            page = browser.new_page()
            page.goto(path.absolute().as_uri())
            equal = [(download_mask(page, photo) == mask) for photo, mask in zip(photos, masks, strict=True)]
            pixels = sum(same.size for same in equal)
            found[path.name] = {
                "same class": float(sum(same.sum() for same in equal) / pixels),
                "worst photograph": float(min(same.mean() for same in equal)),
            }
            page.close()
        browser.close()
    return found


def print_masks(record: dict[str, dict[str, float]], count: int) -> None:
    """A line for each page."""
    table = Table("", "same class", "worst photograph", title=f"masks of {count} photographs")
    for name, each in record.items():
        table.add_row(name, *(f"{value:.4%}" for value in each.values()))
    Console(stderr=True).print(table)


def main() -> None:
    """Print the table and, as JSON, the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("photo", type=Path, help="a photograph, or a folder of them")
    parser.add_argument("pages", type=Path, nargs="+")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--count", type=int, default=100, help="photographs of a folder")
    options = parser.parse_args()
    if options.photo.is_dir():
        photos = list(itertools.islice(list_images(options.photo), options.count))
        masks = compare(options.target, photos, options.pages)
        print_masks(masks, len(photos))
        print(json.dumps(masks))
        return
    record: dict[str, Any] = measure(options.target, options.photo, options.pages, options.repeats)
    table = Table("", *STEPS, "sum", title="milliseconds")
    for name, steps in record.items():
        table.add_row(name, *(f"{steps[step]:.0f}" for step in STEPS), f"{sum(steps.values()):.0f}")
    Console(stderr=True).print(table)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
