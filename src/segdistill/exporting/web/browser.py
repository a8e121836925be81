"""Opens an exported page in headless Chromium and runs its self-test."""

import json
import mimetypes
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Commands of browsers that are installed; without one playwright's own is taken."""

SECONDS = 300.0
"""For the page to load, and again for its self-test."""

HOST = "http://localhost/"
"""Where a page whose parts lie beside it appears to be: a browser loads them from no file:// address."""


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
    try:
        from playwright.sync_api import Error, sync_playwright
    except ModuleNotFoundError:
        raise ValueError(f"no browser can be started without playwright: {_advice()}") from None
    whole = page_file.name != "index.html"
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=find_browser())
        except Error as error:
            raise ValueError(f"no browser starts ({str(error).splitlines()[0]}): {_advice()}") from None
        try:
            page = browser.new_page()
            failures: list[str] = []
            page.on("pageerror", lambda error: failures.append(str(error)))
            if not whole:
                page.route(f"{HOST}**", lambda route: _serve(route, page_file.parent))
            page.goto(page_file.as_uri() if whole else HOST)
            page.set_default_timeout(1000 * SECONDS)
            page.wait_for_selector("body[data-ready], #error:not([hidden])")
            if message := page.locator("#error").text_content():
                raise ValueError(f"the page does not work in the browser: {message}")
            page.click("#self-test")
            result = page.wait_for_selector("#self-test-result[data-result]")
            assert result is not None
            return json.loads(result.get_attribute("data-result") or "{}")
        except Error as error:
            reasons = "; ".join([*failures, str(error).splitlines()[0]])
            raise ValueError(f"the page does not work in the browser: {reasons}") from None
        finally:
            browser.close()


def find_browser() -> str | None:
    """The command of an installed browser; None where playwright has to bring its own."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def _serve(route: Any, folder: Path) -> None:
    """Answer a request of the page with the file of its folder."""
    name = urlsplit(route.request.url).path.lstrip("/") or "index.html"
    path = folder / name
    if not path.is_file():
        route.fulfill(status=404)
        return
    kind = "text/javascript" if path.suffix == ".mjs" else mimetypes.guess_type(name)[0]
    route.fulfill(body=path.read_bytes(), content_type=kind or "application/octet-stream")


def _advice() -> str:
    return (
        "install segdistill[web] and Chromium (`playwright install chromium`, or your system's), "
        "or leave the page unchecked with --web.check false"
    )
