"""Opens an exported page in headless Chromium and runs its self-test."""

import json
import mimetypes
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from segdistill.config.naming import setting
from segdistill.exporting.web.bundle import INDEX_FILE
from segdistill.files import first_line

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Commands of browsers that are installed; without one playwright's own is taken."""

SECONDS = 300.0
"""For the page to load, and again for its self-test."""

HOST = "http://localhost/"
"""Where a page whose parts lie beside it appears to be: a browser loads them from no file:// address."""


def advice() -> str:
    """What to do where no browser can be started."""
    return (
        "install segdistill[web] and Chromium (`playwright install chromium`, or your system's), "
        f"or leave the page unchecked with {setting('web.check')} false"
    )


def run_self_test(page_file: Path) -> dict[str, Any]:
    """Open the page, from file:// or as if from a server, run its self-test, and return the result.

    Args:
        page_file: one HTML file with everything, or the index.html of a folder.

    Returns:
        `passed`, `same` (fraction of the pixels with PyTorch's class), `pixels`, `milliseconds` (of a
        picture) and `runtime`.

    Raises:
        ValueError: there is no browser, or the page does not work in it.
    """
    # In a thread of its own, for playwright refuses one that has an event loop, as a notebook's.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_run_self_test, page_file).result()


def _run_self_test(page_file: Path) -> dict[str, Any]:
    try:
        from playwright.sync_api import Error, sync_playwright
    except ModuleNotFoundError:
        raise ValueError(f"no browser can be started without playwright: {advice()}") from None
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=find_browser())
        except Error as error:
            raise ValueError(f"no browser starts ({first_line(error)}): {advice()}") from None
        failures: list[str] = []
        try:
            return _click_self_test(browser.new_page(), page_file, failures)
        except Error as error:
            reasons = "; ".join([*failures, first_line(error)])
            raise ValueError(f"the page does not work in the browser: {reasons}") from None
        finally:
            browser.close()


def _click_self_test(page: Any, page_file: Path, failures: list[str]) -> dict[str, Any]:
    """The result of the self-test in an open browser; `failures` gets what the scripts complain of."""
    page.set_default_timeout(1000 * SECONDS)
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda line: failures.append(line.text) if line.type == "error" else None)
    if page_file.name == INDEX_FILE:
        page.route(f"{HOST}**", lambda route: _serve(route, page_file.parent))
        page.goto(HOST)
    else:
        page.goto(page_file.absolute().as_uri())
    page.wait_for_selector("body[data-ready], #error:not([hidden])")
    if message := page.locator("#error").text_content():
        raise ValueError(f"the page does not work in the browser: {message}")
    page.click("#self-test")
    ended = "#self-test-result[data-result], #self-test-result[data-error]"
    result = page.wait_for_selector(ended)
    if message := result.get_attribute("data-error"):
        raise ValueError(f"the page's self-test fails in the browser: {'; '.join([*failures, message])}")
    return json.loads(result.get_attribute("data-result"))


def find_browser() -> str | None:
    """The command of an installed browser; None where playwright has to bring its own."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def _serve(route: Any, folder: Path) -> None:
    """Answer a request of the page with the file of its folder."""
    name = urlsplit(route.request.url).path.lstrip("/") or INDEX_FILE
    path = folder / name
    if not path.is_file():
        route.fulfill(status=404)
        return
    kind = "text/javascript" if path.suffix == ".mjs" else mimetypes.guess_type(name)[0]
    route.fulfill(body=path.read_bytes(), content_type=kind or "application/octet-stream")
