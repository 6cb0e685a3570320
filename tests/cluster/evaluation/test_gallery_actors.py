"""Gallery shards in Ray actors: places, restarts, and the same bits whatever happens."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from cluster.evaluation.gallery_actors import GalleryActors, gallery_transport
from cluster.evaluation.shard_actor import ShardSource
from cluster.evaluation.shard_places import Claim, await_room, claim_for, memory_of
from cluster.training.group_size import Node
from evalsuite.scoring.evaluation import evaluate
from evalsuite.scoring.gallery_split import partition
from evalsuite.scoring.result import Evaluation
from evalsuite.vectors.embeddings import Embeddings, EvaluationError, write_embeddings
from tests.command import call
from tests.evalsuite.embedding_folders import write_parts

OPTIONS = {"features": "raw", "metric": "euclidean"}
GB = 1 << 30


def cloud(name: str, count: int) -> Embeddings:
    """Points on a coarse grid, so that equal distances occur."""
    random = np.random.default_rng(len(name))
    return Embeddings(
        [f"{name}-{i}" for i in range(count)],
        [f"class-{i % 4}" for i in range(count)],
        random.integers(0, 4, size=(count, 6)).astype(np.float32),
    )


QUERIES, GALLERY = cloud("query", 90), cloud("shape", 61)


def node(cpus: float, memory_gb: float = 64, *, free: float | None = None) -> Node:
    free_cpus = cpus if free is None else free
    return Node(cpus, 0, free_cpus, 0, memory_gb * GB, memory_gb * GB)


@pytest.mark.parametrize(
    ("cpus", "shards", "expected"),
    [
        ([2], 1, 2.0),  # one node is used wholly
        ([2], 2, 1.0),
        ([2], 3, 0.5),
        ([2], 9, 0.125),
        ([8, 8, 8], 3, 4.0),  # any node can be lost
        ([1, 1, 1], 3, 0.5),
        ([0, 2, 2], 2, 1.0),  # a head without CPUs takes none
        ([4, 4], 1, 4.0),
    ],
)
def test_a_shard_reserves_what_leaves_room_for_the_loss_of_a_node(cpus, shards, expected):
    claim = claim_for([node(n) for n in cpus], shards, GB)
    assert claim == Claim(expected, GB)
    assert claim.threads == max(1, int(expected))


def test_memory_decides_where_it_is_short():
    nodes = [node(8, 10), node(8, 10)]
    assert claim_for(nodes, 4, 5 * GB) == Claim(4.0, 5 * GB)  # all fit, but not after a loss
    assert claim_for(nodes, 5, 5 * GB) is None
    assert claim_for(nodes, 2, 11 * GB) is None
    assert claim_for([node(8)], 4, GB, cpus=3) is None
    assert claim_for([node(8)], 4, GB, cpus=0.3) == Claim(0.3, GB)
    assert memory_of(1_000_000, 256) > 2 * 4 * 256 * 1_000_000


def test_a_cluster_that_is_too_small_is_refused_at_once_and_a_busy_one_later():
    with pytest.raises(EvaluationError, match=r"2 shards needs .* 11\.8 GB .*use smaller") as error:
        await_room(lambda: [node(8, 10)], 2, 11 * GB, patience_seconds=1e9)
    assert "\n" not in str(error.value)
    with pytest.raises(EvaluationError, match=r"0 CPUs and .* free after 0 s of waiting"):
        await_room(lambda: [node(8, free=0)], 2, GB, patience_seconds=0)
    freed = iter([[node(2, free=0)], [node(2, free=0)], [node(2)]])
    assert await_room(lambda: next(freed), 2, GB, patience_seconds=60).cpus == 1.0


def test_a_folder_that_a_node_does_not_see_is_named(tmp_path):
    source = ShardSource(np.arange(2), ["a", "b"], parts=str(tmp_path / "away"))
    with pytest.raises(EvaluationError, match=r"away: no such folder on .*all nodes share"):
        source.shard({})


def test_shards_read_their_own_rows_of_a_folder(tmp_path, expected):
    """The same answers as from memory, here without Ray."""
    folder = tmp_path / "parts"
    write_parts(folder, GALLERY, fingerprint="f", part_rows=9)
    with gallery_transport(folder, 3, actors=False, **OPTIONS) as transport:
        assert_same(evaluate(QUERIES, None, transport=transport), expected)


def test_no_cpus_are_no_answer(capfd, tmp_path):
    for name, embeddings in (("q", QUERIES), ("g", GALLERY)):
        write_embeddings(tmp_path / f"{name}.parquet", embeddings)
    files = ["--queries", tmp_path / "q.parquet", "--gallery", tmp_path / "g.parquet"]
    complaint = call(capfd, "metrics", *files, "--actors", "--shard-cpus", "0").complaint
    assert complaint == "--shard-cpus 0: give more than 0, a fraction if need be"


@pytest.fixture(scope="module")
def expected() -> Evaluation:
    """What every evaluation here must give."""
    return evaluate(QUERIES, GALLERY, query_block=16)


def assert_same(found: Evaluation, expected: Evaluation) -> None:
    assert found.to_json() == expected.to_json()
    assert found.per_query.equals(expected.per_query)


@contextmanager
def actors(shards: int, **options: Any) -> Iterator[GalleryActors]:
    sources = [
        ShardSource(rows, [GALLERY.labels[row] for row in rows], vectors=GALLERY.vectors[rows])
        for rows in partition(GALLERY.labels, shards)
    ]
    claim = options.pop("claim", Claim(0.1, 200 << 20))
    found = GalleryActors(sources, claim=claim, options=OPTIONS, **options)
    try:
        yield found
    finally:
        found.close()


class Disturbed:
    """Asks on through a transport, with a call of ``disturb`` before some of its questions."""

    def __init__(self, transport: GalleryActors, disturb: Callable[[str, int], None]) -> None:
        self.in_flight = transport.in_flight
        self._transport, self._disturb = transport, disturb
        self._asked: dict[str, int] = {}

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        self._asked[method] = self._asked.get(method, 0) + 1
        self._disturb(method, self._asked[method])
        return self._transport.broadcast(method, *args)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_end(pids: list[int]) -> None:
    for _ in range(200):
        if not any(map(alive, pids)):
            return
        time.sleep(0.05)
    raise AssertionError(f"still there: {pids}")


@pytest.mark.ray
def test_a_killed_shard_is_restarted_and_the_result_has_the_same_bits(ray_cluster, expected, capfd):
    """Once between a block's two questions, once with a question on its way."""
    with actors(3) as transport:

        def kill(method: str, times: int) -> None:
            if (method, times) == ("count", 2):
                os.kill(transport.where()[1][1], signal.SIGKILL)
            if (method, times) == ("count", 4):
                pid = transport.where()[2][1]
                os.kill(pid, signal.SIGSTOP)  # it cannot answer before it is killed
                threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()

        found = evaluate(QUERIES, GALLERY, transport=Disturbed(transport, kill), query_block=16)
        assert transport.restarts == [0, 1, 1]
        pids = [pid for _, pid in transport.where()]
    assert_same(found, expected)
    wait_for_end(pids)
    said = [line for line in capfd.readouterr().err.splitlines() if "gallery shard" in line]
    assert said == [
        f"gallery shard {n} of 3 was lost and restarted (1 of 3); its question is asked again"
        for n in (2, 3)
    ]


@pytest.mark.ray
def test_a_shard_that_is_lost_too_often_ends_the_evaluation(ray_cluster):
    with actors(2, max_restarts=1) as transport:
        transport.broadcast("describe")
        seen = transport.where()
        os.kill(seen[0][1], signal.SIGKILL)
        transport.broadcast("describe")
        seen += transport.where()
        os.kill(seen[2][1], signal.SIGKILL)
        with pytest.raises(
            EvaluationError, match="shard 1 of 2 was lost again after 1 rest"
        ) as err:
            transport.broadcast("describe")
        assert "\n" not in str(err.value)
        assert "more --shards" in str(err.value)
    wait_for_end([pid for _, pid in seen])
    with pytest.raises(RuntimeError, match="were ended"):
        transport.broadcast("describe")


@pytest.mark.ray
def test_nothing_waits_for_ever(ray_cluster):
    with (
        pytest.raises(EvaluationError, match=r"cluster cannot hold the gallery.*needs 999 CPUs"),
        gallery_transport(GALLERY, 2, actors=True, shard_cpus=999, **OPTIONS),
    ):
        pass
    with (
        actors(1, claim=Claim(999, 1), patience_seconds=0.5) as transport,
        pytest.raises(EvaluationError, match=r"has found no place for 0\.5 s: it needs 999 CPUs"),
    ):
        transport.broadcast("describe")
    with actors(1) as transport:
        transport.broadcast("describe")
        os.kill(transport.where()[0][1], signal.SIGSTOP)  # computes, as far as anyone can tell
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(transport.broadcast, "describe")
            time.sleep(0.2)
            transport.close()
            with pytest.raises(RuntimeError, match="were ended"):
                waiting.result(timeout=30)


@pytest.mark.ray
def test_threads_get_their_own_answers_and_leave_nothing_in_the_object_store(ray_cluster):
    import ray

    worker = ray._private.worker.global_worker.core_worker
    big = np.repeat(QUERIES.vectors, 500, axis=0)  # 1 MB: not sent along with the question

    def ask(kind: int) -> None:
        queries = big[: 40_000 + kind]
        names = np.asarray([f"class-{kind % 4}"] * len(queries))
        for counts, distance, index in transport.broadcast("relevant", queries, names):
            assert len(counts) == len(queries)
            assert len(distance) == counts.sum()
            distance[:1] = 0  # answers belong to the asker
            assert all(GALLERY.labels[row] == f"class-{kind % 4}" for row in np.unique(index))

    with actors(2) as transport:
        transport.broadcast("describe")
        before = worker.get_all_reference_counts().keys()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, range(8)))
        for _ in range(100):
            left = worker.get_all_reference_counts().keys() - before
            if not left:
                break
            time.sleep(0.05)
        assert not left


@pytest.mark.ray
def test_the_command_scores_files_on_actors(ray_cluster, tmp_path, capfd):
    for name, embeddings in (("q", QUERIES), ("g", GALLERY)):
        write_embeddings(tmp_path / f"{name}.parquet", embeddings)
    files = ["--queries", tmp_path / "q.parquet", "--gallery", tmp_path / "g.parquet", "--json"]
    alone = call(capfd, "metrics", *files).json
    assert call(capfd, "metrics", *files, "--shards", "3", "--actors").json == alone
    write_parts(tmp_path / "parts", GALLERY, fingerprint="f", part_rows=9)
    files[3] = tmp_path / "parts"
    assert call(capfd, "metrics", *files, "--shards", "2", "--actors").json == alone
