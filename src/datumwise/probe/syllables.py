"""How many syllables has each word? A rule for English, applied once a word of the vocabulary.

Syllables are groups of vowels (a e i o u y and their accented forms), with these exceptions:

- a final plain e is silent ("make"), but not in "-le" behind a consonant ("table"), nor if it is the only vowel; so
  is the e of "-es" and "-ed" ("makes", "baked") but behind letters that need it ("boxes", "wanted"), the e before
  endings such as "-ment", "-ness", "-ful", "-ly", "-time" ("hopeful"), the "ue" of "-que" and "-gue", and the second a
  of "-ically";
- neighbouring vowels are two syllables where English parts them: mostly in "ia", "io", "iu", "eo", "ua", "uo", "ii",
  "iou", in vowel + "ing" and around a y ("diary", "being", "layer"), but not in "-tion", "-cial", "qu", "gu";
- a final "-ism" or "-thm" has one of its own ("rhythm"), "n't" behind a consonant too ("didn't"), "Mc-" likewise.

A word without such vowels ("3rd", other scripts) has one syllable.
"""

from __future__ import annotations

import re

import numpy as np

from datumwise.probe.words import Corpus

__all__ = ["syllables", "vocabulary_syllables"]

VOWELS = "aeiouyàáâãäåæèéêëìíîïòóôõöøœùúûüýÿ"
GROUPS = re.compile(f"[{VOWELS}]+")
SILENT = re.compile(  # an e that is a group of its own, or a final "ue" behind q or g, and not said
    rf"(?<=[^{VOWELS}])e$|(?<![sxzcg])(?<!ch)(?<!sh)(?<=[^{VOWELS}])es$|(?<![td])(?<=[^{VOWELS}])ed$|"
    rf"(?<=[aeiou][qg])ues?$|(?<=ic)a(?=lly$)|"
    rf"(?<=[aeiouy][^{VOWELS}lr])e(?=(?:ment|ness|ful|less|ly|thing|times?|line|fore|where|zone|name)s?$)|"
    rf"(?<=[aeiouy][lr])e(?=(?:ness|ful|less|ly|thing|times?|line|fore|where|zone|name)s?$)|(?<=uir)e(?=ments?$)"
)
SYLLABIC_LE = re.compile(rf"[^{VOWELS}lrw]le[sd]?$")
PARTED = re.compile(
    r"(?<![tscgx])i[ao](?!u)|(?<=[tscgx])ia(?=t|ry|$)|iu|ii|(?<!g)eo(?!u)(?!n$)|(?<![qg])u[ao](?!r$)|"
    r"[aeiouy]ing(?=s?$)|(?<=[^aeiouyct])ie(?=t|rs?$|nt|nc)|(?<=qu)ie(?=t)|(?<=cr)ea(?=t)|(?<=[aeou])ism|yi(?=ng)|"
    r"(?<![tscgx])iou|(?<=[aeiou][rdn])ea(?=s?$)|(?<=at)io(?=s?$)|(?<=gu)ou|(?<=[aeiou][cn])lea(?=r)|(?<=lin)ea(?=r)|^mc|(?<=sc)ie(?=n)|oe(?=[tm])|(?<=[ao])y(?=[aeo](?!d$))|(?<=e)y(?=o)"
)
FINAL_M = re.compile(r"(?:[iays]sm|thm)s?$")
NOT = re.compile(rf"[^{VOWELS}r]n['’]t$")


def syllables(word: str) -> int:
    """Syllables of one lower-case English word, at least 1.

    Examples
    --------
    >>> [syllables(word) for word in ("cat", "table", "readability", "baked", "wanted", "nation", "diary")]
    [1, 2, 5, 1, 2, 2, 3]
    """
    if len(word) <= 3 and word.isascii():
        return max(1, len(GROUPS.findall(word)) - (len(word) == 3 and word[-1] == "e" and len(GROUPS.findall(word)) > 1))
    stem = word.removesuffix("'s").removesuffix("’s")
    count = len(GROUPS.findall(stem))
    if not SYLLABIC_LE.search(stem):
        count -= len(SILENT.findall(stem))
    count += len(PARTED.findall(stem)) + bool(FINAL_M.search(stem)) + bool(NOT.search(stem))
    return max(1, count)


def vocabulary_syllables(corpus: Corpus) -> np.ndarray:
    """Syllables of each word of the vocabulary, int64 (V,)."""
    return np.fromiter((syllables(word.lower()) for word in corpus.vocabulary), np.int64, len(corpus.vocabulary))
