"""The submitter's side: files are chosen, packed and signed, and what a job's request says of them is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runners.bundles.choosing import choose
from runners.bundles.content import check_sizes, compress, digest_of, pack
from runners.bundles.keys import own_signer
from schemas.bundles import SourceBundle, object_name, statement


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A bundle that is ready to be stored and named in a request."""

    source: SourceBundle
    """For the request."""
    files: tuple[str, ...]
    data: bytes
    """Compressed, for the object store."""

    @property
    def name(self) -> str:
        """In the object store."""
        return object_name(self.source.digest)


def make_bundle(workload: str, root: Path, files: Sequence[str], store: Path) -> Packed:
    """Pack a workload's source from the directory `root`, with `files` as `choose` understands them, and sign it with the
    store's key, which is made at first use.

    Raises:
        BundleError: it can't be packed, or the key isn't safe.
    """
    chosen = choose(workload, root.resolve(), files)
    check_sizes({name: path.stat().st_size for name, path in chosen.items()})
    content = pack({name: path.read_bytes() for name, path in chosen.items()})
    digest, signer = digest_of(content), own_signer(store)
    source = SourceBundle(
        digest=digest,
        size=len(content),
        submitter=signer.public,
        signature=signer.sign(statement(workload, digest, len(content))),
    )
    return Packed(source=source, files=tuple(sorted(chosen)), data=compress(content))
