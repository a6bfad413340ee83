"""The time of judges that are models and of MT-Bench, by hand from their configurations."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LongformerConfig, LongformerForSequenceClassification

from eval.settings import EvaluationSettings, MtBenchSettings
from launch.sizing.answering_needs import Asked, Questions, answering_seconds
from launch.sizing.gpus import GPUS
from launch.sizing.judging_times import judge_times, mt_bench_times
from launch.sizing.training_needs import Model
from tests.support.eval_models import save_model

TURNS = [["a" * 60, "b" * 30], ["c" * 120]]
"""Two questions, of which one has a second turn: 20 and 40 tokens, then 30 together."""
ASKED = Questions(
    [Asked(100, 50, 64, "harm"), Asked(30, 50, 64, "refusal"), Asked(999, 50, 64, "utility")]
)


@pytest.fixture(scope="module")
def model() -> Model:
    config = LlamaConfig(vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=2)
    return Model.from_config(config)


def questions(folder: Path) -> Path:
    file = folder / "q.jsonl"
    lines = [{"question_id": n, "category": "moss", "turns": said} for n, said in enumerate(TURNS)]
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def test_every_turn_is_answered_and_rated_once_a_model(tmp_path: Path, model: Model) -> None:
    """Each answer stands in the question of the next turn, and in what the judge reads."""
    judge = save_model(tmp_path / "judge")
    bench = MtBenchSettings(questions=questions(tmp_path), judge=str(judge), max_new_tokens=8)
    (answers, seconds), (ratings, rated) = mt_bench_times(model, bench, 4096, models=5)
    assert answers == "5 times 3 answers" and ratings == f"5 times 3 ratings by {judge}"
    first, second = (20 + 40) / 2 + 40, 30 + 40 + 8
    rows = [Asked(2, first, 8, "utility"), Asked(1, second, 8, "utility")]
    read = [Asked(2, 120 + first + 8, 512, "utility"), Asked(1, 120 + second + 8, 512, "utility")]
    rating = Model.from_config(LlamaConfig.from_pretrained(judge))
    for place, gpu in enumerate(GPUS):
        expected = 5 * answering_seconds(model, Questions(rows), 4096, gpu)
        assert seconds[place] == pytest.approx(expected)
        expected = 5 * answering_seconds(rating, Questions(read), 4096, gpu)
        assert rated[place] == pytest.approx(expected)


def test_a_judge_that_is_not_here_is_said_not_to_be_counted(tmp_path: Path, model: Model) -> None:
    """Nor are the questions needed: MT-Bench has 80 of two turns."""
    bench = MtBenchSettings(questions=tmp_path / "none", judge=str(tmp_path / "nowhere"))
    (answers, seconds), (ratings, rated) = mt_bench_times(model, bench, 4096, models=2)
    assert answers == "2 times 160 answers" and min(seconds) > 0
    assert ratings.endswith("nowhere: not counted, its configuration is not here") and rated == []


def test_judges_read_the_answers_of_their_axes(tmp_path: Path, model: Model) -> None:
    """A classifier passes over at most ``max_length`` tokens; a guard reads prompt and answer."""
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = LongformerConfig(vocab_size=50, num_attention_heads=2, attention_window=[4], **shape)
    config.save_pretrained(tmp_path / "classifier")
    guard = save_model(tmp_path / "guard")
    (tmp_path / "harm.yaml").write_text(
        "{kind: classifier, model: classifier, harmful: LABEL_1, safe: LABEL_0, max_length: 16}"
    )
    (tmp_path / "refusal.yaml").write_text(
        "{kind: guard, model: guard, template: '{completion}', refused: a, answered: b,"
        " max_new_tokens: 4}"
    )
    settings = EvaluationSettings(
        harm_judge=tmp_path / "harm.yaml", refusal_judge=tmp_path / "refusal.yaml"
    )
    (harm, passed), (refusal, written) = judge_times(settings, ASKED, models=3)
    assert harm.startswith("3 times 100 judgements by") and "3 times 130" in refusal
    parameters = LongformerForSequenceClassification(config).num_parameters()
    judge = Model.from_config(LlamaConfig.from_pretrained(guard))
    read = 12 / 3 + 50 + 64  # the template has twelve characters
    rows = Questions([Asked(100, read, 4, "harm"), Asked(30, read, 4, "refusal")])
    for place, gpu in enumerate(GPUS):
        assert passed[place] == pytest.approx(3 * 2 * parameters * 100 * 16 / gpu.flops)
        expected = 3 * answering_seconds(judge, rows, 16384, gpu)
        assert written[place] == pytest.approx(expected)
    assert not list(judge_times(EvaluationSettings(), ASKED, models=3))
