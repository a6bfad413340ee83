"""Whether a suite's harmful and harmless prompts differ by their first words alone (issue 14).

"How do I ..." against "Write a ...": where a classifier that sees nothing else tells the two apart,
whatever is fitted to these prompts learns their form and not what they ask for.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

_FIRST = 4
"""Words of a prompt that the classifier sees; ours."""
_FOLDS = 5
_FEWEST = 20
"""Prompts of each axis, below which cross-validation says nothing; ours."""
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
# Scripts without spaces between words go letter by letter.
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


class FormCheck(NamedTuple):
    """How well the first words tell harmful prompts from harmless ones, as fractions of 1.

    Attributes:
        accuracy: of the classifier, cross-validated; the classes weigh as many as they are.
        majority: share of the larger class, the accuracy of one who always says it.
        n: prompts of both classes.
    """

    accuracy: float
    majority: float
    n: int


def check_forms(harmful: Sequence[str], harmless: Sequence[str]) -> FormCheck | None:
    """Classify prompts by a bag of their first four words.

    Logistic regression (L2, C = 1) on which words occur, in five stratified folds that are drawn
    with a fixed seed: the same prompts give the same numbers.

    Returns:
        ``None`` with fewer than 20 prompts of either class.
    """
    if min(len(harmful), len(harmless)) < _FEWEST:
        return None
    # Seconds to import, and only a search asks.
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    prompts = [dict.fromkeys(first_words(prompt), 1) for prompt in (*harmful, *harmless)]
    labels = [1] * len(harmful) + [0] * len(harmless)
    model = make_pipeline(DictVectorizer(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    guesses = cross_val_predict(model, prompts, labels, cv=folds)
    right = sum(int(guess == label) for guess, label in zip(guesses, labels, strict=True))
    majority = max(len(harmful), len(harmless)) / len(prompts)
    return FormCheck(right / len(prompts), majority, len(prompts))


def first_words(prompt: str) -> list[str]:
    """The first four words, without case and the signs around them; one "" where there is none."""
    words = (_bare(word).casefold() for word in _WORD.findall(prompt))
    return [word for word in words if word][:_FIRST] or [""]


def _bare(word: str) -> str:
    """Without punctuation and symbols at its edges; vowel signs of any script stay."""
    signs = "".join(sign for sign in set(word) if unicodedata.category(sign)[0] in "PSC")
    return word.strip(signs)
