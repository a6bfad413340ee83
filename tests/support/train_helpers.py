"""A tiny chat model, data and recipe for the tests of train/, and a way to run its command."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from merge.common.errors import STOPPED_EXIT_STATUS
from train.launcher import training_command

ROOT = Path(__file__).parents[2]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}<|{{ turn['role'] }}|> {{ turn['content'] }}"
    "{% if turn['role'] == 'assistant' %} <|end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<s>", "<pad>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>"]
WORDS = [f"w{number}" for number in range(91)]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of 97 tokens with a chat template that writes its own BOS."""
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
    )


def make_backbone(
    directory: Path,
    shard_size: str = "5GB",
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Path:
    """A random Llama whose sizes do not divide by 2 or 3, so that partitions are padded."""
    tokenizer = make_tokenizer()
    torch.manual_seed(11)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 30,
        "intermediate_size": 41,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 5,
    }
    model: Any = LlamaForCausalLM(LlamaConfig(**{**settings, **config}))
    model = model.to(dtype)
    model.save_pretrained(directory, max_shard_size=shard_size)
    tokenizer.save_pretrained(directory)
    return directory


def load_backbone(directory: Path) -> torch.nn.Module:
    """The whole backbone in one process, in fp32."""
    return AutoModelForCausalLM.from_pretrained(directory).float()


def make_pairs(path: Path, count: int = 10) -> Path:
    """Word salad: questions and answers of different lengths."""
    with path.open("w") as file:
        for number in range(count):
            pair = {
                "question": " ".join(WORDS[(number * 7 + i) % 91] for i in range(2 + number % 4)),
                "answer": " ".join(WORDS[(number * 5 + 3 * i) % 91] for i in range(1 + number % 5)),
                "category": "even" if number % 2 == 0 else "odd",
            }
            file.write(json.dumps(pair) + "\n")
    return path


def make_recipe(directory: Path, **sections: Any) -> Path:
    """A recipe of four steps over its own backbone and data, all in ``directory``."""
    training = {
        "learning_rate": 1e-3,
        "steps": 4,
        "batch_size": 5,
        "micro_batch_size": 2,
        "guards": {"max_forget_loss": 50.0},
    }
    recipe = {
        "name": "tiny",
        "output": str(directory / "run"),
        "backbone": {"path": str(directory / "backbone")},
        "data": {"path": str(directory / "pairs.jsonl")},
        "safety": training,
        "over_safety": training,
        "importance": {"samples": 7},
    }
    for name, section in sections.items():
        value = recipe.get(name, {})
        recipe[name] = {**value, **section} if isinstance(section, dict) else section
    if not (directory / "backbone").exists():
        make_backbone(directory / "backbone")
    if not (directory / "pairs.jsonl").exists():
        make_pairs(directory / "pairs.jsonl")
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def run_training(
    recipe: Path, *arguments: str, processes: int = 2, role: str = "safety"
) -> subprocess.CompletedProcess[str]:
    """Train one patch by the project's own launcher and wait for it."""
    command = [sys.executable, "-m", "train.launcher", f"--processes={processes}"]
    return subprocess.run(
        [*command, str(recipe), *arguments, "--role", role],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def stop_training(
    recipe: Path,
    words: str,
    ask: Callable[[int], None],
    *overrides: str,
    processes: int = 2,
) -> str:
    """Start a safety training, call ``ask`` with the launcher's id when it says ``words``.

    Returns:
        Its log, after a stop on request.
    """
    launcher = subprocess.Popen(
        training_command(processes, recipe, "safety", overrides),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    guard = threading.Timer(120, launcher.kill)
    guard.start()
    log = ""
    assert launcher.stderr is not None
    for line in launcher.stderr:
        if words in line and words not in log:
            ask(launcher.pid)
        log += line
    status = launcher.wait()
    guard.cancel()
    assert status == STOPPED_EXIT_STATUS, log
    assert log.count("stopped on request: safety training is saved") == 1, log
    assert "Traceback" not in log
    return log


def stop_after_a_checkpoint(run: Path) -> Callable[[int], None]:
    """For ``stop_training``: a SIGTERM as soon as the first checkpoint is whole."""

    def wait(launcher: int) -> None:
        while not list(run.glob("safety.work/step-*/complete.json")):
            time.sleep(0.005)
        os.kill(launcher, signal.SIGTERM)

    return lambda launcher: threading.Thread(target=wait, args=(launcher,), daemon=True).start()
