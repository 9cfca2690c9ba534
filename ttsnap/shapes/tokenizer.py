"""The tokenizer of the shapes models: a stock CLIP tokenizer with the words of the grammar."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from ttsnap.shapes import world

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MAX_LENGTH = 16
"""The longest caption has 14 words; a start and an end token are added."""

_END = "</w>"


def build_tokenizer() -> CLIPTokenizer:
    """A byte-level BPE tokenizer with one token for each word of the grammar.

    Any other text falls back to smaller pieces, down to single bytes, and is truncated to
    ``MAX_LENGTH`` when the caller asks for truncation.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    alphabet = sorted(ByteLevel.alphabet())
    merges = _merges(_words())
    pieces = [*alphabet, *(letter + _END for letter in alphabet), *map("".join, merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)


def _words() -> list[str]:
    groups = (world.SIZES, world.COLORS, world.SHAPES, world.RELATIONS, world.BACKGROUNDS)
    phrases = [phrase for group in groups for phrase in group] + ["a", "on", "background"]
    return sorted({word for phrase in phrases for word in phrase.split()})


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Merge rules under which every word becomes one token.

    A new rule ranks below all earlier ones, so the words already covered stay one token.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = [*word[:-1], word[-1] + _END]
        while len(pieces) > 1:
            best = min(pairwise(pieces), key=lambda pair: ranks.get(pair, len(ranks)))
            ranks.setdefault(best, len(ranks))
            at = list(pairwise(pieces)).index(best)
            pieces[at : at + 2] = ["".join(best)]
    return list(ranks)
