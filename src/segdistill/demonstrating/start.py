"""The demonstration: a student alone and with a teacher, over several seeds, compared, shown and exported."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdistill.config import paths
from segdistill.config.demo import DemoConfig
from segdistill.config.keywords import with_keywords
from segdistill.console import log
from segdistill.demonstrating.announcement import announcement
from segdistill.demonstrating.plan import make_plan

if TYPE_CHECKING:
    from segdistill.demonstrating.shown import Demonstration


def demo(
    config: DemoConfig | None = None,
    *,
    from_scratch: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> "Demonstration":
    """Train a student on masks alone and with a teacher too, and compare both over several seeds.

    Both see as many crops in as many steps; scores are those of the last step, on images that no training
    reads.

    Args:
        config: data, teacher, steps, seeds, where everything goes.
        from_scratch: train the teacher of the drawn images first, instead of using the one that comes along.
        overwrite: delete earlier runs in `config.out` first.
        settings: settings by name, `data="mydata", seeds=5`; they win over `config`.

    Returns:
        `networks`: by `teacher`, `alone` and `distilled` the `miou` of each seed (0 to 1) and `parameters`;
        `gains` of each seed in points, their mean `gain_points` and deviation; the paths of the `report`, the
        `picture`, and (where ONNX is installed) of the `exported` file and its `certificate`.

    Raises:
        FileNotFoundError: a file or folder that a setting names does not exist.
        ValueError: settings do not fit each other or the data, `out` holds earlier runs, or a training
            failed.
    """
    config = with_keywords(DemoConfig, config, settings)
    plan = make_plan(config, from_scratch=from_scratch)
    for training in plan.trainings:
        paths.require_writable(Path(training.out), resume=False, overwrite=overwrite)
    log(announcement(plan, config))
    from segdistill.demonstrating.run import carry_out  # after the first line: PyTorch takes seconds to load

    return carry_out(plan, config, overwrite=overwrite)
