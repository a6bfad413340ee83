"""What a search draws: the space of merge settings by method, and the sampler that walks it."""

from collections.abc import Sequence
from typing import Any

import optuna

from launch.search.settings import SearchMethod, SearchSettings
from merge.methods import METHODS
from merge.settings import MergeSettings, ScaleRule

DIRECTIONS = ("minimize", "minimize")
"""Both objectives, the harmful rate and the refusal rate, are minimised."""


def suggest(
    trial: optuna.Trial,
    method: SearchMethod,
    settings: SearchSettings,
    base: MergeSettings,
    blocks: Sequence[str],
) -> MergeSettings:
    """Merge settings for one trial; what the method does not use keeps the recipe's value.

    Args:
        blocks: names of the decoder blocks that are merged, in order, at least one in each group of
            layers; see ``blocks_of``.
    """
    rule = METHODS[method]
    low, high = settings.patch_weights
    values: dict[str, Any] = {"alpha": trial.suggest_float("alpha", low, high, log=True)}
    values["beta"] = (
        values["alpha"] if rule.one_factor else trial.suggest_float("beta", low, high, log=True)
    )
    if rule.scales_sets:
        for key in ("alpha_shared", "alpha_rest", "beta_shared", "beta_rest"):
            values[key] = trial.suggest_float(key, 0, high)
    if rule.drawn:
        values["retention"] = trial.suggest_float("retention", *settings.retentions)
    if rule.masked and not rule.by_magnitude:
        values["score"] = trial.suggest_categorical("score", settings.scores)
        values["scope"] = trial.suggest_categorical("scope", ["tensor", "model"])
    if rule.masked:
        low, high = settings.top_rates
        for key in ("top_safety", "top_over_safety"):
            values[key] = trial.suggest_float(key, low, high, log=True)
    if settings.layer_groups > 1:
        factors = _group_factors(trial, settings, rule.one_factor)
        values["scales"] = _layer_scales(factors, blocks, values["alpha"], values["beta"])
    return MergeSettings(**{**base.values_for(method), **values})


def _group_factors(
    trial: optuna.Trial, settings: SearchSettings, one_factor: bool
) -> list[tuple[float, float]]:
    """What alpha and beta are multiplied with, by group."""
    low, high = settings.layer_factors
    factors = []
    for group in range(settings.layer_groups):
        alpha = trial.suggest_float(f"alpha_factor_{group}", low, high, log=True)
        name = f"beta_factor_{group}"
        beta = alpha if one_factor else trial.suggest_float(name, low, high, log=True)
        factors.append((alpha, beta))
    return factors


def _layer_scales(
    factors: Sequence[tuple[float, float]], blocks: Sequence[str], alpha: float, beta: float
) -> tuple[ScaleRule, ...]:
    """A rule for each layer; the groups follow one another and are equal, up to one layer."""
    rules = []
    for place, block in enumerate(blocks):
        of_alpha, of_beta = factors[place * len(factors) // len(blocks)]
        rules.append(ScaleRule(pattern=f"{block}.*", alpha=alpha * of_alpha, beta=beta * of_beta))
    return tuple(rules)


def new_sampler(settings: SearchSettings, seed: int) -> optuna.samplers.BaseSampler:
    """It draws some settings at random, and then follows what these found."""
    random = int(settings.random_share * settings.trials)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=random)
