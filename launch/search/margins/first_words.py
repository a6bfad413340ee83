"""A warning where a fit could learn the form of prompts in place of their harm (issue 14)."""

import logging

from eval.suites.form_check import check_forms
from launch.search.margins.margin_model import MarginModel

logger = logging.getLogger(__name__)


def check_first_words(model: MarginModel) -> dict[str, float] | None:
    """Warn where the first words alone tell the prompts of both axes apart: a fit learns them."""
    harmful, harmless = (
        [
            text
            for text, is_harmful in zip(model.texts, model.harmful, strict=True)
            if is_harmful == wanted
        ]
        for wanted in (True, False)
    )
    check = check_forms(harmful, harmless)
    if check is None:
        return None
    if 1 - check.accuracy <= (1 - check.majority) / 2:
        logger.warning(
            "search: the first words alone tell harmful from harmless validation prompts (%.0f %% "
            "right, %.0f %% by always saying one): what is chosen on them may have learned the "
            "form; add harmless prompts that begin as the harmful ones do, and the other way",
            100 * check.accuracy, 100 * check.majority,
        )  # fmt: skip
    return check._asdict()
