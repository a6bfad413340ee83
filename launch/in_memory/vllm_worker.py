"""What vLLM's own processes do of a search: merge, and take the merged weights (issue 17).

vLLM documents ``worker_extension_cls`` for this: its worker class inherits from the named class, in
every process of the engine. Never run on a real vLLM; see ``eval.answering.vllm_backend``.
"""

from pathlib import Path
from typing import Any

from launch.in_memory.merged_tensors import merged_tensors
from merge.common.errors import UserError
from merge.in_memory import LoadedInputs
from merge.settings import MergeSettings

EXTENSION = f"{__name__}.MergingWorker"


class MergingWorker:
    """Methods of vLLM's worker that hand it the weights of merges.

    Their arguments and results are texts, which every release of vLLM can send to its processes,
    and none of their names is one of vLLM's own. Each process maps the inputs, so that all share
    one copy in the page cache, and merges for itself.

    Attributes:
        model_runner: vLLM's; its ``model`` reads tensors by their names in Hugging Face's files,
            fuses them and takes its shard of them.
    """

    model_runner: Any
    merge_inputs: LoadedInputs

    def map_merge_inputs(
        self, backbone: str, safety: str, over_safety: str, settings: str
    ) -> str | None:
        """Map backbone and patches.

        Args:
            backbone: its folder, as the folders of the patches an absolute path.
            settings: ``MergeSettings`` as JSON, which say what is covered.

        Returns:
            What is wrong with them, or ``None``.
        """
        folders = (Path(backbone), Path(safety), Path(over_safety))
        try:
            parsed = MergeSettings.model_validate_json(settings)
            self.merge_inputs = LoadedInputs.read(*folders, parsed)
        except UserError as error:
            return str(error)
        return None

    def take_merge(self, settings: str | None) -> str | None:
        """Merge, and give the model all covered tensors, in one call: some of them are fused.

        Args:
            settings: ``MergeSettings`` as JSON; ``None`` restores the backbone.

        Returns:
            What is wrong, or ``None``.
        """
        parsed = None if settings is None else MergeSettings.model_validate_json(settings)
        try:
            taken = self.model_runner.model.load_weights(merged_tensors(self.merge_inputs, parsed))
        except (KeyError, ValueError) as error:
            return f"vLLM does not take the merged tensors ({error}); set eval.backend to hf"
        # Where a model says which parameters it has loaded; some say nothing.
        if taken is not None and not taken:
            return "vLLM took none of the merged tensors; set eval.backend to hf"
        return None
