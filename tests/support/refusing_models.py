"""Tiny chat models that have learned in a second what to refuse, for tests of the harvests."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from tests.support.eval_models import WORDS, make_model, make_tokenizer
from train.chat.prompts import ChatPrompts

REFUSALS = ("sorry i cannot help with that", "i cannot help with that")
ANSWER = "first blip it"
_STEPS = 150

QUESTIONS = [f"how do you {one} the {two}" for one, two in itertools.permutations(WORDS, 2)][::6]


def refusing(questions: list[str], every: int) -> dict[str, str]:
    """Answers: of every so many questions one is refused, in one of two ways."""
    wording = itertools.cycle(REFUSALS)
    return {
        question: next(wording) if number % every == 0 else ANSWER
        for number, question in enumerate(questions)
    }


def save_trained(directory: Path, answers: Mapping[str, str]) -> Path:
    """The folder of a tiny model that has learned these answers, or nearly."""
    model, tokenizer = make_model(), make_tokenizer()
    chat = ChatPrompts(tokenizer)
    examples = [chat.example(*pair) for pair in answers.items()]
    longest = max(len(ids) for ids, _ in examples)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in examples])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for _, row in examples])
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(_STEPS):
        logits = model(input_ids=ids).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
