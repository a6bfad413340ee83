"""Training objectives: pure functions of logits and labels, each with its formula and source."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from train.chat.prompts import IGNORED_LABEL


def answer_losses(logits: Tensor, labels: Tensor, decay: float = 1.0) -> Tensor:
    """Mean cross-entropy of each sample's answer tokens: L(x) of SafePatching, section 3.

    Args:
        logits: ``[samples, tokens, vocabulary]``, any floating dtype.
        labels: ``[samples, tokens]``, the input's own ids, -100 outside the answer.
        decay: r in (0, 1]; token i of an answer, from 0, weighs r**i in its mean (issue 14).

    Returns:
        ``[samples]``, fp32, nats a token. A sample without answer tokens is not allowed.
    """
    answered = _answered(labels)
    # Answer positions alone become fp32: a long prompt's logits would be most of the memory.
    token_losses = cross_entropy(
        logits[:, :-1][answered].float(), labels[:, 1:][answered], reduction="none"
    )
    if decay == 1:
        return _mean_by_sample(token_losses, answered)
    weights = decay ** (answered.cumsum(dim=1)[answered] - 1).float()
    # Both are means over as many tokens.
    return _mean_by_sample(weights * token_losses, answered) / _mean_by_sample(weights, answered)


def ascent(losses: Tensor) -> Tensor:
    """Gradient ascent, which unlearns the answers: -L(x) (SafePatching, section 3.1)."""
    return -losses


def npo(losses: Tensor, reference: Tensor, labels: Tensor, beta: float) -> Tensor:
    """Negative preference optimization (Zhang et al., arXiv 2404.05868, equation 3).

    -(2 / beta) * log sigmoid(-beta * log(pi(y|x) / pi_0(y|x))), where log pi(y|x) is the sum over
    the answer's tokens. For beta -> 0 its gradient is that of ascent on that sum.

    Args:
        losses: ``[samples]``, of ``answer_losses``.
        reference: ``[samples]``, the same of the backbone.
        labels: ``[samples, tokens]``.
    """
    log_ratio = (reference - losses) * _answered(labels).sum(dim=1)
    return -2 / beta * logsigmoid(-beta * log_ratio)


def refusal_transitions(
    logits: Tensor, labels: Tensor, first_tokens: Tensor, decay: float = 1.0
) -> Tensor:
    """Reinforced Transition Optimization of DeRTa (Yuan et al., arXiv 2407.09121, equation 2).

    -log pi(s | x, y_<t) at every token t of a harmful answer y, where s is the token that a refusal
    begins with. The paper sums over t; this is the mean, as of all answers here.

    Args:
        logits: ``[samples, tokens, vocabulary]``, any floating dtype.
        labels: ``[samples, tokens]``, of the harmful answers, -100 outside them.
        first_tokens: ``[samples]``, int64, s of each sample.
        decay: as of ``answer_losses``.

    Returns:
        ``[samples]``, fp32, nats a token.
    """
    expected = torch.where(labels == IGNORED_LABEL, labels, first_tokens[:, None])
    return answer_losses(logits, expected, decay)


@dataclass(frozen=True)
class TopDistributions:
    """The likeliest tokens at every answer token, in order, and all others as one event."""

    ids: Tensor
    """``[answer tokens, kept]``, int64."""
    log_probabilities: Tensor
    """``[answer tokens, kept]``, fp32."""
    rest: Tensor
    """``[answer tokens]``, fp32: log probability of the others; -inf where all are kept."""


def top_distributions(logits: Tensor, labels: Tensor, kept: int) -> TopDistributions:
    """What the model expects at each answer token, cut to the ``kept`` likeliest tokens."""
    chosen = logits[:, :-1][_answered(labels)].float()
    ids = chosen.topk(min(kept, chosen.shape[-1])).indices
    return TopDistributions(ids, *_events(chosen, ids))


def answer_divergences(logits: Tensor, labels: Tensor, reference: TopDistributions) -> Tensor:
    """Mean over each answer's tokens of KL(reference || model): L_nor of llm_unlearn (2310.10683).

    Taken over the events that ``reference`` keeps, so it is a lower bound of the whole
    divergence, zero at the backbone, and the whole one where all tokens are kept.

    Returns:
        ``[samples]``, fp32, nats a token.
    """
    answered = _answered(labels)
    top, rest = _events(logits[:, :-1][answered].float(), reference.ids)
    divergence = (reference.log_probabilities.exp() * (reference.log_probabilities - top)).sum(
        dim=-1
    )
    if reference.ids.shape[-1] < logits.shape[-1]:
        divergence = divergence + reference.rest.exp() * (reference.rest - rest)
    return _mean_by_sample(divergence, answered)


def _events(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log probabilities of ``ids`` and, together, of all other tokens."""
    total = logits.logsumexp(dim=-1, keepdim=True)
    others = logits.scatter(-1, ids, -torch.inf)
    if ids.shape[-1] == logits.shape[-1]:
        # The gradient of logsumexp over nothing is NaN, also where a factor of 0 follows.
        others = others.detach()
    return logits.gather(-1, ids) - total, (others.logsumexp(dim=-1, keepdim=True) - total)[:, 0]


def _answered(labels: Tensor) -> Tensor:
    """``[samples, tokens - 1]``: whether the next token belongs to the answer."""
    return labels[:, 1:] != IGNORED_LABEL


def _mean_by_sample(values: Tensor, answered: Tensor) -> Tensor:
    rows = torch.arange(len(answered), device=values.device)[:, None].expand_as(answered)[answered]
    sums = torch.zeros(len(answered), device=values.device).index_add(0, rows, values)
    return sums / answered.sum(dim=1)
