"""The recorder's heavy work: a report out of a job's history."""

from agents.effects import Work
from agents.inputs import Result
from schemas.ids import JobId


class ReportWork(Work, frozen=True, kw_only=True):
    """Write a job's report and put it into the object store. Ends as `ReportBuilt`, or as `WorkExited` (code above 0)."""

    job: JobId


class ReportBuilt(Result, frozen=True, kw_only=True):
    """A job's report is in the object store."""

    job: JobId
    name: str
    size: int
    digest: str
    """SHA-256 of the bytes."""
