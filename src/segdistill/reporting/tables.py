"""Tables for the terminal."""

from typing import Any

from rich.table import Table

SCORES = {
    "miou": "mean IoU",
    "miou_of_classes": "mean IoU of the chosen classes",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean class accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "boundary_iou": "boundary IoU",
    "calibration_error": "expected calibration error",
    "teacher_agreement": "agreement with the teacher",
}


def score_table(summary: dict[str, Any]) -> Table:
    """The scores of one evaluation, and below them each class; what could not be computed is left out."""
    table = Table(
        title=f"{summary['target']} on {summary['data'] or 'its validation set'}, {summary['split']}"
    )
    table.add_column("")
    for column in ("IoU", "accuracy", "boundary IoU"):
        table.add_column(column, justify="right")
    for key, title in SCORES.items():
        if summary.get(key) is not None:
            table.add_row(title, f"{summary[key]:.4f}", "", "")
    table.add_section()
    for name, value in summary["iou"].items():
        if value is None:
            table.add_row(name, "absent", "", "", style="dim")
            continue
        row = (value, summary["accuracy"][name], summary["boundary_iou_by_class"][name])
        table.add_row(name, *(f"{score:.4f}" for score in row))
    return table
