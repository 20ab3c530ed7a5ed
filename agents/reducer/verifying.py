"""The active reducer's look at arithmetic: who gets another gradient than the others of the same."""

import math

from agents.base import Agent, Effects, on
from agents.reducer import arithmetic
from agents.reducer.state import ReducerState
from schemas.verification import ArithmeticDoubted, GradientVerified


class Verifying(Agent[ReducerState]):
    """Compares what nodes make of the same parameters and samples."""

    @on(GradientVerified)
    def compare(self, event: GradientVerified, now: float) -> Effects:
        """A node's gradient of a version that all compute: whose stands apart is named, once a version."""
        s = self.state
        newest = max((report.version for report in s.verified.values()), default=0)
        if event.version < newest or (s.roster is not None and event.node not in s.roster.nodes):
            return
        if event.version > newest:
            s.verified.clear()
        s.verified[event.node] = event
        reports = arithmetic.comparable(list(s.verified.values()), event)
        sound = sum(report.gradient.loss is not None for report in reports)
        if s.active != s.node or len(reports) < arithmetic.COMPARED or 2 * sound <= len(reports):
            return
        allowed = arithmetic.tolerance(reports)
        for report in reports:
            apart = arithmetic.deviation(report, reports)
            if apart <= allowed or s.doubted.get(report.node, -1) >= report.version:
                continue
            s.doubted[report.node] = report.version
            found = f"deviates by {apart:.2g}" if math.isfinite(apart) else "is not finite"
            yield self.publish(
                ArithmeticDoubted(
                    job=s.job,
                    node=s.node,
                    suspect=report.node,
                    version=report.version,
                    deviation=apart if math.isfinite(apart) else None,
                    tolerance=allowed,
                    compared=len(reports),
                    reason=(
                        f"its gradient of version {report.version} {found} from what {len(reports) - 1} others get of the "
                        f"same samples, where {allowed:g} is allowed: look at its memory, its clock rates and its cooling"
                    ),
                )
            )
