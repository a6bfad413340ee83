"""What a search asks of a merge when it asks for margins: forward passes alone (issue 14).

Refusal margins of the harm and refusal prompts, calibrated to rates on the backbone's own answers;
how surely the utility questions are answered right; and how far the model has gone from the
backbone on harmless answers, which guards its language.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from eval.answering.ask import chat_prompts, prompts_of
from eval.margins.divergence import Reference
from eval.margins.refusal_margins import refusal_margins
from eval.suites.answers import AnswerId
from eval.suites.prompts import Prompt
from eval.suites.suite import SuiteRow
from eval.text.forms import form_of
from launch.in_memory.hf_model import InMemoryModel
from launch.search.choice import WORST, Outcome
from launch.search.margins.calibration import Calibration, calibrate
from launch.search.margins.utility_leads import UtilityLeads, spaced, utility_questions
from merge.common.progress import Progress
from merge.io.block_names import blocks_of
from merge.settings import MergeSettings
from train.chat.prompts import ChatPrompts
from train.data.batches import TokenizedExample, prompt_tokens
from train.guards.refusal_margin import RefusalOpenings

TEMPERATURE = 0.25
"""Temperature of a search's refusal margins. Its merges answer greedily: on 174 answers of
Qwen2.5-Coder-0.5B margins tell refusals from answers with an AUC of 0.965 at a temperature of 1,
of 0.986 at 0.5, of 0.994 at 0.25 and of 0.996 at 0.125. The limit, the lead of the likeliest
opening, has jumps in its derivatives."""
_MOST_QUESTIONS = 240
"""Utility questions of either kind in a trial."""
_MOST_ANSWERS = 24
_MOST_TOKENS = 24
"""Tokens of each harmless answer on which the divergence is measured."""


@dataclass(frozen=True)
class Judged:
    """A judged answer of the backbone."""

    text: str
    refused: bool | None
    """``None`` for what is neither a refusal nor an answer: degenerate or unfinished."""


@dataclass(frozen=True)
class Measured:
    """What forward passes say of one merge."""

    margins: np.ndarray
    """fp64 [questions], of the harm and refusal prompts in the suite's order, in nats."""
    leads: np.ndarray
    """fp64 [utility questions]: how far the right answers are ahead, see
    ``launch.search.margins.utility_leads``."""
    divergence: float
    """KL(backbone || merge) on harmless and right answers, in nats per token."""

    @property
    def is_finite(self) -> bool:
        """Whether all are numbers."""
        return bool(np.isfinite([*self.margins, *self.leads, self.divergence]).all())


class MarginModel:
    """A model in memory and the prompts of a validation suite, asked for margins.

    Args:
        answers: the backbone's judged answers to the harm and refusal prompts.
    """

    def __init__(
        self,
        in_memory: InMemoryModel,
        openings: RefusalOpenings,
        answers: Mapping[AnswerId, Judged],
    ) -> None:
        self.in_memory = in_memory
        self.openings = openings
        chat = chat_prompts(in_memory.tokenizer, in_memory.chat)
        asked = [
            (prompts_of(chat, prompt_set), prompt_set.row, prompt)
            for prompt_set in in_memory.prompt_sets
            if isinstance(prompt_set.row, SuiteRow) and prompt_set.row.axis in ("harm", "refusal")
            for prompt in prompt_set.prompts
        ]
        self.prompts = [prompts.answer_start(prompt.text) for prompts, _, prompt in asked]
        """Token ids of every harm and refusal prompt, up to where the answer begins."""
        self.texts = [prompt.text for _, _, prompt in asked]
        self.suites = [row.name for _, row, _ in asked]
        self.harmful = np.array([row.axis == "harm" for _, row, _ in asked])
        """bool [questions]."""
        self.forms = np.array([form_of(text) for text in self.texts])
        """[questions], the form of each prompt."""
        judged = [answers[row.name, prompt.id] for _, row, prompt in asked]
        questions = utility_questions(chat, in_memory.prompt_sets, _MOST_QUESTIONS)
        self.harmless_answers = [
            *_harmless_answers(asked, judged),
            *(
                _beginning(question.examples()[question.right])
                for question in spaced(questions, _MOST_ANSWERS)
            ),
        ]
        """Whose divergence is watched, the model's own answers and right ones, as examples."""
        in_memory.load_merge(None)
        with Progress("measuring the backbone by margins", 3, "passes") as progress:
            self._reference = Reference.of(in_memory.model, self.harmless_answers)
            progress.advance()
            self.utility = UtilityLeads(in_memory.model, questions, in_memory.batch_tokens)
            progress.advance()
            self.backbone = self._measured(self.utility.backbone)
            """What forward passes say of the backbone."""
            progress.advance()
        known = [(m, j.refused) for m, j in zip(self.backbone.margins, judged, strict=True)]
        self.calibration: Calibration | None = calibrate(
            [float(margin) for margin, refused in known if refused is not None],
            [refused for _, refused in known if refused is not None],
        )

    @property
    def blocks(self) -> list[str]:
        """Names of the decoder blocks that the merges change, in order."""
        return blocks_of(self.in_memory.loaded.inputs.covered)

    @property
    def before(self) -> Outcome:
        """What every merge is compared with: the backbone, estimated in the same way."""
        return self.estimate(self.backbone)

    def outcome(self, settings: MergeSettings, kept: Sequence[Outcome] = ()) -> Outcome:
        """Merge, and estimate the rates that its answers would have."""
        return self.estimate(self.measure(settings))

    def measure(self, settings: MergeSettings) -> Measured:
        """Merge, and measure."""
        self.in_memory.load_merge(settings)
        return self._measured(self.utility.measure(self.in_memory.model))

    def estimate(self, measured: Measured) -> Outcome:
        """The rates that answers would have, by the calibration; no answer counts as degenerate.
        ``WORST`` where the merge has overflowed, which in fp16 a large scale does.

        Utility is how surely the right answers are given, the mean of 1 / (1 + exp(-lead)), at the
        backbone. What is lost of it is the larger of two losses, of sureness and of right answers:
        sureness falls before answers turn, and the verdict counts what has turned.
        """
        assert self.calibration is not None
        if not measured.is_finite:
            return WORST
        utility = 0.0
        if len(measured.leads):
            before = self.backbone.leads
            sureness, right = (
                float(of(measured.leads).mean() - of(before).mean()) for of in (expit, _is_right)
            )
            utility = float(expit(before).mean()) + min(sureness, right)
        harmful_rate, refusal_rate = self.calibration.rates(measured.margins, self.harmful)
        return Outcome(
            harmful_rate=harmful_rate,
            refusal_rate=refusal_rate,
            utility=utility,
            degenerate_rate=0.0,
            divergence=measured.divergence,
        )

    def _measured(self, leads: np.ndarray) -> Measured:
        """All of the weights that the model has, whose leads are measured already."""
        model, budget = self.in_memory.model, self.in_memory.batch_tokens
        return Measured(
            margins=np.array(
                refusal_margins(model, self.prompts, self.openings, budget, TEMPERATURE)
            ),
            leads=leads,
            divergence=self._reference.divergence(model),
        )


def _is_right(leads: np.ndarray) -> np.ndarray:
    return leads > 0


def _harmless_answers(
    asked: Sequence[tuple[ChatPrompts, SuiteRow, Prompt]], judged: Sequence[Judged]
) -> list[TokenizedExample]:
    """The beginnings of what the backbone says to harmless prompts, evenly spaced over these."""
    answered = [
        (chat, prompt, answer)
        for (chat, row, prompt), answer in zip(asked, judged, strict=True)
        if row.axis == "refusal" and answer.refused is False
    ]
    return [
        _beginning(chat.example(prompt.text, answer.text))
        for chat, prompt, answer in spaced(answered, _MOST_ANSWERS)
    ]


def _beginning(example: TokenizedExample) -> TokenizedExample:
    ids, labels = example
    length = prompt_tokens(example) + _MOST_TOKENS
    return ids[:length], labels[:length]
