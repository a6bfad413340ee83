"""The products that PyTorch computes where the gradients are, against numpy over whole arrays."""

from pathlib import Path

import numpy as np
import pytest
import torch

from launch.in_memory.gradient_products import DeviceProducts, device_bytes
from merge.settings import MergeSettings
from tests.merge.engine.test_exact import INCLUDE, SETTINGS, make_case
from tests.merge.engine.test_products import gradients, load, wanted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_equals_numpy(tmp_path: Path, dtype: torch.dtype) -> None:
    """By tensor, patch and set; twice, since patches and labels stay on the device."""
    case = make_case(tmp_path, torch.bfloat16, dtype)
    loaded, gradient = load(tmp_path), gradients(case)
    expected = wanted(case, True, gradient, SETTINGS)
    settings = MergeSettings(include=INCLUDE, rescale=True, **SETTINGS)
    kept = loaded.set_products(settings)
    products = DeviceProducts(kept, torch.device("cpu"))
    for _ in range(2):
        for name, values in gradient.items():
            sums = products.of(name, torch.from_numpy(values))
            assert sums.dtype == torch.float64
            rescaled = expected[name] / settings.retention
            np.testing.assert_allclose(sums.numpy(), rescaled, rtol=1e-5, atol=1e-6)
    assert np.abs(expected["w2"]).min() > 0
    entries = sum(values.size for values in gradient.values())
    assert device_bytes(kept) == entries * (2 * dtype.itemsize + 1)
