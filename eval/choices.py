"""Multiple choice by log-likelihood: which answer does the model find likeliest per token?"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from eval.generation import batches_by_length, last_logits_argument, left_padded


def mean_log_likelihoods(
    model: PreTrainedModel, examples: Sequence[tuple[list[int], list[int]]], batch_tokens: int
) -> list[float]:
    """Mean log-probability of the answer's tokens, in nats per token.

    Args:
        examples: token ids and labels of equal length; labels are -100 outside the answer, and
            the answer stands at the end (as ``ChatPrompts.example`` gives it).
        batch_tokens: rows x tokens of one batch stay at or below this.

    Returns:
        One value per example: (1/|answer|) * sum over answer tokens of log p(token | before).
    """
    scores = [0.0] * len(examples)
    for batch in batches_by_length([len(ids) for ids, _ in examples], batch_tokens):
        chunk = [examples[index] for index in batch]
        for index, score in zip(batch, _score_batch(model, chunk), strict=True):
            scores[index] = score
    return scores


@torch.inference_mode()
def answer_logits(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], count: int
) -> torch.Tensor:
    """The logits that foretell the last ``count`` tokens: [sequences, count, vocabulary].

    In the model's dtype: they are the largest array there is, so take them to fp32 by the row.
    """
    ids, mask = left_padded(sequences, model.device)
    # Left padding puts all answers at the right edge: logits before them are never needed.
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp_min(0),
        use_cache=False,
        **last_logits_argument(model, count=count + 1),
    ).logits
    return logits[:, -count - 1 : -1]


def _score_batch(
    model: PreTrainedModel, examples: Sequence[tuple[list[int], list[int]]]
) -> list[float]:
    longest = max(sum(label != -100 for label in labels) for _, labels in examples)
    logits = answer_logits(model, [ids for ids, _ in examples], longest)
    tails = [([-100] * longest + labels)[-longest:] for _, labels in examples]
    return [_mean_of_answer(*row) for row in zip(logits, tails, strict=True)]


def _mean_of_answer(logits: torch.Tensor, labels: Sequence[int]) -> float:
    """The mean log-probability of the labels that are not -100; logits [labels, vocabulary]."""
    wanted = torch.tensor(labels, device=logits.device)
    answer = wanted != -100
    log_probabilities = logits[answer].float().log_softmax(-1)
    return log_probabilities.gather(-1, wanted[answer][:, None]).mean().item()
