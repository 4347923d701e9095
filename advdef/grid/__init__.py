"""Runs that outgrow one machine: what pages compute as tasks, on processes, a cluster, or the jobs of an array.

A page's :class:`Study` names its tasks, :func:`run` computes those whose results the store does not hold, and the page
finds them there.
"""

from advdef.grid.asked import Asked
from advdef.grid.engine import Failed, Progress, run, run_share
from advdef.grid.executors import Cluster, NoCluster, cluster, processes
from advdef.grid.study import Cell, DataDiffer, Study, Task, once, seeded_name, shards
from advdef.grid.worker import WorkerDiffers

__all__ = [
    "Asked", "Cell", "Cluster", "DataDiffer", "Failed", "NoCluster", "Progress", "Study", "Task", "WorkerDiffers",
    "cluster", "once", "processes", "run", "run_share", "seeded_name", "shards",
]  # fmt: skip
