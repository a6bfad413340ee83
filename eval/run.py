"""`python -m eval run`: one model over one suite, into a folder of its own."""

import importlib.metadata
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from eval.answering.ask import Answers, Asking, chat_prompts, is_generated
from eval.answering.asked_how import answer_keys
from eval.answering.backends import BACKENDS, Backend, BackendName, check_backend
from eval.answering.completions import FILE_NAME, CompletionsFile
from eval.answering.cost import CostFile, Stopwatch
from eval.answering.decoding import decoding_identity
from eval.answering.loading import load_model, load_tokenizer, model_identity, resolve_dtype
from eval.decoding_settings import DecodingSettings
from eval.judges.judges import load_judges
from eval.margins.margin_file import FILE_NAME as MARGINS_NAME
from eval.margins.margin_file import MarginFile, load_openings
from eval.rates import Evaluation, summarize
from eval.report.notes import coverage_of, erased_of, notes_of
from eval.report.origin import summary_origin
from eval.settings import DEFAULTS, EvaluationSettings
from eval.statistics.summary import SUMMARY_NAME, OpeningsRecord, Summary
from eval.suites.answers import AnswerId
from eval.suites.prompt_hashes import prompts_sha256, texts_of, wanted_sha256
from eval.suites.prompts import PromptSet, load_prompts
from eval.suites.suite import TaskRow, load_suite
from merge.common.errors import UserError
from merge.common.files import (
    atomic_write_json,
    atomic_write_text,
    make_directory,
    read_json,
    sha256_json,
)
from merge.common.json_lines import LineStore
from merge.common.metrics import record
from merge.common.progress import Progress
from merge.common.provenance import written_by

logger = logging.getLogger(__name__)

_JUDGEMENTS_NAME = "judgements.jsonl"


@dataclass(frozen=True)
class RunJob:
    """One evaluation; see ``python -m eval run -h``.

    Attributes:
        name: the model's in reports; the folder's by default.
        settings: how it is asked and judged; of ``decodings`` only ``decoding`` is asked for.
        openings: a run's openings.json; refusal margins are then measured.
        tensorboard: folder of scalars.
    """

    model: Path
    suite: Path
    out: Path
    name: str | None = None
    settings: EvaluationSettings = DEFAULTS
    decoding: DecodingSettings | None = None
    openings: Path | None = None
    tensorboard: Path | None = None
    recipe: str | None = None
    """Hash of the run's recipe, for the summary (``merge.common.provenance``)."""


def run(job: RunJob) -> Summary:
    """Answer what is not yet answered, judge everything, and write summary.json last.

    Returns:
        The summary: name, rates by axis and suite, hashes, settings, cost.

    Raises:
        UserError: model, suite, source or folder are not usable.
    """
    settings = job.settings
    suite = load_suite(job.suite, settings.data_dir)
    prompt_sets = load_prompts(suite)
    rules = load_judges(settings)  # a mistake in a file shows before anything is asked
    check_backend(settings.backend, job.decoding is not None)
    identity = model_identity(job.model)
    tokenizer = load_tokenizer(job.model)
    prompts = chat_prompts(tokenizer, settings.chat)
    dtype = resolve_dtype(settings.dtype)
    decoding = {**decoding_identity(job.decoding, tokenizer), "dtype": dtype, **prompts.recorded}
    if settings.backend != "hf":
        decoding["backend"] = settings.backend
    if job.openings and job.decoding is not None:
        raise UserError("--openings: margins are of the plain model; leave out --decoding")
    openings = load_openings(job.openings, tokenizer) if job.openings else None
    keys = answer_keys(prompt_sets, {**identity, **decoding}, prompts)
    make_directory(job.out)
    completions = CompletionsFile(job.out, keys)
    margins = None
    if openings is not None:
        common = {**identity, "dtype": dtype}
        margins = MarginFile(job.out, openings, prompt_sets, prompts, common)
    load = cache(partial(load_model, job.model, dtype))
    pending = _without(prompt_sets, completions.answers)
    before = _previous(job.out)
    is_measured = margins is None or not margins.pending
    judged_by = [before.get(key) for key in ("harm_rule", "refusal_rule", "judge_settings")]
    is_judged = judged_by == [rules.harm_rule, rules.refusal_rule, rules.settings]
    if pending or completions.stale or not is_measured or not is_judged:
        _withdraw(job.out)
    completions.open()
    costs = CostFile(job.out, {keys[answer_id] for answer_id in completions.answers})
    if pending:
        digest = sha256_json({**identity, **decoding}, sort_keys=True)
        task_cache = job.out / f"lm-eval-{digest[:16]}"
        how = (settings.batch_tokens, task_cache, job.decoding, settings.chat)
        asking = Asking(job.model, dtype, tokenizer, load, *how)
        _answer(job, asking, pending, completions, costs)
    else:
        logger.info("%s: already done, all %d answers are there", job.out, len(keys))
    completions.close()
    if margins is not None:
        margins.measure(load, settings.batch_tokens)
    load.cache_clear()  # a judge may need the memory
    judges = load_judges(settings, LineStore(job.out / _JUDGEMENTS_NAME))
    measured = margins.margins if margins else {}
    evaluation = summarize(prompt_sets, completions.answers, judges, measured)
    _withdraw(job.out)
    _write_completions(job.out, evaluation, keys)
    summary: Summary = {
        "format": 1,
        "name": job.name or job.out.resolve().name,
        "axes": {axis: rate.as_dict() for axis, rate in evaluation.axes.items()},
        "suites": evaluation.suites,
        "coverage": coverage_of(job.model),
        "erased": erased_of(job.model),
        "harm_rule": rules.harm_rule,
        "refusal_rule": rules.refusal_rule,
        "judge_settings": rules.settings,
        "identity": identity,
        "openings": cast(OpeningsRecord, asdict(openings)) if openings else None,
        "settings": {**decoding, "suite": [s.row.model_dump(mode="json") for s in prompt_sets]},
        "prompts_sha256": prompts_sha256(prompt_sets),
        "wanted_sha256": wanted_sha256(prompt_sets),
        "cost": costs.as_dict() or before.get("cost", {}),
        "left_out": {row.name: row.absent_files for row in suite.left_out},
        "written_by": written_by(job.recipe),
        "made_of": summary_origin(
            job.model,
            job.suite,
            prompt_sets,
            settings.judge_files,
            [job.out / name for name in (FILE_NAME, _JUDGEMENTS_NAME, MARGINS_NAME)],
        ),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }
    summary["notes"] = notes_of(summary)
    for note in summary["notes"]:
        logger.info("%s: %s", job.out, note)
    if job.tensorboard:
        _write_scalars(job.tensorboard, summary)
    atomic_write_json(job.out / SUMMARY_NAME, summary)
    return summary


def _answer(
    job: RunJob,
    asking: Asking,
    pending: Sequence[PromptSet],
    completions: CompletionsFile,
    costs: CostFile,
) -> None:
    """Answer all that is pending; each batch is on disk before the next begins."""
    texts = texts_of(pending)
    if completions.answers:
        logger.info("%s: continues with %d answers to go", job.out, len(texts))
    watch = Stopwatch()
    done = len(completions.answers)
    what = f"answers of {job.name or job.out.resolve().name}".replace(":", " ")
    with Progress(what, done + len(texts), "prompts", done) as progress:

        def keep(batch: Answers) -> None:
            seconds = watch.lap()
            keys = completions.append(batch, texts)
            costs.add(keys, seconds, sum(answer.tokens for answer in batch.values()))
            progress.advance(len(batch))
            watch.start()

        _ask(job.settings.backend, asking, pending, keep, watch.start)
    for path in job.out.glob("lm-eval-*.db"):  # all their answers are in the completions now
        path.unlink()


def _ask(
    backend: BackendName,
    asking: Asking,
    pending: Sequence[PromptSet],
    on_batch: Callable[[Answers], None],
    on_ready: Callable[[], None],
) -> None:
    """Answer by the chosen backend; what it cannot answer falls to transformers."""
    chosen = BACKENDS[backend]
    can = [each for each in pending if _answers(chosen, each)]
    rest = [each for each in pending if each not in can]
    for module, asked in ((chosen.module, can), (BACKENDS["hf"].module, rest)):
        if asked:
            import_module(module).answer(asking, asked, on_batch, on_ready)


def _answers(backend: Backend, prompt_set: PromptSet) -> bool:
    if isinstance(prompt_set.row, TaskRow):
        return backend.runs_tasks
    return backend.chooses or is_generated(prompt_set)


def _without(prompt_sets: Sequence[PromptSet], answers: Answers) -> list[PromptSet]:
    """The prompts that have no answer yet."""
    open_sets = [
        PromptSet(s.row, tuple(p for p in s.prompts if (s.row.name, p.id) not in answers))
        for s in prompt_sets
    ]
    return [prompt_set for prompt_set in open_sets if prompt_set.prompts]


def _previous(directory: Path) -> dict[str, Any]:
    """The summary that an earlier evaluation left; empty without one."""
    path = directory / SUMMARY_NAME
    return read_json(path) if path.exists() else {}


def _withdraw(directory: Path) -> None:
    """Take the summary away, which says by being there that its evaluation is finished."""
    (directory / SUMMARY_NAME).unlink(missing_ok=True)


def _write_completions(directory: Path, evaluation: Evaluation, keys: dict[AnswerId, str]) -> None:
    """The finished file: all answers in the suites' order, with what was found in them."""
    lines = [
        json.dumps(
            {**completion.as_dict(), "key": keys[completion.suite, completion.id]},
            ensure_ascii=False,
        )
        for completion in evaluation.completions
    ]
    atomic_write_text(directory / FILE_NAME, "\n".join(lines) + "\n")


def _write_scalars(directory: Path, summary: Summary) -> None:
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and only wanted here

    scalars = {f"eval/{axis}(fraction)": rate["value"] for axis, rate in summary["axes"].items()}
    record({"name": summary["name"], **scalars})
    try:
        with SummaryWriter(str(directory / summary["name"])) as writer:
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, 0)
    except OSError as error:
        raise UserError(f"{directory}: TensorBoard cannot write ({error.strerror})") from None
