"""Other people's code sees little of the machine: Linux's Landlock (docs.kernel.org/userspace-api/landlock).

The process gives its rights up itself, before anything of the job is imported, and nothing that it does or starts gets
them back. Not bounded: the memory of this very process, where its connection to the server is, and UDP.
"""

import os
import site
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from landlockpy import AccessFS, AccessNet, Ruleset, Scope

from runners.jobs.bounds import Bounds

_READ = AccessFS.READ_FILE | AccessFS.READ_DIR | AccessFS.EXECUTE
_USE = AccessFS.READ_FILE | AccessFS.WRITE_FILE | AccessFS.READ_DIR | AccessFS.IOCTL_DEV
# No devices or sockets to be made there.
_OWN = (
    _READ | AccessFS.WRITE_FILE | AccessFS.TRUNCATE | AccessFS.REMOVE_DIR | AccessFS.REMOVE_FILE
    | AccessFS.MAKE_DIR | AccessFS.MAKE_REG | AccessFS.MAKE_SYM | AccessFS.REFER
)  # fmt: skip
_OF_FILES = AccessFS.READ_FILE | AccessFS.WRITE_FILE | AccessFS.EXECUTE | AccessFS.TRUNCATE | AccessFS.IOCTL_DEV

SYSTEM = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt/cuda", "/opt/rocm", "/opt/intel", "/sys", "/proc/cpuinfo",
    "/proc/driver", "/proc/filesystems", "/proc/meminfo", "/proc/stat", "/proc/sys", "/proc/version",
    "/nix/store", "/etc/alternatives", "/etc/ca-certificates", "/etc/gai.conf", "/etc/group", "/etc/host.conf",
    "/etc/hosts", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types",
    "/etc/nsswitch.conf", "/etc/nvidia", "/etc/OpenCL", "/etc/os-release", "/etc/passwd", "/etc/pki", "/etc/protocols",
    "/etc/resolv.conf", "/etc/services", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/timezone",
)  # fmt: skip
"""What programs need of a Linux system; of `/etc` and `/proc` only what says nothing about the machine's owner."""
DEVICES = ("null", "zero", "full", "random", "urandom", "kfd", "dri")
"""Of `/dev`, besides what is named after NVIDIA."""
SHARED_MEMORY = "/dev/shm"
PACKAGES = ("agents", "bus", "runners", "schemas")


def confine(bounds: Bounds) -> None:
    """From now on this thread, and all that it starts, has the files and ports that it needs, no others."""
    network = AccessNet.NONE if bounds.ports is None else AccessNet.BIND_TCP | AccessNet.CONNECT_TCP
    with Ruleset(handled_net=network, scoped=Scope.SIGNAL | Scope.ABSTRACT_UNIX_SOCKET) as rules:
        for path in (*SYSTEM, f"/proc/{os.getpid()}", *_python(), *bounds.read):
            _allow(rules, path, _READ)
        for path in _devices():
            _allow(rules, path, _USE)
        if bounds.shared_memory:
            _allow(rules, SHARED_MEMORY, _OWN)
        _allow(rules, bounds.scratch, _OWN)
        for port in bounds.ports or ():
            rules.allow_port(port, AccessNet.CONNECT_TCP)
        rules.restrict()


def _allow(rules: Ruleset, path: str, access: AccessFS) -> None:
    if os.path.exists(path):
        rules.allow_path(path, access if os.path.isdir(path) else access & _OF_FILES)


def _python() -> Iterable[str]:
    """Where Python, its packages and Shoal's are."""
    found = {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, *site.getsitepackages()}
    found |= {path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")}
    for name in PACKAGES:
        if (module := sys.modules.get(name)) is not None:
            found |= set(module.__path__)
    return sorted(found)


def _devices() -> Iterable[str]:
    gpus = (str(path) for path in Path("/dev").iterdir() if path.name.startswith("nvidia"))
    return [*(f"/dev/{name}" for name in DEVICES), *gpus]
