"""A merge in plain numpy, straight from its definition: full sorts, one big array at a time.

It shares no code with the merger: its own bfloat16 (through torch), its own Philox, its own sets.
"""

import hashlib

import numpy as np
import torch

TORCH_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def top_mask(score: np.ndarray, rate: float) -> np.ndarray:
    """The int(rate x n) largest, ties to the lowest index, by a stable sort."""
    mask = np.zeros(score.size, bool)
    mask[np.argsort(-score.astype(np.float64), kind="stable")[: int(rate * score.size)]] = True
    return mask


def philox(index: int, key: int) -> int:
    """Philox4x32-10 in Python's unbounded integers."""
    counter = [index // 4 & 0xFFFFFFFF, index // 4 >> 32, 0, 0]
    low, high = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            second >> 32 ^ counter[1] ^ low,
            second & 0xFFFFFFFF,
            first >> 32 ^ counter[3] ^ high,
            first & 0xFFFFFFFF,
        ]
        low, high = (low + 0x9E3779B9) % 2**32, (high + 0xBB67AE85) % 2**32
    return counter[index % 4]


def retained(seed: int, patch: str, tensor: str, size: int, rate: float) -> np.ndarray:
    """Which entries of a tensor are kept."""
    digest = hashlib.sha256(f"{seed}/{patch}/{tensor}".encode()).digest()
    key = int.from_bytes(digest[:8], "little")
    return np.array([philox(index, key) / 2**32 < rate for index in range(size)], bool)


def merge(
    backbone: dict[str, torch.Tensor],
    deltas: dict[str, dict[str, np.ndarray]],
    importance: dict[str, dict[str, np.ndarray]],
    *,
    score: str,
    scope: str,
    top: dict[str, float],
    retention: float,
    weights: dict[str, float],
    seed: int,
) -> dict[str, torch.Tensor]:
    """Difference-set merge of all given tensors; deltas and importance by patch and name."""
    names = sorted(backbone)
    base = {name: backbone[name].float().numpy().reshape(-1) for name in names}
    tops: dict[str, dict[str, np.ndarray]] = {}
    for patch in deltas:
        scores = {}
        for name in names:
            delta = deltas[patch][name].reshape(-1)
            moved = base[name] + delta if score == "weight" else delta
            scores[name] = np.abs(moved) * importance[patch][name].reshape(-1)
        if scope == "tensor":
            tops[patch] = {name: top_mask(scores[name], top[patch]) for name in names}
        else:
            mask = top_mask(np.concatenate([scores[name] for name in names]), top[patch])
            ends = np.cumsum([base[name].size for name in names])[:-1]
            tops[patch] = dict(zip(names, np.split(mask, ends), strict=True))
    merged = {}
    for name in names:
        result = base[name].copy()
        for patch, other in (("safety", "over_safety"), ("over_safety", "safety")):
            kept = tops[patch][name] & ~tops[other][name]
            kept &= retained(seed, patch, name, base[name].size, retention)
            product = np.float32(weights[patch]) * deltas[patch][name].reshape(-1)
            result[kept] = (base[name] + product)[kept]
        tensor = torch.from_numpy(result).reshape(backbone[name].shape)
        merged[name] = tensor.to(backbone[name].dtype)
    return merged
