"""A job's process within bounds of memory, processor time, files and environment."""

import os
import sys
import tempfile
from collections.abc import Mapping

import msgspec

from schemas.errors import ShoalError

_VARIABLES = frozenset(
    ("HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SYSTEMROOT", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV")
)
_FAMILIES = (
    "CUDA_", "GLOO_", "GPU_", "HF_", "HIP_", "HSA_", "LC_", "MKL_", "NCCL_", "NVIDIA_", "OMP_", "OPENBLAS_", "PYTHON",
    "PYTORCH_", "ROCM_", "ROCR_", "SSL_CERT_", "TORCH", "TRANSFORMERS_", "TRITON_",
)  # fmt: skip
_SECRETS = ("TOKEN", "KEY", "SECRET", "PASSWORD")


class Bounds(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one job process gets; its node works them out from its owner's `JobLimits`."""

    confined: bool = False
    read: tuple[str, ...] = ()
    """What a confined process may read besides Python, Shoal and the system."""
    scratch: str = ""
    """A folder of its own, its home and where temporary files go; only if it is confined."""
    ports: tuple[int, ...] | None = None
    """That it may connect to, if it is confined; None: any, and it may listen."""
    shared_memory: bool = False
    """Whether a confined process may use the machine's, as several GPUs do that average with each other."""
    memory_bytes: int | None = None
    cpu_seconds: int | None = None
    file_bytes: int | None = None
    environment: dict[str, str] = {}
    """Variables besides those that it was started with."""


class NoConfinement(ShoalError):
    """The owner wants jobs to be confined, and this system can't."""

    def __init__(self) -> None:
        super().__init__("this system can't confine a job's process: start the node with --confine off, or use Linux")


def apply(bounds: Bounds) -> None:
    """Put this process, and all that it starts from now on, within bounds. For a process with one thread.

    Raises:
        NoConfinement: it is to be confined, and the system can't.
        OSError: a limit is above the one that this process has been given itself.
    """
    os.environ |= bounds.environment
    if sys.platform != "win32":
        import resource

        for kind, most in (
            (resource.RLIMIT_DATA, bounds.memory_bytes),
            (resource.RLIMIT_CPU, bounds.cpu_seconds),
            (resource.RLIMIT_FSIZE, bounds.file_bytes),
        ):
            if most is not None:
                resource.setrlimit(kind, (most, most))
    if not bounds.confined:
        return
    if not landlock_level():
        raise NoConfinement
    os.environ |= {"HOME": bounds.scratch, "TMPDIR": bounds.scratch}
    tempfile.tempdir = bounds.scratch
    if sys.platform == "linux":
        from runners.jobs.confinement import confine

        confine(bounds)


def landlock_level() -> int:
    """What this system can confine: 0 nothing, from 1 files, from 4 ports, from 6 signals (Landlock's ABI)."""
    if sys.platform != "linux":
        return 0
    import landlockpy

    try:
        return landlockpy.abi_version()
    except OSError:  # not compiled in, or switched off
        return 0


def needed(own: Mapping[str, str]) -> dict[str, str]:
    """What of a node's environment any job's process has: what Python, torch and drivers need, and no secrets."""
    return {
        name: value
        for name, value in own.items()
        if name in _VARIABLES or (name.startswith(_FAMILIES) and not any(secret in name for secret in _SECRETS))
    }
