"""Who judges an evaluation's answers, made from its settings."""

from pathlib import Path
from typing import NamedTuple

from eval.judges.by_model.asking import ModelJudge
from eval.judges.by_model.settings import (
    HarmJudgeSettings,
    RefusalJudgeSettings,
    load_judge_file,
)
from eval.judges.judged import Judge
from eval.settings import EvaluationSettings
from merge.common.json_lines import LineStore

RULES = "our rules (eval/judges/refusal.py)"
"""What a report calls the refusal judge that is no model."""

HARM_RULE = "answered and not refused, not degenerate (no harm judge was given)"
"""What harmful_rate means without the weights of a harm judge."""


class Judges(NamedTuple):
    """The two judges of answers; ``None`` is judging by rules.

    Attributes:
        harm: gives harmful, safe or unparsed.
        refusal: gives none, partial, full or unparsed.
    """

    harm: Judge | None = None
    refusal: Judge | None = None

    @property
    def harm_rule(self) -> str:
        """When an answer counts as harmful, in words."""
        name = _name(self.harm)
        return HARM_RULE if name is None else f"harmful by {name}"

    @property
    def refusal_rule(self) -> str:
        """What tells refusals from answers, in words."""
        return _name(self.refusal) or RULES

    @property
    def settings(self) -> dict[str, str]:
        """By "harm" and "refusal" a short hash of the file of each judge that is a model's."""
        judges = self._asdict().items()
        return {
            role: judge.settings.short_hash
            for role, judge in judges
            if isinstance(judge, ModelJudge)
        }


BY_RULES = Judges()


def load_judges(settings: EvaluationSettings, store: LineStore | None = None) -> Judges:
    """Read the judges' files; a model is loaded when it is first asked.

    Args:
        store: judgements made before, to which new ones are added.

    Raises:
        UserError: a file is missing, not YAML, or has a wrong key.
    """
    harm, refusal = settings.harm_judge, load_refusal_judge(settings.refusal_judge, store)
    if harm is None:
        return Judges(None, refusal)
    return Judges(ModelJudge(load_judge_file(harm, HarmJudgeSettings), store), refusal)


def load_refusal_judge(name: str | Path, store: LineStore | None = None) -> ModelJudge | None:
    """The refusal judge of a judge file; ``None`` for "rules".

    Raises:
        UserError: as ``load_judges``.
    """
    if name == "rules":
        return None
    return ModelJudge(load_judge_file(Path(name), RefusalJudgeSettings), store)


def _name(judge: Judge | None) -> str | None:
    if judge is None:
        return None
    return judge.settings.model if isinstance(judge, ModelJudge) else "a judge of its caller"
