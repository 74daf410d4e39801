"""BERT's tokenizer, against known tokens and, where installed, against the tokenizers package."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gleanseg.errors import UserError
from gleanseg.text.wordpiece import WordPiece
from support import tiny_bert

PIECES = WordPiece({piece: id for id, piece in enumerate(tiny_bert.VOCABULARY)})


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Hepatic  vessel\ttumor", "he ##pati ##c vessel tumor"),
        ("hépatic", "he ##pati ##c"),
        ("liver,kidneys.", "liver , kidney ##s ."),
        ("1-2", "1 - 2"),
        ("li\u00adver\x00", "liver"),
        ("the unheard kidneysx", "the [UNK] [UNK]"),
        ("a" * 101, "[UNK]"),
        ("", ""),
    ],
)
def test_tokens(text: str, tokens: str) -> None:
    assert PIECES.tokens(text) == ["[CLS]", *tokens.split(), "[SEP]"]


def test_ids_and_capitals() -> None:
    assert PIECES.ids(PIECES.tokens("liver")) == [2, tiny_bert.VOCABULARY.index("liver"), 3]
    cased = WordPiece({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "Liver": 4}, lower_case=False)
    assert cased.tokens("Liver liver") == ["[CLS]", "Liver", "[UNK]", "[SEP]"]


def test_vocabulary_files(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join(tiny_bert.VOCABULARY).encode())
    assert WordPiece.load(path).vocabulary == PIECES.vocabulary
    path.write_text("liver\nspleen\n")
    with pytest.raises(UserError, match=r"vocab\.txt: not a vocabulary of BERT, it lacks \[PAD\]"):
        WordPiece.load(path)
    with pytest.raises(UserError, match=r"none\.txt: not readable"):
        WordPiece.load(tmp_path / "none.txt")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(["liver", "kidneys", "tumor", " ", "-", "é", "Σ", "中"]), st.text(max_size=4)))
)
def test_same_tokens_as_the_tokenizers_package(parts: list[str]) -> None:
    tokenizers = pytest.importorskip(
        "tokenizers", reason="tokenizers is not installed; the tokens above cover the rules"
    )
    reference = tokenizers.BertWordPieceTokenizer(PIECES.vocabulary)
    text = "".join(parts)
    assert PIECES.tokens(text) == reference.encode(text).tokens
