"""The page holds everything, says what is missing, and trusts no name."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_pages import examples, write_page

from segdistill.engine.run_folder import RunFolder
from segdistill.page.templates import breakable, read_script
from segdistill.reporting import comparison, report
from segdistill.reporting.comparison import MINUS
from segdistill.reporting.intervals import run_intervals
from segdistill.reporting.records import read_records, run_names
from segdistill.reporting.report import SECTIONS

pytestmark = pytest.mark.unit

VOID_ELEMENTS = {"meta", "img", "br", "wbr", "link", "input", "hr"}
FIGURES = {"pareto.png", "curves.png", "iou.png", "confusion.png", "calibration.png", "examples.png"}


class Page(HTMLParser):
    """A parsed page: its elements, its ids, its texts by section, and whether every tag was closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.tags, self.attributes, self.open, self.texts = [], [], [], {}
        self.section = ""
        self.feed(self.source)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag == "section":
            self.section = dict(attributes)["id"]
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID_ELEMENTS:
            self.open.pop()

    def handle_endtag(self, tag):
        # The end of a paragraph or list item may be left out, but here nothing is.
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts[self.section] = self.texts.get(self.section, "") + data

    def values(self, name):
        return [value for _, found, value in self.attributes if found == name]


def images(page: Page) -> list[Image.Image]:
    uris = [
        value for name in ("src", "xlink:href") for value in page.values(name) if value.startswith("data:")
    ]
    decoded = [Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))) for uri in uris]
    for image in decoded:
        image.load()
    return decoded


@pytest.fixture
def undrawn(monkeypatch):
    """Pages whose figures are made, but not drawn into files: most of a page's seconds."""
    monkeypatch.setattr(report, "save_png", lambda figure, path: None)
    monkeypatch.setattr(report, "to_svg", lambda figure, key, label: "<svg></svg>")


def test_a_page_about_two_runs(make_run):
    first, second = make_run("first", noise=2.0, teacher=False), make_run("second", noise=1.0)
    runs = [first.path, second.path]
    out = write_page(runs, first.path / "deep" / "report.html", examples(first, second))
    assert out == first.path / "deep" / "report.html"
    page = Page(out)

    # Whole, and in itself.
    ids = page.values("id")
    assert set(SECTIONS) <= set(ids)
    assert len(ids) == len(set(ids))
    links = [href for tag, name, href in page.attributes if (tag, name) == ("a", "href")]
    assert links == ["#examples", *(f"#{section}" for section in SECTIONS)]
    for name in ("src", "xlink:href", "href"):
        assert all(value.startswith(("data:image/", "#")) for value in page.values(name))
    assert "http:" not in page.source
    assert "https:" not in page.source
    assert page.tags.count("script") == 1
    assert not {"link", "iframe", "object", "image/svg+xml"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", page.source)
    assert {path.name for path in (first.path / "figures").iterdir()} == FIGURES
    assert not (second.path / "figures").exists()

    # Differences to the first run, computed here from the summaries.
    difference = 100 * (second.summary["miou"] - first.summary["miou"])
    assert difference > 1
    assert f"+{difference:.1f}" in page.texts["headline"]
    assert f"+{difference:.2f}" in page.texts["headline"]
    cat = 100 * (second.summary["iou"]["$cat$"] - first.summary["iou"]["$cat$"])
    assert f"+{cat:.1f}" in page.texts["classes"]
    assert f"{MINUS}50.0\u00a0%" in page.texts["headline"]  # latency: 20 ms after 40 ms
    assert "15.5\u00d7 fewer parameters, 20.0\u00d7 fewer operations, 12.5\u00d7 faster" in page.texts["cost"]
    assert "teacher.spec" in page.texts["config"]
    assert "segdistill train --out 'a b'" in page.texts["environment"]


@pytest.mark.usefixtures("undrawn")
def test_a_temperature_is_shown_with_the_error_before_and_after(make_run):
    run = make_run("calibrated").path
    page = Page(write_page([run], run / "report.html", []))
    assert "temperature" not in page.texts["calibration"]
    scores = {"temperature": 1.75, "calibration_error": 0.0123, "calibration_error_before": 0.085}
    RunFolder(run).write_temperature(1.75, scores)
    page = Page(write_page([run], run / "report.html", []))
    assert "temperature of 1.750" in page.texts["calibration"]
    assert "calibration error 8.5\u00a0% before, 1.2\u00a0% after" in page.texts["calibration"]
    assert "8.50\u00a0%" in page.texts["headline"]


@pytest.mark.usefixtures("undrawn")
def test_two_runs_on_the_same_images_have_intervals(make_run):
    runs = [make_run("first", noise=2.0).path, make_run("second").path]
    page = Page(write_page(runs, runs[0] / "report.html", []))
    assert "a difference is coloured where its interval excludes 0" in page.texts["headline"]
    (runs[1] / "image_counts.safetensors").unlink()
    page = Page(write_page(runs, runs[0] / "report.html", []))
    assert "interval excludes 0" not in page.texts["headline"]
    assert "cannot be computed" in page.texts[""]


@pytest.mark.usefixtures("undrawn")
def test_runs_scored_on_different_images_are_shown_without_differences(make_run):
    runs = [make_run("first", noise=2.0).path, make_run("second", images=6).path]
    page = Page(write_page(runs, runs[0] / "report.html", []))
    warning = "scored on different images: first on 8, second on 6, of which 6 are the same"
    assert warning in page.texts[""]
    assert f"{MINUS}50.0\u00a0%" in page.texts["headline"]  # latency is compared all the same
    records = [read_records(RunFolder(run), run.name) for run in runs]
    found = run_intervals(records)
    rows = comparison.headline(records, found)[:4]
    rows += comparison.scores(records, found) + comparison.classes(records, found)
    assert {(cell.delta, cell.tone) for row in rows for cell in row.cells} == {("", "")}


@pytest.mark.usefixtures("undrawn")
def test_runs_scored_on_the_same_images_have_no_such_warning(make_run):
    runs = [make_run(name).path for name in ("first", "second")]
    page = Page(write_page(runs, runs[0] / "report.html", []))
    assert "different images" not in page.source


def test_the_pictures_of_a_page(make_run):
    first, second = make_run("first", noise=2.0), make_run("second")
    shown = examples(first, second)
    page = Page(write_page([first.path, second.path], first.path / "report.html", shown))
    pictures = images(page)
    height, width = shown[0].truth.shape
    masks = [image for image in pictures if image.size == (width, height)]
    # On the first screen image, truth and two predictions, three times; then those with the teacher and two
    # error maps; then two confusion matrices.
    assert len(masks) == (4 + 7) * 3
    assert len(pictures) == (4 + 7) * 3 + 2
    assert {image.size for image in pictures[33:]} <= {(4, 4), (5, 4)}
    np.testing.assert_array_equal(
        np.asarray(masks[2].convert("RGB")), np.asarray(masks[12 + 3].convert("RGB"))
    )
    prediction = np.asarray(masks[12 + 3].convert("RGB"))
    expected = np.array(first.labels.palette, dtype=np.uint8)[shown[0].predictions["first"]]
    np.testing.assert_array_equal(prediction, expected)
    alternatives = page.values("alt")
    titles = ["image", "ground truth", "first", "second"]
    assert alternatives[:4] == [f"{what} of {shown[0].id}" for what in titles]
    assert alternatives[12:15] == [
        f"{what} of {shown[0].id}" for what in ("image", "ground truth", "teacher")
    ]


def test_names_are_escaped(make_run):
    run = make_run("<i>run", images=4)
    page = Page(write_page([run.path], run.path / "report.html", examples(run)))
    assert "<b>x" not in page.source
    assert "<i>" not in page.source
    assert "&lt;b&gt;x" in page.source
    assert "<b>x" in page.texts["classes"]
    assert "image<0>" in page.source.replace("&lt;", "<").replace("&gt;", ">")
    assert "image<0>" not in page.source


def test_a_page_about_one_run(make_run):
    run = make_run("only")
    page = Page(write_page([run.path], run.path / "report.html", "the data set has moved to <mars>"))
    assert f"{100 * run.summary['miou']:.1f}\u00a0%" in page.texts["headline"]
    assert "distilled from fcn_resnet50 of torchvision" in page.texts[""]
    assert "40 steps" in page.texts[""]
    assert "weights of step 30 were kept" in page.texts[""]
    assert "95\u00a0% interval" in page.texts[""]
    assert "15.5\u00d7 fewer than its teacher" in page.texts["headline"]
    assert "the data set has moved to <mars>" in page.texts["examples"]
    assert "absent" in page.texts["classes"]
    assert "better" not in " ".join(page.values("class"))
    assert {path.name for path in (run.path / "figures").iterdir()} == FIGURES - {"examples.png"}


def test_a_run_without_evaluation_says_what_is_missing(make_run):
    run = make_run("young").path
    for file in ("metrics.json", "model.json", "cost.json", "history.jsonl", "environment.json"):
        (run / file).unlink()
    page = Page(write_page([run], run / "report.html", []))
    for section in SECTIONS.keys() - {"examples", "config"}:
        assert "young has no" in page.texts[section], section
        assert f"segdistill train --config {run / 'config.yaml'} --resume" in page.texts[section]
    assert "No image has a score yet." in page.texts["examples"]
    assert not (run / "figures").exists()


@pytest.mark.usefixtures("undrawn")
def test_weights_alone_show_the_scores_of_their_card(make_run):
    run = make_run("shipped")
    for file in ("metrics.json", "config.yaml", "cost.json", "history.jsonl", "environment.json"):
        (run.path / file).unlink()
    page = Page(write_page([run.path], run.path / "report.html", "no images are shipped"))
    assert f"{100 * run.summary['miou']:.2f}\u00a0%" in page.texts["headline"]
    assert "shipped has no settings" in page.texts["config"]
    assert "--resume" not in page.source


@pytest.mark.usefixtures("undrawn")
def test_one_run_may_lack_what_another_has(make_run):
    first, second = make_run("first"), make_run("second")
    (first.path / "metrics.json").unlink()
    (second.path / "cost.json").unlink()
    page = Page(write_page([first.path, second.path], second.path / "report.html", "none"))
    assert page.texts["classes"].count("absent") == 1  # of the run that was evaluated
    assert "first has no confusion matrix" in page.texts["confusion"]
    assert "second has no measured cost" in page.texts["cost"]


@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_without_labelled_pixels(make_run):
    run = make_run("void", images=0).path
    page = Page(write_page([run], run / "report.html", []))
    assert "No labelled pixel was compared." in page.texts["confusion"]
    assert "No labelled pixel was compared." in page.texts["calibration"]


def test_a_page_is_the_same_twice(make_run):
    run = make_run("again")
    pages = [write_page([run.path], run.path / f"{i}.html", examples(run)).read_bytes() for i in range(2)]
    assert pages[0] == pages[1]


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run folder: it has neither") as error:
        write_page([tmp_path], tmp_path / "report.html", [])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.json", "{"),
        ("metrics.json", '{"best": [1]}'),
        ("cost.json", "[]"),
        ("history.jsonl", 'nonsense\n{"step": 1, "loss": 1.0}\n'),
        ("history.jsonl", '{"step": 1, "evaluation": 3}\n{"step": 2}\n'),
        ("model.json", "{}"),
        ("image_counts.safetensors", "{"),
        ("config.yaml", "- a list"),
    ],
)
def test_damaged_records_are_named(make_run, file, content):
    run = make_run("damaged").path
    (run / file).write_text(content)
    with pytest.raises(ValueError, match=re.escape(file)):
        write_page([run], run / "report.html", [])


def test_a_torn_last_line_of_the_history_is_left_out(make_run):
    run = make_run("torn").path
    lines = (run / "history.jsonl").read_text()
    (run / "history.jsonl").write_text(lines + '{"step": 41, "lo')
    records = read_records(RunFolder(run), "torn")
    assert records.steps[-1]["step"] == 40
    assert [record["step"] for record in records.evaluations] == [10, 20, 30, 40]


def test_records_are_read_back(make_run):
    run = make_run("read")
    records = read_records(RunFolder(run.path), "read")
    assert records.best == {"step": 30, **run.summary}
    assert records.labels == run.labels
    assert records.network("student")["parameters"] == 2_284_969
    assert records.network("nobody") == {}
    assert json.loads((run.path / "environment.json").read_text()) == records.environment


def test_runs_get_different_names(tmp_path):
    assert run_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert run_names([tmp_path / "x" / "a", tmp_path / "y" / "a"]) == ["x/a", "y/a"]
    assert run_names([tmp_path / "x" / "teacher"]) == ["x/teacher"]
    with pytest.raises(ValueError, match="each once"):
        run_names([tmp_path, tmp_path / "a" / ".."])
    with pytest.raises(ValueError, match="none"):
        run_names([])


def test_names_break_between_their_words():
    assert breakable("demo/student-alone") == "demo/<wbr>student-<wbr>alone"
    assert breakable("a<b>.onnx") == "a&lt;b&gt;.<wbr>onnx"
    pieces = breakable("x" * 50).split("<wbr>")
    assert [len(piece) for piece in pieces] == [20, 20, 10]
    assert breakable("") == ""


@pytest.mark.usefixtures("undrawn")
def test_no_other_script_may_run(make_run):
    run = make_run("only")
    page = Page(write_page([run.path], run.path / "report.html", examples(run)))
    script, name = read_script("segdistill.reporting", "report.js")
    assert f"<script>{script}</script>" in page.source
    [policy] = [value for value in page.values("content") if "default-src" in value]
    assert f"script-src '{name}'" in policy
    assert name == "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "on" not in {name[:2] for _, name, _ in page.attributes}


@pytest.mark.usefixtures("undrawn")
def test_classes_that_fell_are_on_the_first_screen(make_run):
    runs = [make_run("alone", teacher=False).path, make_run("distilled", noise=2.0).path]
    page = Page(write_page(runs, runs[0] / "report.html", []))
    assert "Under distillation, 4 classes fell by 3 points of IoU or more" in page.texts[""]
