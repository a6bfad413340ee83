"""What prediction.json says of each decoder layer, against a sum in plain loops."""

import json
from pathlib import Path

import numpy as np
import pytest

from launch.search.fit.prediction import PREDICTION_FILE, Questions, write_prediction
from launch.search.margins.calibration import Calibration

NAMES = ["model.layers.10.mlp.up_proj.weight", "model.layers.2.self_attn.q_proj.weight"]
NAMES += ["model.layers.2.mlp.up_proj.weight", "model.embed_tokens.weight"]


def test_every_layer_has_its_change_of_the_margins_by_either_patch(tmp_path: Path) -> None:
    """In the layers' order; what stands in no layer counts nowhere."""
    draw = np.random.default_rng(3)
    harmful = np.arange(40) % 4 == 0
    questions = Questions(
        forms=np.full(40, "order"),
        margins=draw.normal(size=40) + harmful,
        harmful=harmful,
        calibration=Calibration(slope=1.0, intercept=0.0, auc=0.9, answers=9),
    )
    derivatives = draw.normal(size=(40, len(NAMES), 2, 3))
    write_prediction(tmp_path, questions, NAMES, derivatives, ["global"])
    layers = json.loads((tmp_path / PREDICTION_FILE).read_text())["layers"]
    assert [layer["layer"] for layer in layers] == [2, 10]
    for layer, tensors in zip(layers, ([1, 2], [0]), strict=True):
        for patch, role in enumerate(("safety", "over_safety")):
            for side, asked in (("harmful", harmful), ("harmless", ~harmful)):
                changes = [
                    sum(
                        derivatives[n, tensor, patch, part]
                        for tensor in tensors
                        for part in range(3)
                    )
                    for n in np.flatnonzero(asked)
                ]
                assert layer[role][side] == pytest.approx(np.mean(changes))
