"""How texts become terms."""

import re
import threading
import unicodedata
from functools import lru_cache

import Stemmer  # type: ignore[import-not-found]

WORDS_OF_TEXT_MAX = 2_000  # of one field; what a long description ends with does not say what a product is
WORD_CHARS_MAX = 64
CODE_MARK = "#"  # begins the terms of codes, and no word
_WORD = re.compile(r"\w+(?:['’.&-]\w+)*")
_PART = re.compile(r"\w+")
_DIGITS_AND_LETTERS = re.compile(r"\d+|[^\W\d]+")
_TAG = re.compile(r"<[^<>]{1,1000}>|&[a-z]{2,8};|&#\d{1,6};")
_UNSPACED = re.compile(r"[぀-ヿ㐀-䶿一-鿿豈-﫿]+|[^぀-ヿ㐀-䶿一-鿿豈-﫿]+")
_ACCENTS = re.compile("[\u0300-\u036f]+")
_stemmer = Stemmer.Stemmer("english", 0)
_stemming = threading.Lock()


def plain(text: str) -> str:
    """The text without markup, its white space single."""
    return " ".join(_TAG.sub(" ", text).split())


def folded(text: str) -> str:
    """Without case, accents and other spellings of the same letters."""
    if text.isascii():
        return text.lower()
    # Letters that are decorated capitals are capitals only once they are decomposed.
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    # Marks of Latin, Greek and Cyrillic alone: in other scripts they make other letters.
    return unicodedata.normalize("NFC", _ACCENTS.sub("", decomposed))


def words(text: str) -> list[str]:
    """The words of a text, folded. `T-shirt` is `t`, `shirt` and `tshirt`; scripts without spaces come as pairs."""
    found: list[str] = []
    for match in _WORD.finditer(folded(text)):
        written = match.group()
        parts = _PART.findall(written)
        for part in parts:
            found.extend(_pieces(part))
        if len(parts) > 1:
            found.append("".join(parts)[:WORD_CHARS_MAX])
        if len(found) >= WORDS_OF_TEXT_MAX:
            return found[:WORDS_OF_TEXT_MAX]
    return found


def parts(word: str) -> list[str]:
    """`16gb` as `16` and `gb`; a word of one kind as itself."""
    return _DIGITS_AND_LETTERS.findall(word)


@lru_cache(maxsize=262_144)
def stem(word: str) -> str:
    """The stem of a folded word: `bags` and `bag` are one term."""
    with _stemming:  # a stemmer is of one thread
        made: str = _stemmer.stemWord(word)
    return made


def code(text: str) -> str:
    """A code without case and punctuation: `WH-1000XM4` and `wh1000 xm4` are one."""
    return "".join(_PART.findall(folded(text))).replace("_", "")[: 4 * WORD_CHARS_MAX]


def _pieces(part: str) -> list[str]:
    if part.isascii():
        return [part[:WORD_CHARS_MAX]]
    pieces: list[str] = []
    for run in _UNSPACED.findall(part):
        if len(run) > 2 and _UNSPACED.match(run[0]) and run[0] >= "\u3040":
            pieces.extend(run[place : place + 2] for place in range(len(run) - 1))
        else:
            pieces.append(run[:WORD_CHARS_MAX])
    return pieces
