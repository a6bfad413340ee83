"""A tokenizer's chat template with all that it depends on: its settings, and a day that stays."""

import datetime
import logging
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from merge.common.errors import UserError, first_line
from train.chat.chat_settings import DEFAULT_DATE, ChatSettings

logger = logging.getLogger(__name__)

_CLOCK = "strftime_now"
"""The function by which transformers lets templates read the clock."""
_DATE_TEXT = "date_string"
"""Llama's variable for the day, as "26 Jul 2024"."""
_SWITCHES = (
    "enable_thinking",
    "thinking",
    "enable_reasoning",
    "reasoning",
    "use_thinking",
    "think",
)
"""Variables of templates that say whether to reason, true or false."""
_EFFORT, _BUDGET = "reasoning_effort", "thinking_budget"

_DIRECTIVES = "aAbBcdDeFgGhHIjklmMnpPqrRsSTuUVwWxXyYzZ"
_HELD = "\ufdd2"
"""Stands for a doubled percent sign; no character of any text."""
_GENERATION_TAGS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


class ChatTemplate:
    """Renders conversations, the same for the same inputs on any day.

    Args:
        tokenizer: a ``transformers`` tokenizer with a chat template.
        source: where it came from, named in errors.

    Raises:
        UserError: the settings ask for, or against, reasoning, and the template has no switch.
    """

    def __init__(self, tokenizer: Any, source: str, settings: ChatSettings) -> None:
        self._tokenizer = tokenizer
        self._source = source
        self.text = _text_of(tokenizer, source)
        """The template as given."""
        names = _variables(self.text)
        self.arguments: dict[str, Any] = {}
        """What every rendering passes on to the template."""
        self._recorded: dict[str, Any] = {}
        if settings.reasoning is not None:
            self.arguments |= _reasoning_arguments(names, self.text, settings.reasoning, source)
            self._recorded["reasoning"] = settings.reasoning
        self.fixed: str | None = None
        """The template with a clock that stands still; ``None`` where it reads no clock."""
        day = settings.date or DEFAULT_DATE
        if _CLOCK in names:
            self.fixed = _standing_clock(day) + self.text
            _tell_date(source, day)
        if _DATE_TEXT in names and settings.date is not None:
            self.arguments[_DATE_TEXT] = day.strftime("%d %b %Y")
        if self.fixed is not None or _DATE_TEXT in self.arguments:
            self._recorded["date"] = day.isoformat()

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings that change what this template writes, as JSON values."""
        return dict(self._recorded)

    def render(self, turns: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """The text of a conversation.

        Raises:
            UserError: the template fails on it.
        """
        options = {} if self.fixed is None else {"chat_template": self.fixed}
        try:
            return self._tokenizer.apply_chat_template(
                list(turns),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **options,
                **self.arguments,
            )
        except Exception as error:
            # Templates are programs of their own and raise what they like.
            raise UserError(
                f"{self._source}: its chat template fails on '{turns[0]['content'][:40]}' "
                f"({error}); fix the template"
            ) from None


def _text_of(tokenizer: Any, source: str) -> str:
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:  # several named templates, and none of them is the default
        raise UserError(
            f"{source}: it has no default chat template ({first_line(error)})"
        ) from None


@cache
def _variables(text: str) -> frozenset[str]:
    """Names that a template expects from outside; none where it is no Jinja."""
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        # transformers' own tag, which this environment does not know.
        tree = environment.parse(_GENERATION_TAGS.sub("", text))
    except jinja2.TemplateSyntaxError:
        return frozenset()
    return frozenset(jinja2.meta.find_undeclared_variables(tree))


def _reasoning_arguments(
    names: frozenset[str], text: str, wanted: bool, source: str
) -> dict[str, Any]:
    """What makes a template ask for reasoning, or against it."""
    switches: dict[str, Any] = {name: wanted for name in _SWITCHES if name in names}
    if switches:
        return switches
    if _EFFORT in names and re.search(r"['\"]none['\"]", text):
        return {_EFFORT: "high" if wanted else "none"}
    if _BUDGET in names:
        return {} if wanted else {_BUDGET: 0}
    if _EFFORT in names and wanted:  # gpt-oss: it reasons always, and the effort is its own default
        return {}
    wish = "on" if wanted else "off"
    raise UserError(
        f"{source}: its chat template has no switch that turns reasoning {wish} "
        f"({', '.join(_SWITCHES)}); leave the setting 'reasoning' out"
    )


@cache
def _standing_clock(day: datetime.date) -> str:
    """A Jinja macro in the clock's place, as transformers passes no functions on to templates.

    The line break after it is trimmed, so that the template begins as before.
    """
    midnight = datetime.datetime(day.year, day.month, day.day)
    # "-" leaves out leading zeros; a doubled percent sign must wait for the end.
    values = {f"%{flag}{letter}": "" for flag in ("-", "") for letter in _DIRECTIVES}
    values = {directive: midnight.strftime(directive) for directive in values}
    quoted = {key: value.replace("'", "\\'") for key, value in values.items()}
    replaced = " | ".join(f"replace('{key}', '{value}')" for key, value in quoted.items())
    return (
        f"{{%- macro {_CLOCK}(format) -%}}"
        f"{{{{ format | replace('%%', '{_HELD}') | {replaced} | replace('{_HELD}', '%') }}}}"
        "{%- endmacro %}\n"
    )


@cache
def _tell_date(source: str, day: datetime.date) -> None:
    logger.info(
        "%s: its chat template writes today's date; it is %s on every day, unless backbone.date "
        "(--date of an evaluation) names another",
        source,
        day,
    )
