"""What a server's configuration may have besides nats.conf: the routes of a cluster, a door for other sites."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bus.credentials import write_private
from bus.several import place_of

_FOLDER = Path(__file__).parent
_DOMAIN = "shoal"  # of JetStream, as in leaf.conf
_LEAF_USER = "leaf"  # as in leaves.conf
LEAF = _FOLDER / "leaf.conf"
"""In place of nats.conf: the server of a site that keeps nothing itself."""
CLUSTER = _FOLDER / "cluster.conf"
LEAVES = _FOLDER / "leaves.conf"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file of configuration, where it needs one, and variables that the server reads. Secrets are among these alone."""

    file: Path | None
    variables: Mapping[str, str]


def cluster_part(name: str, host: str, port: int, secret: str, routes: Iterable[int]) -> Part:
    """One server of a cluster whose servers all listen for routes at `host`, this one at `port`, all at `routes`."""
    urls = [f"nats-route://route:{secret}@{host}:{one}" for one in routes]
    return Part(
        file=CLUSTER,
        variables={
            "SHOAL_NATS_CLUSTER": json.dumps(name),
            "SHOAL_NATS_CLUSTER_HOST": json.dumps(host),
            "SHOAL_NATS_CLUSTER_PORT": str(port),
            "SHOAL_NATS_CLUSTER_SECRET": json.dumps(secret),
            "SHOAL_NATS_CLUSTER_ROUTES": json.dumps(urls),
        },
    )


def leaves_part(port: int, secret: str) -> Part:
    """Other sites are let in at `port`, beside where clients are, with this secret."""
    variables = {
        "SHOAL_NATS_DOMAIN": json.dumps(_DOMAIN),
        "SHOAL_NATS_LEAF_PORT": str(port),
        "SHOAL_NATS_LEAF_SECRET": json.dumps(secret),
    }
    return Part(file=LEAVES, variables=variables)


def remotes_part(urls: Iterable[str], secret: str) -> Part:
    """For `LEAF`: where the fleet lets sites in, as `nats://HOST:PORT`, and its secret."""
    remotes = []
    for url in urls:
        host, port = place_of(url)
        remotes.append(f"nats-leaf://{_LEAF_USER}:{secret}@{f'[{host}]' if ':' in host else host}:{port}")
    return Part(file=None, variables={"SHOAL_NATS_LEAF_REMOTES": json.dumps(remotes)})


def compose(folder: Path, files: Iterable[Path], made: Iterable[str] = ()) -> Path:
    """One configuration of several files, which are copied, and of some that are there already, by name; gives its path.

    The server takes included files from the folder of the one that names them. What comes later holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, file in enumerate(files):
        names.append("base" if number == 0 else file.stem)
        shutil.copyfile(file, folder / f"{names[-1]}.conf")
    whole = folder / "nats.conf"
    write_private(whole, "".join(f'include "{name}.conf"\n' for name in (*names, *made)).encode())
    return whole
