"""Figures show the numbers that they were given, and take names literally."""

import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from segdistill.reporting import plots
from segdistill.reporting import style as figures

pytestmark = pytest.mark.unit

STEPS = {
    "a": [
        {"step": 1, "loss": 3.0, "soft": 1.0, "lr": 0.1, "surprise": 7, "images_per_second": 5.0},
        {"step": 2, "loss": float("nan"), "soft": 0.5, "lr": 0.0, "surprise": 8, "images_per_second": 6.0},
        {"step": 3, "loss": 1.0, "soft": 0.2, "lr": 0.0, "surprise": 9, "images_per_second": 6.0},
    ],
    "b": [{"step": 2, "loss": 2.0, "hard": 2.0, "lr": 0.1}],
}
EVALUATIONS = {
    "a": [{"step": 2, "miou": 0.25, "pixel_accuracy": 0.5}, {"step": 3, "miou": 0.2, "pixel_accuracy": None}],
    "b": [],
}


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_there_is_a_curve_of_every_scalar_term():
    assert plots.quantities(STEPS, EVALUATIONS) == [
        "miou", "pixel_accuracy", "loss", "soft", "surprise", "hard", "lr", "images_per_second",
    ]  # fmt: skip
    assert list(plots.curve_panels(STEPS, EVALUATIONS)) == plots.quantities(STEPS, EVALUATIONS)
    figure = plots.curves(STEPS, EVALUATIONS)
    assert [axes.get_title(loc="left") for axes in figure.axes][4] == "surprise"
    assert len(figure.axes) == 8


def test_curves_leave_out_what_is_not_finite_and_mark_the_best_evaluation():
    panels = plots.curve_panels(STEPS, EVALUATIONS)
    loss = panels["loss"].axes[0]
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), [[1, 3], [3, 1]])
    np.testing.assert_array_equal(loss.lines[1].get_xydata(), [[2, 2]])
    assert loss.lines[1].get_color() == figures.SERIES[1]
    miou = panels["miou"].axes[0]
    np.testing.assert_allclose(miou.lines[0].get_xydata(), [[2, 25], [3, 20]])
    np.testing.assert_allclose(miou.lines[1].get_xydata(), [[2, 25]])
    assert "25.0" in texts(panels["miou"])
    assert miou.get_ylabel() == "%"


def test_two_evaluations_are_points_and_three_a_line():
    for count, joined in ((2, "None"), (3, "-")):
        run = [{"step": step, "miou": 0.1 * step} for step in range(1, count + 1)]
        panel = plots.curve_panels({"a": []}, {"a": run})["miou"]
        assert panel.axes[0].lines[0].get_linestyle() == joined
        assert panel.axes[0].lines[0].get_marker() == "o"


@pytest.mark.parametrize("panels", range(1, 16))
def test_no_panel_is_alone_in_its_row(panels):
    columns = plots.panel_columns(panels)
    assert 1 <= columns <= min(panels, 5)
    assert panels == 1 or panels % columns != 1


def test_no_number_of_a_curve_is_over_another():
    evaluations = {
        name: [{"step": step, "miou": 0.5 - 0.001 * i + best * (step == 10)} for step in (10, 20, 30)]
        for i, (name, best) in enumerate({"a": 0.01, "b": 0.01, "c": 0.0}.items())
    }
    panel = plots.curve_panels({key: [] for key in evaluations}, evaluations)["miou"]
    canvas = FigureCanvasAgg(panel)
    canvas.draw()
    axes = panel.axes[0]
    written = [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()]
    boxes = [text.get_window_extent() for text in written if text.get_text()]
    assert [text.get_text() for text in axes.texts] == ["51.0"]
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_condensing_keeps_mean_and_range():
    x = np.arange(4 * plots.MOST_POINTS, dtype=float)
    steps, mean, low, high = plots.condense(x, x % 4)
    assert len(steps) == plots.MOST_POINTS
    assert (mean == 1.5).all()
    assert (low == 0).all()
    assert (high == 3).all()
    assert steps[0] == 1.5


def test_nothing_logged_makes_no_figure():
    assert plots.curves({"a": []}, {"a": []}) is None
    assert plots.iou_bars({"a": {}}) is None
    assert plots.iou_bars({"a": {"cat": None}}) is None
    assert plots.confusion_matrices({}) is None
    assert plots.confusion_matrices({"a": (["cat", "dog"], [[0, 0], [0, 0]])}) is None
    assert plots.calibration_curves({"a": (np.zeros((3, 15)), None)}) is None


def test_bars_are_grouped_and_ordered_by_the_first_run():
    figure = plots.iou_bars({"a": {"cat": 0.2, "dog": 0.6, "cow": None}, "b": {"cat": 0.5, "dog": None}})
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dog", "cat"]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [60, 20, 0, 50])
    np.testing.assert_allclose([line.get_xdata()[0] for line in axes.lines], [40, 50])
    assert texts(figure).count("absent") == 1


def test_confusions_are_shares_of_the_true_class_without_absent_ones():
    rows, columns, shares = plots.present_confusion(["a", "b", "c"], [[3, 1, 0], [0, 6, 2], [0, 0, 0]])
    assert rows == ["a", "b"]
    assert columns == ["a", "b", "(absent)"]
    np.testing.assert_allclose(shares, [[0.75, 0.25, 0], [0, 0.75, 0.25]])
    rows, columns, shares = plots.present_confusion(["a", "b"], [[1, 0], [1, 3]])
    assert columns == rows == ["a", "b"]


def test_confusion_values_are_printed_where_there_is_room():
    figure = plots.confusion_matrices({"run": (["a", "b"], [[3, 1], [0, 8]])})
    assert [t.get_text() for t in figure.axes[0].texts] == ["75", "25", "100"]
    cells = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(cells[..., 3], [[191, 64], [0, 255]])
    many = [f"class {i}" for i in range(150)]
    figure = plots.confusion_matrices({"run": (many, np.eye(150))})
    assert not figure.axes[0].texts
    assert len(figure.axes) == 2  # with a colour bar
    assert figures.to_svg(figure, "many", "many classes").startswith("<svg")


def test_calibration_shows_accuracy_gap_and_error():
    bins = np.zeros((3, 15))
    bins[:, 7] = [10, 5, 4]
    bins[:, 14] = [30, 29, 30]
    figure = plots.calibration_curves({"run": (bins, 0.05)})
    above, below = figure.axes
    assert above.get_title(loc="left") == "ECE 5.0 %"
    accuracy, gap = above.containers
    np.testing.assert_allclose([bar.get_height() for bar in accuracy], [40, 100])
    np.testing.assert_allclose([bar.get_x() for bar in accuracy], [100 * 7 / 15, 100 * 14 / 15])
    np.testing.assert_allclose([bar.get_height() for bar in gap], [10, -100 / 30])
    np.testing.assert_allclose([bar.get_height() for bar in below.patches][7], 25)


def test_names_are_taken_literally(tmp_path):
    names = ["<b>x", "$cat$", "_犬"]
    run = dict.fromkeys(names, 0.5)
    figure = plots.iou_bars({"_first": run, "$second$": run})
    svg = figures.to_svg(figure, "bars", 'says "<bars>"')
    shown = [element.text for element in parsed(svg).iter() if element.tag.endswith("text")]
    assert {*names, "_first", "$second$"} <= set(shown)
    assert "<b>" not in svg
    figures.save_png(figure, tmp_path / "figures" / "bars.png")
    with Image.open(tmp_path / "figures" / "bars.png") as image:
        assert image.width == round(figures.WIDTH / 2.5 * 200)


def test_svg_figures_share_no_ids_and_follow_the_page():
    panels = plots.curve_panels(STEPS, EVALUATIONS)
    svgs = [figures.to_svg(figure, name, name) for name, figure in panels.items()]
    ids = [found for svg in svgs for found in re.findall(r'\bid="([^"]*)"', svg)]
    assert ids
    assert len(ids) == len(set(ids))
    for svg in svgs:
        assert "http" not in svg
        assert "<style" not in svg
        assert "var(--series-" in svg
        assert figures.INK not in svg
    assert svgs == [
        figures.to_svg(figure, name, name) for name, figure in plots.curve_panels(STEPS, EVALUATIONS).items()
    ]


def test_figures_leave_no_global_state():
    plots.curves(STEPS, EVALUATIONS)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def parsed(svg: str) -> ElementTree.Element:
    """An SVG element of a page, which needs no namespaces, as XML, which does."""
    return ElementTree.fromstring(svg.replace("<svg", '<svg xmlns:xlink="x"', 1))
