"""The imitation of another system for `.ci/other-os`: what that system lacks is hidden from our code.

Python loads a module of this name whenever it starts, so this also works in helper processes and kernels.

Windows: there are no fcntl, resource, fork, POSIX signals and symbolic links. A file that this process has open or
mapped cannot be replaced or removed. macOS: there is no sched_getaffinity, nor other calls of Linux only. On both,
sys.platform and os.name are those of the other system, worker processes are spawned, and there is no /proc and no /sys.
"""

import builtins
import errno
import os
import sys
import types

SYSTEM = os.environ.get("OTHER_OS")
PLATFORM = {"windows": ("win32", "nt"), "macos": ("darwin", "posix")}
OURS = ("vt_course", "conftest", "videos", "weights", "server", "solutions", "__main__", "__mp_main__")
LINUX = {
    "os": "sched_getaffinity sched_setaffinity memfd_create posix_fadvise posix_fallocate pidfd_open "
    "eventfd copy_file_range"
    " getrandom unshare setns O_TMPFILE O_DIRECT O_PATH getxattr setxattr listxattr fdatasync",
    "resource": "prlimit",
    "signal": "sigtimedwait sigwaitinfo SIGPWR SIGPOLL",
}
POSIX = {
    "os": "fork forkpty register_at_fork getuid geteuid getgid getegid setuid killpg getpgid setpgid "
    "setsid statvfs mkfifo mknod"
    " chown fchown fchmod uname wait wait3 wait4 nice getpriority pread pwrite readv writev sendfile getloadavg sysconf"
    " openpty posix_spawn chroot fchdir lockf sync pipe2 O_NOFOLLOW O_DIRECTORY O_CLOEXEC O_NONBLOCK O_SYNC WIFSIGNALED"
    " WTERMSIG WIFEXITED WEXITSTATUS",
    "signal": "SIGKILL SIGALRM SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGCHLD SIGPIPE SIGSTOP SIGCONT SIGXFSZ "
    "SIGBUS alarm setitimer"
    " getitimer ITIMER_REAL pthread_sigmask pthread_kill sigwait pause",
    "time": "tzset clock_gettime",
}
ABSENT = {"windows": {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"}, "macos": set()}
real_import, real_open = builtins.__import__, builtins.open


def ours(frame_globals) -> bool:
    name = (frame_globals or {}).get("__name__") or ""
    return name.split(".")[0] in OURS or name.startswith("test_")


def hidden(module: str) -> set[str]:
    names = LINUX.get(module, "") + (" " + POSIX.get(module, "") if SYSTEM == "windows" else "")
    return set(names.split())


class View(types.ModuleType):
    """A module without the names that the other system lacks. Others are read from the real module, and set in it."""

    def __init__(self, real, changed):
        vars(self).update(
            __name__=real.__name__,
            __spec__=real.__spec__,
            _real=real,
            _changed=changed,
            _hidden=hidden(real.__name__),
            _patched={},
            _saved={},
        )

    def __getattr__(self, name):
        for names in (self._patched, self._changed):
            if name in names:
                return names[name]
        if name in self._hidden:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on {SYSTEM}")
        return getattr(self._real, name)

    # Tests replace attributes for some time. When they delete such an attribute, its old value comes back.
    def __setattr__(self, name, value):
        if name in self._changed or name in self._hidden:
            self._patched[name] = value
        else:
            if hasattr(self._real, name):
                self._saved.setdefault(name, getattr(self._real, name))
            setattr(self._real, name, value)

    def __delattr__(self, name):
        if name in self._changed or name in self._hidden:
            self._patched.pop(name, None)
        elif name in self._saved:
            setattr(self._real, name, self._saved[name])
        else:
            delattr(self._real, name)


def view(name: str, made={}):
    if name not in made:
        real = real_import(name)
        changed = {"sys": {"platform": PLATFORM[SYSTEM][0]}, "os": {"name": PLATFORM[SYSTEM][1]}}.get(name, {})
        if SYSTEM == "windows" and name == "os":
            changed["symlink"] = no_symlink
        if SYSTEM == "macos" and name == "resource":
            changed["getrusage"] = usage_in_bytes(real)
        made[name] = View(real, changed)
    return made[name]


def no_symlink(source, target, *args, **kwargs):
    raise OSError(errno.EPERM, "A required privilege is not held by the client", os.fspath(target))


def usage_in_bytes(resource):
    def getrusage(who):
        usage = list(resource.getrusage(who))
        usage[2] *= 1024
        return resource.struct_rusage(usage)

    return getrusage


def import_as_there(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0 and ours(globals):
        top = name.split(".")[0]
        if top in ABSENT[SYSTEM]:
            raise ModuleNotFoundError(f"No module named {top!r} (on {SYSTEM})", name=top)
        if name in ("os", "sys", "signal", "time", "resource") or name == "os.path" and not fromlist:
            return view(top)
    return real_import(name, globals, locals, fromlist, level)


def open_as_there(file, *args, **kwargs):
    caller = sys._getframe(1).f_globals
    if ours(caller):
        if isinstance(file, (str, os.PathLike)) and os.fspath(file).startswith(("/proc/", "/sys/")):
            raise FileNotFoundError(errno.ENOENT, f"No such file or directory on {SYSTEM}", os.fspath(file))
        mode = args[0] if args else kwargs.get("mode", "r")
        if SYSTEM == "windows" and "b" not in mode and len(args) < 3 and kwargs.get("encoding") is None:
            raise ValueError(f"{file} is opened as text without its encoding: cp1252 on Windows")
    return real_open(file, *args, **kwargs)


def held(path) -> bool:
    """Whether this process has the file open or mapped."""
    wanted = os.path.realpath(path)
    try:
        for fd in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{fd}") == wanted:
                    return True
            except OSError:
                continue
        with real_open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            return any(line.rstrip("\n").endswith(wanted) for line in maps)
    except OSError:
        return False


def unless_held(call, paths: int):
    def guarded(*args, **kwargs):
        for path in args[:paths]:
            if isinstance(path, (str, bytes, os.PathLike)) and os.path.isfile(path) and held(os.fsdecode(path)):
                raise PermissionError(
                    errno.EACCES,
                    "The process cannot access the file because it is being used by this process",
                    os.fsdecode(path),
                )
        return call(*args, **kwargs)

    return guarded


if SYSTEM in PLATFORM:
    import multiprocessing.context as context

    context._default_context._default_context = context._concrete_contexts["spawn"]
    if SYSTEM == "windows":
        for method in ("fork", "forkserver"):
            context._concrete_contexts.pop(method, None)
        for name, paths in (("replace", 2), ("rename", 2), ("unlink", 1), ("remove", 1)):
            setattr(os, name, unless_held(getattr(os, name), paths))
    builtins.__import__, builtins.open = import_as_there, open_as_there
