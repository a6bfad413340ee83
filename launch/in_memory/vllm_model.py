"""One vLLM engine that stays up and takes on merge after merge, handed over without a restart."""

from collections.abc import Sequence
from pathlib import Path

from eval.answering.ask import Answers
from eval.answering.loading import resolve_dtype
from eval.answering.vllm_backend import Engine
from eval.judges.judges import Judges, load_judges
from eval.suites.prompts import PromptSet
from eval.suites.suite import TaskRow
from launch.in_memory.vllm_worker import EXTENSION
from launch.recipe import Recipe
from merge.common.errors import UserError
from merge.engine.checks import check_inputs
from merge.engine.inputs import ROLES, MergeInputs
from merge.settings import MergeSettings


class VllmModel:
    """The model of a search whose trials vLLM answers.

    The engine's processes merge, so this one never holds weights; see
    ``launch.in_memory.vllm_worker``.

    Args:
        engine: of the backbone, with the worker extension.
        inputs: of the merges.
        settings: of a merge, which say what is covered.

    Raises:
        UserError: the engine's processes cannot read the inputs.
    """

    def __init__(
        self,
        engine: Engine,
        inputs: MergeInputs,
        settings: MergeSettings,
        prompt_sets: Sequence[PromptSet],
        judges: Judges,
    ) -> None:
        self.prompt_sets = prompt_sets
        self.judges = judges
        self.covered = inputs.covered
        self._engine = engine
        patches = [inputs.patches[role].path for role in ROLES]
        folders = [str(path.absolute()) for path in (inputs.backbone_path, *patches)]
        engine.call_workers("map_merge_inputs", *folders, settings.model_dump_json())

    @classmethod
    def load(cls, recipe: Recipe, backbone: Path, prompt_sets: Sequence[PromptSet]) -> "VllmModel":
        """Start the engine.

        Raises:
            UserError: an input is missing or wrong, or vLLM cannot answer these prompts or take
                these merges.
        """
        refuse_tasks(prompt_sets)
        safety, over_safety = (recipe.output / role for role in ROLES)
        inputs = check_inputs(backbone, safety, over_safety, recipe.merge)
        refuse_experts(inputs.covered)
        evaluation = recipe.evaluation
        dtype = resolve_dtype(evaluation.dtype)
        engine = Engine(backbone, dtype, evaluation.chat, prompt_sets, EXTENSION)
        return cls(engine, inputs, recipe.merge, prompt_sets, load_judges(evaluation))

    def load_merge(self, settings: MergeSettings | None) -> None:
        """Have the engine answer with the merged weights; None restores the backbone."""
        text = None if settings is None else settings.model_dump_json()
        self._engine.call_workers("take_merge", text)
        self._engine.forget_prefixes()

    def answers(self, prompt_sets: Sequence[PromptSet]) -> Answers:
        """What the model says to some prompts, with the weights that it has."""
        answers: Answers = {}
        self._engine.answer(prompt_sets, answers.update)
        return answers


def answers_by_vllm(recipe: Recipe) -> bool:
    """Whether vLLM answers a recipe's search; by margins, which need derivatives, it does not."""
    search = recipe.search
    return search is not None and search.by == "answers" and recipe.evaluation.backend == "vllm"


def refuse_tasks(prompt_sets: Sequence[PromptSet]) -> None:
    """See that no prompts are a task of lm-eval, which asks a model of transformers.

    Raises:
        UserError: some are.
    """
    tasks = [each.row.name for each in prompt_sets if isinstance(each.row, TaskRow)]
    if tasks:
        raise UserError(
            f"search.suite: '{tasks[0]}' is a task of lm-eval, which vLLM does not answer in a "
            "search; set eval.backend to hf, or give its questions as a row with a source"
        )


def refuse_experts(covered: Sequence[str]) -> None:
    """See that no merge changes the experts of a mixture.

    vLLM may keep these in another layout than their files, made once after loading; weights that
    are handed over later would not get it.

    Raises:
        UserError: one does.
    """
    experts = [name for name in covered if "experts." in name]
    if experts:
        raise UserError(
            f"search: merges change '{experts[0]}', and vLLM takes no new experts while it runs; "
            "set eval.backend to hf"
        )
