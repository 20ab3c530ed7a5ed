"""What adaptation costs: CPU seconds of the adapting agents against the wall time of a job."""

from agents.optimizer.settings import OptimizerSettings
from agents.optimizer.state import OptimizerState, Run, Usage
from schemas.decisions import AdaptationCost, AgentUsage
from schemas.ids import JobId

ADAPTING = ("network_monitor", "batch_controller", "node_selector", "optimizer")


def count(state: OptimizerState, event: AgentUsage) -> None:
    """Take an agent's usage in. A lower figure than before is a new process, which counts from zero; the first figure of
    all says nothing of when it was used up, so it only sets the mark."""
    if event.agent not in ADAPTING:
        return
    usage = state.usage.get(event.agent)
    if usage is None:
        state.usage[event.agent] = Usage(last=event.cpu_seconds)
        return
    again = event.cpu_seconds < usage.last
    usage.total += event.cpu_seconds if again else event.cpu_seconds - usage.last
    usage.last = event.cpu_seconds


def used(state: OptimizerState) -> float:
    """CPU seconds of all adapting agents so far."""
    return sum(usage.total for usage in state.usage.values())


def begin(run: Run, state: OptimizerState, now: float) -> None:
    """The job runs: its cost is counted from here. Of two jobs at once each is charged the whole."""
    run.began_at = run.looked_at = now
    run.began_cpu = run.looked_cpu = used(state)
    run.looked_round = run.round


def assess(job: JobId, run: Run, state: OptimizerState, now: float, settings: OptimizerSettings) -> AdaptationCost | None:
    """What adaptation has cost since the job began; lets it rest where the time since the last look was too expensive.

    None for a job that never ran.
    """
    if run.began_at is None:
        return None
    total, seconds = used(state), max(now - run.began_at, 0.0)
    spent, lately = total - run.began_cpu, now - run.looked_at
    share = spent / seconds if seconds > 0 else 0.0
    words = f"{share:.1%} of one core since the job began"
    if not state.usage:
        words = "no adapting agent has reported its usage yet"
    if lately >= settings.cost_least_seconds:
        recent = (total - run.looked_cpu) / lately
        words += f", {recent:.1%} over the last {run.round - run.looked_round} rounds"
        if recent > settings.cost_limit and run.phase != "completed":
            run.resting_until = run.round + settings.cost_pause
            words += f": more than {settings.cost_limit:.0%}, so adaptation rests until round {run.resting_until}"
        run.looked_at, run.looked_cpu, run.looked_round = now, total, run.round
    return AdaptationCost(job=job, round=run.round, agent_seconds=spent, run_seconds=seconds, share=share, reason=words)
