"""Chat prompts: what the model reads, and which tokens the loss counts."""

import io

import pytest
import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from merge.common.errors import UserError
from tests.support.train_helpers import CHAT_TEMPLATE, make_tokenizer
from train.chat.example import Example
from train.chat.prompts import ChatPrompts

LLAMA_2_TEMPLATE = (
    "{% for turn in messages %}{% if turn['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + turn['content'] + ' [/INST]' }}{% else %}"
    "{{ ' ' + turn['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def test_answer_and_end_of_turn_are_the_only_labels() -> None:
    tokenizer = make_tokenizer()
    ids, labels = ChatPrompts(tokenizer).example("w1 w2", "w3 w4")
    expected = ["<s>", "<|user|>", "w1", "w2", "<|assistant|>", "w3", "w4", "<|end|>"]
    assert tokenizer.convert_ids_to_tokens(ids) == expected
    assert labels == [-100] * 5 + ids[5:]


def test_question_is_an_exact_prefix_with_one_bos() -> None:
    prompts = ChatPrompts(make_tokenizer())
    question = prompts.question_ids("w1 w2")
    ids, _ = prompts.example("w1 w2", "w3")
    assert ids[: len(question)] == question
    assert ids.count(0) == 1


def test_unknown_word_at_the_end_is_kept() -> None:
    """<unk> is a special token too, but it ends nothing."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace(" <|end|>\n", "")
    ids, _ = ChatPrompts(tokenizer).example("w1", "w2 nonsense w3")
    assert tokenizer.convert_ids_to_tokens(ids)[-4:] == ["w2", "<unk>", "w3", "<|end|>"]


def test_stop_ids_hold_the_end_of_turn() -> None:
    assert ChatPrompts(make_tokenizer()).stop_ids == [5]


def test_end_of_turn_is_told_apart_from_eos() -> None:
    """Gemma's and Llama 3's form: the template ends a turn with another token than EOS."""
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "<s>"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    prompts = ChatPrompts(tokenizer)
    assert prompts.stop_ids == [0, 5]
    assert prompts.example("w1", "w2")[0][-1] == 5


def test_eos_is_added_where_the_template_ends_without_one() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace(" <|end|>\n", "")
    ids, labels = ChatPrompts(tokenizer).example("w1", "w2")
    assert tokenizer.convert_ids_to_tokens(ids)[-2:] == ["w2", "<|end|>"]
    assert labels[-1] == 5


def test_byte_level_tokenizer_round_trips() -> None:
    """Llama 3's kind: prompt and answer together decode to the template's own text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({byte: number for number, byte in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    core.decoder = decoders.ByteLevel()  # pyright: ignore
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="<|end|>", chat_template=CHAT_TEMPLATE
    )
    prompts = ChatPrompts(tokenizer)
    ids, labels = prompts.example("Wie spät?", "Zehn — fünf.")
    whole = "<s><|user|> Wie spät?<|assistant|> Zehn — fünf. <|end|>"
    assert tokenizer.decode(ids) == whole
    answer = [label for label in labels if label != -100]
    assert tokenizer.decode(answer) == " Zehn — fünf. <|end|>"


def test_sentencepiece_answer_is_tokenized_in_context() -> None:
    """Llama 2's kind: the answer's first piece is what the whole conversation's text gives."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["[INST] tell me of the moon [/INST] the moon is round"] * 20),
        model_writer=model,
        vocab_size=40,
        model_type="bpe",
        byte_fallback=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = {processor.id_to_piece(number): number for number in range(processor.piece_size())}
    merges = [
        (left, right)
        for piece in pieces
        for cut in range(1, len(piece))
        for left, right in [(piece[:cut], piece[cut:])]
        if left in pieces and right in pieces
    ]
    tokenizer = LlamaTokenizer(
        vocab=pieces,
        merges=sorted(merges, key=lambda pair: pieces[pair[0] + pair[1]]),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=LLAMA_2_TEMPLATE,
    )
    prompts = ChatPrompts(tokenizer)
    question = "tell me of the moon"
    ids, labels = prompts.example(question, "the moon is round")
    whole = tokenizer(
        f"<s>[INST] {question} [/INST] the moon is round </s>", add_special_tokens=False
    )
    assert ids == whole["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids).count("<s>") == 1
    assert [label for label in labels if label != -100][-1] == tokenizer.eos_token_id


def test_long_answer_is_cut_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    prompts = ChatPrompts(make_tokenizer())
    pairs = [Example("w1 w2", "w3 w4 w5"), Example("w1", "w2")]
    (ids, labels), _ = prompts.encode(pairs, max_length=7)
    assert len(ids) == 7 and labels[5:] == ids[5:]
    assert "cuts the end of 1 of 2 answers" in caplog.text


def test_answer_cut_away_is_an_error() -> None:
    prompts = ChatPrompts(make_tokenizer())
    with pytest.raises(UserError, match=r"w1 w2.*takes 5 tokens.*raise max_length"):
        prompts.example("w1 w2", "w3", max_length=5)


def test_no_chat_template_is_an_error() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="models/x: its tokenizer has no chat template"):
        ChatPrompts(tokenizer, "models/x")


def test_template_that_fails_is_an_error() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('system turn needed') }}"
    with pytest.raises(UserError, match="system turn needed"):
        ChatPrompts(tokenizer)
