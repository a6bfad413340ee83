"""Whether a model has an embedding for every token id of the texts that it will be given."""

from collections.abc import Iterable, Sequence
from typing import Any

from merge.common.errors import UserError


def embedding_count(model: Any) -> int:
    """Number of token embeddings of a ``PreTrainedModel``, on any device, meta included."""
    return model.get_input_embeddings().weight.shape[0]


def refuse_unknown_ids(texts: Iterable[Sequence[int]], embeddings: int, source: str) -> None:
    """See that every token id has an embedding.

    A tokenizer may know more tokens than its model: padding tokens that no text holds do no harm.

    Args:
        texts: token ids of every text that the model will be given.
        source: what the error calls the model.

    Raises:
        UserError: naming the largest id.
    """
    largest = max((max(ids, default=0) for ids in texts), default=0)
    if largest >= embeddings:
        raise UserError(
            f"{source}: its tokenizer turns a text into token {largest}, and its model has "
            f"{embeddings} embeddings; use the tokenizer that the model was trained with"
        )
