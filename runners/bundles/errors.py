"""What can be wrong with a bundle."""

from schemas.errors import ShoalError


class BundleError(ShoalError):
    """A bundle that can't be made, or that a node doesn't take. Attributes: `problem`, `mend` (what to do about it)."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(f"{problem}: {mend}")
        self.problem = problem
        self.mend = mend


class NotTaken(BundleError):
    """Nothing is wrong with a bundle, but the node's owner doesn't let the node run it."""
