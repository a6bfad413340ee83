"""Derivatives by the scales of a merge: one backward pass a question (issue 14).

A merge adds scale * delta to every tensor, set of entries by set. So the derivative of anything by
a scale is the inner product of its gradient and the delta on that set, and one backward pass gives
all of them. A parameter's gradient is used as soon as it is there, and let go: the memory is that
of one parameter, or of those that transformers converts together.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from eval.answering.token_streams import forward_arguments, last_logits_argument
from launch.in_memory.gradient_products import gradient_products
from launch.in_memory.hf_model import InMemoryModel
from launch.search.margins.utility_leads import UtilityLeads
from merge.common.progress import Progress
from merge.engine.inputs import ROLES
from merge.settings import SETS, MergeSettings
from train.backbone.tensor_groups import Shape, TensorGroup
from train.chat.prompts import IGNORED_LABEL
from train.data.batches import TokenizedExample, collate, prompt_tokens
from train.guards.refusal_margin import OpeningPaths, RefusalOpenings, margins


class ScaleDerivatives:
    """Differentiates what an in-memory model computes, at the weights that it has.

    Args:
        settings: of the merge, which say what the sets are and which entries are kept; its scales
            do not matter.
    """

    def __init__(self, in_memory: InMemoryModel, settings: MergeSettings) -> None:
        self._in_memory = in_memory
        self._model = in_memory.model
        self._products = gradient_products(in_memory.loaded, settings, self._model.device)
        self.names: tuple[str, ...] = tuple(in_memory.loaded.inputs.covered)
        """Tensors, in the order of the results."""

    def of_margins(
        self,
        prompts: Sequence[Sequence[int]],
        openings: RefusalOpenings,
        temperature: float,
    ) -> np.ndarray:
        """Those of every prompt's refusal margin at a temperature.

        Returns:
            fp64 [prompts, tensors, 2 patches, 3 sets], in nats per unit of scale.
        """

        paths = OpeningPaths.of(openings)

        def values() -> Iterator[Tensor]:
            for prompt in prompts:
                rows = [(ids, [IGNORED_LABEL] * len(ids)) for ids in paths.rows(prompt)]
                logits, _ = self._logits(rows, len(prompt))
                known = paths.log_probabilities(logits, temperature)
                yield margins(known[None])[0]

        return self._of(values(), len(prompts))

    def of_leads(self, leads: UtilityLeads, places: Sequence[int]) -> np.ndarray:
        """Those of the leads of some right answers.

        Args:
            places: which of the utility questions.

        Returns:
            fp64 [places, tensors, 2 patches, 3 sets], per unit of scale.
        """

        closest = leads.closest(self._model, places)

        def values() -> Iterator[Tensor]:
            for place, question in zip(places, closest, strict=True):
                prompt = len(question.question.prompt_ids)
                lead = question.lead(*self._logits(question.examples(), prompt))
                yield lead / leads.spread(place)

        return self._of(values(), len(places))

    def of_own_tokens(self, examples: Sequence[TokenizedExample], seed: int) -> np.ndarray:
        """Those of the log-probability of tokens drawn from the model itself, answer by answer.

        At each token of an answer another one is drawn from what the model predicts there. The
        mean outer product of these derivatives is the Fisher matrix, the Hessian of the KL
        divergence to the model as it is (Amari 1998, natural gradient).

        Returns:
            fp64 [examples, tensors, 2 patches, 3 sets], each over the square root of its tokens.
        """
        generator = torch.Generator().manual_seed(seed)

        def values() -> Iterator[Tensor]:
            for example in examples:
                logits, labels = self._logits([example], prompt_tokens(example))
                predicted = logits[0, :-1][labels[0, 1:] != IGNORED_LABEL].float().log_softmax(-1)
                drawn = torch.multinomial(predicted.detach().exp().cpu(), 1, generator=generator)
                chosen = predicted.gather(-1, drawn.to(predicted.device))
                yield chosen.sum() / len(chosen) ** 0.5

        return self._of(values(), len(examples))

    def _logits(self, rows: Sequence[TokenizedExample], prompt: int) -> tuple[Tensor, Tensor]:
        """Logits and labels of some rows, from the last of so many tokens of a prompt on."""
        batch = collate(rows, range(len(rows)))
        ids = batch.input_ids.to(self._model.device)
        mask = batch.attention_mask.to(self._model.device)
        kept = ids.shape[1] - prompt + 1
        arguments = forward_arguments(self._model, ids, mask)
        arguments |= last_logits_argument(self._model, kept)
        logits = self._model(**arguments, use_cache=False).logits[:, -kept:]
        return logits, batch.labels[:, -kept:].to(self._model.device)

    def _of(self, values: Iterable[Tensor], count: int) -> np.ndarray:
        rows: list[Tensor] = []
        shape = (len(self.names), len(ROLES), len(SETS))
        place = {name: number for number, name in enumerate(self.names)}

        def take(name: str, gradient: Tensor) -> None:
            rows[-1][place[name]] = self._products.of(name, gradient)

        with self._hooked(take), Progress("derivatives", count, "questions") as progress:
            iterator = iter(values)
            while True:
                rows.append(torch.zeros(shape, dtype=torch.float64, device=self._products.device))
                value = next(iterator, None)
                if value is None:
                    break
                value.backward()
                progress.advance()
        return torch.stack(rows[:-1]).cpu().numpy()

    @contextmanager
    def _hooked(self, take: Callable[[str, Tensor], None]) -> Iterator[None]:
        """Hand every covered tensor's gradient to ``take`` in each backward pass."""
        wanted, shapes = set(self.names), self._in_memory.map.shapes
        parameters = dict(self._model.named_parameters())
        before = {name: parameter.requires_grad for name, parameter in parameters.items()}
        self._model.requires_grad_(False)
        handles = []
        if (head := self._model.get_output_embeddings()) is not None:
            handles.append(head.register_forward_pre_hook(_contiguous))
        for group in self._in_memory.map.groups:
            if wanted.isdisjoint(group.tensors):
                continue
            gathered = _Gathered(group, shapes, wanted, self._products.device, take)
            for name in group.parameters:
                parameter = parameters[name].requires_grad_(True)
                hook = partial(gathered.add, name)
                handles.append(parameter.register_post_accumulate_grad_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            # Forward passes that come later have no hook at the head: see ``_contiguous``.
            for name, parameter in parameters.items():
                parameter.requires_grad_(before[name])


def _contiguous(head: Module, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Copy the states that a model's head gets.

    Those of the last positions have the strides of all positions. With a head that needs no
    gradient PyTorch 2.13 multiplies such states row by row, with a copy of the weights each: 48 GB
    for a large vocabulary. It does so with a single row, too, which ``contiguous`` does not copy.
    """
    return tuple(each.clone(memory_format=torch.contiguous_format) for each in states)


class _Gathered:
    """The gradients of one group of parameters, until all of them are there."""

    def __init__(
        self,
        group: TensorGroup,
        shapes: Mapping[str, Shape],
        wanted: Container[str],
        device: torch.device,
        take: Callable[[str, Tensor], None],
    ) -> None:
        self._group = group
        self._shapes = shapes
        self._wanted = wanted
        self._device = device
        self._take = take
        self._waiting: dict[str, Tensor] = {}

    def add(self, name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._waiting[name] = parameter.grad.float().to(self._device)
        parameter.grad = None
        if len(self._waiting) == len(self._group.parameters):
            for tensor, gradient in self._group.to_tensors(self._waiting, self._shapes).items():
                if tensor in self._wanted:
                    self._take(tensor, gradient)
            self._waiting.clear()
