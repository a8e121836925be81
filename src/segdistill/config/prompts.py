"""What an open-vocabulary network is to segment: settings of every verb that opens such a network."""

from dataclasses import dataclass, field

from segdistill.config.values import require

BACKGROUND = "background"
"""The class of pixels that no prompt fits, or that nobody has drawn on: index 0 where a format has none."""


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """The classes of an open-vocabulary network (hf: CLIPSeg), each with its prompts."""

    prompts: dict[str, str | list[str]] = field(default_factory=dict)
    """Class -> prompt or list of prompts, of which the surest counts: '{road: "a road", tree: [tree, bush]}'.
    For open-vocabulary networks (hf: CLIPSeg) only, and needed by them."""
    prompt_threshold: float | None = 0.5
    """Probability below which no prompt fits: where all are less sure, pixels are of the class background.
    null leaves that class out."""

    def __post_init__(self) -> None:
        threshold = self.prompt_threshold
        require(
            threshold is None or 0 < threshold < 1, "prompt_threshold", threshold, "between 0 and 1, or null"
        )
        allowed = "at least one text for each class"
        require(all(self.texts(name) and all(self.texts(name)) for name in self.prompts), "prompts",
                self.prompts, allowed)  # fmt: skip
        require(threshold is None or BACKGROUND not in self.prompts, "prompts", self.prompts,
                f"without {BACKGROUND}, unless prompt_threshold is null")  # fmt: skip

    def texts(self, name: str) -> list[str]:
        """The prompts of a class."""
        prompts = self.prompts[name]
        return [prompts] if isinstance(prompts, str) else list(prompts)
