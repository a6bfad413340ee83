"""The Hugging Face Trainer beside the job: same model, batches and DeepSpeed file.

    torchrun --nproc-per-node N tests/benchmarks/bare_trainer.py RECIPE OUT.json

trains the over-safety patch's samples as ``measure_gpu.py`` asks. As a contender of
``benchmark_train.py`` it trains in one call from beginning to end, so the others take their turns
inside its callback.
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from merge.common.errors import end_process
from merge.common.files import atomic_write_json
from train.backbone.folder import load_tokenizer
from train.chat.prompts import ChatPrompts
from train.data.batches import BatchPlan, TokenizedExample, collate
from train.data.examples import read_examples
from train.job.monitor import peak_memory_mib
from train.recipe import TrainRecipe, load_recipe
from train.settings import TrainingSettings
from train.zero.collectives import gather_from_ranks, wait_for_ranks
from train.zero.ds_config import CONFIG_FOLDER
from train.zero.group import initialise_distributed
from train.zero.ranks import World


class Turns(TrainerCallback):
    """Lets the others go first in every round of so many steps, and times the Trainer's own.

    Args:
        others: runs the other contenders of a round, given its number.
    """

    def __init__(self, steps: int, others: Callable[[int], None]) -> None:
        self.seconds: list[float] = []
        self._steps = steps
        self._others = others
        self._started = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self._steps == 0:
            self._others(state.global_step // self._steps)
            wait_for_ranks()
            self._started = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self._steps == 0:
            wait_for_ranks()
            self.seconds.append(time.perf_counter() - self._started)


def train_by_trainer(
    folder: Path,
    settings: TrainingSettings,
    examples: Sequence[TokenizedExample],
    batches: Sequence[Sequence[int]],
    world: World,
    rounds: int,
    others: Callable[[int], None],
) -> list[float]:
    """Train on the batches of a round, so many rounds; the seconds of each (collective).

    Args:
        batches: samples of every step, all as many; accelerate gives the ranks their micro-batches
            from them in turn, which is how the job shares them out.
    """
    share = len(batches[0]) // (settings.micro_batch_size * world.size)
    on_gpu = torch.cuda.is_available()
    default = CONFIG_FOLDER / ("zero3_gpu.json" if on_gpu else "zero3_cpu.json")
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        deepspeed=str(default) if settings.ds_config == "auto" else settings.ds_config,
        bf16=on_gpu,
        gradient_checkpointing=settings.gradient_checkpointing,
        per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=share,
        max_steps=rounds * len(batches),
        max_grad_norm=settings.gradient_clipping,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    # After the arguments, which tell transformers to build models in partitions.
    dtype = torch.bfloat16 if on_gpu else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder / "backbone", dtype=dtype)

    def join(indices: list[int]) -> dict[str, Any]:
        micro = collate(examples, indices)
        names = ("input_ids", "attention_mask", "labels")
        return {name: getattr(micro, name) for name in names}

    turns = Turns(len(batches), others)
    rows: Any = rounds * [index for batch in batches for index in batch]
    trainer = Trainer(
        model=model, args=arguments, train_dataset=rows, data_collator=join, callbacks=[turns]
    )
    assert trainer.is_deepspeed_enabled
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return turns.seconds


def main() -> None:
    """Train as many steps as the recipe says; seconds and tokens of each, and peak memory."""
    world = World.from_environment()
    initialise_distributed(world)
    recipe = load_recipe(Path(sys.argv[1]), [], TrainRecipe)
    settings, backbone = recipe.over_safety, Path(recipe.backbone.path)
    prompts = ChatPrompts(load_tokenizer(backbone, recipe.backbone))
    examples = prompts.encode(read_examples(recipe.data), settings.max_length)
    size = settings.batch_of(len(examples))
    batch = BatchPlan(len(examples), size, recipe.seed).batch(0)
    steps = settings.steps or 1
    seconds = train_by_trainer(
        backbone.parent, settings, examples, [batch], world, steps, lambda step: None
    )
    memory = gather_from_ranks(peak_memory_mib())
    if world.is_main:
        record = {
            "seconds": seconds,
            "tokens": sum(len(examples[index][0]) for index in batch),
            "samples": len(batch),
            "peak_host_memory_mib": [host for host, _ in memory],
            "peak_gpu_memory_mib": [gpu for _, gpu in memory],
        }
        atomic_write_json(Path(sys.argv[2]), record)
    wait_for_ranks()
    end_process(0)


if __name__ == "__main__":
    main()
