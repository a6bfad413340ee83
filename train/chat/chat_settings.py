"""How a model is spoken to besides its chat template; one setting for training and evaluation."""

import datetime
from dataclasses import dataclass

DEFAULT_DATE = datetime.date(2024, 7, 26)
"""The day that a template sees as today unless a recipe names another: Llama 3.1's own default. A
fixed one, because prompts are a function of recorded inputs, and never of the clock (issue 13)."""


@dataclass(frozen=True)
class ChatSettings:
    """What a recipe, or ``eval run``, says of the prompts.

    Attributes:
        reasoning: whether the model shall reason before its answer; ``None`` is what its template
            does by itself.
        date: the day that a template writes as today's; ``None`` is ``DEFAULT_DATE``.
    """

    reasoning: bool | None = None
    date: datetime.date | None = None


DEFAULT_CHAT = ChatSettings()
