"""Flower's client: H paced AdamW steps a message; Adam's moments are kept in the node's state between rounds."""

import os
import time

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.training.peers.paced import LOCAL_STEPS, Log, Paced

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """A node's part of a round."""
    begun = time.time()
    if os.environ.get("TASK") == "vector":  # averaging alone: the vector comes straight back
        content = RecordDict({"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})})
        return Message(content=content, reply_to=message)
    log, task = Log(), Paced()
    task.model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = task.optimizer()
    parameters = list(task.model.parameters())
    step = int(context.state["n"]["step"]) if "n" in context.state else 0
    if "moments" in context.state:
        kept = context.state["moments"].to_torch_state_dict()
        for i, p in enumerate(parameters):
            moments = {"exp_avg": kept[f"m{i}"], "exp_avg_sq": kept[f"v{i}"]}
            optimizer.state[p] = {"step": torch.tensor(float(step)), **moments}
    log(ev="start", step=step)
    for _ in range(LOCAL_STEPS):
        optimizer.zero_grad()
        task.gradients(step)
        optimizer.step()
        step += 1
    first = {f"m{i}": optimizer.state[p]["exp_avg"] for i, p in enumerate(parameters)}
    second = {f"v{i}": optimizer.state[p]["exp_avg_sq"] for i, p in enumerate(parameters)}
    context.state["moments"] = ArrayRecord(first | second)
    context.state["n"] = MetricRecord({"step": step})
    log(ev="step", step=step, train_s=round(time.time() - begun, 2))
    figures = MetricRecord({"num-examples": LOCAL_STEPS * task.batch, "step": step})
    return Message(
        content=RecordDict({"arrays": ArrayRecord(task.model.state_dict()), "metrics": figures}), reply_to=message
    )
