"""Derivatives by the scales of a merge, against differences of merges that are truly made."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.answering.choices import ChoiceQuestion
from eval.margins.divergence import Reference
from eval.margins.refusal_margins import refusal_margins
from launch.in_memory.hf_model import InMemoryModel
from launch.search.fit.columns import Column, columns_of, sum_columns, with_scales
from launch.search.fit.derivatives import ScaleDerivatives
from launch.search.margins.utility_leads import UtilityLeads, UtilityQuestion
from merge.in_memory import LoadedInputs
from merge.settings import MergeSettings
from tests.support.architectures import make_model
from tests.support.merge_models import write_patch
from train.guards.refusal_margin import RefusalOpenings

OPENINGS = RefusalOpenings(((5, 6), (7,), (2, 8, 3), (2, 8, 9), (2, 1)), 1.0, 1.0)
PROMPTS = [[3, 9, 11, 4], [8, 2, 6], [12, 5, 3, 3, 7]]


def load(kind: str, folder: Path, settings: MergeSettings) -> InMemoryModel:
    backbone = make_model(kind, folder / "backbone")
    weights = load_file(backbone / "model.safetensors")
    for seed, role in enumerate(("safety", "over_safety")):
        torch.manual_seed(seed)
        delta = {name: torch.randn_like(value) * 0.05 for name, value in weights.items()}
        gradients = {name: torch.rand_like(value) for name, value in weights.items()}
        write_patch(folder / role, role, delta, gradients, score="gradient")
    places = (backbone, folder / "safety", folder / "over_safety")
    return InMemoryModel(
        AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(backbone),
        LoadedInputs.read(*places, settings),
        [],
    )


def difference(
    in_memory: InMemoryModel,
    settings: MergeSettings,
    column: Column,
    measure: Callable[[], np.ndarray],
    step: float,
) -> np.ndarray:
    """The central difference of what is measured of merges, by one scale at the backbone."""
    values = []
    for sign in (1, -1):
        in_memory.load_merge(with_scales(settings, {column: sign * step}))
        values.append(measure())
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize(
    ("kind", "temperature"), [("llama", 1.0), ("llama", 0.5), ("mixtral", 1.0)]
)
def test_margins_change_as_their_derivatives_say(
    kind: str, temperature: float, tmp_path: Path
) -> None:
    """Mixtral's files hold each expert apart, its parameters all together."""
    settings = MergeSettings(method="by_set", top_safety=0.6, top_over_safety=0.5, retention=0.8)
    in_memory = load(kind, tmp_path, settings)
    in_memory.load_merge(None)
    engine = ScaleDerivatives(in_memory, settings)
    derivatives = engine.of_margins(PROMPTS, OPENINGS, temperature)
    columns = columns_of(engine.names, "layers", "by_set")
    summed = sum_columns(derivatives, engine.names, columns, "layers", "by_set")
    for number, column in enumerate(columns):
        slope = difference(
            in_memory,
            settings,
            column,
            lambda: np.array(
                refusal_margins(in_memory.model, PROMPTS, OPENINGS, 4096, temperature)
            ),
            0.02,
        )
        assert summed[:, number] == pytest.approx(slope, rel=0.03, abs=2e-4), column


def test_no_head_is_copied_for_every_row_of_the_last_logits(tmp_path: Path) -> None:
    """Neither while derivatives are taken, nor by forward passes after them."""
    settings = MergeSettings(method="by_set")
    in_memory = load("llama", tmp_path, settings)
    in_memory.load_merge(None)

    def matmuls(run: Callable[[], object]) -> set[str]:
        with torch.profiler.profile() as profile:
            run()
        return {event.key for event in profile.key_averages() if event.key.endswith("mm")}

    @torch.inference_mode()
    def forward() -> None:
        in_memory.model(torch.ones(5, 7, dtype=torch.int64), logits_to_keep=2)

    engine = ScaleDerivatives(in_memory, settings)
    several, one = OPENINGS, RefusalOpenings(((5, 6),), 1.0, 1.0)
    derivatives = (partial(engine.of_margins, PROMPTS, each, 1.0) for each in (several, one))
    assert [matmuls(run) for run in (forward, *derivatives, forward)] == [{"aten::mm"}] * 4


def test_the_fisher_matrix_is_the_divergence_of_small_scales(tmp_path: Path) -> None:
    """KL(backbone || merge) = scale^2 K / 2 at a small scale; K is the mean square over draws."""
    settings = MergeSettings(method="dense", retention=1.0)
    in_memory = load("llama", tmp_path, settings)
    in_memory.load_merge(None)
    examples = [([3, 9, 4, 6, 8], [-100, -100, 4, 6, 8]), ([8, 2, 6, 5], [-100, 2, 6, 5])]
    reference = Reference.of(in_memory.model, examples)
    assert reference.divergence(in_memory.model) < 1e-4
    engine = ScaleDerivatives(in_memory, settings)
    draws = np.concatenate([engine.of_own_tokens(examples, seed) for seed in range(150)])
    columns = columns_of(engine.names, "global", "dense")
    summed = sum_columns(draws, engine.names, columns, "global", "dense")
    scale = 0.1
    in_memory.load_merge(with_scales(settings, {columns[0]: scale}))
    expected = scale**2 * (summed[:, 0] ** 2).mean() / 2
    assert reference.divergence(in_memory.model) == pytest.approx(expected, rel=0.25)


def test_leads_change_as_their_derivatives_say(tmp_path: Path) -> None:
    settings = MergeSettings(method="by_set", top_safety=0.6, top_over_safety=0.5)
    in_memory = load("llama", tmp_path, settings)
    in_memory.load_merge(None)
    questions = [
        UtilityQuestion(ChoiceQuestion([3, 9, 11, 4], [[5, 6], [7], [2, 8, 1]]), right=1),
        UtilityQuestion(ChoiceQuestion([8, 2, 6], [[12, 5, 3]]), right=0),
        UtilityQuestion(ChoiceQuestion([4, 4], [[1, 5]]), right=0),
    ]
    leads = UtilityLeads(in_memory.model, questions, 4096)
    engine = ScaleDerivatives(in_memory, settings)
    derivatives = engine.of_leads(leads, [2, 0])
    columns = columns_of(engine.names, "global", "by_set")
    summed = sum_columns(derivatives, engine.names, columns, "global", "by_set")
    for number, column in enumerate(columns):
        measured = partial(leads.measure, in_memory.model)
        slope = difference(in_memory, settings, column, measured, 0.01)[[2, 0]]
        assert summed[:, number] == pytest.approx(slope, rel=0.03, abs=2e-3), column
