"""What would end a run after its trainings is refused before them, by run and plan alike."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from launch.prepare.preflight import check_inputs
from launch.prepare.text_check import check_data
from launch.recipe import Recipe
from launch.sizing.plan import plan_table
from merge.common.errors import UserError
from tests.support.architectures import make_model
from tests.support.train_helpers import make_recipe as make_training_recipe
from train.recipe import load_recipe


def make_world(folder: Path, **sections: Any) -> Path:
    """A recipe over a tiny Llama with data, a suite of every axis, and a tokenizer."""
    backbone = make_model("llama", folder / "backbone")
    for name in ("harm", "refusal"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"prompt": "w50 w51"}) + "\n")
    choice = {"prompt": "w60", "choices": ["w1", "w2 w3"], "answer": "w1"}
    (folder / "utility.jsonl").write_text(json.dumps(choice) + "\n")
    rows: list[dict[str, Any]] = [
        {"name": axis, "axis": axis, "source": f"{axis}.jsonl"} for axis in ("harm", "refusal")
    ]
    columns = {"choices": "choices", "answer": "answer"}
    rows.append({"name": "u", "axis": "utility", "source": "utility.jsonl", "scoring": "choice"})
    rows[-1]["columns"] = columns
    (folder / "suite.yaml").write_text(json.dumps(rows))
    (folder / "harm.yaml").write_text(json.dumps(rows[:1]))
    suites = {"search": {"suite": str(folder / "suite.yaml")}}
    changes = {"backbone": {"path": str(backbone)}, "merge": {}, **suites, **sections}
    return make_training_recipe(folder, **changes)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "vllm": (
        {"search": None, "eval": {"suite": "harm.yaml", "backend": "vllm"}},
        "vllm is not installed; pip",
    ),
    "axis": ({"search": {"suite": "harm.yaml"}}, "no row of axis refusal or utility"),
    "include": ({"merge": {"include": ["*nope*"]}}, "merge: include and exclude leave no tensor"),
    "ablation": ({"ablations": {"bare": {"exclude": ["*"]}}}, "bare: include and exclude leave"),
    "max_length": ({"over_safety": {"max_length": 3}}, "max_length 3 leaves nothing"),
    "ds_config": ({"over_safety": {"ds_config": "none.json"}}, "ds_config none.json: cannot be"),
    "attention": (
        {"backbone": {"attention": "flash_attention_2"}},
        "flash-attn is not installed",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_run_and_plan_refuse_alike_before_any_training(fault: str, tmp_path: Path) -> None:
    """What would end a run after its trainings, or in the second of them."""
    sections, message = FAULTS[fault]
    path = make_world(tmp_path, **sections)
    text = path.read_text().replace("harm.yaml", str(tmp_path / "harm.yaml"))
    path.write_text(text)
    recipe = load_recipe(path, [], Recipe)
    with pytest.raises(UserError, match=message):
        check_inputs(recipe)
    _, faults = plan_table([recipe])
    assert len(faults) == 1 and re.search(message, faults[0])


def test_pairs_of_the_reports_baselines_are_checked_before_any_training(tmp_path: Path) -> None:
    """The table's baselines train last: a question too long for them ended a run after hours."""
    path = make_world(tmp_path)
    pairs = tmp_path / "good.jsonl"
    asked = [f"eval={{suite: {tmp_path / 'suite.yaml'}, baselines: true}}", "search=null"]
    asked.append("safety.max_length=90")
    recipe = load_recipe(path, [*asked, f"ablate={{harmless: {{path: {pairs}}}}}"], Recipe)
    for question, message in (
        (" ".join(["w7"] * 100), r"^ablate\.baselines\.ascent_mismatch_kl: question .*max_length"),
        ("w50 w51", r"ablate\.harmless and eval\.suite: 1 question stands in both"),
    ):
        pairs.write_text(json.dumps({"question": question, "answer": "w8"}) + "\n")
        with pytest.raises(UserError, match=message):
            check_inputs(recipe)
        assert re.search(message, plan_table([recipe])[1][0])
    pairs.write_text(json.dumps({"question": "w7", "answer": "w8"}) + "\n")
    check_inputs(recipe)


def test_more_groups_than_layers_are_refused_before_any_training(tmp_path: Path) -> None:
    recipe = load_recipe(make_world(tmp_path), ["search.layer_groups=40"], Recipe)
    with pytest.raises(UserError, match="layer_groups 40: only 2 layers are merged; lower it"):
        check_inputs(recipe)


def test_a_sound_recipe_has_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = load_recipe(make_world(tmp_path), [], Recipe)
    check_inputs(recipe)
    assert plan_table([recipe])[1] == []
    assert "no row of axis" not in caplog.text


def test_a_test_suite_without_an_axis_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A verdict on harm alone would hide what a patch costs."""
    recipe = load_recipe(make_world(tmp_path), [f"eval.suite={tmp_path / 'harm.yaml'}"], Recipe)
    check_data(recipe.model_copy(update={"search": None}))
    assert "has no row of axis refusal or utility: the report cannot say" in caplog.text


def test_texts_longer_than_the_learned_positions_are_refused(tmp_path: Path) -> None:
    """An answer may take the room that its suite row gives it."""
    recipe = load_recipe(make_world(tmp_path), [], Recipe)
    make_model("gpt2", tmp_path / "gpt2", n_positions=40)
    learned = recipe.model_copy(
        update={"backbone": recipe.backbone.model_copy(update={"path": str(tmp_path / "gpt2")})}
    )
    with pytest.raises(UserError, match=r"with max_new_tokens 256 takes .* has 40 positions"):
        check_inputs(learned)


def test_a_choice_without_an_embedding_is_refused(tmp_path: Path) -> None:
    """Tokens of choices count, and padding tokens that no text holds do not."""
    path = make_world(tmp_path)
    config = tmp_path / "backbone/config.json"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "backbone")
    tokenizer.add_tokens(["zebra", "unused"])
    tokenizer.save_pretrained(tmp_path / "backbone")
    assert json.loads(config.read_text())["vocab_size"] == 97
    check_inputs(load_recipe(path, [], Recipe))
    choice = {"prompt": "w60", "choices": ["zebra", "w2"], "answer": "w2"}
    (tmp_path / "utility.jsonl").write_text(json.dumps(choice) + "\n")
    with pytest.raises(UserError, match="into token 97, and its model has 97 embeddings"):
        check_inputs(load_recipe(path, [], Recipe))


def test_a_disk_that_is_too_small_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(make_world(tmp_path), [], Recipe)
    monkeypatch.setattr("launch.prepare.preflight.free_bytes", lambda folder: 70_000)
    with pytest.raises(UserError, match=r"need \d+ bytes, checkpoints apart, and 70000 bytes"):
        check_inputs(recipe)
