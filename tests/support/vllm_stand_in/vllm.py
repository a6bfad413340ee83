"""A stand-in of vLLM, with the signatures that its documentation gives to what this project calls.

It answers by a tiny Llama of transformers on the CPU. It is stricter than vLLM: what is not written
here is refused, as are daemons (vLLM starts processes) and prompts beyond ``max_model_len``. As in
vLLM the parameters of the model are fused, the worker class inherits from the extension, the ending
is part of an answer, and prefixes are cached: **a prompt that was asked before other weights were
loaded gets its old answer**, unless ``reset_prefix_cache`` was called.

The folder of this file goes on ``sys.path``: see ``tests.support.vllm_installed``.
"""

import json
import multiprocessing
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_FUSED = {
    "self_attn.qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "mlp.gate_up_proj": ("gate_proj", "up_proj"),
}


@dataclass(frozen=True)
class SamplingParams:
    """vLLM's, as far as this project sets it."""

    temperature: float = 1.0
    max_tokens: int | None = 16
    stop_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        assert self.temperature == 0, "the stand-in only decodes greedily"
        assert self.max_tokens is not None and self.max_tokens >= 1
        assert self.prompt_logprobs in (None, 0)


@dataclass(frozen=True)
class Logprob:
    """A log-probability in nats."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass(frozen=True)
class CompletionOutput:
    """What follows a prompt, its ending included."""

    index: int
    text: str
    token_ids: Sequence[int]
    finish_reason: str | None = None


@dataclass(frozen=True)
class RequestOutput:
    """What came of a prompt.

    Attributes:
        prompt_logprobs: for each token of the prompt its log-probability by its id; ``None`` for
            the first.
    """

    request_id: str
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool = True


class FusedLlama(nn.Module):
    """A Llama whose parameters are fused, and are loaded by their names in checkpoints."""

    def __init__(self, folder: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.llama: Any = LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self.places: dict[str, tuple[str, torch.Tensor]] = {
            name: (name, parameter.data) for name, parameter in self.llama.named_parameters()
        }
        for number, layer in enumerate(self.llama.model.layers):
            for fused, parts in _FUSED.items():
                block, prefix = fused.partition(".")[0], f"model.layers.{number}."
                modules = [getattr(getattr(layer, block), part) for part in parts]
                whole = torch.cat([module.weight.data for module in modules])
                pieces = whole.split([len(module.weight) for module in modules])
                for part, module, piece in zip(parts, modules, pieces, strict=True):
                    module.weight.data = piece
                    name = f"{prefix}{block}.{part}.weight"
                    self.places[name] = (f"{prefix}{fused}.weight", piece)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Copy a checkpoint's tensors into the model; returns its own names of what was loaded."""
        loaded = set()
        for name, value in weights:
            own, parameter = self.places[name]
            parameter.copy_(value)
            loaded.add(own)
        return loaded

    def checkpoint(self) -> dict[str, torch.Tensor]:
        """The weights by their names in checkpoints."""
        return {name: parameter for name, (_, parameter) in self.places.items()}


class Worker:
    """The process of a GPU."""

    def __init__(self, model: FusedLlama) -> None:
        self.model_runner = SimpleNamespace(model=model)


@dataclass
class LLM:
    """vLLM's offline engine, as far as this project starts it."""

    model: str
    dtype: str = "auto"
    tensor_parallel_size: int = 1
    max_model_len: int | None = None
    worker_extension_cls: str = ""
    started: ClassVar[list["LLM"]] = []
    _prefixes: dict[Any, list[int]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if multiprocessing.current_process().daemon:
            raise AssertionError("daemonic processes are not allowed to have children")
        # As documented, ``auto`` does not keep float32.
        dtype = torch.float16 if self.dtype == "auto" else getattr(torch, self.dtype)
        kind: Any = Worker
        if self.worker_extension_cls:
            extension = pkgutil.resolve_name(self.worker_extension_cls)
            taken = [name for name in dir(extension) if name[:2] != "__" and hasattr(Worker, name)]
            assert not taken, f"the worker has attributes of these names: {taken}"
            kind = type("Worker", (Worker, extension), {})
        self.workers: list[Any] = [
            kind(FusedLlama(self.model, dtype)) for _ in range(self.tensor_parallel_size)
        ]
        self._eos = set(_listed(GenerationConfig.from_pretrained(self.model).eos_token_id))
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self.model)
        self._eos.update(_listed(tokenizer.eos_token_id))
        LLM.started.append(self)

    def collective_rpc(
        self,
        method: str | Callable[..., Any],
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> list[Any]:
        """Call a method of every worker; what is sent are plain values."""
        assert isinstance(method, str), "newer releases send no functions by default"
        sent, named = json.loads(json.dumps([args, kwargs or {}]))
        results = [getattr(worker, method)(*sent, **named) for worker in self.workers]
        return json.loads(json.dumps(results))

    def reset_prefix_cache(
        self, reset_running_requests: bool = False, reset_connector: bool = False
    ) -> bool:
        """Forget what was computed of prompts."""
        self._prefixes.clear()
        return True

    def generate(
        self,
        prompts: Sequence[dict[str, list[int]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Continue prompts of token ids, in their order."""
        if not isinstance(sampling_params, Sequence):
            sampling_params = [sampling_params or SamplingParams()] * len(prompts)
        return [
            self._answered(number, prompt, how)
            for number, (prompt, how) in enumerate(zip(prompts, sampling_params, strict=True))
        ]

    @torch.inference_mode()
    def _answered(
        self, number: int, prompt: dict[str, list[int]], how: SamplingParams
    ) -> RequestOutput:
        (ids,) = prompt.values()
        assert list(prompt) == ["prompt_token_ids"] and type(ids) is list
        room = len(ids) + (how.max_tokens or 0)
        if self.max_model_len is not None and room > self.max_model_len:
            raise ValueError(f"{room} tokens are more than max_model_len {self.max_model_len}")
        own = None
        if how.prompt_logprobs is not None:
            own = [None, *self._own_log_probabilities(ids)]
            tokens = self._greedy(ids, how)
        else:
            key = (tuple(ids), how.max_tokens, tuple(how.stop_token_ids or ()))
            if key not in self._prefixes:
                self._prefixes[key] = self._greedy(ids, how)
            tokens = self._prefixes[key]
        return RequestOutput(str(number), ids, own, [CompletionOutput(0, "", tuple(tokens))])

    def _own_log_probabilities(self, ids: list[int]) -> list[dict[int, Logprob]]:
        rows = self._logits(ids).float().log_softmax(-1)
        following = zip(rows, ids[1:], strict=False)
        return [{token: Logprob(row[token].item())} for row, token in following]

    def _greedy(self, ids: list[int], how: SamplingParams) -> list[int]:
        tokens: list[int] = []
        endings = self._eos.union(how.stop_token_ids or ())
        while len(tokens) < (how.max_tokens or 0) and not endings.intersection(tokens[-1:]):
            tokens.append(int(self._logits([*ids, *tokens])[-1].argmax()))
        return tokens

    def _logits(self, ids: list[int]) -> torch.Tensor:
        """[tokens, vocabulary]."""
        llama = self.workers[0].model_runner.model.llama
        return llama(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def _listed(token: int | list[int] | None) -> list[int]:
    return token if isinstance(token, list) else [] if token is None else [token]
