"""The same loop in a pool of Ray actors: each takes shards, all write one journal, the driver commits."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datumwise.engine.local import Task, Worker, has_state, peak_memory, shard_name
from datumwise.errors import DatumwiseError, MissingExtra, ModelMismatch, SourceError
from datumwise.ledger.journal import Journal

__all__ = ["run_ray"]

DEATHS = 4  # of actors over the same shard, before it is given up


def run_ray(task: Task, fn: Callable[..., Any], progress: Any, num_actors: int | None = None) -> tuple[int, int]:
    """Work through all shards in actors, one CPU each (and ``fn.num_gpus`` GPUs, if it says so).

    A cluster that the caller joined with ``ray.init`` is used and left as it is; otherwise one is joined
    (where ``RAY_ADDRESS`` names it) or started on this machine for the time of the pass.

    Returns
    -------
    rows, peak_memory : int, int
        Rows computed, and the largest resident memory of an actor, bytes.

    Raises
    ------
    MissingExtra
        If ray is not installed.
    SourceError
        If a worker cannot reach the journal.
    ModelMismatch
        If ``fn`` fails, or four workers died over the same shard.
    """
    with _cluster() as ray:
        wanted = num_actors or int(ray.cluster_resources().get("CPU", 1))
        pool = _Pool(ray, task, fn, max(1, min(wanted, len(task.shards))))
        try:
            return pool.work(progress)
        finally:
            pool.stop()


class _Pool:
    """Gives every idle actor the next thing to do: fold a shard whose turn it is, or compute one.

    A shard whose actor died goes to another one. Ray's own restarts are not used: a restarted actor waits for
    its CPU with its task in hand, and if another actor has taken that CPU, it waits for ever.
    """

    def __init__(self, ray: Any, task: Task, fn: Callable[..., Any], size: int) -> None:
        self.ray, self.task = ray, task
        # in a list it stays a reference: only a worker that is new fetches it
        self.source = [ray.put((sys.path, _pickled(ray, task, fn)))]
        options = {"num_cpus": 1, "num_gpus": getattr(fn, "num_gpus", 0), "scheduling_strategy": "SPREAD"}
        self.actor = ray.remote(**options)(_Actor)
        self.summing = has_state(fn)
        self.to_compute = deque(range(len(task.shards)))
        self.computed: set[int] = set()
        self.to_fold, self.folding = 0, False  # shards with a state are folded one by one, in ledger order
        self.busy: dict[Any, tuple[Any, str, int]] = {}  # reference -> actor, what, which shard
        self.idle: list[Any] = []
        self.deaths: Counter[tuple[str, int]] = Counter()
        self.rows = self.peak = 0
        for _ in range(size):
            self._start()

    def work(self, progress: Any) -> tuple[int, int]:
        """Until all is done; an actor that the cluster has no room for is not waited for."""
        journal = Journal(self.task.journal, clean=False)
        before, resumed, shards = journal.num_rows, progress.done, len(self.task.shards)
        while len(self.computed) < shards or (self.summing and self.to_fold <= shards):
            ready, _ = self.ray.wait(list(self.busy), timeout=max(self.task.flush_seconds, 0.05))
            for reference in ready:
                self._settle(reference)
            self._assign()
            journal.refresh()
            progress.to(resumed + journal.num_rows - before)
        progress.to(resumed + self.rows)
        return self.rows, self.peak

    def stop(self) -> None:
        for actor in [*self.idle, *(actor for actor, _, _ in self.busy.values())]:
            self.ray.kill(actor)

    def _start(self) -> None:
        actor = self.actor.remote()
        self.busy[actor.reachable.remote(self.task.journal)] = (actor, "reach", -1)

    def _assign(self) -> None:
        shards = len(self.task.shards)
        while self.idle:
            if self.summing and not self.folding and (self.to_fold in self.computed or self.to_fold == shards):
                self.folding, actor = True, self.idle.pop()
                last = self.to_fold == shards  # all are folded: what an earlier run left is folded too
                name = shard_name(self.to_fold)
                then = actor.finish.remote(self.source) if last else actor.fold.remote(self.source, name)
                self.busy[then] = (actor, "fold", self.to_fold)
            elif self.to_compute:
                number, actor = self.to_compute.popleft(), self.idle.pop()
                self.busy[actor.shard.remote(self.source, number)] = (actor, "compute", number)
            else:
                return

    def _settle(self, reference: Any) -> None:
        actor, what, number = self.busy.pop(reference)
        answer = self._answer(reference, actor, what, number)
        if answer is None:
            return
        if what == "reach" and not answer["reachable"]:
            raise SourceError(
                f"a worker on {answer['host']} cannot reach {self.task.journal}",
                remedy="put the ledger on a path that all nodes share",
            )
        if what == "compute":
            self.computed.add(number)
            self.rows += answer["rows"]
        if what == "fold":
            self.folding, self.to_fold = False, self.to_fold + 1
        self.peak = max(self.peak, answer["peak"])
        self.idle.append(actor)

    def _answer(self, reference: Any, actor: Any, what: str, number: int) -> dict[str, Any] | None:
        """What an actor says; None if it died, and then its work is put back and another actor started."""
        try:
            return dict(self.ray.get(reference))
        except self.ray.exceptions.RayTaskError as e:
            if isinstance(e.cause, DatumwiseError):
                raise e.cause from None
            raise ModelMismatch(f"a worker failed: {type(e.cause).__name__}: {e.cause}") from e
        except self.ray.exceptions.RayError as e:
            self.ray.kill(actor)
            self.deaths[what, number] += 1
            if self.deaths[what, number] >= DEATHS:
                raise ModelMismatch(
                    f"{DEATHS} workers died over the same rows",
                    remedy="if they ran out of memory, take a smaller batch_size or fewer num_actors",
                ) from e
            if what == "compute":
                self.to_compute.appendleft(number)
            if what == "fold":
                self.folding = False
            self._start()
            return None


def _pickled(ray: Any, task: Task, fn: Callable[..., Any]) -> bytes:
    try:
        return bytes(ray.cloudpickle.dumps((task, fn)))
    except (TypeError, AttributeError, pickle.PicklingError) as e:
        raise ModelMismatch(
            f"the function cannot be sent to another process ({e})",
            remedy="give a factory with per_worker = True that builds it there",
        ) from e


class _Actor:
    """A worker in a process of its own; builds its function once."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def _ready(self, source: list[Any]) -> Worker:
        if self._worker is None:
            import ray

            path, pickled = ray.get(source[0])
            sys.path.extend(p for p in path if p not in sys.path)  # where the caller found fn's module
            task, fn = pickle.loads(pickled)
            self._worker = Worker(task, fn, apart=True)
        return self._worker

    def reachable(self, journal: str) -> dict[str, Any]:
        there = (Path(journal) / "owner").exists()
        return {"reachable": there, "host": os.uname().nodename, "peak": peak_memory()}

    def shard(self, source: list[Any], number: int) -> dict[str, Any]:
        return {"rows": self._ready(source).shard(number), "peak": peak_memory()}

    def fold(self, source: list[Any], name: str) -> dict[str, Any]:
        self._ready(source).fold(name)
        return {"peak": peak_memory()}

    def finish(self, source: list[Any]) -> dict[str, Any]:
        self._ready(source).finish()
        return {"peak": peak_memory()}


@contextlib.contextmanager
def _cluster() -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a pass tells nobody that it ran
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as e:
        raise MissingExtra("the ray engine needs ray", remedy="pip install 'datumwise[ray]'") from e
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    dashboard = {"include_dashboard": False} if address == "local" else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lance is not fork-safe")  # Ray forks to exec at once
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **dashboard)
    try:
        yield ray
    finally:
        ray.shutdown()
