"""A pool of Ray actors gives the same bits as one process, on one node or two, with or without a death."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine_cases as cases
import pyarrow as pa
import pytest

from datumwise import errors
from datumwise.engine import run_pass
from datumwise.ledger import Ledger

N, PER_FILE = 8000, 500


def run(ledger: Ledger, fn: Any, **options: Any) -> Any:
    given = {"reads": ["x", "i"], "writes": cases.WRITES, "provenance": cases.MADE, "batch_size": 100}
    return run_pass(ledger, fn, **{**given, **options})


def test_without_ray_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(errors.MissingExtra, match=r"pip install 'datumwise\[ray\]'"):
        run(cases.make(tmp_path / "a", 10), cases.answer, engine="ray")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes, all of its sockets on the loopback interface."""
    ray = pytest.importorskip("ray")
    from ray._private import services
    from ray.cluster_utils import Cluster

    loopback = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setattr(services, "resolve_ip_for_localhost", lambda host: host)
        cluster = Cluster(initialize_head=True, head_node_args={**loopback, "include_dashboard": False})
        try:
            cluster.add_node(**loopback)
            ray.init(
                address=cluster.address,
                _node_ip_address="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            yield ray
        finally:
            ray.shutdown()
            cluster.shutdown()


class Where:
    """A factory whose function notes which node answers, and waits for the other node to answer too."""

    per_worker = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> Any:
        import ray

        node = ray.get_runtime_context().get_node_id()

        def ask(batch: pa.RecordBatch) -> dict[str, Any]:
            (self.folder / node).touch()
            deadline = time.monotonic() + 30
            while len(list(self.folder.iterdir())) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
            return cases.answer(batch)

        return ask


@pytest.mark.ray
@pytest.mark.slow
def test_local_equals_ray_bit_for_bit(nodes: Any, tmp_path: Path) -> None:
    one = cases.make(tmp_path / "local", N, PER_FILE)
    two = cases.make(tmp_path / "ray", N, PER_FILE)
    three = cases.make(tmp_path / "killed", N, PER_FILE)
    told: list[tuple[int, int]] = []
    local = run(one, cases.Gram())
    spread = run(two, cases.Gram(), engine="ray", num_actors=2, progress=lambda *now: told.append(now))
    killed = run(three, cases.DiesOnce(3210, tmp_path / "mark"), engine="ray", num_actors=2)
    assert (tmp_path / "mark").exists()
    for ledger, done in ((two, spread), (three, killed)):
        assert done.rows == N
        assert (done.state["gram"] == local.state["gram"]).all()
        assert done.state["rows"] == N
        assert ledger.table(["id", "s", "e"]).equals(one.table(["id", "s", "e"]))
        assert not any((ledger.path / "journal").iterdir())
    assert told[0] == (0, N)
    assert told[-1] == (N, N)
    assert told == sorted(told)


@pytest.mark.ray
@pytest.mark.slow
def test_both_nodes_work_and_a_pass_goes_on_under_the_other_engine(nodes: Any, tmp_path: Path) -> None:
    ledger = cases.make(tmp_path / "a", N, PER_FILE)

    def stop(batch: pa.RecordBatch) -> dict[str, Any]:
        if batch["i"][0].as_py() >= 3000:
            raise KeyboardInterrupt
        return cases.answer(batch)

    with pytest.raises(KeyboardInterrupt):
        run(ledger, stop)
    (tmp_path / "nodes").mkdir()
    done = run(ledger, Where(tmp_path / "nodes"), engine="ray", num_actors=2)
    assert (done.rows, done.resumed_rows) == (N - 3000, 3000)
    assert len(list((tmp_path / "nodes").iterdir())) == 2
    s, e = cases.expected(ledger.array("i"))
    assert (ledger.array("s") == s).all()
    assert (ledger.array("e") == e).all()


@pytest.mark.ray
@pytest.mark.slow
def test_a_death_on_a_full_cluster_does_not_hang(nodes: Any, tmp_path: Path) -> None:
    """Four actors for two CPUs: the dead one's CPU is taken by one that waited."""
    ledger = cases.make(tmp_path / "a", N, PER_FILE)
    done = run(ledger, cases.DiesOnce(3210, tmp_path / "mark"), engine="ray", num_actors=4)
    assert (tmp_path / "mark").exists()
    assert done.state["rows"] == N


@pytest.mark.ray
@pytest.mark.slow
def test_a_failing_function_is_named_in_a_worker_too(nodes: Any, tmp_path: Path) -> None:
    def fails(batch: pa.RecordBatch) -> dict[str, Any]:
        if 1520 in batch["i"].to_numpy():
            raise RuntimeError("CUDA out of memory")
        return cases.answer(batch)

    ledger = cases.make(tmp_path / "a", N, PER_FILE)
    before = ledger.version
    with pytest.raises(errors.ModelMismatch, match=r"r1500, r1501, r1502 and 97 more: .*CUDA") as caught:
        run(ledger, fails, engine="ray", num_actors=1)
    assert len(caught.value.ids) == 100
    assert ledger.refresh().version == before
    assert run(ledger, cases.answer).resumed_rows == 1500


@pytest.mark.ray
@pytest.mark.slow
def test_rows_that_kill_every_worker_are_given_up(nodes: Any, tmp_path: Path) -> None:
    ledger = cases.make(tmp_path / "a", 200, PER_FILE)
    with pytest.raises(errors.ModelMismatch, match="workers died over the same rows"):
        run(ledger, cases.DiesOnce(150, tmp_path / "no" / "mark"), engine="ray", num_actors=1)


@pytest.mark.ray
@pytest.mark.slow
def test_a_function_that_cannot_travel_is_refused(nodes: Any, tmp_path: Path) -> None:
    import threading

    lock = threading.Lock()
    with pytest.raises(errors.ModelMismatch, match="per_worker"):
        run(cases.make(tmp_path / "a", 10), lambda b: lock and cases.answer(b), engine="ray")
