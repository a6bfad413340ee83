"""What can be known before the first training, checked before it (issue 13).

`launch run` and `launch submit` refuse at the first fault; `launch plan` shows the same facts.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.prompts import PromptSet, load_prompts
from eval.suite import load_suite
from launch.data_check import check_apart, check_harmful_data
from launch.own_answers import question_suite
from launch.recipe import Recipe
from launch.sizing import Model, patch_bytes
from merge.coverage import cover, untrained_sentence
from merge.errors import UserError
from train.attention import attention_implementation
from train.backbone import backbone_directory, load_tokenizer
from train.backbone_tensors import BackboneTensors, open_backbone
from train.block_weights import block_weights
from train.data import Example, read_examples
from train.prompts import ChatPrompts
from train.recipe import ROLES
from train.round_trip import check_round_trip
from train.vocabulary import embedding_count, refuse_unknown_ids

logger = logging.getLogger(__name__)

_GB = 1e9


@dataclass(frozen=True)
class Texts:
    """All texts that a run will give to its models."""

    examples: Sequence[Example]
    """D_h."""
    harmless: Sequence[Example]
    prompt_sets: Sequence[PromptSet]


def check_inputs(recipe: Recipe) -> None:
    """See that backbone, data, suites, judges and disk will do, and say what was found.

    A backbone on the hub is downloaded: compute nodes may not reach it.

    Raises:
        UserError: naming the first input that will not do, and the fix.
    """
    directory = backbone_directory(recipe.backbone)
    texts = check_data(recipe)
    tensors = open_backbone(directory, recipe.backbone)
    check_prompts(recipe, directory, tensors, texts)
    check_disk(recipe, Model.of(tensors.map.skeleton), _weight_bytes(directory))
    for fact in backbone_facts(recipe, tensors):
        logger.info("backbone: %s", fact)


def check_data(recipe: Recipe) -> Texts:
    """Read the data, every suite and every judge's settings.

    Raises:
        UserError: one is missing or malformed, or a question of D_h is also a prompt.
    """
    examples = read_examples(recipe.data)
    harmless = read_examples(recipe.harmless) if recipe.harmless else []
    data_dir = recipe.eval.data_dir if recipe.eval else None
    sections = [section for section in (recipe.search, recipe.eval) if section is not None]
    prompt_sets = [
        prompt_set
        for section in sections
        for prompt_set in load_prompts(load_suite(section.suite, data_dir))
    ]
    check_harmful_data(examples, prompt_sets)
    false_refusals, asked = [], []
    if recipe.harvest is not None and recipe.harvest.harmless is not None:
        suite = question_suite(recipe, "harvest.harmless", *recipe.harvest.harmless)
        asked = load_prompts(suite)
        check_apart(asked, examples, prompt_sets)
    elif recipe.false_refusals is not None:
        false_refusals = read_examples(recipe.false_refusals)
        check_harmful_data(false_refusals, prompt_sets, "false_refusals")
    if recipe.harvest is not None and recipe.harvest.harm_judge is not None:
        from eval.harm_judge import load_settings

        load_settings(recipe.harvest.harm_judge)
    return Texts(examples, [*harmless, *false_refusals], [*prompt_sets, *asked])


def check_prompts(recipe: Recipe, directory: Path, tensors: BackboneTensors, texts: Texts) -> None:
    """See that the chat template and the tokenizer do for every text.

    Raises:
        UserError: the template does not give questions and answers back, or the tokenizer makes
            tokens of them that the model does not have.
    """
    source = f"backbone {recipe.backbone.path}"
    chat = ChatPrompts(load_tokenizer(directory, recipe.backbone), source, recipe.backbone.chat)
    check_round_trip(chat, [*texts.examples, *texts.harmless])
    embeddings = embedding_count(tensors.map.skeleton)
    refuse_unknown_ids(_token_ids(chat, texts), embeddings, source)


def _token_ids(chat: ChatPrompts, texts: Texts) -> Iterator[list[int]]:
    for example in (*texts.examples, *texts.harmless):
        yield chat.example(example.question, example.answer)[0]
    for prompt_set in texts.prompt_sets:
        for prompt in prompt_set.prompts:
            yield chat.question_ids(prompt.text)


def backbone_facts(recipe: Recipe, tensors: BackboneTensors) -> list[str]:
    """What the trainings and the merge will make of the backbone, a sentence each."""
    found = tensors.map
    trained = {name for group in found.groups for name in group.tensors} | found.copies.keys()
    linear = found.tensors_of(block_weights(found.skeleton))
    covered = cover(found.shapes, trained, linear, recipe.merge)
    attention = attention_implementation(recipe.backbone, found.skeleton)
    converted = sum(bool(group.patterns) for group in found.groups)
    facts = [
        f"{len(trained)} tensors in its files hold the {len(found.parameters)} parameters of "
        f"{type(found.skeleton).__name__}"
        + (f", {converted} of them after transformers' conversions" if converted else ""),
        covered.sentence(),
        f"attention: {attention or 'the default of its architecture'}",
    ]
    return facts + ([untrained_sentence(covered.untrained)] if covered.untrained else [])


def check_disk(recipe: Recipe, model: Model, weight_bytes: int) -> None:
    """See that patches and models will fit on the disk.

    Args:
        weight_bytes: of the backbone's files.

    Raises:
        UserError: they will not, with the figures.
    """
    free = free_bytes(recipe.output)
    needed = disk_bytes(recipe, model, weight_bytes)
    if needed > free:
        raise UserError(
            f"{recipe.output}: patches and models need {needed / _GB:.1f} GB, checkpoints apart, "
            f"and {free / _GB:.1f} GB are free; make room, or choose another output"
        )


def disk_bytes(recipe: Recipe, model: Model, weight_bytes: int) -> float:
    """Bytes that a run will write besides checkpoints: its patches, and models in full size."""
    patches = [role for role in ROLES if not (recipe.output / role / "patch.json").is_file()]
    compared = recipe.eval is not None and (recipe.eval.single_patches or recipe.ablations)
    models = 2 if compared else 1
    return len(patches) * patch_bytes(model) + models * weight_bytes


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk on which a folder lies, or will lie."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    return shutil.disk_usage(existing).free


def _weight_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
