"""The page's template, for a server and for a file of its own; what it tells of a network."""

import re
from pathlib import Path

import pytest

from segdistill.models.trained import load_network
from segdistill.page.card import describe_network
from segdistill.page.render import BROWSER_SCRIPTS, SCRIPT, WebPage, read_part, render_page
from segdistill.serving.paths import PAGE_FILES

pytestmark = pytest.mark.unit
WEB = WebPage(
    name="a <b>",
    about="Made.",
    imports={"x": "./x.js"},
    manifest={"tests": [], "note": "</script>"},
    parts={},
)


def test_a_server_and_a_file_bring_all_that_the_script_imports() -> None:
    imported = set(re.findall(r'from "(\./[a-z]+\.js)"', read_part(SCRIPT)))
    assert imported
    assert imported <= set(BROWSER_SCRIPTS)
    assert {specifier.removeprefix(".") for specifier in imported} <= set(PAGE_FILES)
    # A module in a data: URL finds no relative address.
    for name in BROWSER_SCRIPTS.values():
        assert 'from "./' not in read_part(name)


def test_the_servers_page_inlines_no_script() -> None:
    """The server's Content-Security-Policy forbids it."""
    html = render_page()
    assert re.findall(r"<script([^>]*)>", html) == [' type="module" src="page.js"']
    assert 'id="token-form"' in html
    assert 'id="self-test"' not in html


def test_what_a_page_is_filled_in_with_cannot_end_a_script() -> None:
    html = render_page(WEB, style="b { }", script="run();")
    assert "<title>segdistill – a &lt;b&gt;</title>" in html  # noqa: RUF001
    assert '"note": "\\u003c/script\\u003e"' in html
    assert "<style>b { }</style>" in html
    assert '<script type="module">run();</script>' in html
    assert 'id="self-test"' in html
    assert 'id="token-form"' not in html


def test_a_run_is_described_with_its_scores_and_without_its_path(run: Path) -> None:
    card = describe_network(load_network(str(run)))
    assert card["name"] == run.name
    assert 0 <= card["metrics"]["miou"] <= 1
    assert str(run.parent) not in str(card)
