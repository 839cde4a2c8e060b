"""The terms that texts have, by number, and those that are near a word or begin with it."""

import threading
from bisect import bisect_left
from collections.abc import Iterable
from heapq import nsmallest
from itertools import chain, islice, takewhile

from rapidfuzz import process
from rapidfuzz.distance import OSA

from penstock.search.index.document import Ints
from penstock.search.index.words import CODE_MARK

TYPO_CHARS_MIN = 4  # shorter words are a letter away from everything
TWO_TYPOS_CHARS_MIN = 8
NEAR_TERMS_MAX = 8
BEGINNING_TERMS_MAX = 32
BEGINNING_LOOKED_MAX = 8_192  # so many have one letter in common; to look at them takes 2 ms
_UNSORTED_MAX = 2_048


class Vocabulary:
    """Terms, numbered as they came. One thread adds; any may read."""

    def __init__(self, terms: Iterable[str] = ()) -> None:
        self.terms: list[str] = list(dict.fromkeys(terms))
        self._number: dict[str, int] = {term: number for number, term in enumerate(self.terms)}
        self._by_length: dict[int, list[str]] = {}
        self._sorting = threading.Lock()
        self._sorted: tuple[int, list[str]] = (0, [])
        for term in self.terms:
            self._note_length(term)

    def __len__(self) -> int:
        return len(self.terms)

    def number(self, term: str) -> int | None:
        """Its number, if a text ever had it."""
        return self._number.get(term)

    def add(self, term: str) -> int:
        """Its number, a new one if it has none."""
        number = self._number.get(term)
        if number is None:
            number = self._number[term] = len(self.terms)
            self.terms.append(term)
            self._note_length(term)
        return number

    def near(self, word: str, frequency: Ints) -> list[tuple[int, int]]:
        """Terms that products have and that a typo or two make the word, and how many: letters changed, left out,
        added or swapped. The nearest first, then the commonest."""
        if len(word) < TYPO_CHARS_MIN:
            return []
        typos = 2 if len(word) >= TWO_TYPOS_CHARS_MIN else 1
        found: list[tuple[int, int]] = []
        for length in range(len(word) - typos, len(word) + typos + 1):
            terms = list(self._by_length.get(length, ()))  # a copy: the writer may add to it
            for term, distance, _ in process.extract(word, terms, scorer=OSA.distance, score_cutoff=typos, limit=None):
                # A word in which one figure is another is another product, not a typo.
                if distance and _figures(term) == _figures(word):
                    found.append((self._number[term], int(distance)))
        return nsmallest(NEAR_TERMS_MAX, self._there(found, frequency), key=lambda each: self._place(each, frequency))

    def beginning(self, word: str, frequency: Ints) -> list[int]:
        """Terms that products have and that begin with the word and are longer, the commonest first."""
        count, ordered = self._ordered()
        first = bisect_left(ordered, word)
        terms = takewhile(lambda term: term.startswith(word), islice(ordered, first, first + BEGINNING_LOOKED_MAX))
        later = (term for term in self.terms[count:] if term.startswith(word))
        found = [(self._number[term], 0) for term in chain(terms, later) if term != word]
        best = nsmallest(
            BEGINNING_TERMS_MAX, self._there(found, frequency), key=lambda each: self._place(each, frequency)
        )
        return [number for number, _ in best]

    def _note_length(self, term: str) -> None:
        if not term.startswith(CODE_MARK):
            self._by_length.setdefault(len(term), []).append(term)

    def _there(self, found: list[tuple[int, int]], frequency: Ints) -> list[tuple[int, int]]:
        return [each for each in found if each[0] < len(frequency) and frequency[each[0]]]

    def _place(self, each: tuple[int, int], frequency: Ints) -> tuple[int, int, str]:
        number, distance = each
        return distance, -int(frequency[number]), self.terms[number]

    def _ordered(self) -> tuple[int, list[str]]:
        if len(self.terms) - self._sorted[0] > _UNSORTED_MAX:
            with self._sorting:
                count = len(self.terms)
                if count - self._sorted[0] > _UNSORTED_MAX:
                    self._sorted = (count, sorted(self.terms[:count]))
        return self._sorted


def _figures(word: str) -> str:
    return "".join(letter for letter in word if letter.isdecimal())
