"""Decodings that look at states must not pay for the logits of whole prompts: most of the time."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from eval.answering.safe_switch.training import last_states
from eval.answering.steering import hidden_states
from tests.support.architectures import make_model

PROMPTS = [[3, 9, 11, 4], [8, 2], [12, 5, 3, 3, 7]]


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda model: last_states(model, PROMPTS), id="SafeSwitch"),
        pytest.param(lambda model: hidden_states(model, PROMPTS, [6, 1]), id="SCANS"),
    ],
)
def test_states_are_read_with_the_logits_of_one_token_a_prompt(read, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(make_model("llama", tmp_path / "m")).eval()
    seen: list[torch.Size] = []
    model.lm_head.register_forward_hook(lambda head, states, logits: seen.append(logits.shape))
    read(model)
    assert [shape[:2] for shape in seen] == [(len(PROMPTS), 1)]
