"""The Hugging Face Trainer as a contender of benchmark_train.py.

It trains in one call from beginning to end, so the others take their turns inside its callback.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from train.batches import TokenizedExample, collate
from train.collectives import wait_for_ranks
from train.ds_config import CONFIG_FOLDER
from train.settings import TrainingSettings
from train.world import World


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
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        deepspeed=str(CONFIG_FOLDER / "zero3_cpu.json"),
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
    model = AutoModelForCausalLM.from_pretrained(folder / "backbone")

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
