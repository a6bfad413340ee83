"""Models that remember otherwise than Llama: recurrent states, alibi, no cache to hand over.

Tiny random ones in float32; what is wanted comes from transformers' own generate, one prompt at a
time, and from one plain forward pass for each choice.
"""

import random
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from eval.answering.choices import ChoiceQuestion, mean_log_likelihoods
from eval.answering.generation import Question, generate
from eval.answering.steering import hidden_states
from eval.answering.token_streams import memory_of

_VOCABULARY = 48
_COMMON = {"vocab_size": _VOCABULARY, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
_LAYERS = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
_MIXED = {**_LAYERS, **_HEADS}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
_GATED = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8}
_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3.5": (
        "qwen3_5_text",
        {
            **_MIXED,
            **_GATED,
            "linear_value_head_dim": 8,
            "layer_types": ["full_attention", "linear_attention"],
        },
    ),
    "lfm2": ("lfm2", {**_MIXED, "layer_types": ["conv", "full_attention"]}),
    # Its padding is not masked: the projection's bias reaches the state.
    "lfm2 with bias": (
        "lfm2",
        {**_MIXED, "layer_types": ["full_attention", "conv"], "conv_bias": True},
    ),
    "bamba": ("bamba", {**_MIXED, **_MAMBA, "attn_layer_indices": [0], "mamba_chunk_size": 4}),
    "falcon_h1": ("falcon_h1", {**_MIXED, **_MAMBA, "mamba_d_ssm": 64, "mamba_chunk_size": 4}),
    "mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    # These keep their state where it cannot be handed over.
    "rwkv": ("rwkv", {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 64}),
    "recurrent_gemma": (
        "recurrent_gemma",
        {**_MIXED, "lru_width": 32, "block_types": ["recurrent", "attention"]},
    ),
    # No positions as an argument.
    "bloom": (
        "bloom",
        {"hidden_size": 32, "n_layer": 2, "n_head": 4, "tie_word_embeddings": False},
    ),
}


def _make(kind: str) -> Any:
    name, settings = _KINDS[kind]
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **_COMMON, **settings))
    draws = torch.Generator().manual_seed(12)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() > 1 or parameter_name.endswith("bias"):
                parameter.normal_(0, 0.3, generator=draws)
    return model.float().eval()


def _prompts(count: int) -> list[list[int]]:
    draw = random.Random(4)
    return [[draw.randrange(1, _VOCABULARY) for _ in range(1 + n * 3 % 11)] for n in range(count)]


@pytest.mark.parametrize("kind", _KINDS)
def test_answers_of_a_batch_are_those_of_one_prompt_at_a_time(kind: str) -> None:
    """Prompts of other lengths, answers that end at other steps, batches that shrink."""
    model, prompts = _make(kind), _prompts(9)
    alone = []
    for prompt in prompts:
        whole = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=9)
        alone.append(whole[0, len(prompt) :].tolist())

    def until(ending: int) -> list[list[int]]:
        return [each[: each.index(ending)] if ending in each else each for each in alone]

    ending = max(range(_VOCABULARY), key=lambda token: len({*map(len, until(token))}))
    wanted = until(ending)
    assert len({len(answer) for answer in wanted}) > 2, "they must end at different steps"
    questions = [Question(prompt, 9) for prompt in prompts]
    answers: dict[int, list[int]] = {}
    for batch in generate(model, questions, frozenset({ending}), batch_tokens=80):
        answers.update(batch)
    assert [answers[index] for index in range(len(prompts))] == wanted


@pytest.mark.parametrize("kind", _KINDS)
def test_choices_have_the_likelihood_of_a_plain_pass(kind: str) -> None:
    model, draw = _make(kind), random.Random(5)
    questions = [
        ChoiceQuestion(prompt, [[draw.randrange(1, _VOCABULARY) for _ in range(n)] for n in sizes])
        for prompt, sizes in zip(
            _prompts(5), ([1, 4], [3, 2, 5], [1, 1], [2, 6], [4, 4]), strict=True
        )
    ]
    scores = mean_log_likelihoods(model, questions, batch_tokens=90)
    for question, row in zip(questions, scores, strict=True):
        for choice, score in zip(question.choices, row, strict=True):
            ids = torch.tensor([[*question.prompt_ids, *choice]])
            with torch.no_grad():
                logits = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
            first = len(question.prompt_ids) - 1
            terms = [logits[first + place, token].item() for place, token in enumerate(choice)]
            assert score == pytest.approx(sum(terms) / len(terms), abs=2e-5)


def test_what_padding_does_to_a_state_is_found_out() -> None:
    memories = {
        kind: memory_of(_make(kind)) for kind in ("qwen3.5", "lfm2", "lfm2 with bias", "rwkv")
    }
    assert [memory.ignores_padding for memory in memories.values()] == [True, True, False, False]
    assert memories["rwkv"].cache_argument is None


def test_states_for_steering_are_those_of_one_prompt_at_a_time() -> None:
    model, prompts = _make("lfm2 with bias"), _prompts(4)
    together = hidden_states(model, prompts, [7, 8], batch_tokens=100)
    alone = torch.cat([hidden_states(model, [prompt], [7, 8]) for prompt in prompts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
