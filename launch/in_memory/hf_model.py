"""One model of transformers that takes on merge after merge, to be asked the same prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eval.answering.ask import Answers
from eval.answering.loading import load_model, load_tokenizer, resolve_dtype
from eval.judges.judges import BY_RULES, Judges, load_judges
from eval.rates import DEFAULT_BATCH_TOKENS, answers_of, evaluate
from eval.statistics.rates import Rate
from eval.suites.prompts import PromptSet
from launch.in_memory.merged_tensors import merged_tensors
from launch.recipe import Recipe
from merge.in_memory import LoadedInputs
from merge.settings import MergeSettings
from train.backbone.parameter_map import ParameterMap
from train.backbone.tensor_groups import TensorGroup
from train.backbone.tensors import BackboneTensors
from train.chat.chat_settings import DEFAULT_CHAT, ChatSettings


@dataclass
class InMemoryModel:
    """A loaded model that takes merged weights, the inputs of the merges, and the prompts to
    ask."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    loaded: LoadedInputs
    prompt_sets: Sequence[PromptSet]
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    chat: ChatSettings = DEFAULT_CHAT
    judges: Judges = BY_RULES

    def __post_init__(self) -> None:
        self._backbone = BackboneTensors(self.loaded.inputs.backbone_path, self.model)
        self._parameters = dict(self.model.named_parameters())

    @classmethod
    def load(
        cls,
        recipe: Recipe,
        loaded: LoadedInputs,
        prompt_sets: Sequence[PromptSet],
        device: str | None = None,
    ) -> "InMemoryModel":
        """Load the backbone, and the judges, as the recipe evaluates its models.

        Args:
            device: of the model; the first GPU by default, where there is one.

        Raises:
            UserError: the model or a judge is missing or wrong.
        """
        evaluation, backbone = recipe.evaluation, loaded.inputs.backbone_path
        return cls(
            load_model(backbone, resolve_dtype(evaluation.dtype), device),
            load_tokenizer(backbone),
            loaded,
            prompt_sets,
            evaluation.batch_tokens,
            evaluation.chat,
            load_judges(evaluation),
        )

    def change_inputs(self, loaded: LoadedInputs) -> None:
        """Merge other patches of the same backbone from now on; its weights come back first."""
        self.load_merge(None)
        self.loaded = loaded

    @property
    def covered(self) -> tuple[str, ...]:
        """Names of the tensors that a merge changes, sorted."""
        return self.loaded.inputs.covered

    @property
    def map(self) -> ParameterMap:
        """Which tensors of the files are which parameters of the model."""
        return self._backbone.map

    def rates(self, settings: MergeSettings | None) -> dict[str, Rate]:
        """The rates of one merge, or of the backbone itself, by axis."""
        self.load_merge(settings)
        asked = (self.prompt_sets, self.batch_tokens, self.chat, self.judges)
        return evaluate(self.model, self.tokenizer, *asked).axes

    def load_merge(self, settings: MergeSettings | None) -> None:
        """Copy the merged weights into the loaded model; None restores the backbone."""
        covered = set(self.covered)
        groups = {name: group for group in self.map.groups for name in group.tensors}
        waiting: dict[str, torch.Tensor] = {}
        for name, values in merged_tensors(self.loaded, settings):
            if name not in groups:
                # The parameter that this tensor repeats takes the same values by its own name.
                continue
            waiting[name] = values
            if covered.intersection(groups[name].tensors) <= waiting.keys():
                self._put(groups[name], waiting)

    def _put(self, group: TensorGroup, waiting: dict[str, torch.Tensor]) -> None:
        """Give the model the parameters of a group, whose merged tensors are all there."""
        dtype = next(iter(waiting.values())).dtype
        made = group.to_parameters(
            lambda name: waiting[name] if name in waiting else self._backbone.tensor(name, dtype)
        )
        with torch.no_grad():
            for name, value in made.items():
                self._parameters[name].copy_(value)
        for name in group.tensors:
            waiting.pop(name, None)

    def answers(self, prompt_sets: Sequence[PromptSet]) -> Answers:
        """What the model says to some prompts, with the weights that it has."""
        return answers_of(self.model, self.tokenizer, prompt_sets, self.batch_tokens, self.chat)
