"""Masked language modelling: DeCLIP's self-supervision of the text tower."""

from collections.abc import Mapping

from torch import Tensor

from protoclip.distributed import total, world_size
from protoclip.losses import masked_lm_loss
from protoclip.terms.base import FeatureKey, StepInputs, Term


class MaskedLM(Term):
    """Cross entropy of the words that the loader masked, over all that it masked in the batch of all processes.

    Args:
        text: the masked text view; the words asked for are the batch's ``<text>_labels`` [batch, length], -100 for
            those that are not.
        head: name of the head from a token's state to words.
        weight: factor in the total loss.
    """

    def __init__(self, text: str = "text", *, head: str = "mlm", weight: float = 1.0) -> None:
        super().__init__(weight)
        self.tokens = FeatureKey("text", text, "tokens")
        self.labels = f"{text}_labels"
        self.head = head

    @property
    def required(self) -> tuple[FeatureKey, ...]:  # noqa: D102
        return (self.tokens,)

    @property
    def targets(self) -> tuple[str, ...]:  # noqa: D102
        return (self.labels,)

    @property
    def heads(self) -> Mapping[str, str]:  # noqa: D102
        return {self.head: "text"}

    def forward(self, inputs: StepInputs) -> dict[str, Tensor]:  # noqa: D102
        labels = inputs.targets[self.labels]
        asked = labels != -100
        words = labels[asked]
        # The head on these few alone: logits of all positions would be the step's largest tensor
        logits = inputs.heads[self.head](inputs.features[self.tokens][asked])
        if len(words) and int(words.max()) >= logits.shape[1]:
            raise ValueError(
                f"a masked word has the id {int(words.max())}, the head {self.head} {logits.shape[1]} words: "
                f"raise heads.{self.head}.vocab_size"
            )
        if not inputs.gathers or world_size() == 1:
            return {"loss": masked_lm_loss(logits, words)}
        # DDP takes the mean over processes, which may have masked unequal numbers of words
        count = total(asked.sum(), asked.device)
        return {"loss": world_size() * masked_lm_loss(logits, words, count=count)}
