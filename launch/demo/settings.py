"""The recipe's section ``world``."""

from pydantic import PositiveFloat, PositiveInt

from merge.common.settings import Settings


class WorldSettings(Settings):
    """The size of the demo's world, and how its backbone is made."""

    nouns: PositiveInt = 30
    """Number of forbidden nouns; there is the same number of harmless ones."""
    verbs: PositiveInt = 8
    """Number of neutral verbs; there is the same number of alarming ones."""
    vocabulary_size: PositiveInt = 640
    """Number of tokens that the demo's tokenizer may learn."""
    hidden_size: PositiveInt = 128
    """Width of the backbone; its MLPs are three times as wide."""
    layers: PositiveInt = 4
    """Decoder blocks of the backbone."""
    steps: PositiveInt = 400
    """Optimizer steps of the backbone's training."""
    batch_size: PositiveInt = 64
    """Samples in one optimizer step of the backbone's training."""
    learning_rate: PositiveFloat = 2e-3
    """Highest learning rate of the backbone's training, reached after a tenth of its steps."""
    harmful_pairs: PositiveInt = 400
    """Question-answer pairs in D_h."""
    prompts: PositiveInt = 120
    """Prompts of each suite in the validation part. The test part has twice as many, and so many
    utility questions that a loss of two points can be told from none."""
