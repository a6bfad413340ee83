"""The merge's definitions in plain numpy, written from their text and sharing no code with merge/.

Sorting instead of counting, one Philox over whole arrays, and torch's own rounding to bf16/fp16.
"""

import hashlib
from typing import Any

import numpy as np
import torch

Tensors = dict[str, torch.Tensor]


def philox_uniform(seed: int, purpose: str, name: str, size: int) -> np.ndarray:
    """u of every entry of a tensor, after the docstring of merge/engine/draws.py."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{name}".encode()).digest()
    words = np.frombuffer(digest[:8], "<u4").astype(np.uint64)
    blocks = np.arange(-(-size // 4), dtype=np.uint64)
    low = np.uint64(0xFFFFFFFF)
    c = [blocks & low, blocks >> np.uint64(32), np.zeros_like(blocks), np.zeros_like(blocks)]
    k = [int(words[0]), int(words[1])]
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]),
            p1 & low,
            (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]),
            p0 & low,
        ]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return np.stack(c, 1).reshape(-1)[:size] / 2.0**32


def _top(score: np.ndarray, rate: float) -> np.ndarray:
    """k = int(rate * n) largest, ties to the lowest index."""
    chosen = np.zeros(score.size, bool)
    order = np.argsort(-score.astype(np.float64), kind="stable")
    chosen[order[: int(rate * score.size)]] = True
    return chosen


def reference_tops(
    backbone: Tensors,
    deltas: dict[str, Tensors],
    importances: dict[str, Tensors],
    covered: list[str],
    gradients: bool,
    **settings: Any,
) -> dict[str, dict[str, np.ndarray]]:
    """Masks of the top sets by role and tensor, flat."""
    roles = ("safety", "over_safety")
    rates = {"safety": settings["top_safety"], "over_safety": settings["top_over_safety"]}
    scores: dict[str, dict[str, np.ndarray]] = {role: {} for role in roles}
    for role in roles:
        for name in covered:
            importance = importances[role][name].float().reshape(-1).numpy()
            delta = deltas[role][name].float().reshape(-1).numpy()
            theta = backbone[name].float().reshape(-1).numpy()
            base = theta + delta if settings["score"] == "weight" else delta
            score = np.abs(base) * importance if gradients else importance
            by_magnitude = settings["method"] == "ties" or settings["score"] == "magnitude"
            scores[role][name] = np.abs(delta) if by_magnitude else score
    tops: dict[str, dict[str, np.ndarray]] = {role: {} for role in roles}
    for role in roles:
        if settings["scope"] == "tensor":
            tops[role] = {name: _top(scores[role][name], rates[role]) for name in covered}
        else:
            names = sorted(covered)
            joint = _top(np.concatenate([scores[role][name] for name in names]), rates[role])
            ends = np.cumsum([scores[role][name].size for name in names])
            tops[role] = dict(zip(names, np.split(joint, ends[:-1]), strict=True))
    return tops


def reference_merge(
    backbone: Tensors,
    deltas: dict[str, Tensors],
    importances: dict[str, Tensors],
    covered: list[str],
    gradients: bool,
    **settings: Any,
) -> Tensors:
    """All tensors after the merge."""
    roles = ("safety", "over_safety")
    flat = {name: backbone[name].float().reshape(-1).numpy() for name in covered}
    tops = reference_tops(backbone, deltas, importances, covered, gradients, **settings)
    merged = dict(backbone)
    for name in covered:
        top_s, top_o = (tops[role][name] for role in roles)
        everything = np.ones(top_s.size, bool)
        method = settings["method"]
        if method == "difference":
            take = [top_s & ~top_o, top_o & ~top_s]
        elif method == "intersection":
            take = [top_s & top_o, top_s & top_o]
        else:
            take = [
                everything & (method in ("dense", "safety")),
                everything & (method in ("dense", "over_safety")),
            ]
        value = flat[name].copy()
        if method in ("task_arithmetic", "dare", "ties", "linear"):
            value = _published(method, name, value, deltas, (top_s, top_o), settings)
            take = [everything, everything]
        else:
            for role, mask, key in zip(roles, take, ("alpha", "beta"), strict=True):
                factor = settings[key]
                if method == "by_set":
                    own, other = (top_s, top_o) if role == "safety" else (top_o, top_s)
                    of_set = [settings.get(f"{key}_{part}", 0.0) for part in ("shared", "rest")]
                    factor = np.select([own & ~other, own & other], [factor, of_set[0]], of_set[1])
                    mask |= factor != 0
                draws = philox_uniform(settings["seed"], role, name, value.size)
                mask &= draws < settings["retention"]
                factor = factor / settings["retention"] if settings.get("rescale") else factor
                delta = deltas[role][name].float().reshape(-1).numpy()
                value = np.where(mask, value + np.asarray(factor, np.float32) * delta, value)
        either = torch.from_numpy(take[0] | take[1])
        rounded = torch.from_numpy(value).to(backbone[name].dtype)
        if settings.get("rounding") == "stochastic":
            draws = philox_uniform(settings["seed"], "rounding", name, value.size)
            rounded = _rounded_by_draws(value, rounded, draws)
        original = backbone[name].reshape(-1)
        merged[name] = torch.where(either, rounded, original).reshape(backbone[name].shape)
    return merged


def _rounded_by_draws(value: np.ndarray, nearest: torch.Tensor, draws: np.ndarray) -> torch.Tensor:
    """Away from zero where the draw is below the value's part of the step between its neighbours.

    In fp64, from the values of the neighbours; an infinite one counts as the next power of two.
    """
    if nearest.dtype == torch.float32:
        return nearest
    exact = np.abs(value.astype(np.float64))
    limit = 2.0 ** {torch.float16: 16, torch.bfloat16: 128}[nearest.dtype]

    def magnitude(patterns: torch.Tensor) -> np.ndarray:
        return np.minimum(patterns.view(nearest.dtype).double().numpy(), limit)

    down = nearest.abs().view(torch.int16).clone()
    down[torch.from_numpy(magnitude(down) > exact)] -= 1
    up = torch.where(torch.from_numpy(magnitude(down) < limit), down + 1, down)
    step = np.maximum(magnitude(up.to(torch.int16)) - magnitude(down), 2.0**-140)
    goes_up = torch.from_numpy(draws < (exact - magnitude(down)) / step)
    chosen = torch.where(goes_up, up, down).to(torch.int16).view(nearest.dtype)
    return torch.where(torch.from_numpy(np.signbit(value)), -chosen, chosen)


def reference_erased(
    backbone: Tensors,
    deltas: dict[str, Tensors],
    importances: dict[str, Tensors],
    covered: list[str],
    gradients: bool,
    merged: Tensors,
    **settings: Any,
) -> dict[str, dict[str, float]]:
    """By tensor what merge.json says of kept entries: nonzero ones, those that rounding erased.

    Args:
        merged: what came of the merge.
    """
    roles, method = ("safety", "over_safety"), settings["method"]
    tops = reference_tops(backbone, deltas, importances, covered, gradients, **settings)
    # By set of entries (own, shared, rest), whether a patch takes them.
    taken = {"difference": (1, 0, 0), "intersection": (0, 1, 0), "ties": (1, 1, 0)}
    by_tensor: dict[str, dict[str, float]] = {}
    for name in covered:
        masks = [tops[role][name] for role in roles]
        kept, parts, wanted = [], [], []
        for role, own, other, key in zip(roles, masks, masks[::-1], ("alpha", "beta"), strict=True):
            of_sets = taken.get(method, (1, 1, 1))
            scales = [settings[key]] * 3
            if method == "by_set":
                scales[1:] = (settings.get(f"{key}_{part}", 0) for part in ("shared", "rest"))
                of_sets = [scale != 0 for scale in scales]
            if method in roles and method != role:
                of_sets = (0, 0, 0)
            sets = [own & ~other, own & other]
            keep = np.select(sets, of_sets[:2], of_sets[2]).astype(bool)
            if method not in ("task_arithmetic", "ties", "linear"):
                draws = philox_uniform(settings["seed"], role, name, own.size)
                keep = keep & (draws < settings["retention"])
            delta = np.where(keep, deltas[role][name].float().reshape(-1).numpy(), 0)
            kept.append(keep)
            wanted.append(delta)
            parts.append(np.select(sets, scales[:2], scales[2]).astype(np.float32) * delta)
        total = parts[0] + parts[1]
        same = (backbone[name] == merged[name]).reshape(-1).numpy()
        by_tensor[name] = {}
        for letter, keep, delta, part in zip("SO", kept, wanted, parts, strict=True):
            moved = part * total > 0 if method == "ties" else (part != 0) & (total != 0)
            by_tensor[name] |= {
                f"kept_{letter}": int(keep.sum()),
                f"nonzero_{letter}": int((delta != 0).sum()),
                f"erased_count_{letter}": int((moved & same).sum()),
                f"kept_norm_{letter}": float(np.sqrt((delta.astype(np.float64) ** 2).sum())),
            }
    return by_tensor


def _published(
    method: str,
    name: str,
    theta: np.ndarray,
    deltas: dict[str, Tensors],
    tops: tuple[np.ndarray, np.ndarray],
    settings: dict[str, Any],
) -> np.ndarray:
    """The baseline methods, over whole arrays of fp32."""
    roles = ("safety", "over_safety")
    both = [deltas[role][name].float().reshape(-1).numpy() for role in roles]
    alpha, beta = np.float32(settings["alpha"]), np.float32(settings["beta"])
    if method == "task_arithmetic":
        return theta + (alpha * both[0] + beta * both[1])
    if method == "linear":
        rest = np.float32(1) - alpha - beta
        return rest * theta + alpha * (theta + both[0]) + beta * (theta + both[1])
    if method == "dare":
        for role, delta, key in zip(roles, both, ("alpha", "beta"), strict=True):
            kept = philox_uniform(settings["seed"], role, name, delta.size) < settings["retention"]
            factor = np.float32(settings[key] / settings["retention"])
            theta = np.where(kept, theta + factor * delta, theta)
        return theta
    trimmed = np.stack([np.where(top, delta, 0) for top, delta in zip(tops, both, strict=True)])
    agrees = (np.sign(trimmed) == np.sign(trimmed.sum(0))) & (trimmed != 0)
    count = agrees.sum(0)
    mean = (trimmed * agrees).sum(0, dtype=np.float32) / np.maximum(count, 1).astype(np.float32)
    return np.where(count > 0, theta + alpha * mean.astype(np.float32), theta)
