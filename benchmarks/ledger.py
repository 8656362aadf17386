"""What a ledger costs beside raw files: every goal of the ledger, measured in one run, as a table.

    python benchmarks/ledger.py [--rows 1000000] [--json FILE]

Rows have an id, a text, a label, a loss and a 16-dimensional embedding (150 bytes each); reading is also
timed with 256 dimensions. Times are medians
of five; peers run on the same rows, on the same disk, in the same minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import lance
import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from datumwise.ledger import Journal, Ledger, Provenance, create_ledger, open_ledger
from datumwise.ledger.provenance import with_provenance

REPEATS = 5
DIM = 16
WIDE = 256  # of half as many rows: 0.5 GB for 1M
ROWS_PER_FILE = 250_000
CHUNK = 50_000  # rows a batch while data are made
LABELS = np.array(["cat", "dog", "eel", "fox"])
MADE = Provenance("benchmark")


def schema_of(width: int) -> pa.Schema:
    return pa.schema(
        [
            ("id", pa.string()),
            ("text", pa.string()),
            ("label", pa.string()),
            ("loss", pa.float32()),
            ("e", pa.list_(pa.float32(), width)),
        ]
    )


SCHEMA = schema_of(DIM)
QUERIES = {
    "count": "select count(*) from {t} where loss > 0.9",
    "group by": "select label, avg(loss) from {t} group by label",
    "top 10": "select id, loss from {t} order by loss desc limit 10",
    "one id": "select loss from {t} where id = 'row00000123'",
    "like": "select count(*) from {t} where text like '%99%'",
}


@dataclass(frozen=True)
class Line:
    """One row of the table: what, its goal, what was measured, the peer's, and whether it is met."""

    what: str
    goal: str
    ours: str
    peer: str
    ratio: str
    met: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ledger-bench-"))
    try:
        lines = measure(folder, options.rows)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(lines, options.rows)
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=1))
    sys.exit(0)


def measure(folder: Path, n: int) -> list[Line]:
    """All goals, in the order of the README's table."""
    table = pa.Table.from_batches(batches(0, n), SCHEMA)
    pq.write_table(table, folder / "a.parquet")
    write_ipc(table, folder / "a.arrow")
    created = seconds(lambda: keep(table, folder / "made"), repeats=1)
    raw = seconds(lambda: raw_write(table, folder / "raw.lance"), repeats=1)
    ledger = fresh(folder / "a", n)
    lines = [Line("create, streamed", "-", s(created), f"lance {s(raw)}", x(created / raw), True)]
    lines += writing_lines(folder, ledger, table)
    lines += reading_lines(folder, ledger, DIM)
    wide = pa.Table.from_batches(batches(0, n // 2, WIDE), schema_of(WIDE))
    pq.write_table(wide, folder / "a.parquet")
    write_ipc(wide, folder / "a.arrow")
    wide_ledger = keep(wide, folder / "wide")
    del wide
    lines += reading_lines(folder, wide_ledger, WIDE)
    pq.write_table(table, folder / "a.parquet")
    lines += [sql_line(folder, ledger, name) for name in QUERIES]
    lines += append_lines(folder, n, ledger)
    lines += [purge_line(ledger, n), import_line()]
    lines += memory_lines(folder, n)
    return lines


def writing_lines(folder: Path, ledger: Ledger, table: pa.Table) -> list[Line]:
    """A column added, overwritten, committed from a journal; against a copy of the table as Arrow IPC."""
    n = len(ledger)
    copy = seconds(lambda: write_ipc(table, folder / "copy.arrow"))
    values = np.random.default_rng(0).normal(size=n).astype(np.float32)
    ledger.row_ids  # noqa: B018  known before a pass ends
    turn = iter(range(10_000))
    added = seconds(lambda: ledger.write({f"a{next(turn)}": values}, provenance=MADE))
    tenth = fresh(folder / "tenth", n // 10)
    added_tenth = seconds(lambda: tenth.write({f"a{next(turn)}": values[: n // 10]}, provenance=MADE))
    ledger.write({"s": values}, provenance=MADE)
    over = seconds(lambda: ledger.write({"s": values}, provenance=MADE, overwrite=True))
    journal = Journal(ledger.path / "journal" / "b")
    for part in np.array_split(np.arange(n), 40):
        journal.write(ledger.row_ids[part], {"j": values[part]})

    def commit() -> None:
        field = with_provenance(pa.field(f"j{next(turn)}", pa.float32()), MADE)
        ledger.commit_journal(_Renamed(journal), [field])  # type: ignore[arg-type]

    committed = seconds(commit)
    journal.drop()
    ledger.drop([c for c in ledger.schema.names if c[0] in "aj" and c[1:].isdigit()])
    peer = f"Arrow IPC copy {s(copy)}"
    return [
        Line("add a column", "<= 0.5 x Arrow copy", s(added), peer, x(added / copy), added <= 0.5 * copy),
        Line("overwrite a column", "<= 0.5 x Arrow copy", s(over), peer, x(over / copy), over <= 0.5 * copy),
        Line(
            "add, linear in n",
            "<= 10 x that of n / 10",
            s(added),
            f"n / 10: {s(added_tenth)}",
            x(added / added_tenth),
            added <= 10 * added_tenth,
        ),
        Line("commit a journal", f"<= {0.3 * n / 1e6:g} s", s(committed), "-", "-", committed <= 0.3 * n / 1e6),
    ]


class _Renamed:
    """A journal under whatever name a column is asked for, so that one journal serves five commits."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.num_rows = journal.num_rows

    def lookup(self, row_ids: np.ndarray, fields: Any) -> pa.RecordBatch:
        found = self._journal.lookup(row_ids, [field.with_name("j") for field in fields])
        return pa.RecordBatch.from_arrays(found.columns, schema=pa.schema(fields))


def reading_lines(folder: Path, ledger: Ledger, width: int) -> list[Line]:
    """Rows by id against Parquet, a whole scan against a memory-mapped Arrow file."""
    n = len(ledger)
    asked = np.random.default_rng(1).choice(ledger.ids, 1000, replace=False)
    ours = seconds(lambda: open_ledger(ledger.path).take(asked))
    wanted = pa.array(asked, pa.string())
    parquet = pads.dataset(folder / "a.parquet")
    peer = seconds(lambda: parquet.to_table(filter=pads.field("id").isin(wanted)), repeats=3)
    scan = seconds(lambda: scan_ledger(ledger))
    raw = seconds(lambda: scan_ipc(folder / "a.arrow"))
    return [
        Line(
            f"take 1,000 ids, {width} wide",
            ">= 50 x Parquet",
            s(ours),
            f"Parquet {s(peer)}",
            x(peer / ours),
            peer >= 50 * ours,
        ),
        Line(
            f"scan loss, embedding {width} wide",
            ">= 0.8 x Arrow IPC, mapped",
            f"{n / scan / 1e6:.1f}M rows/s",
            f"Arrow IPC {n / raw / 1e6:.1f}M rows/s",
            x(raw / scan),
            raw / scan >= 0.8,
        ),
    ]


def sql_line(folder: Path, ledger: Ledger, name: str) -> Line:
    """A repeated query, against DuckDB over Parquet."""
    query = QUERIES[name]
    connection = duckdb.connect()
    there = f"read_parquet('{folder / 'a.parquet'}')"
    peer = seconds(lambda: connection.execute(query.format(t=there)).fetchall())
    ledger.sql(query.format(t="ledger"))
    ledger.sql(query.format(t="ledger"))
    first = seconds(lambda: open_ledger(ledger.path).sql(query.format(t="ledger")))
    ours = seconds(lambda: ledger.sql(query.format(t="ledger")))
    return Line(
        f"SQL, {name}",
        "<= 5 x DuckDB on Parquet",
        f"{s(ours)} (first {s(first)})",
        f"DuckDB {s(peer)}",
        x(ours / peer),
        ours <= 5 * peer,
    )


def append_lines(folder: Path, n: int, ledger: Ledger) -> list[Line]:
    """A tenth more rows, ids compared with all that are there: by an object's first append, and by later ones."""
    tenth = n // 10
    raw_write(pa.Table.from_batches(batches(0, n), SCHEMA), folder / "raw.lance")
    took: dict[str, list[float]] = {"first": [], "later": [], "raw": []}
    start = iter(range(n, 100 * n, tenth))
    for _ in range(REPEATS):
        opened = open_ledger(ledger.path)
        for which in ("first", "later"):
            more = pa.Table.from_batches(batches(next(start), tenth), SCHEMA)
            took[which].append(seconds(lambda more=more, to=opened: to.append(more), repeats=1))
            added = seconds(lambda more=more: lance.write_dataset(more, str(folder / "raw.lance"), mode="append"), repeats=1)
            took["raw"].append(added)
    ledger.refresh().delete(where=f"id >= '{name_of(n)}'")
    raw = statistics.median(took["raw"])
    return [
        Line(f"append {tenth:,} rows, {which}", "<= 2 x raw lance", s(t), f"lance {s(raw)}", x(t / raw), t <= 2 * raw)
        for which in ("first", "later")
        for t in [statistics.median(took[which])]
    ]


def purge_line(ledger: Ledger, n: int) -> Line:
    """One row erased from files of 250,000 rows; the proof, which decodes every file, is timed apart."""
    ledger.delete(purge=True, yes=True)
    receipts = [ledger.delete([name_of(n // 2 + k)], purge=True, yes=True) for k in range(REPEATS)]
    took = statistics.median(r.seconds for r in receipts)  # type: ignore[union-attr]
    proof = statistics.median(r.proof_seconds for r in receipts)  # type: ignore[union-attr]
    return Line("purge one row", "<= 1 s plus the proof", s(took), f"proof {s(proof)}", "-", took <= 1)


def import_line() -> Line:
    """A fresh interpreter that imports the package, less one that imports nothing."""

    def start(code: str) -> float:
        return seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True))

    took, bare = start("import datumwise"), start("pass")
    return Line("import datumwise", "< 0.3 s", s(took - bare), f"python {s(bare)}", "-", took - bare < 0.3)


def memory_lines(folder: Path, n: int) -> list[Line]:
    """Peak memory of a process that scans n and 10 n rows."""
    peaks = []
    for rows in (n, 10 * n):
        ledger = fresh(folder / f"memory{rows}", rows)
        context = multiprocessing.get_context("spawn")
        said = context.Queue()
        run = context.Process(target=peak_of_a_scan, args=(ledger.path, said))
        run.start()
        peaks.append(said.get(timeout=600))
        run.join()
        shutil.rmtree(ledger.path)
    text = " -> ".join(f"{peak:.0f} MB" for peak in peaks)
    return [
        Line("peak of a scan, n -> 10 n", "<= 600 MB", text, "-", "-", max(peaks) <= 600),
        Line(
            "memory does not grow with n",
            "10 n less n < 100 MB",
            f"{peaks[1] - peaks[0]:+.0f} MB",
            "-",
            "-",
            peaks[1] - peaks[0] < 100,
        ),
    ]


# ---------------------------------------------------------------- data, peers, clocks


def batches(start: int, n: int, width: int = DIM) -> Iterator[pa.RecordBatch]:
    for first in range(start, start + n, CHUNK):
        numbers = np.arange(first, min(first + CHUNK, start + n))
        rng = np.random.default_rng(first)
        vectors = pa.array(rng.normal(size=len(numbers) * width).astype(np.float32))
        yield pa.record_batch(
            [
                pa.array([name_of(i) for i in numbers]),
                pa.array([f"some text about number {i}, and {i * 7919 % 1009} of that" for i in numbers]),
                pa.array(LABELS[rng.integers(0, 4, len(numbers))]),
                pa.array(rng.random(len(numbers), np.float32)),
                pa.FixedSizeListArray.from_arrays(vectors, width),
            ],
            schema=schema_of(width),
        )


def name_of(i: int) -> str:
    return f"row{i:08d}"


def fresh(path: Path, n: int) -> Ledger:
    return create_ledger(path, batches(0, n), schema=SCHEMA, id_column="id", overwrite=True, max_rows_per_file=ROWS_PER_FILE)


def keep(table: pa.Table, path: Path) -> Ledger:
    rows = table.to_batches(max_chunksize=CHUNK)
    return create_ledger(path, rows, schema=table.schema, id_column="id", overwrite=True, max_rows_per_file=ROWS_PER_FILE)


def raw_write(table: pa.Table, path: Path) -> None:
    lance.write_dataset(table, str(path), mode="overwrite", max_rows_per_file=ROWS_PER_FILE, enable_stable_row_ids=True)


def write_ipc(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1024)


def scan_ledger(ledger: Ledger) -> float:
    """Every byte is looked at: a mapped file costs nothing until it is."""
    return sum(touch(batch) for batch in ledger.batches(["loss", "e"]))


def scan_ipc(path: Path) -> float:
    with pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_file(file)
        return sum(touch(reader.get_batch(i)) for i in range(reader.num_record_batches))


def touch(batch: pa.RecordBatch) -> float:
    return float(batch["e"].values.to_numpy().sum() + batch["loss"].to_numpy().sum())


def peak_of_a_scan(path: Path, said: Any) -> None:
    scan_ledger(open_ledger(path))
    lines = Path("/proc/self/status").read_text().splitlines()  # getrusage would count the parent's, too
    said.put(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)


def seconds(act: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Median of some runs."""
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        act()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def s(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.{0 if value >= 0.01 else 1}f} ms"


def x(ratio: float) -> str:
    return f"{ratio:.2f} x" if ratio < 10 else f"{ratio:.0f} x"


def show(lines: list[Line], n: int) -> None:
    print(f"{n:,} rows, {platform.machine()}, {multiprocessing.cpu_count()} cores")
    print(f"lance {lance.__version__}, duckdb {duckdb.__version__}, pyarrow {pa.__version__}\n")
    titles = ("what", "goal", "measured", "peer", "ratio", "met")
    cells = [(c.what, c.goal, c.ours, c.peer, c.ratio, "yes" if c.met else "NO") for c in lines]
    widths = [max(len(row[i]) for row in [titles, *cells]) for i in range(len(titles))]
    for row in [titles, *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"\n{sum(line.met for line in lines)} of {len(lines)} met")


if __name__ == "__main__":
    main()
