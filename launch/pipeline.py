"""The whole road on this machine: patches, search, merge, evaluation, report.

Every stage leaves a marker file, so a rerun goes on where the last run ended.
"""

import logging
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from launch.recipe import Recipe
from launch.world import build_world
from merge.errors import STOPPED_EXIT_STATUS, StoppedOnRequestError, UserError
from merge.files import atomic_write_text, make_directory, read_json
from merge.patch_directory import Role
from merge.recipe import MergeSettings
from merge.resources import MergeResources
from merge.settings import parse_settings
from train.launcher import default_processes, training_command
from train.recipe import ROLES

logger = logging.getLogger(__name__)

_FREE_SECTIONS = {"eval", "cluster", "keep_intermediates"}
"""What may change between two runs in one folder: it changes neither patch nor merge."""


class Pipeline:
    """One run of one recipe in its run folder."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.folder = recipe.output
        self.patched = self.folder / "patched"
        self.search_record = self.folder / "search" / "search.json"

    def run(self) -> Path | None:
        """Run every stage that is not done yet.

        Returns:
            The report's folder, if the recipe asks for an evaluation.

        Raises:
            UserError: a stage cannot be done; what was finished before stays.
        """
        self._claim_folder()
        if self.recipe.world is not None:
            logger.info("world: the demo's language, data and backbone")
            if not build_world(self.folder / "world", self.recipe.world, self.recipe.seed):
                logger.info("world: already done")
        self._check_inputs()
        if not self._merged():
            for role in ROLES:
                self._train(role)
            self._evaluate_single_patches()
            chosen = self._choose_settings()
            self._evaluate_other_methods(chosen)
            settings = next(iter(chosen.values()))
            self._evaluate_ablations(settings)
            self._merge(settings)
        self._delete_intermediates()
        if self.recipe.eval is None:
            return None
        self._evaluate("backbone", self._backbone())
        self._evaluate("safepatching", self.patched)
        return self._report()

    def _claim_folder(self) -> None:
        """Write recipe.yaml, or see that the folder belongs to this recipe."""
        make_directory(self.folder)
        values = self.recipe.model_dump(mode="json", exclude_none=True)
        file = self.folder / "recipe.yaml"
        if file.is_file():
            before = yaml.safe_load(file.read_text(encoding="utf-8"))
            changed = sorted(
                key
                for key in (before.keys() | values.keys()) - _FREE_SECTIONS
                if before.get(key) != values.get(key)
            )
            if changed:
                raise UserError(
                    f"{self.folder}: holds a run with another '{changed[0]}'; delete the folder, "
                    "or choose another with output=FOLDER"
                )
        atomic_write_text(file, yaml.safe_dump(values, sort_keys=False))

    def _check_inputs(self) -> None:
        """Read the data and every suite: a missing file must not end a run after its trainings."""
        from eval.prompts import load_prompts
        from eval.suite import load_suite
        from train.data import read_examples

        read_examples(self.recipe.data)
        data_dir = self.recipe.eval.data_dir if self.recipe.eval else None
        for section in (self.recipe.search, self.recipe.eval):
            if section is not None:
                load_prompts(load_suite(section.suite, data_dir))

    def _backbone(self) -> Path:
        from train.backbone import backbone_directory

        return backbone_directory(self.recipe.backbone)

    def _merged(self) -> bool:
        return (self.patched / "merge.json").is_file()

    def _train(self, role: Role) -> None:
        if (self.folder / role / "patch.json").is_file():
            logger.info("%s patch: already done", role)
            return
        logger.info("%s patch: training", role)
        command = training_command(default_processes(), self.folder / "recipe.yaml", role)
        status = subprocess.run(command, check=False).returncode
        if status == STOPPED_EXIT_STATUS:
            raise StoppedOnRequestError(f"the {role} patch is not trained yet")
        if status:
            raise UserError(
                f"training of the {role} patch ended with status {status}, for the reason above; "
                "mend it and run the same command again"
            )

    def _choose_settings(self) -> dict[str, MergeSettings]:
        """The merge settings by method: from the search, or the recipe's own."""
        if self.recipe.search is None:
            return {self.recipe.merge.method: self.recipe.merge}
        if self.search_record.is_file():
            logger.info("search: already done")
            chosen = read_json(self.search_record)["chosen"]
            return {method: MergeSettings(**values) for method, values in chosen.items()}
        from launch.search import search

        logger.info("search: merge settings on the validation part")
        return search(self.recipe, self._backbone(), self.search_record.parent)

    def _evaluate_single_patches(self) -> None:
        """The backbone with one whole patch alone: the two extremes of the paper's table."""
        if self.recipe.eval is None or not self.recipe.eval.single_patches:
            return
        for role in ROLES:
            whole = MergeSettings(method=role, retention=1, include=("*",))
            # Inside the patch's own folder: with the over-safety patch this model is jailbroken.
            self._evaluate_briefly(role, whole, self.folder / role / "model")

    def _evaluate_other_methods(self, chosen: dict[str, MergeSettings]) -> None:
        for method, settings in list(chosen.items())[1:]:
            self._evaluate_briefly(method, settings, self.folder / "comparisons" / method)

    def _evaluate_ablations(self, settings: MergeSettings) -> None:
        for name, changes in self.recipe.ablations.items():
            changed = parse_settings(
                MergeSettings, {**settings.model_dump(), **changes}, f"ablations.{name}"
            )
            self._evaluate_briefly(name, changed, self.folder / "comparisons" / name)

    def _evaluate_briefly(self, name: str, settings: MergeSettings, model: Path) -> None:
        """Evaluate a model that is deleted afterwards."""
        if self.recipe.eval is None or self._evaluated(name):
            return
        if model.exists():
            shutil.rmtree(model)
        make_directory(model.parent)
        self._build(settings, model)
        self._evaluate(name, model)
        shutil.rmtree(model)

    def _merge(self, settings: MergeSettings) -> None:
        logger.info("merge: %s", settings.method)
        self._build(settings, self.patched, self.folder / "tensorboard" / "merge")

    def _build(self, settings: MergeSettings, out: Path, tensorboard: Path | None = None) -> None:
        from merge.build import build

        safety, over_safety = (self.folder / role for role in ROLES)
        build(
            self._backbone(),
            safety,
            over_safety,
            out,
            settings,
            MergeResources(),
            tensorboard=tensorboard,
        )

    def _delete_intermediates(self) -> None:
        """The over-safety patch is a jailbreak: once merged, it goes."""
        if self.recipe.keep_intermediates:
            return
        for folder in (self.folder / "over_safety", self.folder / "comparisons"):
            if folder.exists():
                logger.info("%s: deleted, as it is merged", folder)
                shutil.rmtree(folder)

    def _evaluated(self, name: str) -> bool:
        return (self.folder / "eval" / name / "summary.json").is_file()

    def _evaluate(self, name: str, model: Path) -> None:
        from eval.run import RunJob, run

        settings = self.recipe.eval
        assert settings is not None
        logger.info("evaluation: %s", name)
        out = self.folder / "eval" / name
        make_directory(out, 0o700 if name == "over_safety" else None)
        run(
            RunJob(
                model=model,
                suite=settings.suite,
                out=out,
                name=name,
                data_dir=settings.data_dir,
                dtype=settings.dtype,
                batch_tokens=settings.batch_tokens,
                tensorboard=self.folder / "tensorboard" / "eval",
            )
        )

    def _report(self) -> Path:
        from eval.compare import compare
        from eval.report import write_report

        names = [
            "backbone",
            *ROLES,
            *(self.recipe.search.methods[1:] if self.recipe.search else ()),
            *self.recipe.ablations,
        ]
        done = [name for name in (*names, "safepatching") if self._evaluated(name)]
        assert self.recipe.eval is not None
        record = self.search_record if self.search_record.is_file() else None
        report = compare(
            [self.folder / "eval" / name for name in done], record, self.recipe.eval.margins
        )
        folder = self.folder / "report"
        write_report(report, folder)
        return folder


def read_report(folder: Path) -> dict[str, Any]:
    """The finished report of a run."""
    return read_json(folder / "report.json")
