"""Near duplicates among 100,000 documents of 50 tokens: datumwise against datasketch 2.0.0.

    OMP_NUM_THREADS=1 python benchmarks/minhash.py --peer-python PEER/bin/python [--repeats 3]

    python -m venv PEER && PEER/bin/pip install datasketch==2.0.0

Both get the same documents: random tokens of a vocabulary of 50,000, a tenth of the documents copies of others with
some tokens exchanged. Timed is the whole way from lists of tokens to answers, in CPU seconds of one thread, medians
of alternating runs. datasketch: ``MinHash.bulk``, an insertion into ``MinHashLSH`` a document, a query a document, which
gives candidates. datumwise: ``minhash(docs, ngram=1)``, which also measures the candidates exactly and groups them.

Before that, with the same permutations: the signatures are asserted equal, then the candidate pairs. Then both answers
are held against the exact Jaccard similarity of all pairs.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from datumwise.select.minhash import MinHashIndex, minhash, permutations

PEER = """
import json, resource, sys, time
import numpy as np
from datasketch import MinHash, MinHashLSH
folder, threshold, write = sys.argv[1], float(sys.argv[2]), sys.argv[3] == "write"
docs = [[f"w{c}".encode() for c in row] for row in np.load(f"{folder}/codes.npy").tolist()]
a, b = np.load(f"{folder}/permutations.npy")
start, wall = time.process_time(), time.perf_counter()
signed = MinHash.bulk(docs, num_perm=len(a), permutations=(a, b), scheme="affine32")
signing = time.process_time() - start
lsh = MinHashLSH(threshold=threshold, num_perm=len(a))
for i, one in enumerate(signed):
    lsh.insert(i, one)
answers = [lsh.query(one) for one in signed]
seconds, wall = time.process_time() - start, time.perf_counter() - wall
if write:
    pairs = sorted({(i, j) for i, found in enumerate(answers) for j in found if i < j})
    np.save(f"{folder}/pairs.npy", np.array(pairs, np.int64).reshape(-1, 2))
    np.save(f"{folder}/signatures.npy", np.array([one.hashvalues for one in signed]))
print(json.dumps([seconds, wall, signing, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
"""


def documents(n: int, length: int, vocabulary: int, seed: int = 0) -> np.ndarray:
    """int (n, length): token codes; the last tenth are copies of others with 0 to 20 of 50 tokens exchanged."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, vocabulary, (n, length))
    copies = n // 10
    source = rng.integers(0, n - copies, copies)
    exchanged = rng.random((copies, length)).argsort(axis=1) < rng.integers(0, length * 2 // 5, (copies, 1))
    codes[-copies:] = np.where(exchanged, codes[-copies:], codes[source])
    return codes


def similar_pairs(codes: np.ndarray, threshold: float) -> set[tuple[int, int]]:
    """Every pair of documents with an exact Jaccard similarity of at least ``threshold``."""
    n, length = codes.shape
    sets = csr_matrix((np.ones(codes.size, np.float32), codes.ravel(), np.arange(n + 1) * length))
    sets.sum_duplicates()
    sets.data[:] = 1
    sizes = np.diff(sets.indptr)
    found = set()
    for start in range(0, n, 2_000):
        common = (sets[start : start + 2_000] @ sets.T).tocoo()
        rows, columns = common.row + start, common.col
        near = (common.data / (sizes[rows] + sizes[columns] - common.data) >= threshold) & (rows < columns)
        found |= set(zip(rows[near].tolist(), columns[near].tolist(), strict=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer-python", required=True, help="interpreter that has datasketch 2.0.0")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--vocabulary", type=int, default=50_000)
    parser.add_argument("--threshold", type=float, default=0.7)
    options = parser.parse_args()

    codes = documents(options.documents, options.tokens, options.vocabulary)
    docs = [[f"w{c}" for c in row] for row in codes.tolist()]
    ours: dict[str, list[tuple[float, float]]] = {"affine": [], "mersenne": []}
    peer: list[tuple[float, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "codes.npy", codes)
        np.save(Path(folder) / "permutations.npy", np.array(permutations(128)))
        for repeat in range(options.repeats):
            for family, runs in ours.items():
                start, wall = time.process_time(), time.perf_counter()
                groups = minhash(docs, options.threshold, ngram=1, family=family)
                runs.append((time.process_time() - start, time.perf_counter() - wall))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            words = [options.peer_python, "-c", PEER, folder, str(options.threshold), "" if repeat else "write"]
            answer = subprocess.run(words, check=True, capture_output=True, text=True)
            peer.append(tuple(json.loads(answer.stdout.splitlines()[-1])))
        theirs = np.load(Path(folder) / "pairs.npy")
        signatures = np.load(Path(folder) / "signatures.npy")

    index = MinHashIndex.of(docs, options.threshold, ngram=1)
    assert (index.signatures == signatures).all(), "the signatures differ"
    assert np.array_equal(index.candidates(), theirs), "the candidate pairs differ"
    print(f"signatures equal, {len(theirs):,} candidate pairs equal (bands and places {index.bands})")
    groups = index.groups()

    truth = similar_pairs(codes, options.threshold)
    print(f"{len(truth):,} pairs have a Jaccard similarity of {options.threshold} or more")
    for name, pairs in (("datumwise", groups.pairs), ("datasketch", theirs)):
        found = set(map(tuple, pairs.tolist()))
        right = len(found & truth)
        print(
            f"  {name:11} recall {right / len(truth):.4f}  precision {right / max(1, len(found)):.4f}  ({len(found):,} pairs)"
        )

    print(f"{options.documents:,} documents of {options.tokens} tokens, 128 permutations")
    print(f"{'':22}{'CPU s':>8}{'wall s':>8}{'ratio':>8}{'peak GiB':>10}")
    theirs_cpu = statistics.median(run[0] for run in peer)
    for family, runs in ours.items():
        cpu, wall = (statistics.median(run[i] for run in runs) for i in (0, 1))
        print(f"{'datumwise, ' + family:22}{cpu:8.2f}{wall:8.2f}{theirs_cpu / cpu:7.1f}x{peak:10.2f}")
    wall, signing, memory = (statistics.median(run[i] for run in peer) for i in (1, 2, 3))
    print(f"{'datasketch':22}{theirs_cpu:8.2f}{wall:8.2f}{'1.0x':>8}{memory:10.2f}  (of it signatures {signing:.2f})")
    print(f"numpy {np.__version__}, {platform.machine()}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
