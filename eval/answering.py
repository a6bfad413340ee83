"""Asking a model every prompt of every suite, whatever way the suite asks."""

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eval.choices import ChoiceQuestion, mean_log_likelihoods
from eval.completions import Answer, AnswerId
from eval.decoding import Greedy, prepare
from eval.generation import Question, ending_tokens
from eval.prompts import Prompt, PromptSet
from eval.settings import DecodingSettings
from eval.suite import TaskRow
from train.prompts import IGNORED_LABEL, ChatPrompts

Answers = dict[AnswerId, Answer]

_CHOICE_CHUNK = 256
"""Multiple-choice prompts between two hand-overs of answers."""


def answer_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_sets: Sequence[PromptSet],
    batch_tokens: int,
    on_batch: Callable[[Answers], None],
    task_cache: Path | None = None,
    decoding: DecodingSettings | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer every prompt, handing each batch's answers to ``on_batch`` as soon as they exist.

    Args:
        task_cache: see ``eval.lm_harness.answer_task``.
        decoding: how answers are written; ``None`` is greedy.
        on_ready: called when the first prompt is about to be asked.
    """
    name = tokenizer.name_or_path
    chat = ChatPrompts(tokenizer, f"model {name}" if name else "tokenizer")
    was_training = model.training
    model.eval()
    decoder = prepare(decoding, model, chat)
    keys, questions = spoken_questions(decoder, prompt_sets)
    endings = ending_tokens(model, tokenizer) | frozenset(chat.stop_ids)
    on_ready()
    for batch in decoder.generate(model, questions, endings, batch_tokens):
        texts = tokenizer.batch_decode(list(batch.values()), skip_special_tokens=True)
        on_batch(
            {
                keys[index]: Answer(str(text).strip(), len(tokens))
                for (index, tokens), text in zip(batch.items(), texts, strict=True)
            }
        )
    for prompt_set in prompt_sets:
        if isinstance(prompt_set.row, TaskRow):
            _run_task(model, tokenizer, prompt_set, batch_tokens, on_batch, task_cache)
        elif prompt_set.scoring == "choice":
            _choose(model, chat, prompt_set, batch_tokens, on_batch)
    model.train(was_training)


def spoken_questions(
    decoder: Greedy, prompt_sets: Sequence[PromptSet]
) -> tuple[list[AnswerId], list[Question]]:
    """The prompts whose answers are written, not chosen, with whose they are."""
    keys: list[AnswerId] = []
    questions: list[Question] = []
    for prompt_set in prompt_sets:
        row = prompt_set.row
        if isinstance(row, TaskRow) or not is_spoken(prompt_set):
            continue
        for prompt in prompt_set.prompts:
            keys.append((row.name, prompt.id))
            questions.append(decoder.question(prompt.text, row.max_new_tokens))
    return keys, questions


def is_spoken(prompt_set: PromptSet) -> bool:
    """Whether the answers to these prompts are written by the model."""
    return not isinstance(prompt_set.row, TaskRow) and prompt_set.scoring != "choice"


def _choose(
    model: PreTrainedModel,
    chat: ChatPrompts,
    prompt_set: PromptSet,
    batch_tokens: int,
    on_batch: Callable[[Answers], None],
) -> None:
    """Pick for each prompt the choice whose tokens are likeliest on average."""
    for start in range(0, len(prompt_set.prompts), _CHOICE_CHUNK):
        prompts = prompt_set.prompts[start : start + _CHOICE_CHUNK]
        questions = [_choice_question(chat, prompt) for prompt in prompts]
        scores = mean_log_likelihoods(model, questions, batch_tokens)
        chosen = {}
        for prompt, likelihoods in zip(prompts, scores, strict=True):
            best = max(range(len(likelihoods)), key=likelihoods.__getitem__)
            chosen[prompt_set.row.name, prompt.id] = Answer(prompt.choices[best], 0)
        on_batch(chosen)


def _choice_question(chat: ChatPrompts, prompt: Prompt) -> ChoiceQuestion:
    examples = [chat.example(prompt.text, choice) for choice in prompt.choices]
    ids, labels = examples[0]
    start = labels.count(IGNORED_LABEL)
    return ChoiceQuestion(ids[:start], [ids[start:] for ids, _ in examples])


def _run_task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_set: PromptSet,
    batch_tokens: int,
    on_batch: Callable[[Answers], None],
    cache: Path | None,
) -> None:
    from eval.lm_harness import answer_task  # seconds to import, and only tasks need it

    row = prompt_set.row
    assert isinstance(row, TaskRow)
    for answers in answer_task(model, tokenizer, row, prompt_set.prompts, batch_tokens, cache):
        on_batch({(row.name, id_): answer for id_, answer in answers.items()})
