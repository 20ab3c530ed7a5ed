"""The toy cores of the hosts' tests play in simulations too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "runners"))
