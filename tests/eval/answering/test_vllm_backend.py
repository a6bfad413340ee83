"""Answers and choices by vLLM, against those of transformers; vLLM is a stand-in (see
``tests/support/vllm_stand_in``)."""

import json
from pathlib import Path

import pytest

from eval.answering.ask import Answers, answer_all
from eval.answering.completions import FILE_NAME, read_completions
from eval.answering.loading import load_model, load_tokenizer
from eval.answering.vllm_backend import Engine
from eval.run import RunJob, run
from eval.settings import EvaluationSettings
from eval.suites.prompts import PromptSet, load_prompts
from eval.suites.suite import load_suite
from merge.common.errors import UserError
from tests.support.eval_models import WORDS, save_model
from tests.support.vllm_installed import install_vllm
from train.chat.chat_settings import DEFAULT_CHAT

SUITE = """
- {name: told, axis: refusal, source: told.txt, max_new_tokens: 9}
- {name: begun, axis: harm, source: told.txt, max_new_tokens: 5, prefill: "sorry i"}
- {name: picked, axis: utility, source: picked.jsonl, scoring: choice,
   columns: {prompt: ask, answer: right, choices: options}}
"""
LONGEST = [8 + 3 + 9, 8 + 3 + 2 + 5, 2 + 3 + 3 + 1 + 1]
"""By row: words, tokens of the template, and those of the answer; one behind a choice."""
OPTIONS = [
    ["red", "blip", "two plus two"],
    ["with that", "vask"],
    ["is", "cannot help", "it first"],
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that a second token ends as well, which only its generation config names."""
    root = tmp_path_factory.mktemp("vllm")
    (root / "suite.yaml").write_text(SUITE)
    texts = [" ".join(WORDS[n % 5 : n % 5 + 2 + n % 7]) for n in range(24)]
    (root / "told.txt").write_text("\n".join(sorted(set(texts))))
    rows = [
        {"ask": f"{first} {second}", "right": 0, "options": OPTIONS[number % 3]}
        for number, (first, second) in enumerate(zip(WORDS, WORDS[3:], strict=False))
    ]
    (root / "picked.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = save_model(root / "model", seed=2) / "generation_config.json"
    endings = {"eos_token_id": [1, load_tokenizer(root / "model").get_vocab()["you"]]}
    config.write_text(json.dumps({**json.loads(config.read_text()), **endings}))
    return root


def prompts(world: Path) -> list[PromptSet]:
    return load_prompts(load_suite(world / "suite.yaml"))


def by_transformers(world: Path) -> Answers:
    answers: Answers = {}
    model, tokenizer = load_model(world / "model", "float32"), load_tokenizer(world / "model")
    answer_all(model, tokenizer, prompts(world), 512, answers.update)
    return answers


@pytest.mark.slow
def test_the_engine_answers_as_transformers_do(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written and chosen answers; a longer prompt or answer would not fit what it reserves."""
    vllm = install_vllm(monkeypatch)
    answers: Answers = {}
    for asked in prompts(world):
        Engine(world / "model", "float32", DEFAULT_CHAT, [asked]).answer([asked], answers.update)
    expected = by_transformers(world)
    assert answers == expected
    written = [answer for (suite, _), answer in expected.items() if suite == "told"]
    assert len({answer.tokens for answer in written}) > 2, "some end before their limit"
    assert len({answer.text for (suite, _), answer in expected.items() if suite == "picked"}) > 3
    assert [engine.max_model_len for engine in vllm.LLM.started] == LONGEST


def test_the_checkpoints_dtype_stays(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's own ``auto`` would make half precision of float32."""
    vllm = install_vllm(monkeypatch)
    Engine(world / "model", "auto", DEFAULT_CHAT, prompts(world))
    assert vllm.LLM.started[0].dtype == "float32"


def test_an_engine_that_cannot_start_is_one_line(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm = install_vllm(monkeypatch)

    def fail(engine: object) -> None:
        raise RuntimeError("no room for the cache\nand more lines")

    monkeypatch.setattr(vllm.LLM, "__post_init__", fail)
    with pytest.raises(UserError, match=r"model: vLLM cannot start \(no room for the cache\)$"):
        Engine(world / "model", "float32", DEFAULT_CHAT, prompts(world))


@pytest.mark.slow
def test_a_run_by_vllm_equals_a_run_by_transformers(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through its own process, which must not be a daemon."""
    alone = run(RunJob(world / "model", world / "suite.yaml", tmp_path / "hf"))
    install_vllm(monkeypatch)
    chosen = EvaluationSettings(backend="vllm")
    job = RunJob(world / "model", world / "suite.yaml", tmp_path / "vllm", settings=chosen)
    assert run(job)["axes"] == alone["axes"]
    told = [
        [{**line, "key": ""} for line in read_completions(tmp_path / name / FILE_NAME)]
        for name in ("hf", "vllm")
    ]
    assert told[0] == told[1] and len(told[0]) > 40
