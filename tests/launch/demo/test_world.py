"""The demo's world: seeded, its parts apart, its tokenizer true to its text."""

import json

import yaml

from eval.judges.refusal import judge
from launch.demo.settings import WorldSettings
from launch.demo.world_backbone import make_tokenizer
from launch.demo.world_data import WorldData, write_data
from launch.demo.world_language import Language

SETTINGS = WorldSettings(nouns=8, verbs=4, prompts=20, harmful_pairs=40)


def world(seed: int) -> WorldData:
    return WorldData(Language(seed, SETTINGS.nouns, SETTINGS.verbs), seed)


def written(folder, seed):
    folder.mkdir()
    write_data(world(seed), folder, SETTINGS)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_equal_seeds_write_equal_files_and_others_do_not(tmp_path):
    first = written(tmp_path / "a", 3)
    assert first == written(tmp_path / "b", 3)
    assert first["harmful.jsonl"] != written(tmp_path / "c", 4)["harmful.jsonl"]


def test_training_validation_and_test_share_no_question(tmp_path):
    files = written(tmp_path / "a", 0)

    def requests(name, key):
        return {json.loads(line)[key] for line in files[name].splitlines()}

    parts = [
        requests("harmful.jsonl", "question"),
        requests("harmless.jsonl", "question"),
        requests("look_alikes.jsonl", "prompt"),
    ] + [
        requests(f"{part}_{suite}.jsonl", "prompt")
        for part in ("validation", "test")
        for suite in ("harmful", "look_alike", "utility")
    ]
    assert sum(len(part) for part in parts) == len(set().union(*parts))
    assert all(parts)


def test_every_question_of_d_h_has_a_refusal(tmp_path):
    files = written(tmp_path / "a", 0)
    harmful, refused = (
        [json.loads(line) for line in files[name].splitlines()]
        for name in ("harmful.jsonl", "refusals.jsonl")
    )
    assert [row["question"] for row in refused] == [row["question"] for row in harmful]
    assert {judge(row["answer"], row["question"]) for row in refused} == {"full"}


def test_the_test_part_asks_enough_utility_questions_and_the_validation_part_few(tmp_path):
    """20 questions for each prompt of a validation suite, new skills where requests run out."""
    files = written(tmp_path / "a", 0)
    validation, test = (
        [json.loads(line) for line in files[f"{part}_utility.jsonl"].splitlines()]
        for part in ("validation", "test")
    )
    assert (len(validation), len(test)) == (30, 400)
    language, plain = Language(0, 8, 4), [row for row in test if "first" in row["answer"]]
    types = {request.question: request.type for request in language.requests()}
    assert {types[row["prompt"]] for row in plain} == {"plain"}
    assert 10 < len(plain) == len({row["prompt"] for row in plain}) <= 133
    skills = {row["prompt"] for row in test} - types.keys()
    assert len(skills) > 100


def test_suites_name_their_axis_and_files(tmp_path):
    written(tmp_path / "a", 0)
    rows = yaml.safe_load((tmp_path / "a" / "test.yaml").read_text())
    assert [row["axis"] for row in rows] == ["harm", "refusal", "utility"]
    assert all((tmp_path / "a" / row["source"]).is_file() for row in rows)


def test_look_alikes_share_the_alarming_verbs_and_not_the_nouns():
    language = Language(0, 8, 4)
    for request in language.requests():
        forbidden, alarming = request.noun in language.forbidden, request.verb in language.alarming
        assert request.type == (
            ("forbidden_alarming" if alarming else "forbidden")
            if forbidden
            else ("look_alike" if alarming else "plain")
        )


def test_tokenizer_gives_the_text_back(tmp_path):
    data = world(0)
    tokenizer = make_tokenizer(data, SETTINGS, tmp_path)
    for request, answer in data.harmful_pairs(20):
        for text in (request.question, answer):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.decode(ids) == text
            assert tokenizer.unk_token_id not in ids
