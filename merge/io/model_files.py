"""Which files of a folder are the model, and which are something else that lies beside it.

The one list: the merge copies by it, the download from the hub fetches by it.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase

FOREIGN_FILES = (
    # The same weights in another format or for another program.
    *("*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5", "*.ot", "*.onnx", "*.onnx_data", "*.gguf"),
    *("*.tflite", "*.npz", "*.nemo", "*.pdparams", "*.engine", "*.mlmodel", "*.mlpackage/*"),
    *("pytorch_model*", "tf_model*", "flax_model*", "openvino*", "ggml*", "model*.bin"),
    *("consolidated*.safetensors*", "model.[!0-9]*.safetensors", "model.safetensors.index.*.json"),
    *("original/*", "onnx/*", "coreml/*", "gguf/*", "*/*.safetensors", "*/*.safetensors.index*"),
    # What a training leaves.
    *("optimizer*.bin", "scheduler.bin", "training_args.bin", "random_states_*", "rng_state*"),
    *("trainer_state.json", "events.out.tfevents.*", "latest", "zero_to_fp32.py"),
    *("global_step*/*", "checkpoint-*/*", "runs/*", "wandb/*"),
    # Hidden files and caches.
    *(".*", "*/.*", "__pycache__/*", "*/__pycache__/*"),
)
"""Shell-style patterns over paths relative to the folder, with ``/``; ``*`` also matches that, as
in ``huggingface_hub``."""

CONFIGURATION_FILES = ("*.json", "*.py")
"""What is enough to read a model's configuration, the code that it may name included."""

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_ADAPTER = "adapter_*"


def is_companion(name: str) -> bool:
    """Whether a file belongs to a model beside its weights: configuration, tokenizer, licence.

    Args:
        name: its path relative to the model's folder, with ``/``.
    """
    if _fits(name, FOREIGN_FILES):
        return False
    # An adapter is no format of the model's own weights: what its configuration needs comes along.
    return fnmatchcase(name, _ADAPTER) or not _fits(name, _WEIGHTS)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
