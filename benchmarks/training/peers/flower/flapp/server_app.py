"""Flower's server: FedAvg over all nodes that are connected, evaluated centrally after each round."""

import os

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from benchmarks.training.peers.paced import LOCAL_STEPS, Log, Paced
from benchmarks.training.tasks import VECTOR

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds; the driver ends it."""
    log = Log()
    task = None if os.environ.get("TASK") == "vector" else Paced()
    first = ArrayRecord({"v": torch.randn(VECTOR)} if task is None else task.model.state_dict())
    total = 0

    def count(records: list, key: str) -> MetricRecord:  # type: ignore[type-arg]
        nonlocal total
        total += sum(int(record["metrics"]["num-examples"]) for record in records)
        return MetricRecord({"n": len(records)})

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        if task is None:
            log(ev="eval", round=number, val=0.0, samples=total)
        else:
            task.model.load_state_dict(arrays.to_torch_state_dict())
            task.report(log, number * LOCAL_STEPS, total, round=number)
        return MetricRecord({"round": number})

    strategy = FedAvg(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=int(os.environ.get("FL_MIN", "2")),
        min_available_nodes=int(os.environ.get("FL_AVAIL", "4")),
        min_evaluate_nodes=0,
        train_metrics_aggr_fn=count,
    )
    log(ev="server")
    timeout = float(os.environ.get("FL_TIMEOUT", "3600"))
    strategy.start(grid=grid, initial_arrays=first, num_rounds=1000, timeout=timeout, evaluate_fn=evaluate)
