"""The demo's backbone: a SentencePiece tokenizer and a small Llama, trained on the world."""

import io
import random
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from launch.demo.settings import WorldSettings
from launch.demo.world_data import WorldData
from launch.prepare.supervised import train_on_answers
from merge.common.files import atomic_write_json
from merge.common.progress import Progress
from train.chat.prompts import ChatPrompts

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}[user] {{ message['content'] }} [assistant]"
    "{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
_TOKENIZER_SAMPLES = 4000
_WORD_REPEATS = 20
_LONGEST = 64


def make_tokenizer(
    data: WorldData, settings: WorldSettings, folder: Path
) -> PreTrainedTokenizerBase:
    """Train a byte-pair SentencePiece model on the world's text and save it as a chat tokenizer."""
    draw = random.Random("tokenizer")
    pairs = [data.training_pair(draw) for _ in range(_TOKENIZER_SAMPLES)]
    words = " ".join(data.language.vocabulary())
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(
            [*(text for pair in pairs for text in pair), *[words] * _WORD_REPEATS]
        ),
        model_writer=model,
        vocab_size=settings.vocabulary_size,
        model_type="bpe",
        pad_id=3,
        user_defined_symbols=["[user]", "[assistant]"],
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "chat_template": CHAT_TEMPLATE,
    }
    atomic_write_json(folder / "tokenizer_config.json", config)
    # Reading the SentencePiece model converts it; saving keeps the converted form beside it.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def train_backbone(
    data: WorldData, tokenizer: PreTrainedTokenizerBase, settings: WorldSettings, seed: int
) -> LlamaForCausalLM:
    """Train a small Llama on the world, on its answers only; deterministic on one machine.

    Every batch draws new outcomes, so a request that is refused at times and answered at times
    keeps both in the model's distribution.
    """
    torch.manual_seed(seed)
    draw = random.Random(f"backbone {seed}")
    prompts = ChatPrompts(tokenizer, "demo tokenizer")
    special: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=3 * settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=4,
        max_position_embeddings=_LONGEST,
        **special,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps, pct_start=0.1
    )
    with Progress("backbone", settings.steps, "steps") as progress:
        batches = (
            [
                prompts.example(*pair)
                for pair in [data.training_pair(draw) for _ in range(settings.batch_size)]
            ]
            for _ in progress.over(range(settings.steps))
        )
        train_on_answers(model, batches, optimizer, schedule)
    return model
