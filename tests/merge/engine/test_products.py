"""Derivatives by the scales of sets: against numpy over whole arrays, and against merges."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from merge.engine.slices import BLOCK
from merge.in_memory import LoadedInputs
from merge.settings import SETS, MergeSettings
from tests.merge.engine.test_exact import INCLUDE, SETTINGS, SHAPES, Case, make_case
from tests.support.merge_reference import philox_uniform, reference_tops

ROLES = ("safety", "over_safety")
SCALES = {
    "safety": ("alpha", "alpha_shared", "alpha_rest"),
    "over_safety": ("beta", "beta_shared", "beta_rest"),
}


def load(folder: Path) -> LoadedInputs:
    paths = (folder / "backbone", folder / "safety", folder / "over_safety")
    return LoadedInputs.read(*paths, MergeSettings(include=INCLUDE))


def gradients(case: Case) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(3)
    covered = [name for name in case[0] if name.startswith("w")]
    return {name: draw.normal(size=case[0][name].shape).astype(np.float32) for name in covered}


def wanted(
    case: Case, graded: bool, gradient: dict[str, np.ndarray], settings: dict[str, Any]
) -> dict[str, np.ndarray]:
    """By boolean masks over whole tensors, in double precision."""
    backbone, deltas, importances = case
    tops = reference_tops(backbone, deltas, importances, list(gradient), graded, **settings)
    expected = {}
    for name, values in gradient.items():
        rows = []
        for role, other in zip(ROLES, reversed(ROLES), strict=True):
            own, others = tops[role][name], tops[other][name]
            draws = philox_uniform(settings["seed"], role, name, own.size)
            delta = deltas[role][name].double().reshape(-1).numpy()
            product = values.reshape(-1).astype(np.float64) * delta
            product = product * (draws < settings["retention"])
            rows.append([product[mask].sum() for mask in (own & ~others, own & others, ~own)])
        expected[name] = np.array(rows)
    return expected


@pytest.mark.parametrize(
    ("patch_dtype", "graded"),
    [(torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)],
)
def test_equals_numpy(tmp_path: Path, patch_dtype: torch.dtype, graded: bool) -> None:
    """Any score and scope, with ties, some tensors of several slices; also from threads at once."""
    shapes = {**SHAPES, "w4": (5, BLOCK + 3)}
    case = make_case(tmp_path, torch.bfloat16, patch_dtype, graded, shapes=shapes)
    loaded, gradient = load(tmp_path), gradients(case)
    for scope in ("tensor", "model"):
        for score in ("weight", "delta", "magnitude"):
            chosen = {**SETTINGS, "score": score, "scope": scope}
            expected = wanted(case, graded, gradient, chosen)
            # What is neither of score, scope, rates nor retention does not matter.
            settings = MergeSettings(include=INCLUDE, **{**chosen, "method": "dense", "alpha": 9.0})
            with ThreadPoolExecutor(3) as pool:
                products = list(
                    pool.map(
                        lambda pair, s=settings: loaded.set_products(s).of(*pair), gradient.items()
                    )
                )
            for name, sums in zip(gradient, products, strict=True):
                assert sums.shape == (2, len(SETS)) and sums.dtype == np.float64
                np.testing.assert_allclose(sums, expected[name], rtol=1e-11, atol=1e-12)
    assert np.abs(expected["w2"]).min() > 0


def test_every_change_of_the_selection_counts(tmp_path: Path) -> None:
    """Kept labels are those of the settings at hand, forwards and back again."""
    case = make_case(tmp_path)
    loaded, gradient = load(tmp_path), gradients(case)
    changes: list[dict[str, Any]] = [
        {}, {"seed": 6}, {"retention": 0.4}, {"top_safety": 0.6}, {"top_over_safety": 0.6},
        {"scope": "model"}, {"score": "delta"}, {"retention": 1.0}, {},
    ]  # fmt: skip
    seen = set()
    for change in changes:
        chosen = {**SETTINGS, **change}
        products = loaded.set_products(MergeSettings(include=INCLUDE, **chosen)).of(
            "w2", gradient["w2"]
        )
        expected = wanted(case, True, gradient, chosen)["w2"]
        np.testing.assert_allclose(products, expected, rtol=1e-11)
        seen.add(products.tobytes())
    assert len(seen) == len(changes) - 1


@pytest.mark.parametrize("rescale", [False, True])
def test_is_the_derivative_of_the_merge(tmp_path: Path, rescale: bool) -> None:
    """A linear value of the merged weights changes by the product times a scale's change."""
    case = make_case(tmp_path, torch.float32)
    loaded, gradient = load(tmp_path), gradients(case)["w2"]
    base = {**SETTINGS, "method": "by_set", "rescale": rescale}
    base |= {key: 0.5 for keys in SCALES.values() for key in keys}

    def value(**changed: float) -> float:
        settings = MergeSettings(include=INCLUDE, **{**base, **changed})
        merged = dict(loaded.merge(settings))["w2"].astype(np.float64)
        return float((merged * gradient).sum())

    products = loaded.set_products(MergeSettings(include=INCLUDE, **base)).of("w2", gradient)
    for row, role in zip(products, ROLES, strict=True):
        for sums, key in zip(row, SCALES[role], strict=True):
            # Sums of a thousand fp32 values, each rounded.
            assert value(**{key: 1.5}) - value() == pytest.approx(sums, abs=1e-4)
    assert np.abs(products).min() > 1e-2


def test_wrong_gradients_and_settings_are_errors(tmp_path: Path) -> None:
    make_case(tmp_path)
    loaded = load(tmp_path)
    settings = MergeSettings(include=INCLUDE)
    with pytest.raises(ValueError, match="'w10' must be 7 float32 values, not 8 of float32"):
        loaded.set_products(settings).of("w10", np.zeros(8, np.float32))
    with pytest.raises(ValueError, match="not 7 of float64"):
        loaded.set_products(settings).of("w10", np.zeros(7))
    with pytest.raises(ValueError, match="must stay as they were"):
        loaded.set_products(MergeSettings(include=("w1*",)))
