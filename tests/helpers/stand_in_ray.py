"""What `inference.cluster.run` uses of Ray, in this process: for tests where Ray is not installed, as in CI.

What is sent to another process is pickled here, too. A generator is read row by row, and an object of a class that
`map_batches` is given answers all batches.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any


class Data:
    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self.rows = rows

    def map_batches(self, function, *, batch_size, fn_constructor_args=(), compute=None, **resources) -> Data:
        assert batch_size == 1
        if isinstance(function, type):
            assert compute is not None
            function = function(*pickle.loads(pickle.dumps(fn_constructor_args)))

        def rows() -> Iterator[dict[str, Any]]:
            for row in self.rows:
                found = function({name: [value] for name, value in row.items()})
                for batch in [found] if isinstance(found, dict) else found:
                    yield from (dict(zip(batch, cells, strict=True)) for cells in zip(*batch.values(), strict=True))

        return Data(rows())

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


def stand_in(nodes: list[dict[str, float]]) -> ModuleType:
    """A module like ``ray``, connected to a cluster of machines with these resources."""
    ray = ModuleType("ray")
    context = SimpleNamespace(target_max_block_size=None, enable_progress_bars=True, print_on_execution_start=True)
    total: dict[str, float] = {}
    for node in nodes:
        for name, count in node.items():
            total[name] = total.get(name, 0) + count
    ray.data = ModuleType("ray.data")  # type: ignore[attr-defined]
    vars(ray.data).update(
        from_items=lambda rows, override_num_blocks: Data(rows),
        DataContext=SimpleNamespace(get_current=lambda: context),
        ActorPoolStrategy=SimpleNamespace,
    )
    vars(ray).update(
        is_initialized=lambda: True,
        nodes=lambda: [{"Alive": True, "Resources": node} for node in nodes],
        cluster_resources=lambda: total,
        put=pickle.dumps,
        get=lambda given: [pickle.loads(one) for one in given] if isinstance(given, list) else pickle.loads(given),
        remote=lambda **resources: (
            lambda function: SimpleNamespace(remote=lambda *given: pickle.dumps(function(*given)))
        ),
    )
    return ray
