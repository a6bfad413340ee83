"""The tokenized samples of one training, by what they are for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np

from merge.common.errors import UserError
from train.chat.example import Example
from train.chat.prompts import IGNORED_LABEL, ChatPrompts
from train.data.batches import TokenizedExample, random_subset
from train.data.decoupled_refusals import DecoupledRefusals, decouple_refusals
from train.guards.refusal_margin import RefusalOpenings, opening_examples
from train.settings import OBJECTIVES, TrainingSettings


@dataclass(frozen=True)
class TrainingData:
    """What the terms of an objective and the guards look at."""

    forget: Sequence[TokenizedExample]
    """D_h, or what else the patch is trained on."""
    mismatched: Sequence[TokenizedExample] = ()
    """D_h's questions with random harmless answers, where the objective needs them."""
    harmless: Sequence[TokenizedExample] = ()
    """Harmless pairs to train on, where the objective wants them."""
    decoupled: DecoupledRefusals | None = None
    """What ``derta`` makes of D_h and refusals."""
    retained: Sequence[TokenizedExample] = ()
    """Harmless pairs that are only watched."""
    measured: Sequence[TokenizedExample] = ()
    """Pairs of the importance, where they are not those of ``forget``."""
    openings: Sequence[Sequence[TokenizedExample]] = ()
    """Some questions of D_h, each with every refusal opening; watched, never trained on."""
    refusals_open: Sequence[Sequence[int]] = ()
    """Token ids of the refusal openings, where these are known."""

    def texts(self) -> Iterator[list[int]]:
        """The token ids of every sample."""
        refusals = self.decoupled.refusals if self.decoupled else ()
        pairs = (
            self.forget, self.mismatched, self.harmless, refusals, self.retained, self.measured,
        )  # fmt: skip
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
    refusals: Sequence[Example] = (),
) -> TrainingData:
    """Tokenize D_h and, of the harmless pairs, what this training needs.

    Args:
        seed: of the harmless answers that harmful questions get, of the watched questions, and of
            what ``derta`` draws.
        openings: of the backbone's refusals, where the margin is watched.
        refusals: harmful questions with refusals, where the objective learns them.

    Raises:
        UserError: too few pairs for the objective, or a question leaves no room for its answer.
    """
    length = settings.max_length
    data = TrainingData(forget=prompts.encode(examples, length))
    if openings is not None:
        chosen = random_subset(settings.guards.margin_samples, len(examples), seed)
        questions = [prompts.answer_start(examples[index].question) for index in chosen]
        watched_openings = [opening_examples(ids, openings) for ids in questions]
        data = replace(data, openings=watched_openings, refusals_open=openings.tokens)
    if refusals:
        decoupled = decouple_refusals(prompts, settings, examples, data.forget, refusals, seed)
        data = replace(data, decoupled=decoupled)
    if not harmless:
        return data
    watched = settings.guards.retained_samples
    data = replace(data, retained=prompts.encode(harmless[-watched:], length))
    objective = OBJECTIVES[settings.objective]
    if not objective.needs_harmless:
        return data
    trained = harmless[:-watched]
    if not trained:
        raise UserError(
            f"harmless: has {len(harmless)} pairs, and guards.retained_samples keeps {watched} "
            "of them from training; give more pairs, or keep fewer"
        )
    data = replace(data, harmless=prompts.encode(trained, length))
    if not objective.mismatches:
        return data
    return replace(data, mismatched=prompts.encode(_mismatched(examples, trained, seed), length))


def _mismatched(
    examples: Sequence[Example], harmless: Sequence[Example], seed: int
) -> list[Example]:
    """Each harmful question with the answer to a random harmless one."""
    generator = np.random.Generator(np.random.Philox(key=[seed, len(examples)]))
    answers = generator.integers(len(harmless), size=len(examples)).tolist()
    return [
        Example(example.question, harmless[answer].answer)
        for example, answer in zip(examples, answers, strict=True)
    ]


def cut_answers(
    examples: Sequence[TokenizedExample],
    tokens: int | None,
    openings: Sequence[Sequence[int]] = (),
) -> Sequence[TokenizedExample]:
    """The samples up to so many first tokens of their answers; ``None`` keeps whole answers.

    What follows cannot change the loss of these tokens, so it is not computed either.

    Args:
        openings: of refusals, as token ids. What an answer begins with as one of them does has no
            loss, and does not count, but for the answer's last token: "As an AI language model, I"
            can go on as a refusal, so to unlearn it would be to unlearn refusing (issue 17).
    """
    if tokens is None:
        return examples
    return [_cut_answer(example, tokens, openings) for example in examples]


def _cut_answer(
    example: TokenizedExample, tokens: int, openings: Sequence[Sequence[int]]
) -> TokenizedExample:
    ids, labels = example
    places = [place for place, label in enumerate(labels) if label != IGNORED_LABEL]
    answer = [labels[place] for place in places]
    shared = max((_alike(answer, opening) for opening in openings), default=0)
    counted = places[min(shared, len(places) - 1) :][:tokens]
    end = counted[-1] + 1
    return ids[:end], [IGNORED_LABEL] * counted[0] + labels[counted[0] : end]


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
