"""The forms of the values in a recipe's cluster part.

Every value goes into a script, so every value has a form that holds no blank, quote, or anything
else that a shell or sbatch would take for more than a value; the few that need more are quoted
there.
"""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

_SCRIPT = "stage run jobs job starts name hosts step status patience requeue_limit retry_limit"
_SHELL = "BASHOPTS BASH_ENV EUID IFS MASTER_ADDR MASTER_PORT PPID SHELLOPTS UID"
_OWN_VARIABLES = frozenset(f"{_SCRIPT} {_SHELL}".split())
_SECRETS = ("TOKEN", "PASSWORD", "SECRET", "API_KEY")


def _as_text(value: object) -> object:
    """Refuse a number: YAML makes 14400 of 4:00:00."""
    if isinstance(value, int):
        raise ValueError("put it in quotes, as '4:00:00' or '480G'")
    return value


def _number_as_text(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("put it in quotes: YAML makes a truth value of it")
    return str(value) if isinstance(value, int | float) else value


def _is_free(name: str) -> str:
    if name in _OWN_VARIABLES or name.startswith(("SLURM_", "SRUN_")):
        raise ValueError(f"'{name}' is set by the jobs themselves; leave it out")
    if name.upper().endswith(_SECRETS):
        raise ValueError(
            f"'{name}': scripts and recipes are no place for secrets; log in with 'hf auth login', "
            "or source a private file under 'setup'"
        )
    return name


def _is_written_out(value: str) -> str:
    if "$" in value or "`" in value:
        raise ValueError("is taken as it is, and no shell replaces $ or ` in it; write it out")
    return value


Name = Annotated[str, Field(pattern=r"^\w[\w.,-]*$")]
Duration = Annotated[str, BeforeValidator(_as_text), Field(pattern=r"^(\d+-)?\d+(:\d\d){0,2}$")]
"""As SLURM writes it: minutes, HH:MM:SS, or D-HH."""
Memory = Annotated[str, BeforeValidator(_as_text), Field(pattern=r"^\d+[KMGT]?$")]
Constraint = Annotated[str, Field(pattern=r"^[\w.:()\[\]-]+([&|*,][\w.:()\[\]-]+)*$")]
Module = Annotated[str, Field(pattern=r"^\w[\w.+/-]*$")]
Interface = Annotated[str, Field(pattern=r"^[\^=]?\w[\w.,:-]*$")]
PlainPath = Annotated[str, Field(pattern=r"^[\w./:@+,=-]+$")]
"""A path without blanks."""
Image = Annotated[str, Field(pattern=r"^[\w./][\w./:@+,=-]*(#[\w./:@+,=-]+)?$")]
"""A file, or an image's address; enroot writes # after the registry's name."""
ExtraLine = Annotated[str, Field(pattern=r"^--[a-z][a-z0-9-]*(=[\w.,:/@+=\[\]-]+)?$")]
Gres = Annotated[str, Field(pattern=r"^[a-z]\w*(:[\w.-]+){0,2}(,[a-z]\w*(:[\w.-]+){0,2})*$")]
"""As gpu:8 or gpu:a100:8,nvme:1."""
Comment = Annotated[str, Field(pattern=r"^\w[\w .,:@/+=()-]*$")]
MailAddress = Annotated[str, Field(pattern=r"^\w[\w.+-]*(@\w[\w.-]*)?$")]
MailEvent = Annotated[
    str,
    Field(
        pattern="^(NONE|BEGIN|END|FAIL|REQUEUE|ALL|INVALID_DEPEND|STAGE_OUT|ARRAY_TASKS|"
        "TIME_LIMIT(_50|_80|_90)?)$"
    ),
]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$"), AfterValidator(_is_free)]
VariableValue = Annotated[
    str,
    BeforeValidator(_number_as_text, json_schema_input_type=str | int | float),
    Field(pattern=r"^[^\x00-\x1f\x7f\x{2028}\x{2029}]*$"),
    AfterValidator(_is_written_out),
]
"""Quoted where it is used."""
SetupLine = Annotated[str, Field(pattern=r"^[\w./~][\w./:@+,=~-]*( [\w./:@+,=~-]+)*$")]
"""One command of plain words; a path may begin with ~/."""


def gpu_count(gres: str | None) -> int:
    """How many GPUs are in generic resources, as 8 in gpu:a100:8; ``gpu`` alone is one."""
    return sum(_count(item) for item in (gres or "").split(",") if item.split(":")[0] == "gpu")


def gpu_kind(gres: str | None) -> str | None:
    """The GPUs' type in generic resources, as a100 in gpu:a100:8."""
    for item in (gres or "").split(","):
        name, *rest = item.split(":")
        if name == "gpu" and rest and not rest[0].isdigit():
            return rest[0]
    return None


def _count(item: str) -> int:
    last = item.split(":")[-1]
    return int(last) if last.isdigit() else 1
