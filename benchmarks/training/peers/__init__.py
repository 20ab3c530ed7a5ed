"""The peers' ends: each runs in a virtual environment of its own (`install.sh`), where Shoal isn't."""
