"""Walls around a process that runs what a model wrote: Linux namespaces and a filter of system calls.

`isolate` gives the process a world without network and without other processes, whose files cannot be changed but for
one folder in memory. `forbid_calls` takes starting processes, sockets and signals to others away, in any world.
`refuse` is for where the kernel allows no namespaces: the interpreter's own calls that change files are refused. That
hook is a fence and no wall (code that reaches C without an audit event passes it). In neither world are files hidden
that this user may read.
"""

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any

_NEW_ALL = 0x00020000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000  # mounts, IPC, users, processes, network
_MS_NOSUID_NODEV, _MS_PRIVATE_ALL = 2 | 4, 0x40000 | 0x4000
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _READ_ONLY = 442, -100, 0x8000, 1
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 1, 22, 38, 2
_CAPABILITY_VERSION = 0x20080522
_MAX_THREADS = 64

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Numbers of the calls on x86_64 and aarch64; a call that an architecture lacks is -1.
_CLONE, _CLONE3, _CLONE_THREAD = (56, 220), (435, 435), 0x10000
_SIGNALS = ((62, 129), (234, 131))  # kill, tgkill: to this process alone
_FORBIDDEN = (
    (57, -1), (58, -1),  # fork, vfork
    (59, 221), (322, 281),  # execve, execveat
    (41, 198),  # socket; not socketpair, which an event loop needs
    (200, 130), (129, 138), (297, 240), (424, 424),  # tkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal
    (101, 117), (310, 270), (311, 271), (438, 438),  # ptrace, process_vm_readv, process_vm_writev, pidfd_getfd
    (272, 97), (308, 268), (165, 40), (166, 39),  # unshare, setns, mount, umount2
    (425, 425), (321, 280), (298, 241), (250, 219),  # io_uring_setup, bpf, perf_event_open, keyctl
)  # fmt: skip
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NUMBER, _ARCHITECTURE, _FIRST = 0, 4, 16  # where the filter finds the call, the architecture and the first argument
Step = tuple[int, int, int, int]

_REFUSED = (
    "socket.", "subprocess.", "ctypes.", "pty.", "syslog.", "signal.pthread_kill", "os.system", "os.exec", "os.fork",
    "os.posix_spawn", "os.kill", "os.chmod", "os.chown", "os.link", "os.symlink", "os.setxattr", "os.utime",
    "os.chroot",
)  # fmt: skip
_CHANGES = {"os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.mkdir": 1, "os.truncate": 1, "shutil.move": 2}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def isolate(folder: str, megabytes: int) -> bool:
    """Go on in a process behind walls, `folder` being a file system in memory; False where the kernel refuses any.

    The process that called waits for the one behind the walls and ends as that one did: only the latter returns.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_NEW_ALL):
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        is_closed = _close_files(libc, folder, megabytes)
    except OSError:
        is_closed = False
    child = os.fork()  # the first one of the new process namespace: with it everything it started ends
    if child:
        _end_like(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()  # a signal to its own group must not reach the process that waits
    libc.capset(struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24))
    resource.setrlimit(resource.RLIMIT_NPROC, (_MAX_THREADS, _MAX_THREADS))  # holds for threads, and not for root
    return is_closed


def forbid_calls() -> bool:
    """Have the kernel refuse new processes, sockets, signals to others and more, for good; False where it cannot."""
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
        return False
    steps = _filter(platform.machine(), os.getpid())
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    head = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return not libc.prctl(_PR_SET_SECCOMP, _FILTER, head)


def refuse(folder: str, has_filter: bool) -> None:
    """Refuse, from now on and for good, processes, C calls, changes of files outside a folder; sockets if no filter."""
    refused = tuple(event for event in _REFUSED if not (has_filter and event == "socket."))
    inside = os.path.realpath(folder) + os.sep

    def is_outside(path: Any) -> bool:
        return not isinstance(path, str | bytes) or not os.path.realpath(os.fsdecode(path)).startswith(inside)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event.startswith(refused) or any(map(is_outside, given[: _CHANGES.get(event, 0)])):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open" and isinstance(given[0], str | bytes):
            path, _, flags = given
            is_change = bool((flags or 0) & _WRITES)
            if (is_change and is_outside(path)) or os.path.realpath(os.fsdecode(path)).startswith("/proc/"):
                raise PermissionError(f"opening {os.fsdecode(path)!r} is not allowed here")

    sys.addaudithook(hook)


def _close_files(libc: Any, folder: str, megabytes: int) -> bool:
    """All mounts read-only, nothing in /proc, and an empty file system in memory over the folder."""
    read_only = struct.pack("QQQQ", _READ_ONLY, 0, 0, 0)
    size = f"size={megabytes}m,mode=700".encode()
    tmpfs, flags = b"tmpfs", _MS_NOSUID_NODEV
    return not (
        libc.mount(None, b"/", None, _MS_PRIVATE_ALL, None)
        or libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, read_only, len(read_only))
        or libc.mount(tmpfs, os.fsencode(folder), tmpfs, flags, size)
        or libc.mount(tmpfs, b"/proc", tmpfs, flags, b"size=4k,mode=555")
    )


def _filter(machine: str, pid: int) -> list[Step]:
    """The filter as steps (operation, jump if so, jump if not, value): each call of note, then leave for the rest."""
    column = list(_ARCHITECTURES).index(machine)
    refused, allowed = (_RETURN, 0, 0, _ERROR | _EPERM), (_RETURN, 0, 0, _ALLOW)

    def on(numbers: tuple[int, int], *steps: Step) -> list[Step]:
        return [(_IF_EQUAL, 0, len(steps), numbers[column]), *steps] if numbers[column] >= 0 else []

    steps: list[Step] = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_IF_EQUAL, 1, 0, _ARCHITECTURES[machine]), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER), (_IF_AT_LEAST, 0, 1, 0x40000000), refused,  # the x32 numbers of the same calls
        *on(_CLONE, (_LOAD, 0, 0, _FIRST), (_IF_BITS, 0, 1, _CLONE_THREAD), allowed, refused),
        *on(_CLONE3, (_RETURN, 0, 0, _ERROR | _ENOSYS)),  # the C library then takes clone, whose flags can be seen
    ]  # fmt: skip
    for numbers in _SIGNALS:
        steps += on(numbers, (_LOAD, 0, 0, _FIRST), (_IF_EQUAL, 0, 1, pid), allowed, refused)
    for numbers in _FORBIDDEN:
        steps += on(numbers, refused)
    return [*steps, allowed]


def _end_like(code: int) -> None:
    """End as a child ended, by the same signal if by one."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 1)
