"""SafeSwitch, against plain torch: its probers' formula, its head, and when that takes over."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from eval.answering.decoding import prepare
from eval.answering.plain_decoding import Decoding
from eval.answering.safe_switch.switched import Switched
from eval.answering.safe_switch.training import fit_prober, fit_refusal_head, headed
from eval.decoding_settings import Switch
from eval.run import RunJob, run
from tests.eval.answering.test_decoding import LENGTH, PROMPTS
from tests.eval.answering.test_decoding import _answers as answers_of
from tests.eval.answering.test_decoding import _naive as naive
from tests.support.eval_models import make_model, make_tokenizer, save_model
from train.chat.prompts import IGNORED_LABEL, ChatPrompts

BAD = [f"how do you grond {'the vask ' * n}" for n in range(8)]
GOOD = [f"two plus {'red ' * n}is" for n in range(8)]
REFUSAL = "sorry i cannot help with that"


def _settings(folder: Path, **changes) -> Switch:
    for name, texts in (("bad", BAD), ("good", GOOD)):
        (folder / f"{name}.txt").write_text("\n".join(texts))
    sources = {
        "harmful": {"source": str(folder / "bad.txt")},
        "harmless": {"source": str(folder / "good.txt")},
    }
    learning = {"head_learning_rate": 0.02, "head_epochs": 30, "prober_epochs": 40}
    return Switch(**sources, refusals=(REFUSAL,), **{**learning, **changes})


def _states(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]


def _unsafe(tensors: dict[str, torch.Tensor], name: str, state: torch.Tensor) -> bool:
    """softmax(W2 relu(W1 h + b1) + b2), by hand."""
    part = {key.removeprefix(f"{name}."): value for key, value in tensors.items()}
    hidden = torch.clamp(part["0.weight"] @ state + part["0.bias"], min=0)
    odds = torch.exp(part["2.weight"] @ hidden + part["2.bias"])
    return bool(odds[1] / odds.sum() >= 0.5)


def test_the_head_takes_over_where_both_probers_say_unsafe(tmp_path: Path):
    """Answers equal a loop over hidden states and the two heads, from the kept tensors alone.

    This model's answers to some of the harmful questions are degenerate: with these it does not
    comply, and they stay its own.
    """
    model, chat = make_model(1), ChatPrompts(make_tokenizer())
    kept = tmp_path / "safe_switch.safetensors"
    decoder = prepare(_settings(tmp_path), model, chat, kept)
    tensors = load_file(kept)
    assert tensors["safety.0.weight"].shape == (64, 32)
    choices = {}
    for prompt in PROMPTS:
        ids = chat.question_ids(prompt)
        opening: list[int] = []
        while len(opening) < 3:
            state = _states(model, ids + opening)[-1]
            token = int((model.lm_head.weight.detach() @ state).argmax())
            if token == 1:
                break
            opening.append(token)
        first = _unsafe(tensors, "safety", _states(model, ids)[-1])
        second = _unsafe(tensors, "response", _states(model, ids + opening)[-1])
        choices[prompt] = (first, second)

    def switched(prompt: str, answer: list[int]) -> torch.Tensor:
        state = _states(model, chat.question_ids(prompt) + answer)[-1]
        return (tensors["head"] if all(choices[prompt]) else model.lm_head.weight.detach()) @ state

    answers = answers_of(decoder, model)
    assert answers == naive(switched)
    assert set(choices.values()) >= {(True, True), (True, False)}
    harmless = [decoder.question(text, LENGTH) for text in GOOD]
    assert isinstance(decoder, Switched)
    assert not decoder.unsafe(model, harmless, frozenset({1}), batch_tokens=400)
    again = prepare(_settings(tmp_path), model, chat, kept)
    assert answers_of(again, model) == answers
    assert not list(decoder.generate(model, [], frozenset({1}), batch_tokens=400))


def test_a_prober_learns_what_tells_states_apart():
    draws = torch.Generator().manual_seed(0)
    states = 5 + 3 * torch.randn(120, 6, generator=draws)
    labels = (states[:, 2] - states[:, 4] > 0).tolist()
    settings = Switch(harmful={}, harmless={}, prober_epochs=40)
    prober = fit_prober(states, labels, settings)
    predicted = prober(states).softmax(-1)[:, 1] >= 0.5
    assert (predicted == torch.tensor(labels)).float().mean() > 0.95
    repeated = fit_prober(states, labels, settings)
    assert torch.equal(repeated(states), prober(states))


def test_the_refusal_head_alone_is_tuned_and_says_the_refusal():
    """The first step is AdamW's on the answer's cross-entropy; the model stays as it was."""
    model, chat = make_model(), ChatPrompts(make_tokenizer())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    example = chat.example(BAD[0], REFUSAL)
    settings = Switch(harmful={}, harmless={}, head_epochs=1, head_learning_rate=0.01)
    head = fit_refusal_head(model, [example], settings)

    ids, labels = example
    weight = before["lm_head.weight"].clone().requires_grad_()
    logits = (_states(model, ids) @ weight.T)[:-1].log_softmax(-1)
    wanted = [(place, label) for place, label in enumerate(labels[1:]) if label != IGNORED_LABEL]
    loss = -torch.stack([logits[place, label] for place, label in wanted]).mean()
    (slope,) = torch.autograd.grad(loss, weight)
    stepped = weight.detach() * (1 - 0.01 * 0.02) - 0.01 * slope / (slope.abs() + 1e-8)
    # Where the slope is next to nothing, its sign is rounding.
    clear = slope.abs() > 1e-6
    torch.testing.assert_close(head[clear], stepped[clear], atol=1e-5, rtol=1e-4)
    assert clear.float().mean() > 0.9

    more = settings.model_copy(update={"head_epochs": 60, "head_learning_rate": 0.05})
    trained = fit_refusal_head(model, [chat.example(text, REFUSAL) for text in BAD], more)
    with headed(model, trained):
        for answer in answers_of(Decoding(chat), model)[:3]:
            assert chat.decode(answer).startswith("sorry i")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_is_learnt_is_kept_under_the_models_hash(tmp_path: Path):
    """Another model or other questions learn anew; the same ones read the file again."""
    (tmp_path / "s.txt").write_text("\n".join(PROMPTS[:4]))
    suite = tmp_path / "suite.yaml"
    suite.write_text("[{name: s, axis: harm, source: s.txt, max_new_tokens: 4}]")
    out = tmp_path / "out"
    quick = {"head_epochs": 1, "prober_epochs": 1}
    for model, seeds in (("one", (0, 1)), ("two", (0,))):
        save_model(tmp_path / model, seed=len(seeds))
        for seed in seeds:
            settings = _settings(tmp_path, seed=seed, **quick)
            summary = run(RunJob(tmp_path / model, suite, out, decoding=settings))
            assert summary["settings"]["decoding"] == "safe_switch"
            assert len(json.dumps(summary["settings"]["decoding_settings"]["harmful"])) == 66
    files = sorted(out.glob("safe_switch-*.safetensors"))
    assert len(files) == 3
    times = [file.stat().st_mtime_ns for file in files]
    (out / "completions.jsonl").unlink()
    run(RunJob(tmp_path / "two", suite, out, decoding=_settings(tmp_path, seed=0, **quick)))
    assert [file.stat().st_mtime_ns for file in sorted(out.glob("safe_switch-*"))] == times
