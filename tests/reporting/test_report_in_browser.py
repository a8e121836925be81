"""The report in a real browser: what a reader does, on a screen, on a phone, without scripts and on paper."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, ViewportSize, expect
from report_pages import examples, write_page

pytestmark = pytest.mark.browser
SCREEN: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
expect.set_options(timeout=30_000)  # a busy machine is slow, not wrong

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture(scope="module")
def pages(make_shared_run: Any) -> dict[str, str]:
    """Addresses of a report of one run, and of one of three, whose names are long."""
    alone = make_shared_run("student-alone", noise=2.0, teacher=False, seed=1)
    distilled = make_shared_run("student-distilled-from-a-large-one", noise=1.6)
    third = make_shared_run("a" * 60, noise=1.0, teacher=False)
    found = {}
    for name, runs in {"one": [distilled], "three": [alone, distilled, third]}.items():
        out = alone.path.parent / f"{name}.html"
        write_page([run.path for run in runs], out, examples(*runs, count=2))
        found[name] = out.as_uri()
    return found


@pytest.fixture
def page(open_page: OpenPage, pages: dict[str, str]) -> Iterator[Page]:
    """The report of three runs on a screen; it fails where it asked any host, or where a script failed."""
    with open_page(pages["three"], viewport=SCREEN) as page:
        yield page


def shown(page: Page) -> list[str]:
    return page.locator(".example:visible").evaluate_all("cards => cards.map(card => card.dataset.id)")


def scores(page: Page, run: str) -> dict[str, float]:
    """Percent by image."""
    script = (
        "(cards, run) => cards.map(card => [card.dataset.id, 100 * JSON.parse(card.dataset.scores)[run]])"
    )
    return dict(page.locator(".example").evaluate_all(script, run))


def overflow(page: Page) -> int:
    """Pixels that the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


def clip(image: Locator) -> str:
    return image.evaluate("image => getComputedStyle(image).clipPath")


def test_images_are_sorted_by_any_runs_score(page: Page) -> None:
    first, third = scores(page, "student-alone"), scores(page, "a" * 60)
    assert len(first) == 6
    page.locator("[name=sort]").select_option("worst first")
    assert shown(page) == sorted(first, key=lambda name: first[name])
    page.locator("[name=run]").select_option("a" * 60)
    assert shown(page) == sorted(third, key=lambda name: third[name])
    assert sorted(first, key=lambda name: first[name]) != sorted(third, key=lambda name: third[name])
    page.locator("[name=sort]").select_option("best first")
    assert shown(page) == sorted(third, key=lambda name: -third[name])
    page.locator("[name=sort]").select_option("largest loss against student-alone first")
    assert shown(page) == sorted(third, key=lambda name: third[name] - first[name])
    page.locator("[name=sort]").select_option("by name")
    assert shown(page) == sorted(third)


def test_images_are_filtered_by_score_and_class(page: Page) -> None:
    found = scores(page, "student-alone")
    expect(page.locator(".controls output")).to_have_text("6 of 6 images")
    limit = round(sorted(found.values())[3])
    page.locator("[name=most]").fill(str(limit))
    below = {name for name, score in found.items() if score <= limit}
    assert 0 < len(below) < 6
    assert set(shown(page)) == below
    expect(page.locator(".controls output")).to_have_text(f"{len(below)} of 6 images")
    page.locator("[name=least]").fill(str(limit))
    assert not below & set(shown(page))
    page.locator("[name=least]").fill("0")
    page.locator("[name=most]").fill("")  # while somebody types, nothing is hidden
    assert len(shown(page)) == 6
    card = page.locator(".example").first
    card.evaluate("card => { card.dataset.classes = '[\"background\"]' }")
    page.locator("[name=class]").select_option("$cat$")
    assert len(shown(page)) == 5


def test_a_click_enlarges_a_picture_and_a_slider_moves_between_two(page: Page, shots: Path) -> None:
    viewer = page.locator(".viewer")
    expect(viewer).not_to_be_visible()
    card = page.locator(".example").nth(1)
    card.get_by_role("button", name="student-alone of").first.click()
    expect(viewer).to_be_visible()
    expect(viewer.locator("b")).to_contain_text(card.get_attribute("data-id") or "?")
    left, right, split = viewer.locator(".left"), viewer.locator(".right"), viewer.locator("[name=split]")
    source = "image => image.src"
    pictures = card.locator("img").evaluate_all("images => images.map(image => image.src)")
    assert left.evaluate(source) == pictures[0]
    assert right.evaluate(source) == pictures[3]
    assert right.bounding_box()["width"] > 2 * card.locator("img").first.bounding_box()["width"]
    assert clip(left) == "inset(0px 85% 0px 0px)"
    expect(split).to_be_focused()
    page.keyboard.press("ArrowRight")
    assert (clip(left), clip(right)) == ("inset(0px 84% 0px 0px)", "inset(0px 0px 0px 16%)")
    stage = viewer.locator(".stage").bounding_box()
    page.mouse.click(stage["x"] + 0.7 * stage["width"], stage["y"] + 20)
    assert clip(left) == "inset(0px 30% 0px 0px)"
    viewer.locator("[name=left]").select_option("ground truth")
    assert left.evaluate(source) == pictures[1]
    viewer.locator("[name=blend]").check()
    assert right.evaluate("image => getComputedStyle(image).opacity") == "0.6"
    page.screenshot(path=shots / "report-viewer.png")
    viewer.get_by_role("button", name="Next").click()
    expect(viewer.locator("b")).to_contain_text(
        page.locator(".example").nth(2).get_attribute("data-id") or "?"
    )
    assert viewer.locator("[name=left]").input_value() == "ground truth"
    viewer.get_by_role("button", name="Close").click()
    expect(viewer).not_to_be_visible()


def test_pictures_are_enlarged_by_the_keyboard(page: Page) -> None:
    viewer = page.locator(".viewer")
    picture = page.locator(".showcase img").nth(2)
    picture.focus()
    page.keyboard.press("Enter")
    expect(viewer).to_be_visible()
    page.keyboard.press("Escape")
    expect(viewer).not_to_be_visible()
    expect(picture).to_be_focused()
    page.keyboard.press(" ")
    expect(viewer).to_be_visible()


def test_curves_show_their_values_under_the_pointer_and_by_the_keyboard(page: Page, shots: Path) -> None:
    chart = page.locator(".panels .chart").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 0.55 * box["width"], box["y"] + 0.5 * box["height"])
    tip = chart.locator(".tip")
    expect(tip.locator("b")).to_have_text("step 20")
    expect(tip).to_contain_text("student-alone:")
    expect(tip.locator("div")).to_have_count(3)
    expect(chart.locator(".dot")).to_have_count(3)
    page.screenshot(path=shots / "report-hover.png")
    page.mouse.move(1, 1)
    expect(tip).to_have_count(0)
    chart.focus()
    page.keyboard.press("ArrowRight")
    expect(tip.locator("b")).to_have_text("step 10")


def test_a_confusion_names_the_cell_under_the_pointer(page: Page) -> None:
    chart = page.locator("#confusion .chart").first
    chart.scroll_into_view_if_needed()
    first = chart.evaluate("chart => JSON.parse(chart.dataset.hover).series[0].points[0].slice(0, 2)")
    svg = chart.locator("svg").first
    scale = svg.evaluate("svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width")
    box = svg.bounding_box()
    page.mouse.move(box["x"] + scale * first[0], box["y"] + scale * first[1])
    expect(chart.locator(".tip b")).to_have_text("background, predicted as background")


@pytest.mark.parametrize("name", ["one", "three"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_cuts_nothing_without_a_hint(
    open_page: OpenPage, pages: dict[str, str], shots: Path, name: str, scheme: str
) -> None:
    with open_page(pages[name], viewport=PHONE, color_scheme=scheme) as page:
        assert overflow(page) <= 0
        cut = page.locator(".scroll").evaluate_all(
            "all => all.filter(one => one.scrollWidth > one.clientWidth + 1)"
            ".map(one => one.nextElementSibling.matches('.more') && one.nextElementSibling.offsetHeight > 0)"
        )
        assert all(cut)
        assert cut or name == "one"
        fits = page.locator(".scroll").evaluate_all(
            "all => all.filter(one => one.scrollWidth <= one.clientWidth)"
            ".map(one => one.nextElementSibling.offsetHeight)"
        )
        assert not any(fits)
        outside = page.locator("header, main").evaluate_all(
            "rooms => rooms.flatMap(room => [...room.querySelectorAll('*')])"
            ".filter(one => !one.closest('.scroll, svg, pre, dialog'))"
            ".filter(one => one.getBoundingClientRect().right > innerWidth)"
            ".map(one => one.outerHTML.slice(0, 80))"
        )
        assert outside == []
        page.screenshot(path=shots / f"report-{name}-phone-{scheme}.png", full_page=True)
        page.locator(".showcase img").first.click()
        expect(page.locator(".viewer")).to_be_visible()
        assert page.locator(".viewer").evaluate("viewer => viewer.scrollWidth <= viewer.clientWidth")


@pytest.mark.parametrize("name", ["one", "three"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screen_shows_result_and_pictures_first(
    open_page: OpenPage, pages: dict[str, str], shots: Path, name: str, scheme: str
) -> None:
    with open_page(pages[name], viewport=SCREEN, color_scheme=scheme) as page:
        assert overflow(page) <= 0
        for part in (".result", ".pareto svg", ".showcase img"):
            box = page.locator(part).first.bounding_box()
            assert box["y"] + box["height"] <= SCREEN["height"], part
        background = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
        assert background == {"light": "rgb(246, 247, 248)", "dark": "rgb(18, 20, 23)"}[scheme]
        page.screenshot(path=shots / f"report-{name}-screen-{scheme}.png")


def test_without_scripts_everything_is_read_and_no_control_is_there(
    open_page: OpenPage, pages: dict[str, str]
) -> None:
    with open_page(pages["three"], viewport=SCREEN, java_script_enabled=False) as page:
        expect(page.locator(".example")).to_have_count(6)
        expect(page.locator(".example").first).to_be_visible()
        expect(page.locator(".result").first).to_be_visible()
        expect(page.locator(".controls")).not_to_be_visible()
        expect(page.locator(".viewer")).not_to_be_visible()
        expect(page.get_by_text("Click a picture")).not_to_be_visible()


def test_print_is_light_and_without_controls(open_page: OpenPage, pages: dict[str, str], shots: Path) -> None:
    with open_page(pages["three"], viewport=SCREEN, color_scheme="dark") as page:
        page.emulate_media(media="print")
        expect(page.locator("nav")).not_to_be_visible()
        expect(page.locator(".controls")).not_to_be_visible()
        ink = page.locator("body").evaluate("body => getComputedStyle(body).color")
        assert ink == "rgb(29, 33, 39)"
        assert page.pdf(path=shots / "report.pdf").startswith(b"%PDF")
