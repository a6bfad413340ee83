"""Delta files go both ways bit for bit and stay small; verify notices every change."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from merge.apply import apply_delta
from merge.build import build
from merge.common.errors import UserError
from merge.common.files import read_json
from merge.engine.resources import MergeResources
from merge.io.delta_file import write_delta_file
from merge.io.tensor_files import read_index
from merge.pictures.density_curves import density_rows
from merge.settings import MergeSettings
from merge.verify import verify
from tests.merge.engine.test_exact import INCLUDE, make_case
from tests.support.merge_models import write_tensors


def _built(folder: Path, shards: int = 2, **settings: Any) -> Path:
    make_case(folder, shards=shards)
    return _merged(folder, "out", **settings)


def _merged(folder: Path, out: str, **settings: Any) -> Path:
    build(
        folder / "backbone",
        folder / "safety",
        folder / "over_safety",
        folder / out,
        MergeSettings(include=INCLUDE, top_safety=0.3, top_over_safety=0.3, **settings),
        MergeResources(),
        delta_file=folder / "patch.safepatch",
        tensorboard=folder / "events",
    )
    return folder / out


def _weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("model*")}


@pytest.mark.parametrize(
    "settings", [{}, {"method": "by_set", "alpha_shared": -0.5, "beta_rest": 0.3}]
)
def test_both_directions(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Backbone -> patched -> backbone, file by file; a third model is refused."""
    out = _built(tmp_path, **settings)
    delta = tmp_path / "patch.safepatch"
    written = apply_delta(tmp_path / "backbone", delta, tmp_path / "forward")
    assert written == "patched model" and _weights(tmp_path / "forward") == _weights(out)
    assert apply_delta(out, delta, tmp_path / "back") == "backbone"
    assert {n: b for n, b in _weights(tmp_path / "back").items() if "index" not in n} == {
        n: b for n, b in _weights(tmp_path / "backbone").items() if "index" not in n
    }
    verify(tmp_path / "forward")
    make_case(tmp_path / "other", seed=9)
    with pytest.raises(UserError, match="neither the backbone nor the patched"):
        apply_delta(tmp_path / "other" / "backbone", delta, tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_delta_file_of_another_merge_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    """It would be handed on with this model, and lead to another."""
    _built(tmp_path)
    delta = tmp_path / "patch.safepatch"
    before = delta.read_bytes()
    _merged(tmp_path, "out")  # its own: all is done
    for _ in range(2):  # where the merge is new, and where it is there
        with pytest.raises(UserError, match=r"patch\.safepatch: does not lead .*/other; delete it"):
            _merged(tmp_path, "other", alpha=0.5)
    assert delta.read_bytes() == before
    verify(tmp_path / "other")
    delta.unlink()
    assert _weights(_merged(tmp_path, "other", alpha=0.5)) != _weights(tmp_path / "out")
    apply_delta(tmp_path / "backbone", delta, tmp_path / "applied")
    assert _weights(tmp_path / "applied") == _weights(tmp_path / "other")
    delta.write_bytes(b"of something else")
    with pytest.raises(UserError, match=r"patch\.safepatch"):
        _merged(tmp_path, "other", alpha=0.5)


@pytest.mark.parametrize("density", [0.01, 0.1, 1.0])
def test_size(tmp_path: Path, density: float) -> None:
    """At most 4 bytes a changed bf16 value at 1 % and more, the whole file counted."""
    generator = torch.Generator().manual_seed(2)
    old = torch.randn(700, 2000, generator=generator).to(torch.bfloat16)
    mask = torch.rand(old.shape, generator=generator) < density
    new = torch.where(mask, old * 1.5, old)
    models = [
        read_index(write_tensors(tmp_path / name, "model", {"w": tensor}), "model")
        for name, tensor in (("old", old), ("new", new))
    ]
    changed = write_delta_file(tmp_path / "d", *models)
    assert changed == int((old != new).sum())
    assert (tmp_path / "d").stat().st_size <= 4 * changed
    with safe_open(tmp_path / "d", "np") as opened:
        xor = np.concatenate([opened.get_tensor(f"w/{i}.xor") for i in (0, 1 << 20)])
    bits = [t.view(torch.uint16).reshape(-1).numpy() for t in (old, new)]
    different = bits[0] ^ bits[1]
    assert np.array_equal(xor, different[different != 0])


def test_damaged_delta_file(tmp_path: Path) -> None:
    """A changed byte anywhere is refused, and leaves no model."""
    _built(tmp_path, shards=1)
    delta = tmp_path / "patch.safepatch"
    good = delta.read_bytes()
    for number, position in enumerate(range(len(good) - 900, len(good), 97)):
        damaged = bytearray(good)
        damaged[position] ^= 0x21
        delta.write_bytes(damaged)
        out = tmp_path / f"damaged{number}"
        with pytest.raises(UserError):
            apply_delta(tmp_path / "backbone", delta, out)
        assert not list(out.glob("model*")) and not (out / "merge.json").exists()


def test_verify_names_what_changed(tmp_path: Path) -> None:
    """A flipped byte, a lost file and a stale shard are all named."""
    out = _built(tmp_path)
    verify(out)
    first, second = sorted(out.glob("*.safetensors"))
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    second.rename(out / "model-00009-of-00009.safetensors")
    with pytest.raises(UserError) as caught:
        verify(out)
    for part in (f"{first}: has changed", f"{second}: is missing", "model-00009-of-00009"):
        assert part in str(caught.value)


def test_tensorboard_shows_densities(tmp_path: Path) -> None:
    """Events are written, and a layer's point is what merge.json counts."""
    out = _built(tmp_path)
    assert list((tmp_path / "events").glob("events.out.tfevents.*"))
    report = dict(next(iter(read_json(out / "merge.json")["tensors"].values())))
    report |= {"elements": 200, "kept_S": 20, "nonzero_S": 16, "erased_count_S": 12}
    rows = {
        tag: (n, v) for tag, n, v in density_rows({"model.layers.3.mlp.up_proj.weight": report})
    }
    assert rows["kept_safety/up_proj(fraction)"] == (3, 0.1)
    assert rows["erased_safety/up_proj(fraction)"] == (3, 0.75)
