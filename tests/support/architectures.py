"""Tiny random models of many architectures, as transformers itself saves them."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.support.train_helpers import make_tokenizer

_SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 5,
    "pad_token_id": None,
}
_EXPERTS: dict[str, Any] = {
    "num_experts": 3,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
}
_LINEAR_HEADS = {
    f"linear_{part}": value
    for part, value in {
        "num_value_heads": 4, "num_key_heads": 2, "key_head_dim": 4, "value_head_dim": 4,
    }.items()
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "phi3": {"pad_token_id": 0},
    "gpt2": {
        "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 97,
        "attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0,
    },
    "gpt_neox": {},
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 4, "vocab_size": 97},
    "mpt": {"d_model": 16, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "vocab_size": 97},
    "gemma2": {"head_dim": 4},
    "mixtral": _EXPERTS,
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 12, "decoder_sparse_step": 1},
    "gpt_oss": {**_EXPERTS, "head_dim": 4, "layer_types": ["full_attention"] * 2},
    "deepseek_v3": {
        **_EXPERTS, "n_routed_experts": 4, "first_k_dense_replace": 1, "n_group": 1,
        "topk_group": 1, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4, "v_head_dim": 4, "num_key_value_heads": 4,
    },
    "qwen3_5_text": {
        "layer_types": ["linear_attention", "full_attention"], "head_dim": 4, **_LINEAR_HEADS,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "full_attn_idxs": [1]},
    "granitemoe": _EXPERTS,
    "gemma3": {
        "text_config": {**_SIZES, "head_dim": 4, "pad_token_id": 0},
        "vision_config": {
            "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
        },
        "mm_tokens_per_image": 1,
    },
}  # fmt: skip
_SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4}
_PLAIN = (
    "qwen2 qwen3 gemma olmo olmo2 phi stablelm cohere cohere2 granite smollm3 starcoder2 glm glm4 "
    "nemotron ministral3 seed_oss ernie4_5 arcee apertus falcon exaone4 persimmon gpt_bigcode xglm "
    "biogpt"
)
SURVEYED: dict[str, dict[str, Any]] = {
    **ARCHITECTURES,
    **{kind: {} for kind in _PLAIN.split()},
    "mistral": {"sliding_window": 16},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "hunyuan_v1_dense": {"head_dim": 4},
    "helium": {"head_dim": 4},
    "gemma3_text": {**_SLIDING, "head_dim": 4, "pad_token_id": 0},
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "qwen3_moe": {**_EXPERTS, "decoder_sparse_step": 1},
    "olmoe": _EXPERTS,
    "phimoe": _EXPERTS,
    "jetmoe": _EXPERTS,
    "minimax_m2": _EXPERTS,
    "ernie4_5_moe": {**_EXPERTS, "moe_num_experts": 3, "moe_k": 2},
    "glm4_moe": {**_EXPERTS, "n_routed_experts": 4, "n_group": 1, "topk_group": 1},
    "qwen3_next": {
        **_EXPERTS, "layer_types": ["linear_attention", "full_attention"], **_LINEAR_HEADS,
    },
    "mamba2": {"num_heads": 4, "head_dim": 8, "n_groups": 1, "state_size": 4, "expand": 2},
    "falcon_h1": {**_MAMBA, "mamba_d_head": 4, "mamba_d_ssm": 16},
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "jamba": {
        **_EXPERTS, "mamba_d_state": 4, "mamba_dt_rank": 4, "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },
    "granitemoehybrid": {
        **_EXPERTS, **_MAMBA, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 12,
    },
}  # fmt: skip
_OWN_SIZES = ("gpt2", "bloom", "mpt", "gemma3")


def make_model(kind: str, folder: Path, **changes: Any) -> Path:
    """Save a random fp32 model with a tokenizer of 97 words and a chat template."""
    shared = {} if kind in _OWN_SIZES else _SIZES
    config = AutoConfig.for_model(kind, **{**shared, **SURVEYED[kind], **changes})
    torch.manual_seed(4)
    model: Any = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
