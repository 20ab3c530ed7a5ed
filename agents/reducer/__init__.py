"""The round's core: open, collect, quorum, deadline, close; and who takes over from a silent reducer."""

from agents.reducer.core import Reducer
from agents.reducer.settings import ReducerSettings
from agents.reducer.state import ReducerState

__all__ = ["Reducer", "ReducerSettings", "ReducerState"]
