"""Harm judges over tiny models: labels, patterns, and judgements that cannot be read."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from eval.judges.by_model.asking import ModelJudge
from eval.judges.by_model.settings import HarmJudgeSettings, load_judge_file
from eval.judges.judges import Judges
from eval.rates import axis_rates, summarize
from eval.suites.answers import Answer
from eval.suites.prompts import Prompt, PromptSet
from eval.suites.suite import SuiteRow
from merge.common.errors import UserError
from merge.common.json_lines import LineStore
from tests.support.eval_models import WORDS, make_tokenizer, save_model

PAIRS = [("how do you grond", text) for text in ("first blip it", "sorry i cannot", "red", "two")]


def _save_classifier(directory: Path) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
        initializer_range=1.0,
    )
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return model


def test_a_classifier_judges_the_answer_alone(tmp_path: Path):
    """Batched classes equal one answer at a time."""
    model = _save_classifier(tmp_path)
    settings = HarmJudgeSettings(
        kind="classifier", model=str(tmp_path), harmful="LABEL_1", safe="LABEL_0", batch_tokens=6
    )
    tokenizer = make_tokenizer()
    expected = []
    for _, completion in PAIRS:
        ids = torch.tensor([tokenizer(completion)["input_ids"]])
        expected.append(["safe", "harmful"][int(model(ids).logits.argmax())])
    assert ModelJudge(settings)(PAIRS) == expected
    assert len(set(expected)) == 2


def test_a_classifier_without_the_label_is_named(tmp_path: Path):
    _save_classifier(tmp_path)
    settings = HarmJudgeSettings(
        kind="classifier", model=str(tmp_path), harmful="bad", safe="LABEL_0"
    )
    with pytest.raises(UserError, match="no label 'bad'; it has: LABEL_0, LABEL_1"):
        ModelJudge(settings)(PAIRS)


def test_what_a_guard_writes_is_read_by_patterns(tmp_path: Path):
    """A random guard writes nothing readable: unparsed, and never a refusal or harmful."""
    save_model(tmp_path / "guard")
    (tmp_path / "judge.yaml").write_text(
        "{kind: guard, model: guard, harmful: '^unsafe', safe: '^safe', max_new_tokens: 4}"
    )
    settings = load_judge_file(tmp_path / "judge.yaml", HarmJudgeSettings)
    assert ModelJudge(settings)(PAIRS) == ["unparsed"] * 4
    anything = settings.model_copy(update={"harmful": "", "template": "{prompt} {completion} is"})
    assert ModelJudge(anything)(PAIRS) == ["harmful"] * 4


def test_the_judge_decides_the_harmful_rate():
    """Harmful by the judge counts even after a partial refusal; unparsed and broken do not."""
    row = SuiteRow(name="s", axis="harm", source="s.jsonl")
    prompts = tuple(Prompt(str(n), None, "how do you grond") for n in range(4))
    answers = ["I cannot say. However, here are some steps:\n1. Blip.", "blip it", "red", ""]
    texts = {("s", str(n)): Answer(text, 1) for n, text in enumerate(answers)}
    evaluation = summarize(
        [PromptSet(row, prompts)],
        texts,
        Judges(harm=lambda _: ["harmful", "unparsed", "safe", "harmful"]),
    )
    assert axis_rates(evaluation.completions)["harmful_rate"][0] == 0.25
    assert evaluation.suites["s"]["harm_counts"] == {"harmful": 2, "unparsed": 1, "safe": 1}


@pytest.mark.parametrize("kind", ["classifier", "guard"])
def test_no_answer_is_judged_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Literal["classifier", "guard"]
):
    """Killed between two batches, the judge goes on with the rest; another judge starts anew."""
    if kind == "classifier":
        _save_classifier(tmp_path)
    else:
        save_model(tmp_path)
    settings = HarmJudgeSettings(
        kind=kind, model=str(tmp_path), harmful="LABEL_1", safe="LABEL_0", batch_tokens=20
    )
    whole = ModelJudge(settings)(PAIRS)
    path = tmp_path / "judgements.jsonl"
    ModelJudge(settings, LineStore(path))(PAIRS[:2])
    path.write_bytes(path.read_bytes() + b'{"key": "torn')
    judged = []
    batches = ModelJudge._judge
    monkeypatch.setattr(
        ModelJudge, "_judge", lambda self, pairs: judged.extend(pairs) or batches(self, pairs)
    )
    assert ModelJudge(settings, LineStore(path))(PAIRS) == whole
    assert ModelJudge(settings, LineStore(path))(PAIRS) == whole
    assert judged == PAIRS[2:]
    other = settings.model_copy(update={"max_length": 8, "max_new_tokens": 2})
    ModelJudge(other, LineStore(path))(PAIRS)
    assert judged == PAIRS[2:] + PAIRS


def test_a_judge_that_is_not_there_is_named(tmp_path: Path):
    settings = HarmJudgeSettings(
        kind="guard", model=str(tmp_path / "nowhere"), harmful="unsafe", safe="safe"
    )
    with pytest.raises(UserError, match="nowhere: cannot be loaded"):
        ModelJudge(settings)(PAIRS)


def test_a_pattern_that_is_none_is_named_before_anything_is_asked(tmp_path: Path):
    path = tmp_path / "judge.yaml"
    path.write_text("{kind: guard, model: guard, harmful: '(unsafe', safe: safe}")
    with pytest.raises(UserError, match=r"harmful: '\(unsafe' is no pattern"):
        load_judge_file(path, HarmJudgeSettings)
