"""The appraiser: says of each machine whether its job is better off with it."""

from agents.appraiser.appraisal import Appraisal, appraise, appraise_possible
from agents.appraiser.core import Appraiser
from agents.appraiser.rounds import Part, RoundSeen
from agents.appraiser.settings import AppraiserSettings
from agents.appraiser.state import AppraiserState

__all__ = [
    "Appraisal",
    "Appraiser",
    "AppraiserSettings",
    "AppraiserState",
    "Part",
    "RoundSeen",
    "appraise",
    "appraise_possible",
]
