"""The trace of a report: its recipe, and of every model its evaluation and what that used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.statistics.summary import SUMMARY_NAME
from launch.recipe import Recipe
from launch.run.folder import PATCHED, RECIPE
from launch.run.input_record import FILE as INPUTS
from launch.run.input_record import input_hashes
from launch.run.trace.files import FileChecks, Places, hashed_files, read_record
from launch.run.trace.models import ModelTracer
from launch.run.trace.node import Node
from launch.run.trace.written import Writers, section
from merge.common.errors import UserError
from merge.common.files import counted_from, read_json
from merge.common.provenance import recipe_hash
from train.recipe import load_recipe

_REPORT = "report.json"
_PAGE = "report.html"


def find_report(path: Path) -> Path:
    """The report.json that is meant by a run folder, its report folder, or a file of that.

    Raises:
        UserError: there is none.
    """
    if path.name == _PAGE and path.is_file():
        path = path.with_name(_REPORT)
    candidates = (path, path / _REPORT, path / "report" / _REPORT)
    for file in candidates:
        if file.is_file():
            return file
    raise UserError(
        f"{path}: no {_REPORT}{counted_from(path)}; give a run folder, its report folder, or the "
        f"{_REPORT} or {_PAGE} in it"
    )


def trace_report(file: Path, verify: bool = False) -> Node:
    """Everything that a report was made from, compared with what the records say.

    Args:
        file: a report.json.
        verify: whether weights and training pairs are hashed as well, which reads all of them.

    Raises:
        UserError: the report, or a record that it leads to, is malformed or cannot be read.
    """
    report = read_json(file)
    if not all(isinstance(rates, dict) for rates in section(report, "models").values()) or not (
        section(report, "models")
    ):
        raise UserError(f"{file}: has no 'models', so it is no report of `eval compare`")
    parent = file.absolute().parent.parent
    run = file.parent.parent if (parent / RECIPE).is_file() else None
    return _ReportTracer(file, report, Places(run), FileChecks(verify)).trace()


class _ReportTracer:
    """Traces one report."""

    def __init__(
        self, file: Path, report: Mapping[str, Any], places: Places, checks: FileChecks
    ) -> None:
        self._file = file
        self._report = report
        self._places = places
        self._checks = checks
        self._writers = Writers(report)
        self._models = ModelTracer(places, checks, self._writers)
        self._told: set[str] = set()

    def trace(self) -> Node:
        node = Node("report", path=self._file)
        self._writers.tell(node, self._report)
        node.made_of = [self._recipe()]
        made_of = section(self._report, "made_of")
        for what in sorted(made_of.keys() - {"models"}):
            known = section(made_of, what)
            path = self._places.now(str(known.get("path", "")))
            node.made_of.append(self._checks.file(what, path, known.get("sha256")))
        models = section(self._report, "models")
        node.made_of += [self._evaluation(name, models[name]) for name in models]
        return node

    def _recipe(self) -> Node:
        run, recorded = self._places.run, self._writers.recipe
        node = Node("recipe", path=None if run is None else run / RECIPE)
        if recorded is None:
            node.state = "not recorded"
        else:
            node.recorded = {"recipe_sha256": recorded}
        if run is None:
            if recorded is not None:
                node.state = "gone"
            return node
        if self._places.problem is not None:
            node.state = "changed"
            node.mismatches.append(self._places.problem)
            return node
        if recorded is not None:
            actual = recipe_hash(self._places.recipe)
            node.state = "unchanged" if actual == recorded else "changed"
            if actual != recorded:
                node.mismatches.append(
                    f"{node.path}: is another recipe ({actual}) than the report's ({recorded})"
                )
        node.made_of = self._inputs(run)
        return node

    def _inputs(self, run: Path) -> list[Node]:
        """The files that the recipe names, by the hashes of the run's inputs.json."""
        if not (run / INPUTS).is_file():
            return []
        node = Node("inputs", path=run / INPUTS)
        recorded = read_record(run / INPUTS, node)
        if not recorded:
            return [node]
        try:
            now = input_hashes(load_recipe(run / RECIPE, [], Recipe))
        except UserError as error:
            node.notes.append(f"what the recipe names cannot be compared ({error})")
            return [node]
        nodes = []
        for key, digest in sorted(recorded.items()):
            part, _, name = key.partition(".")
            value = section(self._places.recipe, part).get(name)
            path = None if not isinstance(value, str) else self._places.now(value)
            node = Node("input", key, path, recorded={"content": str(digest)})
            node.state = "gone" if key not in now else "unchanged"
            if key in now and now[key] != digest:
                node.state = "changed"
                node.mismatches.append(f"{path or key}: what {key} names holds something else now")
            nodes.append(node)
        return nodes

    def _evaluation(self, name: str, rates: Mapping[str, Any]) -> Node:
        """A model's evaluation: its rates, what they were counted in, and the model."""
        known = section(section(section(self._report, "made_of"), "models"), name)
        if "path" in known:
            path = self._places.now(str(known["path"]))
        elif self._places.run is not None:
            path = self._places.run / "eval" / name / SUMMARY_NAME
        else:
            return Node("evaluation", name, state="not recorded")
        node = self._checks.file("evaluation", path, known.get("sha256"), name=name)
        details = section(section(self._report, "details"), name)
        summary = read_record(path, node) or details
        for axis, rate in section(summary, "axes").items():
            if axis in rates and rates[axis] != rate:
                node.state = "changed"
                node.mismatches.append(f"{path}: its {axis} is not the report's")
        node.facts = {
            axis: rate["value"]
            for axis, rate in rates.items()
            if isinstance(rate, dict) and "value" in rate
        }
        settings = section(summary, "settings")
        told = {
            "decoding": settings.get("decoding"),
            "judge": summary.get("harm_rule"),
            "prompts_sha256": summary.get("prompts_sha256"),
        }
        node.facts |= {key: value for key, value in told.items() if value is not None}
        self._writers.tell(node, summary)
        origin = section(summary, "made_of")
        node.made_of = [*self._files(path.parent, origin), self._model(name, summary, origin)]
        return node

    def _files(self, folder: Path, origin: Mapping[str, Any]) -> list[Node]:
        """Results of an evaluation; suite, judges and sources once where several share them."""
        results = section(origin, "results")
        nodes = [
            self._checks.file("result", folder / name, str(digest))
            for name, digest in results.items()
        ]
        for key, what in (("suite", "suite"), ("judges", "judge"), ("sources", "source")):
            hashes = {
                path: digest
                for path, digest in section(origin, key).items()
                if f"{path} {digest}" not in self._told
            }
            self._told |= {f"{path} {digest}" for path, digest in hashes.items()}
            nodes += hashed_files(self._checks, self._places, what, hashes)
        return nodes

    def _model(self, name: str, summary: Mapping[str, Any], origin: Mapping[str, Any]) -> Node:
        made = section(origin, "model")
        path = made.get("path") or self._usual_model(name, section(summary, "settings"))
        return self._models.model(path, section(summary, "identity"), section(made, "merge"))

    def _usual_model(self, name: str, settings: Mapping[str, Any]) -> str | None:
        """Where the model of an older summary is in a run folder: it does not say."""
        if self._places.run is None:
            return None
        if name == "safepatching":
            return str(self._places.run / PATCHED)
        backbone = section(self._places.recipe, "backbone").get("path")
        is_backbone = name == "backbone" or settings.get("decoding", "greedy") != "greedy"
        return backbone if is_backbone and isinstance(backbone, str) else None
