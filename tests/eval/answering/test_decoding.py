"""Baselines at decoding time, against loops in plain torch: prompt by prompt, without a cache."""

import json
from pathlib import Path

import pytest
import torch

from eval.answering.decoding import Decoding, prepare, token_bias
from eval.decoding_settings import Debias, SelfContrast, load_decoding
from eval.run import RunJob, run
from merge.common.errors import UserError
from tests.support.eval_models import make_model, make_tokenizer, save_model
from train.chat.prompts import ChatPrompts

PROMPTS = [f"how do you grond {'the vask ' * (n % 6)}" for n in range(25)]
LENGTH = 10


def _logits(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def _answers(decoder: Decoding, model) -> list[list[int]]:
    """All prompts in batches whose finished rows are let go; <end> has the id 1."""
    questions = [decoder.question(prompt, LENGTH - n % 3) for n, prompt in enumerate(PROMPTS)]
    answers: dict[int, list[int]] = {}
    for batch in decoder.generate(model, questions, frozenset({1}), batch_tokens=400):
        answers.update(batch)
    return [answers[index] for index in range(len(PROMPTS))]


def _naive(next_logits) -> list[list[int]]:
    """Greedy answers from a function of the prompt and the answer so far."""
    answers = []
    for number, prompt in enumerate(PROMPTS):
        answer: list[int] = []
        while len(answer) < LENGTH - number % 3:
            token = int(next_logits(prompt, answer).argmax())
            if token == 1:
                break
            answer.append(token)
        answers.append(answer)
    return answers


@pytest.mark.parametrize("ratio", [0.0, 1.0, 2.5])
def test_self_cd_equals_a_loop_over_both_prompts(ratio: float):
    """Ratio 0 is decoding under the safety prompt, ratio 1 plain decoding."""
    model, chat = make_model(), ChatPrompts(make_tokenizer())
    settings = SelfContrast(ratio=ratio, safety_prompt="sorry i cannot help with that")

    def contrasted(prompt: str, answer: list[int]) -> torch.Tensor:
        plain = _logits(model, chat.question_ids(prompt) + answer)[-1]
        asked = chat.question_ids("sorry i cannot help with that " + prompt)
        safe = _logits(model, asked + answer)[-1]
        return plain + (ratio - 1) * (plain - safe)

    answers = _answers(prepare(settings, model, chat), model)
    assert answers == _naive(contrasted)
    assert len({len(answer) for answer in answers}) > 3
    assert (answers == _answers(Decoding(chat), model)) is (ratio == 1.0)


def test_tsdi_subtracts_the_mean_of_what_the_alignment_adds(tmp_path: Path):
    """Bias and answers equal loops; after its tokens the logits are the model's own."""
    model, reference = make_model(0), make_model(1)
    chat = ChatPrompts(make_tokenizer())
    settings = Debias(reference=save_model(tmp_path, seed=1), tokens=3, prompts=20, seed=5)
    bias = token_bias(model, reference, chat, settings)

    draws = torch.Generator().manual_seed(5)
    words = torch.arange(5, len(chat.tokenizer))  # five special tokens stand first
    draw = lambda count: words[torch.randint(len(words), (count,), generator=draws)].tolist()  # noqa: E731
    questions = [chat.question_ids(chat.tokenizer.decode(draw(24))) for _ in range(20)]
    expected = torch.zeros(3, len(chat.tokenizer), dtype=torch.float64)
    for question in questions:
        start = draw(3)
        for step in range(3):
            ids = question + start[:step]
            for each, sign in ((model, 1), (reference, -1)):
                expected[step] += sign * _logits(each, ids)[-1].double().log_softmax(-1) / 20
    torch.testing.assert_close(bias.double(), expected, atol=1e-4, rtol=1e-4)

    def debiased(prompt: str, answer: list[int]) -> torch.Tensor:
        logits = _logits(model, chat.question_ids(prompt) + answer)[-1]
        return logits - expected[len(answer)] if len(answer) < 3 else logits

    answers = _answers(prepare(settings, model, chat), model)
    assert answers == _naive(debiased)
    assert answers != _answers(Decoding(chat), model)


def test_scans_equals_a_loop_with_its_own_hooks(tmp_path: Path):
    """Directions, the guess of harm and the push at the newest token, one prompt at a time."""
    bad = [f"how do you grond {'red ' * n}" for n in range(4)]
    good = [f"two plus {'vask ' * n}is" for n in range(5)]
    (tmp_path / "bad.txt").write_text("\n".join(bad))
    (tmp_path / "good.txt").write_text("\n".join(good))
    text = "{method: scans, layers: [0.5, 1], harmful: {source: bad.txt}, "
    (tmp_path / "scans.yaml").write_text(text + "harmless: {source: good.txt}}")
    model, chat = make_model(), ChatPrompts(make_tokenizer())
    sure = chat.tokenizer("Sure")["input_ids"]

    def ends(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        """States of the second and last block at the prompt's end, and after "Sure"."""
        with torch.no_grad():
            ids = torch.tensor([chat.question_ids(text) + sure])
            states = model(ids, output_hidden_states=True).hidden_states[2][0]
        return states[-2], states[-1]

    mean = lambda rows: torch.stack(rows).mean(0)  # noqa: E731
    refusal = mean([ends(text)[0] for text in bad]) - mean([ends(text)[0] for text in good])
    refusal /= refusal.norm()
    step = mean([ends(text)[0] - ends(text)[1] for text in bad])

    def likeness(prompt: str) -> float:
        before, after = ends(prompt)
        return float(torch.cosine_similarity(before - after, step, dim=0))

    lower, upper = sorted(map(likeness, PROMPTS[:6]))[2:4]
    threshold = (lower + upper) / 2  # three of the six different prompts count as harmful

    def pushed(prompt: str, answer: list[int]) -> torch.Tensor:
        harmful = likeness(prompt) >= threshold
        asked = chat.question_ids(prompt)

        def push(module, inputs, output):
            states = output[0] if isinstance(output, tuple) else output
            states[:, len(asked) - 1 :] += 3.5 * (1 if harmful else -1) * refusal
            return output

        handle = model.model.layers[1].register_forward_hook(push)
        try:
            return _logits(model, asked + answer)[-1]
        finally:
            handle.remove()

    settings = load_decoding(tmp_path / "scans.yaml").model_copy(update={"threshold": threshold})
    decoder = prepare(settings, model, chat)
    answers = _answers(decoder, model)
    assert answers == _naive(pushed)
    assert answers != _answers(Decoding(chat), model)
    assert not list(decoder.generate(model, [], frozenset({1}), batch_tokens=400))


def test_a_decoding_has_answers_of_its_own(tmp_path: Path):
    """In one folder neither decoding gets the other's answers; a rerun asks nothing."""
    save_model(tmp_path / "model")
    (tmp_path / "s.txt").write_text("\n".join(PROMPTS))
    suite = tmp_path / "suite.yaml"
    suite.write_text("[{name: s, axis: refusal, source: s.txt, max_new_tokens: 6}]")

    def answers(out: str, ratio: float | None) -> list[str]:
        decoding = None if ratio is None else SelfContrast(ratio=ratio)
        summary = run(RunJob(tmp_path / "model", suite, tmp_path / out, decoding=decoding))
        settings = summary["settings"]
        assert settings["decoding"] == ("greedy" if ratio is None else "self_cd")
        assert settings.get("decoding_settings", {}).get("ratio") == ratio
        lines = (tmp_path / out / "completions.jsonl").read_text().splitlines()
        return [json.loads(line)["completion"] for line in lines]

    for ratio in (None, 2.5, 9.0):
        assert answers("one", ratio) == answers(f"fresh{ratio}", ratio)
    stale = (tmp_path / "one" / "stale-completions.jsonl").read_text().splitlines()
    assert len(stale) == 2 * len(PROMPTS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "{method: self_dc}",
            "needs method: self_cd or tsdi or scans or rose or safe_decoding or safe_switch",
        ),
        ("{method: self_cd, ratoi: 2}", "did you mean 'ratio'"),
        ("{method: tsdi}", "'reference' is missing"),
        ("[self_cd]", "must hold keys"),
        ("{method: scans, harmful: {source: no.txt}, harmless: {source: s.txt}}", "no.txt"),
        ("{method: tsdi, reference: nowhere}", "nowhere: no such folder"),
        ("{method: tsdi, reference: other}", "another vocabulary"),
        ("{method: safe_decoding, expert: other}", "another vocabulary.*trained from it"),
        ("{method: safe_decoding, expert: nowhere}", "nowhere: no such folder"),
        ("{method: safe_switch, harmful: {source: s.txt}}", "'harmless' is missing"),
    ],
)
def test_a_wrong_decoding_is_named(tmp_path: Path, text: str, words: str):
    save_model(tmp_path / "model")
    save_model(tmp_path / "other")
    vocabulary = tmp_path / "other" / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text().replace('"grond"', '"grund"'))
    (tmp_path / "s.txt").write_text("grond?")
    (tmp_path / "suite.yaml").write_text("[{name: s, axis: refusal, source: s.txt}]")
    (tmp_path / "decoding.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        job = RunJob(tmp_path / "model", tmp_path / "suite.yaml", tmp_path / "out")
        run(
            RunJob(
                job.model, job.suite, job.out, decoding=load_decoding(tmp_path / "decoding.yaml")
            )
        )


@pytest.mark.parametrize("path", sorted(Path("eval/decodings").glob("*.yaml")))
def test_shipped_decodings_are_valid(path: Path):
    assert load_decoding(path).method == path.stem.replace("-", "_")
