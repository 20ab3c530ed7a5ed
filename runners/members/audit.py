"""Reading the audit, and whether anybody has changed it."""

from collections.abc import Sequence

from schemas.members import AuditEntry, chained


def faults_in(entries: Sequence[AuditEntry], number: int, digest: str) -> list[str]:
    """What is wrong with a chain, in words; nothing where it is whole.

    Entries that were kept for their time are gone from its beginning, so it is checked from the first that is left.

    Args:
        entries: as they are stored, in order.
        number: of the last entry, as the gatekeeper knows it.
        digest: of that entry.
    """
    faults = []
    for before, entry in zip([None, *entries], entries, strict=False):
        facts = (entry.number, entry.act, entry.by, entry.target, entry.reason, entry.when, entry.previous)
        if chained(*facts) != entry.digest:
            faults.append(f"entry {entry.number} ({entry.act} {entry.target}) was changed: its digest is another")
        if before is not None and entry.number != before.number + 1:
            faults.append(f"between entry {before.number} and entry {entry.number} some are missing")
        elif before is not None and entry.previous != before.digest:
            faults.append(f"entry {entry.number} does not follow entry {before.number}: one of them was put there later")
    last = entries[-1] if entries else None
    if last is None and number:
        faults.append(f"all {number} entries are gone")
    elif last is not None and (last.number, last.digest) != (number, digest):
        faults.append(f"the last entry is {last.number}, the gatekeeper told {number}: the end was cut off or added to")
    return faults
