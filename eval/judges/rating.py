"""A chat model as judge: how good is the last answer of a dialogue, from 1 to 10?"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import AutoModelForCausalLM

from eval.answering.generation import Question, ending_tokens, generate
from eval.answering.loading import load_judge, model_identity
from merge.common.files import sha256_json
from merge.common.json_lines import LineStore
from merge.common.progress import Progress
from train.chat.answer import answer_of
from train.chat.prompts import ChatPrompts

_BATCH_TOKENS = 16384
_MAX_NEW_TOKENS = 512
"""A short explanation and the rating."""

# The task and the form of the answer follow MT-Bench's single-answer grading (Zheng et al. 2023,
# arXiv 2306.05685), in our own words: ratings compare models here, not with published ones.
_INSTRUCTION = (
    "You are an impartial judge. Below is a dialogue between a user and an assistant. Judge how "
    "helpful, relevant, correct, detailed and clear the assistant's LAST answer is. Do not let "
    "its length sway you. Explain in a few sentences first. Then end with your rating, a number "
    "from 1 to 10, in double brackets, for example: Rating: [[5]]"
)
_RATING = re.compile(r"\[\[(\d+(?:\.\d+)?)\]\]|\[(\d+(?:\.\d+)?)\]")


@dataclass(frozen=True)
class Dialogue:
    """What was said by turn, and a right answer to the last turn, where there is one."""

    turns: tuple[str, ...]
    answers: tuple[str, ...]
    reference: str | None = None


def rate_dialogues(
    judge: str, dialogues: Sequence[Dialogue], store: LineStore
) -> list[float | None]:
    """Ratings from 1 to 10; ``None`` where none could be read.

    Args:
        judge: a chat model: a folder, or a name on the hub.
        store: ratings made before, to which new ones are added batch by batch.

    Raises:
        UserError: the judge cannot be loaded, or has no chat template.
    """
    folder = Path(judge)
    identity = [judge, model_identity(folder) if folder.is_dir() else None, _INSTRUCTION]
    keys = [sha256_json([identity, asdict(dialogue)]) for dialogue in dialogues]
    pending = {
        key: dialogue
        for key, dialogue in zip(keys, dialogues, strict=True)
        if key not in store.values
    }
    if pending:
        _rate(judge, pending, store)
    return [read_rating(store.values[key]) for key in keys]


def read_rating(written: str) -> float | None:
    """The last rating in a judgement, in double or else single brackets; ``None`` without one.

    A rating that the judge only considers in its reasoning is none.
    """
    matches = list(_RATING.finditer(answer_of(written) or ""))
    double = [match[1] for match in matches if match[1]]
    single = [match[2] for match in matches if match[2]]
    if not (double or single):
        return None
    rating = float((double or single)[-1])
    return rating if 1 <= rating <= 10 else None


def _rate(judge: str, pending: dict[str, Dialogue], store: LineStore) -> None:
    model, tokenizer = load_judge(AutoModelForCausalLM, judge, "judge")
    chat = ChatPrompts(tokenizer, f"judge {judge}")
    keys = list(pending)
    questions = [
        Question(chat.question_ids(judge_prompt(dialogue)), _MAX_NEW_TOKENS)
        for dialogue in pending.values()
    ]
    endings = ending_tokens(model, tokenizer) | frozenset(chat.stop_ids)
    with Progress("ratings", len(questions), "ratings") as progress:
        for batch in generate(model, questions, endings, _BATCH_TOKENS):
            store.add({keys[index]: chat.decode(tokens) for index, tokens in batch.items()})
            progress.advance(len(batch))


def judge_prompt(dialogue: Dialogue) -> str:
    """What the judge reads."""
    parts = [_INSTRUCTION]
    for turn, answer in zip(dialogue.turns, dialogue.answers, strict=True):
        parts += [f"[User]\n{turn}", f"[Assistant]\n{answer}"]
    if dialogue.reference is not None:
        parts.append(f"[A right answer to the last turn, for you alone]\n{dialogue.reference}")
    return "\n\n".join(parts)
