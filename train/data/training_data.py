"""The tokenized samples of one training, by what they are for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from merge.common.errors import UserError
from train.chat.example import Example
from train.chat.prompts import IGNORED_LABEL, ChatPrompts
from train.data.batches import TokenizedExample, random_subset
from train.guards.refusal_margin import RefusalOpenings, opening_examples
from train.settings import OBJECTIVES, TrainingSettings


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
    openings: Sequence[Sequence[TokenizedExample]] = ()
    """Some questions of D_h, each with every refusal opening; watched, never trained on."""

    def texts(self) -> Iterator[list[int]]:
        """The token ids of every sample."""
        pairs = (self.forget, self.mismatched, self.harmless, self.retained, self.measured)
        for part in (*pairs, *self.openings):
            for ids, _ in part:
                yield ids


def tokenize_data(
    prompts: ChatPrompts,
    settings: TrainingSettings,
    examples: Sequence[Example],
    harmless: Sequence[Example],
    seed: int,
    openings: RefusalOpenings | None = None,
) -> TrainingData:
    """Tokenize D_h and, of the harmless pairs, what this training needs.

    Args:
        seed: of the harmless answers that harmful questions get, and of the watched questions.
        openings: of the backbone's refusals, where the margin is watched.

    Raises:
        UserError: too few harmless pairs, or a question that leaves no room for its answer.
    """
    length = settings.max_length
    data = TrainingData(forget=prompts.encode(examples, length))
    if openings is not None:
        chosen = random_subset(settings.guards.margin_samples, len(examples), seed)
        questions = [prompts.answer_start(examples[index].question) for index in chosen]
        data = replace(data, openings=[opening_examples(ids, openings) for ids in questions])
    if not harmless:
        return data
    watched = settings.guards.retained_samples
    data = replace(data, retained=prompts.encode(harmless[-watched:], length))
    if not OBJECTIVES[settings.objective].needs_harmless:
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


def cut_answers(
    examples: Sequence[TokenizedExample], tokens: int | None
) -> Sequence[TokenizedExample]:
    """The samples up to so many first tokens of their answers; ``None`` keeps whole answers.

    What follows cannot change the loss of these tokens, so it is not computed either.
    """
    return examples if tokens is None else [_cut_answer(example, tokens) for example in examples]


def _cut_answer(example: TokenizedExample, tokens: int) -> TokenizedExample:
    ids, labels = example
    places = [place for place, label in enumerate(labels) if label != IGNORED_LABEL]
    end = places[:tokens][-1] + 1
    return ids[:end], labels[:end]
