"""Remedies for faults that last: chosen by what worked before, within budgets, and judged by what comes of them."""

from agents.healer.cases import CaseDue
from agents.healer.core import AgentDue, Healer
from agents.healer.settings import HealerSettings
from agents.healer.state import Case, HealerState, Lesson

__all__ = ["AgentDue", "Case", "CaseDue", "Healer", "HealerSettings", "HealerState", "Lesson"]
