"""The few system calls that Python 3.11 does not wrap: namespaces, mounts, process control, capabilities, scheduling.

Only the standard library, and little of it: the launcher of every child process imports this. Every function raises
`OSError` with the kernel's errno. Numbers are those of Linux's headers, the same on every 64-bit architecture where
nothing else is said.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os

__all__ = [
    "CAP_DAC_OVERRIDE",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_ADMIN",
    "CAP_SYS_PTRACE",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWUSER",
    "MS_BIND",
    "MS_REC",
    "MS_SLAVE",
    "die_with_parent",
    "keep_capabilities",
    "last_capability",
    "map_user",
    "mount",
    "owning_user_namespace",
    "set_turn",
    "setns",
    "turn_of",
    "unshare",
]

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 1 << 19

CAP_DAC_OVERRIDE = 1
CAP_NET_BIND_SERVICE = 10
CAP_NET_ADMIN = 12
CAP_NET_RAW = 13
CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_NS_GET_USERNS = 0xB701  # ioctl_ns(2)
_CAPABILITY_VERSION_3 = 0x20080522
_SCHED_NORMAL = 0
_SCHED_ATTR_NUMBERS = {"x86_64": (314, 315), "aarch64": (274, 275)}  # of sched_setattr and sched_getattr

_libc = ctypes.CDLL(None, use_errno=True)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


class _SchedAttr(ctypes.Structure):
    """sched_setattr(2), as of its first version: 48 bytes."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` for new ones. For a user namespace the process must have one thread."""
    _check(_libc.unshare(ctypes.c_int(flags)))


def setns(fd: int, kind: int) -> None:
    """Join the namespace `fd`; `kind` is its CLONE_NEW... flag, checked by the kernel."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)))


def mount(source: str, target: str, flags: int) -> None:
    """Call mount(2) without file system type or data: binds and changes of propagation."""
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None))


def die_with_parent(signal: int, parent: int) -> bool:
    """Have `signal` sent to this process when its parent's thread ends; False when `parent` is already gone.

    Changes of identity clear it (prctl(2)), so it comes last before exec.
    """
    _prctl(_PR_SET_PDEATHSIG, signal)
    return os.getppid() == parent


def last_capability() -> int:
    """Return the highest capability number that this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())


def keep_capabilities(kept: frozenset[int]) -> None:
    """Give up every capability outside `kept`, for good: an exec, even of a set-user-id program, returns none."""
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    held = (_CapData * 2)()
    _check(_libc.capget(ctypes.byref(header), ctypes.byref(held)))
    if _holds(held, 8):  # CAP_SETPCAP; without it the bounding set cannot shrink, and is of no use to us either
        for capability in range(last_capability() + 1):
            if capability not in kept:
                _prctl(_PR_CAPBSET_DROP, capability)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for word in (0, 1):
        mask = sum(1 << (number - 32 * word) for number in kept if number // 32 == word)
        held[word].effective &= mask
        held[word].permitted &= mask
        held[word].inheritable = 0
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(held)))


def map_user(uid: int, gid: int, parent_uid: int, parent_gid: int) -> None:
    """In a user namespace just unshared: call `parent_uid`, `parent_gid` of the parent namespace `uid`, `gid` here."""
    _write("/proc/self/uid_map", f"{uid} {parent_uid} 1")
    _write("/proc/self/setgroups", "deny")  # user_namespaces(7): wanted before an unprivileged gid_map
    _write("/proc/self/gid_map", f"{gid} {parent_gid} 1")


def set_turn(nanoseconds: int) -> bool:
    """Let this thread, and those it starts, run for so long before others of its weight may; tell whether it is so.

    Its share of the processors stays the same, in more and shorter turns, each begun sooner after what it waited for.
    Linux takes 100,000 to 100,000,000 from 6.12 on (EEVDF's custom slices) and ignores it before. A thread that the
    operator gave another policy than SCHED_OTHER is left alone.
    """
    attributes = _scheduling(0)
    if attributes.policy != _SCHED_NORMAL:
        return False
    attributes.runtime = nanoseconds
    number, _ = _scheduling_calls()
    _check(_libc.syscall(ctypes.c_long(number), ctypes.c_int(0), ctypes.byref(attributes), ctypes.c_uint(0)))
    return turn_of(0) == nanoseconds


def turn_of(thread: int) -> int:
    """Return how long a thread may run in one go, in nanoseconds; 0 where the kernel tells none. 0 is this thread."""
    return int(_scheduling(thread).runtime)


def owning_user_namespace(namespace_fd: int) -> int:
    """Return a new descriptor of the user namespace that owns `namespace_fd`."""
    return fcntl.ioctl(namespace_fd, _NS_GET_USERNS)


def _scheduling(thread: int) -> _SchedAttr:
    attributes = _SchedAttr()
    _, number = _scheduling_calls()
    size = ctypes.c_uint(ctypes.sizeof(attributes))
    arguments = (ctypes.c_long(number), ctypes.c_int(thread), ctypes.byref(attributes), size, ctypes.c_uint(0))
    _check(_libc.syscall(*arguments))
    return attributes


def _scheduling_calls() -> tuple[int, int]:
    try:
        return _SCHED_ATTR_NUMBERS[os.uname().machine]
    except KeyError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None


def _holds(data: ctypes.Array[_CapData], capability: int) -> bool:
    return bool(data[capability // 32].effective >> (capability % 32) & 1)


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
