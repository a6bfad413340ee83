"""What a search draws: the space of merge settings by method, and the sampler that walks it."""

from typing import Any

import optuna

from launch.recipe import SearchMethod, SearchSettings
from merge.methods import METHODS
from merge.recipe import MergeSettings


def suggest(
    trial: optuna.Trial, method: SearchMethod, settings: SearchSettings, base: MergeSettings
) -> MergeSettings:
    """Merge settings for one trial; what the method does not use keeps the recipe's value."""
    rule = METHODS[method]
    low, high = settings.patch_weights
    values: dict[str, Any] = {"alpha": trial.suggest_float("alpha", low, high, log=True)}
    # TIES has one factor for both.
    one_factor = method == "ties"
    values["beta"] = (
        values["alpha"] if one_factor else trial.suggest_float("beta", low, high, log=True)
    )
    if rule.drawn:
        values["retention"] = trial.suggest_float("retention", *settings.retentions)
    if rule.masked and not rule.by_magnitude:
        values["score"] = trial.suggest_categorical("score", ["weight", "delta"])
        values["scope"] = trial.suggest_categorical("scope", ["tensor", "model"])
    if rule.masked:
        low, high = settings.top_rates
        for key in ("top_safety", "top_over_safety"):
            values[key] = trial.suggest_float(key, low, high, log=True)
    return base.model_copy(update={"method": method, **values})


def new_study(method: str, settings: SearchSettings, seed: int) -> optuna.Study:
    """A study in memory; the same seed draws the same settings after the same outcomes."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=int(settings.random_share * settings.trials)
    )
    return optuna.create_study(
        study_name=method, sampler=sampler, directions=["minimize", "minimize"]
    )
