"""One settings model: the options of `python -m eval` and a recipe's keys say the same."""

import datetime
from pathlib import Path

import pytest

from eval.__main__ import _values
from eval.cli import ASKED, MT_BENCH, RUN, parse
from eval.settings import DEFAULTS, EvaluationSettings, MtBenchSettings
from launch.run.settings import EvalSettings
from merge.common.settings import parse_settings

NEEDED = ["--model", "m", "--suite", "s.yaml", "--out", "o"]
BENCH = ["--model", "m", "--questions", "q.jsonl", "--judge", "j", "--out", "o"]
BY_OTHER_OPTIONS = {"margins", "agreement", "decodings", "mt_bench"}
"""Options of `compare` (two files), `run --decoding`, and the command `mt-bench`."""


def _settings(*options: str) -> EvaluationSettings:
    values = _values(parse(["run", *NEEDED, *options]), RUN)
    return parse_settings(EvaluationSettings, values, "command line")


def test_no_setting_is_without_an_option_or_a_key() -> None:
    assert {*RUN} | BY_OTHER_OPTIONS == set(EvaluationSettings.model_fields)
    own = {"suite", "single_patches", "baselines", "paper_table"}
    assert set(EvalSettings.model_fields) == set(EvaluationSettings.model_fields) | own


def test_options_that_are_left_out_are_the_models_defaults() -> None:
    assert _settings() == DEFAULTS
    options = parse(["mt-bench", *BENCH])
    assert _values(options, MT_BENCH)["max_new_tokens"] == 1024
    assert EvaluationSettings(**_values(options, ASKED)) == DEFAULTS
    bench = MtBenchSettings(**_values(options, MT_BENCH))
    assert (bench.questions, bench.judge) == (Path("q.jsonl"), "j")


def test_options_have_the_settings_types() -> None:
    settings = _settings(
        "--reasoning", "off", "--date", "2025-02-03", "--batch-tokens", "70", "--backend", "vllm",
        "--dtype", "bfloat16", "--refusal-judge", "r.yaml", "--data-dir", "d",
    )  # fmt: skip
    assert settings.chat.reasoning is False
    assert settings.chat.date == datetime.date(2025, 2, 3)
    assert (settings.batch_tokens, settings.backend, settings.dtype) == (70, "vllm", "bfloat16")
    assert (settings.refusal_judge, settings.data_dir) == (Path("r.yaml"), Path("d"))


@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        ("--batch-tokens", "0", "'0': Input should be greater than 0"),
        ("--date", "2025-02-30", "'2025-02-30': Input should be a valid date"),
        ("--reasoning", "perhaps", "'perhaps': Input should be a valid boolean"),
        ("--backend", "vvlm", "'vvlm': Input should be 'hf' or 'vllm'"),
    ],
)
def test_a_wrong_option_is_named(
    option: str, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["run", *NEEDED, option, text])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {option}: {words}" in said
