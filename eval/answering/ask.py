"""Asking a model every prompt of every suite, whatever way the suite asks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eval.answering.asked_how import begun_answer, prompts_of
from eval.answering.choices import ChoiceQuestion, mean_log_likelihoods
from eval.answering.decoding import Decoding, prepare
from eval.answering.generation import Question, ending_tokens
from eval.decoding_settings import DecodingSettings
from eval.suites.answers import Answer, AnswerId
from eval.suites.prompts import PromptSet
from eval.suites.suite import TaskRow
from train.chat.chat_settings import DEFAULT_CHAT, ChatSettings
from train.chat.prompts import IGNORED_LABEL, ChatPrompts

Answers = dict[AnswerId, Answer]
Score = Callable[[Sequence[ChoiceQuestion]], list[list[float]]]
"""Gives for each question one value per choice: the mean log-probability of its tokens, in nats."""

_CHOICE_CHUNK = 256
"""Multiple-choice prompts between two hand-overs of answers."""


@dataclass(frozen=True)
class Asked:
    """A prompt whose answer is written, not chosen: whose it is, and how it is asked.

    Attributes:
        begun: tokens of the answer that the question ends with.
    """

    id: AnswerId
    question: Question
    chat: ChatPrompts
    begun: Sequence[int] = ()

    def answer(self, tokens: Sequence[int]) -> Answer:
        """What the model wrote, behind the beginning that was given."""
        return Answer(self.chat.decode([*self.begun, *tokens]), len(tokens))


@dataclass(frozen=True)
class Asking:
    """What a backend (``eval.answering.backends``) needs to ask a model.

    Attributes:
        folder: the model's.
        dtype: as ``eval.answering.loading.resolve_dtype`` gives it.
        load: gives the model, loaded at the first call; others use the same one.
        batch_tokens: rows x (prompt + new tokens) of a batch.
        task_cache: see ``eval.suites.lm_eval_tasks.answer_task``.
        decoding: how answers are written; ``None`` is greedy.
        chat: whether the model reasons, and which day its prompts name.
    """

    folder: Path
    dtype: str
    tokenizer: PreTrainedTokenizerBase
    load: Callable[[], PreTrainedModel]
    batch_tokens: int
    task_cache: Path
    decoding: DecodingSettings | None = None
    chat: ChatSettings = DEFAULT_CHAT


def answer_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_sets: Sequence[PromptSet],
    batch_tokens: int,
    on_batch: Callable[[Answers], None],
    task_cache: Path | None = None,
    decoding: DecodingSettings | None = None,
    on_ready: Callable[[], None] = lambda: None,
    chat: ChatSettings = DEFAULT_CHAT,
) -> None:
    """Answer every prompt, handing each batch's answers to ``on_batch`` as soon as they exist.

    Args:
        task_cache: see ``eval.suites.lm_eval_tasks.answer_task``.
        decoding: how answers are written; ``None`` is greedy.
        on_ready: called when the first prompt is about to be asked.
        chat: whether the model reasons, and which day its prompts name.
    """
    prompts = chat_prompts(tokenizer, chat)
    was_training = model.training
    model.eval()
    decoder = prepare(decoding, model, prompts, _kept(decoding, task_cache))
    asked = generated_prompts(decoder, prompt_sets)
    endings = ending_tokens(model, tokenizer) | frozenset(prompts.stop_ids)
    on_ready()
    questions = [each.question for each in asked]
    for batch in decoder.generate(model, questions, endings, batch_tokens):
        on_batch({asked[index].id: asked[index].answer(tokens) for index, tokens in batch.items()})
    for prompt_set in prompt_sets:
        if isinstance(prompt_set.row, TaskRow):
            _run_task(model, prompts, prompt_set, batch_tokens, on_batch, task_cache)
        elif prompt_set.scoring == "choice":
            score = partial(mean_log_likelihoods, model, batch_tokens=batch_tokens)
            choose(score, prompts_of(prompts, prompt_set), prompt_set, on_batch)
    model.train(was_training)


def _kept(decoding: DecodingSettings | None, task_cache: Path | None) -> Path | None:
    """Where a decoding keeps what it learns: the cache's name has the hash of all it depends on."""
    if decoding is None or task_cache is None:
        return None
    name = task_cache.name.replace("lm-eval", decoding.method)
    return task_cache.with_name(f"{name}.safetensors")


def chat_prompts(tokenizer: PreTrainedTokenizerBase, chat: ChatSettings) -> ChatPrompts:
    """The prompts of a model, which errors call by its tokenizer's folder."""
    name = tokenizer.name_or_path
    return ChatPrompts(tokenizer, f"model {name}" if name else "tokenizer", chat)


def generated_prompts(decoder: Decoding, prompt_sets: Sequence[PromptSet]) -> list[Asked]:
    """The prompts whose answers the model generates, in place of choosing among given ones."""
    asked: list[Asked] = []
    for prompt_set in prompt_sets:
        row = prompt_set.row
        if isinstance(row, TaskRow) or not is_generated(prompt_set):
            continue
        chat = prompts_of(decoder.chat, prompt_set)
        for prompt in prompt_set.prompts:
            begun = begun_answer(chat, prompt.text, row.prefix) if row.prefix else []
            question = decoder.question(prompt.text, row.max_new_tokens, chat, begun)
            asked.append(Asked((row.name, prompt.id), question, chat, begun))
    return asked


def is_generated(prompt_set: PromptSet) -> bool:
    """Whether the model generates the answers to these prompts, in place of choosing among given
    ones."""
    return not isinstance(prompt_set.row, TaskRow) and prompt_set.scoring != "choice"


def choose(
    score: Score, chat: ChatPrompts, prompt_set: PromptSet, on_batch: Callable[[Answers], None]
) -> None:
    """Pick for each prompt the choice whose tokens are likeliest on average."""
    for start in range(0, len(prompt_set.prompts), _CHOICE_CHUNK):
        prompts = prompt_set.prompts[start : start + _CHOICE_CHUNK]
        questions = [choice_question(chat, prompt.text, prompt.choices) for prompt in prompts]
        chosen = {}
        for prompt, likelihoods in zip(prompts, score(questions), strict=True):
            best = max(range(len(likelihoods)), key=likelihoods.__getitem__)
            chosen[prompt_set.row.name, prompt.id] = Answer(prompt.choices[best], 0)
        on_batch(chosen)


def choice_question(chat: ChatPrompts, text: str, choices: Sequence[str]) -> ChoiceQuestion:
    """A question whose answers are given.

    What the template writes before an answer belongs to the prompt that all choices share.

    Where a choice's first token reaches back into it, that token is every choice's own.
    """
    examples = [chat.example(text, choice) for choice in choices]
    start = min(labels.count(IGNORED_LABEL) for _, labels in examples)
    return ChoiceQuestion(examples[0][0][:start], [ids[start:] for ids, _ in examples])


def _run_task(
    model: PreTrainedModel,
    prompts: ChatPrompts,
    prompt_set: PromptSet,
    batch_tokens: int,
    on_batch: Callable[[Answers], None],
    cache: Path | None,
) -> None:
    from eval.suites.lm_eval_tasks import answer_task  # seconds to import, and only tasks need it

    row = prompt_set.row
    assert isinstance(row, TaskRow)
    for answers in answer_task(model, prompts, row, prompt_set.prompts, batch_tokens, cache):
        on_batch({(row.name, id_): answer for id_, answer in answers.items()})
