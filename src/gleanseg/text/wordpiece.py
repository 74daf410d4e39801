"""WordPiece, the tokenizer of BERT (Devlin et al., NAACL 2019): words and punctuation, then longest pieces first."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gleanseg.errors import UserError

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_LONGEST_WORD = 100  # characters; BERT's own limit, longer ones are unknown


class WordPiece:
    """Turns text into BERT's tokens.

    Args:
        vocabulary: piece -> id; pieces inside a word begin with ``##``.
        lower_case: whether the vocabulary is without capitals and accents.
    """

    def __init__(self, vocabulary: Mapping[str, int], *, lower_case: bool = True) -> None:
        self.vocabulary = vocabulary
        self.lower_case = lower_case

    @classmethod
    def load(cls, path: Path, *, lower_case: bool = True) -> "WordPiece":
        """Read a ``vocab.txt``: one piece a line, the first is 0.

        Raises:
            UserError: not readable, or not a vocabulary of BERT.
        """
        try:
            pieces = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not readable as a vocabulary ({error}); copy it again") from None
        vocabulary = {piece.removesuffix("\r"): id for id, piece in enumerate(pieces)}
        missing = [piece for piece in _SPECIAL if piece not in vocabulary]
        if missing:
            raise UserError(f"{path}: not a vocabulary of BERT, it lacks {', '.join(missing)}; copy it again")
        return cls(vocabulary, lower_case=lower_case)

    def tokens(self, text: str) -> list[str]:
        """Pieces of a text, ``[CLS]`` in front and ``[SEP]`` behind."""
        return ["[CLS]", *(piece for word in self._words(text) for piece in self._pieces(word)), "[SEP]"]

    def ids(self, tokens: Sequence[str]) -> list[int]:
        """Ids of tokens."""
        return [self.vocabulary[token] for token in tokens]

    def _words(self, text: str) -> Iterator[str]:
        """Words and single punctuation marks, without control characters."""
        if self.lower_case:
            plain = (c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
            text = "".join(c.lower() for c in plain)  # one by one: BERT has no rule for a sigma at a word's end
        word = ""
        for char in text:
            alone = _is_punctuation(char) or _is_ideograph(char)
            if alone or _is_space(char):
                if word:
                    yield word
                word = ""
                if alone:
                    yield char
            elif not _is_control(char):
                word += char
        if word:
            yield word

    def _pieces(self, word: str) -> list[str]:
        """The longest pieces that make up a word, from its start; unknown as a whole when there are none."""
        if len(word) > _LONGEST_WORD:
            return ["[UNK]"]
        pieces: list[str] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            end = next((e for e in range(len(word), start, -1) if mark + word[start:e] in self.vocabulary), None)
            if end is None:
                return ["[UNK]"]
            pieces.append(mark + word[start:end])
            start = end
        return pieces


def _is_space(char: str) -> bool:
    return char in "\t\n\r" or (char.isspace() and not _is_control(char))


def _is_control(char: str) -> bool:
    """Characters that BERT drops; code points that mean nothing yet are none of them."""
    return char == "\ufffd" or unicodedata.category(char) in ("Cc", "Cf", "Co", "Cs")


def _is_punctuation(char: str) -> bool:
    """BERT counts all non-letters of ASCII, such as $ and ^, that Unicode calls symbols."""
    code = ord(char)
    ascii_mark = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_mark or unicodedata.category(char).startswith("P")


def _is_ideograph(char: str) -> bool:
    """The blocks of CJK ideographs, which BERT takes one by one."""
    code = ord(char)
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )
