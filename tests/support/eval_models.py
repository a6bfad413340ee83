"""A tiny chat model of random weights, made in a moment, for the tests of the evaluation."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for turn in messages %}<{{ turn.role }}> {{ turn.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
_SPECIAL = ["<pad>", "<end>", "<user>", "<assistant>", "<unk>"]
_SENTENCES = "sorry i cannot help with that how do you grond the vask first blip it two plus is red"
WORDS = _SENTENCES.split()


def make_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A word-level tokenizer; <end> ends an answer."""
    vocabulary = {word: index for index, word in enumerate([*_SPECIAL, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"],
    )
    tokenizer.chat_template = template
    return tokenizer


def make_model(seed: int = 0) -> LlamaForCausalLM:
    """A two-layer Llama whose random answers end now and then."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(_SPECIAL) + len(WORDS),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            tie_word_embeddings=False,
        )
    )
    return model.eval()


def save_model(directory: Path, seed: int = 0, template: str | None = TEMPLATE) -> Path:
    """A model's folder, as a user has it."""
    make_model(seed).save_pretrained(directory)
    make_tokenizer(template).save_pretrained(directory)
    return directory
