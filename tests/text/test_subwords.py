"""Subwords: what is learned from captions, and that a naive second implementation makes the same tokens."""

import random
from itertools import pairwise

import pytest

from continuous_unet.text.subwords import SPECIAL, Subwords, learn_vocabulary, words

LINES = ["A low lowest lower, newer NEWEST wide wider widest!"] * 3 + ["the new lower lows of a wide new low"] * 2


def naive_vocabulary(captions, size):
    """Counts all pairs anew for each token."""
    pieces = [list(word) for caption in captions for word in words(caption)]
    vocabulary = [*SPECIAL, *sorted({c for piece in pieces for c in piece})]
    while len(vocabulary) < size:
        counts = {}
        for piece in pieces:
            for pair in pairwise(piece):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts or max(counts.values()) < 2:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        if "".join(best) not in vocabulary:
            vocabulary.append("".join(best))
        for piece in pieces:
            i = 0
            while i < len(piece) - 1:
                if (piece[i], piece[i + 1]) == best:
                    piece[i : i + 2] = ["".join(best)]
                i += 1
    return vocabulary


@pytest.mark.parametrize("size", [24, 40, 1000])
def test_the_vocabulary_is_that_of_a_naive_implementation(size):
    rng = random.Random(0)
    lines = [
        *LINES,
        *(" ".join("".join(rng.choices("aabc", k=rng.randint(1, 6))) for _ in range(8)) for _ in range(20)),
    ]
    learned = learn_vocabulary(lines, size)
    assert learned == naive_vocabulary(lines, size)
    assert learned == learn_vocabulary(lines[::-1], size)
    assert len(set(learned)) == len(learned) <= size


def test_tokens_spell_the_text():
    vocabulary = learn_vocabulary(LINES)
    subwords = Subwords(vocabulary)
    for text in (*LINES, "Lower  wides,ten"):
        assert "".join(vocabulary[token] for token in subwords.tokens(text)) == "".join(words(text))
    assert [vocabulary[token] for token in subwords.tokens("lower")] == ["lower "]  # a frequent word is one token
    assert vocabulary[subwords.tokens("low x")[1]] == "<unknown>"


def test_padding_and_cutting():
    subwords = Subwords(learn_vocabulary(LINES))
    low = subwords.tokens("low")[0]
    assert subwords.padded("low low", 6) == ([1, low, low, 2, 0, 0], False)
    assert subwords.padded("", 4) == ([1, 2, 0, 0], False)
    assert subwords.padded("low low low", 4) == ([1, low, low, 2], True)
