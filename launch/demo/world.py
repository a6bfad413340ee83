"""Build the demo's world: its language, its data, and an imperfectly aligned backbone."""

import shutil
from pathlib import Path

from launch.demo.settings import WorldSettings
from merge.common.files import atomic_write_json, fsync_directory, make_directory

BACKBONE = "backbone"
RECORD = "world.json"


def build_world(folder: Path, settings: WorldSettings, seed: int) -> None:
    """Write the world's files, over existing ones; the record comes last and marks it complete."""
    # These import PyTorch and transformers: not needed to say that the work is done.
    from launch.demo.world_backbone import make_tokenizer, train_backbone
    from launch.demo.world_data import WorldData, write_data
    from launch.demo.world_language import Language

    if folder.exists():
        shutil.rmtree(folder)
    make_directory(folder)
    data = WorldData(Language(seed, settings.nouns, settings.verbs), seed)
    write_data(data, folder, settings)
    tokenizer = make_tokenizer(data, settings, folder / BACKBONE)
    train_backbone(data, tokenizer, settings, seed).save_pretrained(folder / BACKBONE)
    fsync_directory(folder)
    atomic_write_json(folder / RECORD, {"seed": seed, "settings": settings.model_dump()})
