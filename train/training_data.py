"""The tokenized samples of one training, by what they are for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from merge.errors import UserError
from train.batches import TokenizedExample
from train.data import Example
from train.prompts import ChatPrompts
from train.settings import TrainingSettings


@dataclass(frozen=True)
class TrainingData:
    """What the terms of an objective and the guards look at."""

    forget: Sequence[TokenizedExample]
    """D_h, or what else the patch is trained on."""
    mismatched: Sequence[TokenizedExample] = ()
    """Its questions with random harmless answers, where the objective wants them."""
    harmless: Sequence[TokenizedExample] = ()
    """Harmless pairs to train on, where the objective wants them."""
    retained: Sequence[TokenizedExample] = ()
    """Harmless pairs that are only watched."""
    measured: Sequence[TokenizedExample] = ()
    """Pairs of the importance, where they are not those of ``forget``."""

    def texts(self) -> Iterator[list[int]]:
        """The token ids of every sample."""
        for part in (self.forget, self.mismatched, self.harmless, self.retained, self.measured):
            for ids, _ in part:
                yield ids


def tokenize_data(
    prompts: ChatPrompts,
    settings: TrainingSettings,
    examples: Sequence[Example],
    harmless: Sequence[Example],
    seed: int,
) -> TrainingData:
    """Tokenize D_h and, of the harmless pairs, what this training needs.

    Args:
        seed: of the harmless answers that harmful questions get.

    Raises:
        UserError: too few harmless pairs, or a question that leaves no room for its answer.
    """
    length = settings.max_length
    data = TrainingData(forget=prompts.encode(examples, length))
    if not harmless:
        return data
    watched = settings.guards.retained_samples
    data = replace(data, retained=prompts.encode(harmless[-watched:], length))
    if settings.objective != "ascent_mismatch_kl":
        return data
    trained = harmless[:-watched]
    if not trained:
        raise UserError(
            f"harmless: has {len(harmless)} pairs, and guards.retained_samples keeps {watched} "
            "of them from training; give more pairs, or keep fewer"
        )
    generator = np.random.Generator(np.random.Philox(key=[seed, len(examples)]))
    answers = generator.integers(len(trained), size=len(examples)).tolist()
    mismatched = [
        Example(example.question, trained[answer].answer)
        for example, answer in zip(examples, answers, strict=True)
    ]
    return replace(
        data,
        mismatched=prompts.encode(mismatched, length),
        harmless=prompts.encode(trained, length),
    )
