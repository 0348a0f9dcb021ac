"""The sandbox: bubblewrap around a Python process that sees its interpreter, the files of `inside` and no more."""

import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

INSIDE = Path(__file__).parent / "inside"
UNSAFE = "MULTIATTEMPT_UNSAFE_CODE"
"""Environment variable that does without bubblewrap where it is 1."""
TEMPORARY_BYTES = 2**24
"""Size of a sandbox's /tmp, which lies in memory."""
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}
"""All of it. With one hash seed a set has the same order in every run, and a program the same verdict."""
_FLAGS = ("-P", "-s", "-S")
REMEDY = (
    "Programs that a model wrote are run inside bubblewrap. Install it (`apt-get install bubblewrap`, `dnf install "
    "bubblewrap`; without root `conda install -c conda-forge bubblewrap`), and see that the kernel allows user "
    "namespaces (in a container: `--security-opt seccomp=unconfined`, on Ubuntu also `sysctl "
    f"kernel.apparmor_restrict_unprivileged_userns=0`). {UNSAFE}=1 runs them without, with all your rights: only on a "
    "machine that holds nothing of value"
)


class Sandbox:
    """Starts processes that are confined; with `unsafe` they have limits and an empty folder, but all rights.

    Raises `ValueError` with the remedy where there is no bubblewrap, or where it does not work here.
    """

    def __init__(self, *, unsafe: bool) -> None:
        self.bwrap = None if unsafe else shutil.which("bwrap")
        if unsafe:
            return
        if self.bwrap is None:
            raise ValueError(f"bubblewrap (`bwrap`) is not installed. {REMEDY}")
        tried = self.start("print(1)", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        said, errors = tried.communicate()
        if said != b"1\n":
            told = errors.decode(errors="replace").strip() or f"exit status {tried.returncode}"
            raise ValueError(f"bubblewrap does not work here ({told}). {REMEDY}")

    def start(
        self,
        code: str,
        *,
        stdin: int,
        stdout: int,
        stderr: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        folder: str | None = None,
    ) -> "subprocess.Popen[bytes]":
        """Python over that code, which can import the package `inside`. `folder` is where it runs without bubblewrap.

        The thread that calls must outlive the process: the kernel ends the process with it.
        """
        rules, writes = os.pipe()
        try:
            os.write(writes, _refused_calls())  # a filter fits into a pipe
            os.close(writes)
            command, environment = self._command(rules)
            return subprocess.Popen(
                [*command, *_FLAGS, "-c", code],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(*pass_fds, rules) if self.bwrap else pass_fds,
                env=environment,
                cwd="/" if self.bwrap else folder,
                start_new_session=True,
            )
        finally:
            os.close(rules)

    def _command(self, rules: int) -> tuple[list[str], dict[str, str]]:
        if self.bwrap is None:
            return [str(_interpreter())], {**_ENVIRONMENT, "PYTHONPATH": str(INSIDE.parent)}
        seccomp = ["--seccomp", str(rules)] if _refused_calls() else []
        python, binds = _python()
        inside = ["--ro-bind", str(INSIDE), "/code/inside"]
        return [self.bwrap, *_ISOLATION, *binds, *inside, *_FOLDERS, *seccomp, "--", python], {
            **_ENVIRONMENT,
            "PYTHONPATH": "/code",
            "LD_LIBRARY_PATH": str(Path(python).parent.parent / "lib"),
        }


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Ends it with all that it started. What is in a sandbox the kernel ends with the sandbox's first process."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def empty_folder() -> "tempfile.TemporaryDirectory[str]":
    """Where processes run that have no sandbox."""
    return tempfile.TemporaryDirectory(prefix="multiattempt-", ignore_cleanup_errors=True)


_ISOLATION = [
    *("--unshare-all", "--die-with-parent", "--new-session"),
    *("--uid", "65534", "--gid", "65534", "--cap-drop", "ALL", "--hostname", "sandbox"),
]
"""No network, no processes of others, nobody's rights."""
_FOLDERS = [
    *("--dev-bind", "/dev/null", "/dev/null", "--dev-bind", "/dev/urandom", "/dev/urandom"),
    *("--size", str(TEMPORARY_BYTES), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"),
]


def _interpreter() -> Path:
    """The real one, not the link of a virtual environment."""
    return Path(sys.executable).resolve()


@cache
def _python() -> tuple[str, list[str]]:
    """Where the interpreter stands in a sandbox, and what is bound for it: system libraries, and its own without any
    package that was installed. One that stands in somebody's home is shown under another name.
    """
    binds: list[str] = []
    for system in ("/usr/lib", "/usr/lib64", "/lib", "/lib64"):
        path = Path(system)
        if path.is_symlink():
            binds += ["--symlink", str(path.readlink()), system]
        elif path.is_dir():
            binds += ["--ro-bind", system, system]
    executable = _interpreter()
    if sys.base_prefix == "/usr":
        return str(executable), [*binds, "--ro-bind", str(executable), str(executable)]
    shown = f"/python/bin/{executable.name}"
    binds += ["--ro-bind", str(executable), shown, "--ro-bind", f"{sys.base_prefix}/lib", "/python/lib"]
    packages = Path(sysconfig.get_path("stdlib")) / "site-packages"
    if packages.is_dir():
        binds += ["--tmpfs", f"/python/{packages.relative_to(sys.base_prefix)}"]
        binds += ["--remount-ro", f"/python/{packages.relative_to(sys.base_prefix)}"]
    return shown, binds


# Calls of the kernel that no program of ours needs: new processes, looking into others, namespaces, memory that the
# limits do not count, and what most holes of the kernel were found in. Threads are allowed.
_CALLS: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    # machine: its number for seccomp, `clone`, `clone3`, and the rest: ptrace, process_vm_readv and _writev, unshare,
    # setns, mount, memfd_create, shmget, add_key, request_key, keyctl, bpf, perf_event_open, userfaultfd,
    # io_uring_setup; and on x86 fork and vfork
    "x86_64": (
        0xC000003E,
        56,
        435,
        (101, 310, 311, 272, 308, 165, 319, 29, 248, 249, 250, 321, 298, 323, 425, 57, 58),
    ),
    "aarch64": (
        0xC00000B7,
        220,
        435,
        (117, 270, 271, 97, 268, 40, 279, 194, 217, 218, 219, 280, 241, 282, 425),
    ),
}
_LOAD, _EQUAL, _AT_LEAST, _HAS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026  # EPERM, ENOSYS
_CLONE_THREAD = 0x00010000


@cache
def _refused_calls() -> bytes:
    """A seccomp filter as the kernel reads it; empty for a machine whose numbers we do not know."""
    if platform.machine() not in _CALLS:
        return b""
    machine, clone, clone3, others = _CALLS[platform.machine()]
    filters = [
        (_LOAD, 0, 0, 4),  # struct seccomp_data: the number at 0, the machine at 4, the arguments from 16
        (_EQUAL, 1, 0, machine),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, 0, 1, 0x40000000),  # the other numbers of x86
        (_RETURN, 0, 0, _REFUSE),
        (_EQUAL, 0, 1, clone3),  # its flags cannot be read here; libc then takes `clone`
        (_RETURN, 0, 0, _UNKNOWN),
    ]
    for number in others:
        filters += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    filters += [
        (_EQUAL, 0, 3, clone),
        (_LOAD, 0, 0, 16),
        (_HAS, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *one) for one in filters)
