"""What `launch plan` says of time, and of the stages that ask a model: search and evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from launch.recipe import Recipe
from launch.run.variant_list import report_names, trained_baselines
from launch.sizing.answering_needs import (
    AnsweringMemory,
    Questions,
    answering_memory,
    answering_seconds,
    margin_seconds,
    read_questions,
)
from launch.sizing.chain_times import (
    ablation_models,
    ablation_trainings,
    baseline_recipes,
    continual_recipes,
)
from launch.sizing.gpus import ASSUMED_MFU, GPUS
from launch.sizing.judging_times import judge_times, mt_bench_times
from launch.sizing.measured_rates import Rates, read_rates
from launch.sizing.training_needs import Model, training_seconds
from merge.common.errors import UserError
from train.data.examples import read_examples
from train.data.role_data import trained_sources
from train.recipe import ROLES, DataSettings
from train.settings import OBJECTIVES, TrainingSettings

_GB = 1e9


@dataclass(frozen=True)
class StageTime:
    """How long one stage takes."""

    stage: str
    work: str
    seconds: Sequence[float]
    """On each of the GPUs of ``launch.sizing.gpus``, in their order; empty where not known."""
    measured: float | None
    """Seconds at the rate of the run folder's finished stages."""


def memory_table(model: Model, recipe: Recipe) -> Table | None:
    """The memory of one GPU in search and evaluation; ``None`` where the recipe has neither."""
    needs = answering_needs(model, recipe)
    if not needs:
        return None
    table = Table(title="Memory in GB, search and evaluation on one GPU")
    table.add_column("one GPU")
    for name in needs:
        table.add_column(name, justify="right")
    for part in ("weights", "cache", "activations", "logits", "base"):
        table.add_row(part, *(f"{getattr(need, part) / _GB:.1f}" for need in needs.values()))
    table.add_row("sum", *(f"{need.total / _GB:.1f}" for need in needs.values()), style="bold")
    table.add_row("fits GPUs of (GB)", *(fitting_sizes(need.total) for need in needs.values()))
    return table


def answering_needs(model: Model, recipe: Recipe) -> dict[str, AnsweringMemory]:
    """By stage; a search by several workers has as many models, dealt to the GPUs."""
    tokens = _batch_tokens(recipe)
    needs = {}
    if recipe.search is not None:
        needs["search"] = answering_memory(model, tokens, recipe.search)
    if recipe.eval is not None:
        needs["evaluation"] = answering_memory(model, tokens)
    return needs


def fitting_sizes(total: float) -> str:
    """The sizes of GPUs that suffice for so many bytes, in words."""
    sizes = [str(gpu.gigabytes) for gpu in GPUS if total <= gpu.gigabytes * _GB]
    return ", ".join(sizes) or "none"


def time_table(model: Model, recipe: Recipe, ranks: int) -> Table:
    """The time of every stage that takes long, on each size of GPU.

    Raises:
        UserError: the data cannot be read.
    """
    rates = read_rates(recipe.output)
    title = f"Time at most: trainings on {ranks} GPUs at {ASSUMED_MFU:.0%} MFU, the rest on one"
    table = Table(title=title)
    table.add_column("stage", no_wrap=True)
    table.add_column("work")
    for gpu in GPUS:
        table.add_column(f"{gpu.gigabytes} GB", justify="right", no_wrap=True)
    if rates.any():
        table.add_column("as measured here", justify="right")
    times = [
        *_training_times(model, recipe, ranks, rates),
        *_baseline_times(model, recipe, ranks, rates),
        *_asking_times(model, recipe, rates),
        *_ablation_times(model, recipe, ranks, rates),
        *_continual_times(model, recipe, ranks, rates),
    ]
    for time in times:
        cells = [readable_time(seconds) for seconds in time.seconds] or ["-"] * len(GPUS)
        measured = "-" if time.measured is None else readable_time(time.measured)
        table.add_row(time.stage, time.work, *cells, *([measured] if rates.any() else []))
    if rates.merge is not None:
        table.add_row("merge", "", *("" for _ in GPUS), readable_time(rates.merge))
    return table


def _training_times(model: Model, recipe: Recipe, ranks: int, rates: Rates) -> Iterator[StageTime]:
    for role in ROLES:
        sources = trained_sources(recipe, role)
        yield _training_time(role, model, recipe.training(role), sources, ranks, rates)


def _training_time(
    stage: str,
    model: Model,
    training: TrainingSettings,
    sources: Mapping[str, DataSettings],
    ranks: int,
    rates: Rates,
) -> StageTime:
    steps, batch = _steps_and_batch(training, sources)
    samples = batch * OBJECTIVES[training.objective].samples_a_pair
    tokens = steps * samples * training.max_length
    work = f"{steps} steps, {tokens / 1e6:.1f} M tokens"
    times = [training_seconds(model, training, tokens, ranks * gpu.flops) for gpu in GPUS]
    return StageTime(stage, work, times, _at(rates.training, tokens / ranks))


def _baseline_times(model: Model, recipe: Recipe, ranks: int, rates: Rates) -> Iterator[StageTime]:
    """Trainings of the baselines that stand in the report."""
    for patch in trained_baselines(recipe):
        stage, sources = f"baselines.{patch.name}", trained_sources(recipe, patch.role)
        yield _training_time(stage, model, patch.training, sources, ranks, rates)


def _ablation_times(model: Model, recipe: Recipe, ranks: int, rates: Rates) -> Iterator[StageTime]:
    """Stages of `launch ablate`, where the recipe has a section for it."""
    for patch in ablation_trainings(recipe):
        name, sources = f"ablation.{patch.name}", trained_sources(recipe, patch.role)
        yield _training_time(name, model, patch.training, sources, ranks, rates)
    if recipe.ablate is not None and recipe.eval is not None:
        yield from _evaluation_time(model, recipe, ablation_models(recipe), "ablation", rates)


def _continual_times(model: Model, recipe: Recipe, ranks: int, rates: Rates) -> Iterator[StageTime]:
    """Stages of `launch continual`: a line for each stage, one of its jobs after the other."""
    for name, stage in continual_recipes(recipe):
        # The trainings are side by side.
        trainings = _training_times(model, stage, ranks, rates)
        longest = max(trainings, key=lambda time: time.seconds[0])
        yield _one_after_another(name, [longest, *_asking_times(model, stage, rates)])
    for name, stage in baseline_recipes(recipe):
        training = next(iter(_training_times(model, stage, ranks, rates)))
        asking = _evaluation_time(model, stage, 1, name, rates)
        yield _one_after_another(name, [training, *asking])


def _one_after_another(name: str, times: Sequence[StageTime]) -> StageTime:
    counted = [time.seconds for time in times if time.seconds]
    seconds = [sum(each) for each in zip(*counted, strict=True)]
    measured = [time.measured for time in times if time.measured is not None]
    words = "; ".join(time.work for time in times)
    return StageTime(name, words, seconds, sum(measured) if len(measured) == len(times) else None)


def _asking_times(model: Model, recipe: Recipe, rates: Rates) -> Iterator[StageTime]:
    """Times of search and evaluation; none of a suite that the run makes itself."""
    tokens = _batch_tokens(recipe)
    data_dir = recipe.evaluation.data_dir
    search = recipe.search
    asked = None if search is None else _questions(search.suite, data_dir)
    if search is not None and asked is not None:
        trials = search.trials * len(search.methods)
        by_margins = search.by == "margins"
        answered = search.answered * len(search.methods) if by_margins else trials
        answered += search.fit != "none"  # the best trial, before the fit
        times = [(answered + 1) * answering_seconds(model, asked, tokens, gpu) for gpu in GPUS]
        measured = _at(rates.trial, answered + 1)
        work = f"{trials} trials, {_words(answered + 1, asked)}"
        if by_margins:
            passes = [margin_seconds(model, asked, search, gpu) for gpu in GPUS]
            times = [sum(pair) for pair in zip(times, passes, strict=True)]
            quick = _at(rates.margin_trial, trials)
            measured = None if quick is None or measured is None else quick + measured
        if recipe.cluster is not None and recipe.cluster.search_array:
            times = [time / search.workers for time in times]
            measured = None if measured is None else measured / search.workers
            work += f"; by {search.workers} jobs at once"
        if search.fit != "none" and measured is not None:
            work += "; as measured without fits"
        yield StageTime("search", work, times, measured)
    if recipe.eval is not None:
        models = len(report_names(recipe))  # in comparisons and evaluation together
        yield from _evaluation_time(model, recipe, models, "evaluation", rates)
        yield from _judging_times(model, recipe, models)


def _evaluation_time(
    model: Model, recipe: Recipe, models: int, stage: str, rates: Rates
) -> Iterator[StageTime]:
    """Time of so many models that answer the evaluation's suite, where that is here."""
    assert recipe.eval is not None
    asked = _questions(recipe.eval.suite, recipe.eval.data_dir)
    if asked is not None:
        tokens = recipe.eval.batch_tokens
        gpus = GPUS if asked.count else ()
        times = [models * answering_seconds(model, asked, tokens, gpu) for gpu in gpus]
        measured = _at(rates.answering, models * asked.count)
        yield StageTime(stage, _words(models, asked), times, measured)


def _judging_times(model: Model, recipe: Recipe, models: int) -> Iterator[StageTime]:
    """Times of judges that are models, and of MT-Bench, which asks no decoding."""
    settings = recipe.eval
    assert settings is not None
    asked = _questions(settings.suite, settings.data_dir)
    if asked is not None:
        for work, seconds in judge_times(settings, asked, models):
            yield StageTime("evaluation", work, seconds, None)
    if settings.mt_bench is not None:
        rated = models - len(settings.decodings)
        for work, seconds in mt_bench_times(model, settings.mt_bench, settings.batch_tokens, rated):
            yield StageTime("MT-Bench", work, seconds, None)


def _questions(suite: Path, data_dir: Path | None) -> Questions | None:
    try:
        return read_questions(suite, data_dir)
    except UserError:
        return None


def _words(models: int, asked: Questions) -> str:
    words = f"{models} times {asked.count} prompts"
    return words + (f", without {', '.join(asked.uncounted)}" if asked.uncounted else "")


def _at(rate: float | None, amount: float) -> float | None:
    return None if rate is None else rate * amount


def readable_time(seconds: float) -> str:
    """In the largest unit of which there are two."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return (
                f"{seconds / size:.0f} {unit}"
                if seconds >= 10 * size
                else (f"{seconds / size:.1f} {unit}")
            )
    return f"{seconds:.1f} s"


def _batch_tokens(recipe: Recipe) -> int:
    return recipe.evaluation.batch_tokens


def _steps_and_batch(
    training: TrainingSettings, sources: Mapping[str, DataSettings]
) -> tuple[int, int]:
    """Optimizer steps, and pairs in one of them at most; the data is read only if it decides.

    Args:
        sources: of the pairs, by their keys in the recipe.
    """
    if training.steps is not None and training.batch_size != "all":
        return training.steps, training.batch_size
    pairs = sum(_pair_count(key, source) for key, source in sources.items())
    batch = training.batch_of(pairs)
    return training.steps or training.epochs * -(-pairs // batch), batch


def _pair_count(key: str, source: DataSettings) -> int:
    """The source's limit, or the rows of its data where it has none."""
    if source.limit is not None:
        return source.limit
    try:
        return len(read_examples(source))
    except UserError as error:
        raise UserError(f"{error}; or set {key}.limit, and the data is not read") from None
