"""The evaluations of a run's models, in its folder."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eval.decoding_settings import DecodingSettings, ExpertMixture, parse_decoding
from launch.recipe import Recipe
from launch.run.folder import COMPARISONS, PATCHED, compared_model, is_evaluated, report_file
from launch.run.variant import Variant
from launch.run.variant_list import report_names
from merge.common.files import PRIVATE_FOLDER, atomic_write_text, make_directory
from merge.engine.resources import MergeResources
from merge.settings import MergeSettings
from train.recipe import ROLES

COMPLETIONS = "completions.jsonl"
_KEPT = ("cost.jsonl", "judgements.jsonl", "mt_bench_*.jsonl", COMPLETIONS)
"""What of an evaluation is known by the model's hash, and serves another of the same weights.

The answers come last: as long as they are not there, the copy is not whole."""
logger = logging.getLogger(__name__)


class Evaluations:
    """The models of one run; without an eval section none is compared."""

    def __init__(self, recipe: Recipe, backbone: Path) -> None:
        self._recipe = recipe
        self._backbone = backbone
        self._folder = recipe.output

    def compare(self, variant: Variant) -> None:
        """Build a variant's model, evaluate and delete it, unless its evaluation is there."""
        if not is_evaluated(self._folder, variant.name):
            with self.built(variant) as model:
                self.evaluate(variant.name, model, private=variant.merge.only_over_safety)

    @contextmanager
    def built(self, variant: Variant, patches: tuple[Path, Path] | None = None) -> Iterator[Path]:
        """The folder of a variant's model, while the block lasts.

        Args:
            patches: the directories of both; by default the run's.
        """
        folder = self._folder / COMPARISONS / variant.name
        if folder.exists():
            shutil.rmtree(folder)
        make_directory(folder.parent)
        try:
            self.build(variant.merge, folder, patches=patches)
            yield folder
        finally:
            if folder.exists():
                shutil.rmtree(folder)

    def build(
        self,
        settings: MergeSettings,
        out: Path,
        tensorboard: Path | None = None,
        patches: tuple[Path, Path] | None = None,
    ) -> None:
        """Merge two patches, by default the run's, into its backbone."""
        from merge.build import build

        safety, over_safety = patches or (self._folder / role for role in ROLES)
        build(
            self._backbone,
            safety,
            over_safety,
            out,
            settings,
            MergeResources(),
            tensorboard=tensorboard,
            recipe=self._recipe.sha256,
        )

    def evaluate_backbone(self) -> None:
        """Answer with the backbone; what it answered as another run's patched model is kept."""
        if self._backbone.name == PATCHED:
            before = self._backbone.parent / "eval" / "safepatching"
            take_answers(before, self._folder / "eval" / "backbone")
        self.evaluate("backbone")

    def evaluate_decodings(self, expert: str | None = None) -> None:
        """Answer with the backbone by the decodings of the recipe.

        Args:
            expert: the name of a model of this run, which is there: by those alone that need it. By
                default by all that need none, as such a model is deleted after use.
        """
        assert self._recipe.eval is not None
        for name, values in self._recipe.eval.decodings.items():
            decoding = parse_decoding(values, f"eval.decodings.{name}")
            needed = None
            if isinstance(decoding, ExpertMixture):
                needed = compared_model(self._folder, decoding.expert)
            if needed == expert:
                self.evaluate(name, decoding=decoding)

    def evaluate(
        self,
        name: str,
        model: Path | None = None,
        decoding: DecodingSettings | None = None,
        private: bool = False,
    ) -> None:
        """Answer the suite's prompts with a model, by default the backbone.

        MT-Bench goes first where the recipe asks for it: the summary says that all is done.

        Args:
            private: whether only their owner can read the answers.
        """
        from eval.mt_bench import MtBenchJob, run_mt_bench
        from eval.run import RunJob, run
        from train.guards.openings_file import OPENINGS_FILE

        settings = self._recipe.eval
        assert settings is not None
        logger.info("evaluation: %s", name)
        out = self._folder / "eval" / name
        openings = self._folder / OPENINGS_FILE
        make_directory(out, PRIVATE_FOLDER if private else None)
        model, asked = model or self._backbone, self._recipe.evaluation
        if settings.mt_bench is not None and decoding is None:
            run_mt_bench(MtBenchJob(model, settings.mt_bench, out, name, asked))
        run(
            RunJob(
                model=model,
                suite=settings.suite,
                out=out,
                name=name,
                settings=asked,
                tensorboard=self._folder / "tensorboard" / "eval",
                decoding=decoding,
                # Margins are of a model: what a decoding does to its logits, they do not show.
                openings=openings if decoding is None and openings.is_file() else None,
                recipe=self._recipe.sha256,
            )
        )

    def report(self, search_record: Path) -> Path:
        """Compare all that is evaluated; returns the report's folder."""
        from eval.report.compare import compare
        from eval.report.page import write_report
        from eval.report.paper_table.table import paper_table
        from launch.run.evaluated_card import write_evaluation

        recipe = self._recipe
        assert recipe.eval is not None
        names = report_names(recipe)
        absent = [name for name in names if not is_evaluated(self._folder, name)]
        if absent:
            logger.warning(
                "%s: not in the report, as the over-safety patch was deleted after the merge; to "
                "have them, delete %s and run again, with keep_intermediates: true",
                ", ".join(absent),
                self._folder / PATCHED,
            )
        report = compare(
            [self._folder / "eval" / name for name in names if is_evaluated(self._folder, name)],
            search_record if search_record.is_file() else None,
            recipe.eval.margins,
            recipe.eval.agreement,
            recipe=recipe.sha256,
        )
        if recipe.eval.paper_table is not None:
            report["paper_table"] = paper_table(report, recipe.eval.paper_table.numbers())
        folder = report_file(self._folder).parent
        # Before the report, whose last file says that the evaluation is done.
        write_evaluation(self._folder / PATCHED, self._backbone, report)
        write_report(report, folder)
        return folder


def take_answers(source: Path, target: Path) -> None:
    """Start an evaluation from the answers of another model's, and from what these cost.

    They are known by the hash of the weights, so none can be taken for another model's. An
    evaluation that has answers keeps them.
    """
    if (target / COMPLETIONS).exists() or not (source / COMPLETIONS).is_file():
        return
    logger.info("evaluation: %s has the answers of %s", target.name, source.name)
    make_directory(target)
    for pattern in _KEPT:
        for file in source.glob(pattern):
            atomic_write_text(target / file.name, file.read_text(encoding="utf-8"))
