"""Every setting of a merge can be given on the command line, and means the same there."""

import pytest

from merge.cli import make_parser
from merge.settings import MergeSettings

FOLDERS = ["build", "--backbone", "b", "--safety", "s", "--over-safety", "o", "--out", "m"]


def test_every_setting_but_rules_by_tensor_is_an_option() -> None:
    options = vars(make_parser().parse_args(FOLDERS))
    assert set(MergeSettings.model_fields) - set(options) == {"scales"}
    assert all(options[key] is None for key in MergeSettings.model_fields if key in options)


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [(["--rounding", "stochastic"], "rounding", "stochastic"), (["--rescale"], "rescale", True)],
)
def test_an_option_sets_its_key(flags: list[str], key: str, value: object) -> None:
    assert getattr(make_parser().parse_args([*FOLDERS, *flags]), key) == value
