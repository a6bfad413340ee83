"""Sequences that a model reads token by token, whatever it remembers them in.

Most models remember keys and values in a cache of transformers; layers with a recurrent state
(Qwen 3.5, LFM2, Mamba, Jamba and their like) put that state there, too. A few keep it elsewhere
(RWKV, xLSTM, RecurrentGemma): these read the whole sequence at every step. A recurrent state also
takes in the padding in front of a shorter prompt, unless the model masks it.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, LinearAttentionCacheLayerMixin

ALIKE_IN_A_PASS = 0.8
"""Padding costs a forward pass as much as tokens do: on a suite of short and long questions, full
batches were more than half padding. So a batch that is only read takes no row that is narrower than
this share of its widest; see ``batches_by_length``."""
_PROBE_TOKENS = 4
_BUSY_TOKENS = 2048
"""Tokens of a batch that keep a device busy."""


@dataclass(frozen=True)
class Memory:
    """How a model remembers what it has read.

    Attributes:
        cache_argument: the argument of its forward that takes a ``DynamicCache``; None where it
            keeps its state elsewhere.
        has_attention: whether any layer looks back at keys and values; else the attention mask is
            of the new tokens alone.
        is_recurrent: whether any layer has a state other than keys and values.
        ignores_padding: whether prompts of other lengths can stand in one batch, padded on the
            left; else all prompts of a batch must be equally long.
    """

    cache_argument: str | None = None
    has_attention: bool = True
    is_recurrent: bool = True
    ignores_padding: bool = False


@torch.inference_mode()
def memory_of(model: PreTrainedModel) -> Memory:
    """Find out how a model remembers; those with a recurrent state read a few tokens for it.

    Padding is ignored where the state of a row of nothing but padding stays zero, exactly.
    """
    known = inspect.signature(model.forward).parameters
    cache = DynamicCache(config=model.config)
    recurrent = [
        layer for layer in cache.layers if isinstance(layer, LinearAttentionCacheLayerMixin)
    ]
    if not recurrent:
        if "past_key_values" in known:
            return Memory("past_key_values", is_recurrent=False, ignores_padding=True)
        return Memory()
    argument = next((name for name in ("past_key_values", "cache_params") if name in known), None)
    if argument is None:
        return Memory()
    ids, mask = left_padded([[], [0] * _PROBE_TOKENS], model.device)
    try:
        model(**forward_arguments(model, ids, mask), use_cache=True, **{argument: cache})
    except (ValueError, TypeError, AttributeError):
        return Memory()  # it wants a cache of its own kind, as MiniMax does
    states = [
        [
            state
            for state in (*layer.conv_states.values(), *layer.recurrent_states.values())
            if state is not None
        ]
        for layer in recurrent
    ]
    if not all(states):
        return Memory()
    clean = all(not state[0].any() for layer in states for state in layer)
    attends = any(isinstance(layer, CacheLayerMixin) for layer in cache.layers)
    return Memory(argument, has_attention=attends, ignores_padding=clean)


class TokenStream:
    """Sequences of one batch that grow by a token at a time.

    Args:
        prompts: equally long where the model's memory does not ignore padding.
    """

    def __init__(
        self, model: PreTrainedModel, memory: Memory, prompts: Sequence[Sequence[int]]
    ) -> None:
        self._model = model
        self._ids, self._mask = left_padded(prompts, model.device)
        self._memory = memory
        self._argument = memory.cache_argument
        self._cache = None if self._argument is None else DynamicCache(config=model.config)
        self._only_last = last_logits_argument(model)

    def logits(self) -> torch.Tensor:
        """What follows the newest token: [rows, vocabulary]."""
        arguments = forward_arguments(self._model, self._ids, self._mask) | self._only_last
        if "attention_mask" in arguments and not self._memory.has_attention:
            arguments["attention_mask"] = self._mask[:, -self._ids.shape[1] :]
        if self._argument is not None:
            arguments[self._argument] = self._cache
        return self._model(**arguments, use_cache=self._argument is not None).logits[:, -1]

    def append(self, tokens: torch.Tensor) -> None:
        """One token a row, int64 [rows]."""
        newest = tokens[:, None]
        self._ids = newest if self._cache is not None else torch.cat([self._ids, newest], dim=1)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
        kept = torch.tensor(rows, device=self._ids.device)
        self._ids, self._mask = self._ids[kept], self._mask[kept]
        if self._cache is not None:
            self._cache.reorder_cache(kept)  # pyright: ignore[reportArgumentType]


def forward_arguments(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Token ids with what the model's forward knows of attention mask and positions.

    Args:
        ids: int64 [rows, new tokens].
        mask: int64 [rows, all tokens so far]; positions count its ones.
    """
    known = inspect.signature(model.forward).parameters
    arguments = {"input_ids": ids}
    if "attention_mask" in known:
        arguments["attention_mask"] = mask
    if "position_ids" in known:
        arguments["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
    return arguments


def left_padded(
    sequences: Sequence[Sequence[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both int64 [rows, longest], with the padding on the left.

    The padding's id does not matter, as the mask hides it: 0.
    """
    longest = max(len(sequence) for sequence in sequences)
    ids = [[0] * (longest - len(sequence)) + list(sequence) for sequence in sequences]
    mask = [[0] * (longest - len(sequence)) + [1] * len(sequence) for sequence in sequences]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def last_logits_argument(model: PreTrainedModel, count: int = 1) -> dict[str, Any]:
    """The argument that spares a model the logits of all but the last ``count`` positions."""
    known = inspect.signature(model.forward).parameters
    return {"logits_to_keep": count} if "logits_to_keep" in known else {}


@torch.inference_mode()
def states_at(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    layers: slice,
    places: Sequence[int],
    batch_tokens: int,
) -> torch.Tensor:
    """A model's states at some tokens of sequences, without the logits of all the others.

    Args:
        layers: of transformers' ``hidden_states``: the embeddings, then the output of each block.
        places: counted from the end, as -1 for the last token.

    Returns:
        fp32 [sequences, layers, places, hidden].
    """
    lengths = [len(ids) for ids in sequences]
    rows: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
    if memory_of(model).ignores_padding:
        batches = batches_by_length(lengths, batch_tokens, ALIKE_IN_A_PASS)
    else:
        batches = batches_of_equals(lengths, lengths, batch_tokens)
    for batch in batches:
        ids, mask = left_padded([sequences[index] for index in batch], model.device)
        arguments = forward_arguments(model, ids, mask) | last_logits_argument(model)
        output = model(**arguments, use_cache=False, output_hidden_states=True)
        chosen = [state[:, list(places)] for state in output.hidden_states[layers]]
        for index, row in zip(batch, torch.stack(chosen, dim=1).float(), strict=True):
            rows[index] = row
    return torch.stack(rows)


def batches_by_length(
    widths: Sequence[int], batch_tokens: int, alike: float = 0.0
) -> list[list[int]]:
    """Indices in batches of similar width, widest first; a batch has at least one row.

    Args:
        alike: what padding may cost. A batch of enough tokens to keep a device busy takes no row
            that is narrower than this share of its widest; 0 fills every batch.
    """
    batches: list[list[int]] = []
    capacity = widest = 0
    for index in sorted(range(len(widths)), key=lambda index: -widths[index]):
        rows = len(batches[-1]) if batches else 0
        is_wasteful = rows * widest >= _BUSY_TOKENS and widths[index] < alike * widest
        if rows >= capacity or is_wasteful:
            batches.append([])
            widest = widths[index]
            capacity = max(1, batch_tokens // max(1, widest))
        batches[-1].append(index)
    return batches


def batches_of_equals(
    widths: Sequence[int], lengths: Sequence[Any], batch_tokens: int, alike: float = 0.0
) -> list[list[int]]:
    """As ``batches_by_length``, but all rows of a batch have the same ``lengths``."""
    groups: dict[Any, list[int]] = {}
    for index in sorted(range(len(widths)), key=lambda index: -widths[index]):
        groups.setdefault(lengths[index], []).append(index)
    return [
        [group[place] for place in batch]
        for group in groups.values()
        for batch in batches_by_length([widths[index] for index in group], batch_tokens, alike)
    ]
