"""Before any training: do the tokens that count as the answer read as the answer?"""

from collections.abc import Sequence

from merge.common.errors import UserError
from train.chat.example import Example
from train.chat.prompts import IGNORED_LABEL, ChatPrompts

_ROWS = 8
"""Rows that are looked at, evenly spaced."""
_SHOWN = 60


def check_round_trip(chat: ChatPrompts, examples: Sequence[Example]) -> None:
    """See that the decoded labels of a few rows are the answer and its end of turn (issue 13).

    Compared without white space, which templates trim and tokenizers add, and with the answer as
    the tokenizer itself reads and writes it: some know lower case only.

    Raises:
        UserError: they are anything else; a template cuts or changes answers.
    """
    if not set(chat.stop_ids).intersection(chat.template_ids(chat.turn_end(examples[0].question))):
        raise UserError(
            f"{chat.source}: its chat template writes no token that ends a turn, and a model "
            "trained with it would not stop; use the template that the model was trained with, or "
            "put eos_token behind its answers"
        )
    step = max(1, len(examples) // _ROWS)
    for pair in examples[::step][:_ROWS]:
        _, labels = chat.example(pair.question, pair.answer)
        counted = [label for label in labels if label != IGNORED_LABEL]
        read = _dense(str(chat.tokenizer.decode(counted)))
        own = chat.own_answer(pair.question, pair.answer)
        # As the tokenizer itself reads and writes both.
        answer = _dense(str(chat.tokenizer.decode(chat.text_ids(own))))
        behind = chat.turn_end(pair.question) + (chat.tokenizer.eos_token or "")
        end = _dense(str(chat.tokenizer.decode(chat.template_ids(behind))))
        if not read.startswith(answer) or not end.startswith(read[len(answer) :]):
            raise UserError(
                f"{chat.source}: to '{pair.question[:_SHOWN]}' the tokens that count as the "
                f"answer read '{read[:_SHOWN]}', not the answer and its end of turn; use the chat "
                "template that the model was trained with"
            )
        if counted[-1] not in chat.stop_ids:
            raise UserError(
                f"{chat.source}: the answer to '{pair.question[:_SHOWN]}' has no end of turn; use "
                "the chat template that the model was trained with"
            )


def _dense(text: str) -> str:
    return "".join(text.split())
