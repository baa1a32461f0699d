"""Subwords learned from captions by byte-pair encoding (arXiv 1508.07909), and the tokens of a text.

A vocabulary is a list of strings, and a token is a position in it. The same few lines in any language make the same
tokens: `deploy/standalone/` has them for NumPy and for a web page. Imports no torch.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

PADDING, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unknown>"
SPECIAL = (PADDING, START, END, UNKNOWN)
"""The first tokens of every vocabulary, in this order."""
_WORDS = re.compile(r"[!-/:-@\[-`{-~]|[^ \t\n\r\f\v\u00a0\u3000!-/:-@\[-`{-~]+")
"""Words are separated by spaces; a mark of punctuation of ASCII is a word of its own."""


def words(text: str) -> list[str]:
    """Returns the words of a text in lower case, each with a space at its end."""
    return [word + " " for word in _WORDS.findall(text.lower())]


def learn_vocabulary(captions: Iterable[str], size: int = 1000) -> list[str]:
    """Returns the vocabulary of some captions: special tokens, characters, and then pairs of tokens by frequency.

    The most frequent pair of neighbours becomes a token, again and again. Among equally frequent pairs the first by
    alphabet is taken. A pair that occurs once is not.

    Args:
        captions: texts, whose order does not matter.
        size: number of tokens from which on no pair is added. Special tokens and characters are never left out, so a
            vocabulary with many characters is larger.
    """
    counts = Counter(word for caption in captions for word in words(caption))
    vocabulary = [*SPECIAL, *sorted({character for word in counts for character in word})]
    known = set(vocabulary)
    split = {word: list(word) for word in counts}
    frequencies: Counter[tuple[str, str]] = Counter()
    holders: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for word, parts in split.items():
        for pair in pairwise(parts):
            frequencies[pair] += counts[word]
            holders[pair].add(word)
    while len(vocabulary) < size and frequencies:
        best = min(frequencies, key=lambda pair: (-frequencies[pair], pair))
        if frequencies[best] < 2:
            break
        if "".join(best) not in known:  # two pairs can make the same token
            known.add("".join(best))
            vocabulary.append("".join(best))
        for word in sorted(holders[best]):
            for pair in pairwise(split[word]):
                frequencies[pair] -= counts[word]
                holders[pair].discard(word)
            split[word] = _merge(split[word], best)
            for pair in pairwise(split[word]):
                frequencies[pair] += counts[word]
                holders[pair].add(word)
        del frequencies[best]
    return vocabulary


def _merge(parts: Sequence[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


class Subwords:
    """Makes tokens of texts with a vocabulary.

    Args:
        vocabulary: as `learn_vocabulary` returns it.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary = tuple(vocabulary)
        self._number = {token: number for number, token in enumerate(self.vocabulary)}

    def tokens(self, text: str) -> list[int]:
        """Returns the tokens of a text, without start and end."""
        return [number for word in words(text) for number in self._of_word(word)]

    def _of_word(self, word: str) -> list[int]:
        # of all neighbours that make a token, those join first whose token was learned first
        parts = list(word)
        while len(parts) > 1:
            joined = [one + other for one, other in pairwise(parts)]
            best = min(joined, key=lambda token: self._number.get(token, len(self._number)))
            if best not in self._number:
                break
            at = joined.index(best)
            parts[at : at + 2] = [best]
        return [self._number.get(part, SPECIAL.index(UNKNOWN)) for part in parts]

    def padded(self, text: str, length: int) -> tuple[list[int], bool]:
        """Returns start, tokens, end and padding, `length` numbers in all, and whether the text had to be cut."""
        inner = self.tokens(text)
        kept = inner[: length - 2]
        numbers = [SPECIAL.index(START), *kept, SPECIAL.index(END)]
        return numbers + [SPECIAL.index(PADDING)] * (length - len(numbers)), len(kept) < len(inner)
