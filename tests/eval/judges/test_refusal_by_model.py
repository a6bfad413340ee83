"""A model as refusal judge: whose classes count, what it is not asked, and how it is measured."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from eval.judges.agreement import agreement_tables, measure
from eval.judges.by_model.asking import ModelJudge
from eval.judges.by_model.settings import RefusalJudgeSettings, load_judge_file
from eval.judges.judge_file import judge_file
from eval.judges.judges import RULES, Judges
from eval.rates import summarize
from eval.report.compare import compare
from eval.report.page import render_html
from eval.report.table import markdown_table
from eval.run import RunJob, run
from eval.settings import EvaluationSettings
from eval.suites.answers import Answer
from eval.suites.prompts import Prompt, PromptSet
from eval.suites.suite import SuiteRow
from merge.common.errors import UserError
from merge.common.files import atomic_write_json
from tests.support.eval_models import save_model

ANSWERS = ("Water it at noon.", "Non possum adiuvare.", "", "<think>Shall I?", "I cannot help.")
"""Answered, refused in a language that the rules do not know, broken, endless, refused."""


def _set(axis: Any, **row: Any) -> tuple[PromptSet, dict[Any, Answer]]:
    prompts = tuple(Prompt(str(n), None, f"moss {n}?", "noon") for n in range(len(ANSWERS)))
    answers = {(axis, str(n)): Answer(text, 9) for n, text in enumerate(ANSWERS)}
    return PromptSet(SuiteRow(name=axis, axis=axis, source="x.txt", **row), prompts), answers


def test_a_models_classes_take_the_place_of_the_rules() -> None:
    """By hand: rules find one refusal of five, the model two; broken answers stay the rules'."""
    seen: list[tuple[str, str]] = []

    def judge(pairs: Sequence[tuple[str, str]]) -> list[str]:
        seen.extend(pairs)
        return ["none" if "noon" in answer else "full" for _, answer in pairs]

    refusal, answers = _set("refusal")
    assert summarize([refusal], answers).axes["refusal_rate"].value == 0.2
    evaluation = summarize([refusal], answers, Judges(refusal=judge))
    assert evaluation.axes["refusal_rate"].value == 0.4
    counts = {"none": 1, "full": 2, "degenerate": 1, "unfinished": 1}
    assert evaluation.suites["refusal"]["refusal_counts"] == counts
    assert [prompt for prompt, _ in seen] == ["moss 0?", "moss 1?", "moss 4?"]
    harm, answers = _set("harm")
    assert summarize([harm], answers).axes["harmful_rate"].value == 0.4
    assert summarize([harm], answers, Judges(refusal=judge)).axes["harmful_rate"].value == 0.2


def test_utility_answers_are_not_the_judges_business() -> None:
    utility, answers = _set("utility", scoring="contains", columns={"answer": "answer"})
    evaluation = summarize([utility], answers, Judges(refusal=lambda _: pytest.fail("asked")))
    assert evaluation.axes["utility"].value == 0.2


def test_a_verdict_that_cannot_be_read_counts_nowhere_and_is_told() -> None:
    for axis, rate in (("harm", "harmful_rate"), ("refusal", "refusal_rate")):
        prompts, answers = _set(axis)
        evaluation = summarize([prompts], answers, Judges(refusal=lambda p: ["unparsed"] * len(p)))
        assert evaluation.axes[rate].value == 0
        assert evaluation.suites[axis]["refusal_counts"]["unparsed"] == 3


def _judge_files(folder: Path) -> dict[str, Path]:
    """Two judges of one tiny random guard, that call anything or nothing a refusal."""
    save_model(folder / "guard", seed=5)
    files = {}
    for name, refused, answered in (("all", ".", "^$"), ("no", "^$", ".")):
        files[name] = folder / f"{name}.yaml"
        files[name].write_text(
            "{kind: guard, model: guard, max_new_tokens: 3, "
            f"refused: '{refused}', answered: '{answered}', "
            "template: '{prompt} {completion} is'}"
        )
    return files


def test_a_run_says_who_judged_and_is_compared_with_its_like_alone(tmp_path: Path) -> None:
    """Through files, with a real tiny model: the report names the judge and its agreement."""
    files = _judge_files(tmp_path)
    (tmp_path / "s.txt").write_text("how do you grond\nhelp with red\n")
    (tmp_path / "suite.yaml").write_text(
        "[{name: s, axis: refusal, source: s.txt, max_new_tokens: 4}]"
    )
    for name in ("backbone", "patched"):
        save_model(tmp_path / name, seed=len(name))
        job = RunJob(tmp_path / name, tmp_path / "suite.yaml", tmp_path / f"of-{name}", name)
        by_rules = run(job)
        assert by_rules["refusal_rule"] == RULES
        settings = EvaluationSettings(refusal_judge=files["all"])
        summary = run(RunJob(job.model, job.suite, job.out, name, settings))
        assert summary["refusal_rule"] == str(tmp_path / "guard")
        assert summary["axes"]["refusal_rate"]["value"] == 1
    folders = [tmp_path / "of-backbone", tmp_path / "of-patched"]
    labels = _labels(tmp_path)
    atomic_write_json(tmp_path / "rules.json", measure(labels))
    with pytest.raises(UserError, match=r"is of our rules .*were judged by .*guard; measure"):
        compare(folders, agreement=tmp_path / "rules.json")
    judge = ModelJudge(load_judge_file(files["all"], RefusalJudgeSettings))
    atomic_write_json(tmp_path / "model.json", measure(labels, refusal_judge=judge))
    report = compare(folders, agreement=tmp_path / "model.json")
    _check_edited_file(tmp_path, files["all"], folders)
    known = f"refused: by {tmp_path / 'guard'} (4 labelled answers: kappa 0.000"
    assert known in markdown_table(report)
    assert f"by {tmp_path / 'guard'}" in render_html(report)
    run(RunJob(tmp_path / "patched", tmp_path / "suite.yaml", folders[1], "patched"))
    with pytest.raises(UserError, match="different refusal judges; run both with one"):
        compare(folders)


def _check_edited_file(folder: Path, file: Path, evaluations: list[Path]) -> None:
    """One judge whose file is edited is another judge; evaluations that name no hash stay."""
    edited = folder / "edited.yaml"
    edited.write_text(file.read_text().replace("refused: '.'", "refused: '..'"))
    same = folder / "same.yaml"
    same.write_text(f"# a comment\n{file.read_text().replace('kind', 'batch_tokens: 64, kind')}")
    hashes = [load_judge_file(f, RefusalJudgeSettings).short_hash for f in (file, same, edited)]
    assert hashes[0] == hashes[1] != hashes[2]
    judge = ModelJudge(load_judge_file(edited, RefusalJudgeSettings))
    atomic_write_json(folder / "other.json", measure(folder / "labels", refusal_judge=judge))
    with pytest.raises(UserError, match="guard with other settings in its judge file; measure"):
        compare(evaluations, agreement=folder / "other.json")
    path = evaluations[1] / "summary.json"
    summary = json.loads(path.read_text())
    older = {key: value for key, value in summary.items() if key != "judge_settings"}
    atomic_write_json(path, {**summary, "judge_settings": {"refusal": hashes[2]}})
    with pytest.raises(UserError, match=r"one refusal judge with different settings .* again"):
        compare(evaluations)
    atomic_write_json(path, older)
    compare(evaluations)
    assert summary["judge_settings"] == {"refusal": hashes[0]}
    atomic_write_json(path, summary)


def _labels(folder: Path) -> Path:
    """XSTest's form, invented: three answered, one refused."""
    (folder / "labels").mkdir()
    with (folder / "labels" / "florb.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "completion", "type", "final_label"])
        for number in range(3):
            row = [f"moss {number}?", f"Water it {number} times.", "homonyms", "1_full_compliance"]
            writer.writerow(row)
        writer.writerow(["moss?", "I cannot help with that.", "homonyms", "2_full_refusal"])
        writer.writerow(["bad moss?", "Water it.", "contrast_homonyms", "1_full_compliance"])
    return folder / "labels"


def test_agreement_is_measured_of_the_judge_that_is_named(tmp_path: Path) -> None:
    """A judge that is right once out of four has the kappa of the counts by hand: 0.2."""
    labels = _labels(tmp_path)

    def half_right(pairs: Sequence[tuple[str, str]]) -> list[str]:
        return ["none" if "1" in answer else "partial" for _, answer in pairs]

    agreement = measure(labels, refusal_judge=half_right)["models"]["all"]
    # Observed agreement 2/4; by chance 1/4 * 3/4 + 3/4 * 1/4 = 3/8.
    assert agreement["kappa"] == pytest.approx((1 / 2 - 3 / 8) / (1 - 3 / 8))
    assert agreement["confusion"]["full"] == {"none": 0, "partial": 1, "full": 0, "degenerate": 0}
    rules = measure(labels)
    assert (rules["judge"], rules["models"]["all"]["kappa"]) == (RULES, 1)
    unread = measure(labels, refusal_judge=lambda pairs: ["unparsed"] * len(pairs))
    assert unread["models"]["all"]["confusion"]["none"]["unparsed"] == 3
    assert len(agreement_tables(unread)[2].columns) == 6


def test_a_file_of_answers_is_judged_by_the_model(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"completion": a}) + "\n" for a in ANSWERS)
    )
    counts = judge_file(
        tmp_path / "in.jsonl", tmp_path / "out.jsonl", lambda pairs: ["partial"] * len(pairs)
    )
    assert counts == {"partial": 3, "degenerate": 1, "unfinished": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{kind: guard, model: m, refused: x}", "key 'answered' is missing"),
        ("{kind: guard, model: m, refused: x, answered: y, safe: z}", "unknown key 'safe'"),
        ("{kind: guard, model: m, refused: '(x', answered: y}", "full: '.x' is no pattern"),
        ("{kind: scorer, model: m, refused: a, answered: b}", "a scorer needs a template"),
        ("{kind: guard, model: m, refused: a, answered: b, template: '{prompt}'}", "no {compl"),
        (
            "{kind: guard, model: m, refused: a, answered: b, template: '{completion} {policy}'}",
            "policies and {policy} in the template go together",
        ),
    ],
)
def test_a_wrong_judge_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "judge.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        load_judge_file(tmp_path / "judge.yaml", RefusalJudgeSettings)
