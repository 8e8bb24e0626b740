"""Which servers take part, how each is built, and how it is started."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BENCHES = Path(__file__).resolve().parent.parent
ROOT = BENCHES.parent
PEERS = BENCHES / "peers"

# How long one build may take, in seconds.
BUILD_TIMEOUT = 1800


@dataclass(frozen=True)
class Server:
    """A contestant: a program, and the options that make it one of several."""

    name: str
    program: str
    options: tuple = ()
    # Whether it is netpoll, which the report asks about.
    ours: bool = False
    # The protocol that it serves.
    speaks: str = "echo"
    # Whether it takes part where requests are answered at once, where some block, and where
    # connections are idle.
    echoes: bool = True
    blocks: bool = False
    idles: bool = True
    # Whether it is one of the choices where our dispatch modes are compared.
    dispatches: bool = False
    # Whether it has one thread, whatever its options say.
    single: bool = False
    # Whether connections get threads in the order in which they come, so that it is known which
    # of them share one.
    places: bool = False


# What the others are divided by, within each rotation.
BASE = "raw epoll"
# Our mode that chooses by itself, among those that are fixed.
HAND_OFF = "hand-off"
# For a server that takes part in few cells.
ASIDE = {"echoes": False, "idles": False}


def ours(name, *options, **takes_part):
    return Server(f"netpoll {name}", "netpoll_echo", options, ours=True, **takes_part)


SERVERS = (
    Server(BASE, "raw_epoll", blocks=True),
    Server("raw io_uring", "raw_uring"),
    ours("inline", "--dispatch", "inline", blocks=True, dispatches=True),
    ours("inline, never spins", "--dispatch", "inline", "--spin", "never", idles=False),
    ours(HAND_OFF, "--dispatch", "hand-off", blocks=True, dispatches=True),
    ours(
        "block_in_place",
        *("--dispatch", "hand-off", "--blocking", "block_in_place"),
        echoes=False,
        blocks=True,
        idles=False,
    ),
    ours("pool", "--dispatch", "pool", blocks=True, dispatches=True),
    ours("pool of 2", "--dispatch", "pool", "--workers", "2", **ASIDE, dispatches=True),
    ours("pool of 8", "--dispatch", "pool", "--workers", "8", **ASIDE, dispatches=True),
    ours("pool of 64", "--dispatch", "pool", "--workers", "64", **ASIDE, dispatches=True),
    Server("tokio", "tokio_echo", ("--runtime", "multi"), blocks=True),
    Server("tokio current-thread", "tokio_echo", ("--runtime", "current"), single=True),
    Server(
        "tokio block_in_place",
        "tokio_echo",
        ("--runtime", "multi", "--blocking", "block_in_place"),
        echoes=False,
        blocks=True,
        idles=False,
    ),
    Server(
        "tokio spawn_blocking",
        "tokio_echo",
        ("--runtime", "multi", "--blocking", "spawn_blocking"),
        echoes=False,
        blocks=True,
        idles=False,
    ),
    Server(
        "tokio, buffers of 1 KiB",
        "tokio_echo",
        ("--runtime", "multi", "--buffer", "1024"),
        echoes=False,
    ),
    Server("mio", "mio_echo"),
    Server("monoio io_uring", "monoio_echo", ("--driver", "uring")),
    Server("monoio epoll", "monoio_echo", ("--driver", "epoll")),
    Server("may", "may_echo", blocks=True),
    Server("smol", "smol_echo"),
    Server("compio", "compio_echo"),
    Server("glommio", "glommio_echo"),
    Server("asio", "asio_echo"),
    Server("libuv", "libuv_echo"),
    Server("std threads", "std_threads", blocks=True),
)

# Programs that a C or C++ compiler builds: compiler, source, flags, Debian's package.
FOREIGN = {
    "asio_echo": ("c++", "asio_echo.cpp", ("-std=c++17", "-lpthread"), "libasio-dev"),
    "libuv_echo": ("cc", "libuv_echo.c", ("-luv",), "libuv1-dev"),
}

# The feature that builds a program, where it is not the name before `_echo`.
FEATURES = {"raw_epoll": None, "std_threads": None, "raw_uring": "raw_uring"}

# Programs that cannot run where io_uring is switched off, and one that can with an option.
ON_URING = {"raw_uring", "compio_echo", "glommio_echo"}


class Skipped(Exception):
    """Why a contestant does not take part."""


def target_directory():
    """Where cargo puts what it builds for the harness."""
    return Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target" / "benches").resolve()


def build_load():
    """Builds the load generator and returns its path."""
    cargo(["-p", "netpoll-load"], ROOT)
    return target_directory() / "release" / "load"


def build(program):
    """Builds a contestant and returns its path, or raises why it is skipped."""
    path = target_directory() / "release" / program
    if program in ON_URING:
        need_uring()
    if program in FOREIGN:
        compile_foreign(program, path)
        return path
    feature = FEATURES.get(program, program.removesuffix("_echo"))
    features = ["--features", feature] if feature else []
    cargo(["--bin", program, *features], PEERS)
    return path


def cargo(arguments, directory):
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target_directory())}
    # Not `--locked`: the peers' lock file also has what netpoll itself needs, and follows it. What
    # is locked already stays as it is.
    command = ["cargo", "build", "--release", *arguments]
    run_build(command, directory, environment)


def compile_foreign(program, path):
    compiler, source, flags, package = FOREIGN[program]
    if not shutil.which(compiler):
        raise Skipped(f"there is no compiler `{compiler}`")
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-O2", "-o", str(path), str(PEERS / "c" / source), *flags]
    try:
        run_build(command, PEERS, None)
    except Skipped as failure:
        raise Skipped(f"{failure}; is the package {package} installed?") from None


def run_build(command, directory, environment):
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=BUILD_TIMEOUT,
        )
    except FileNotFoundError:
        raise Skipped(f"there is no `{command[0]}`") from None
    except subprocess.TimeoutExpired:
        raise Skipped(f"its build took longer than {BUILD_TIMEOUT} s") from None
    if done.returncode != 0:
        raise Skipped(f"it does not build: {first_error(done.stderr)}")


def first_error(text):
    """The line of a compiler's output that says most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror\b", line)]
    return (errors or lines or ["it says nothing"])[0]


def need_uring():
    try:
        switch = int(Path("/proc/sys/kernel/io_uring_disabled").read_text())
    except FileNotFoundError:
        return  # kernels before 6.6 have no such switch; the server's start will tell
    if switch == 2 or (switch == 1 and os.geteuid() != 0):
        raise Skipped(f"io_uring is switched off here (kernel.io_uring_disabled = {switch})")


def versions():
    """The version of each peer's crate or package, as it was built."""
    lock = (PEERS / "Cargo.lock").read_text()
    manifest = (PEERS / "Cargo.toml").read_text()
    found = {}
    for name in re.findall(r"(?m)^(\S+) = .*optional = true", manifest):
        found[name] = locked_version(lock, name, manifest)
    for _, _, _, package in FOREIGN.values():
        query = ["dpkg-query", "-W", "-f", "${Version}", package]
        if shutil.which("dpkg-query"):
            done = subprocess.run(query, capture_output=True, text=True)
            if done.returncode == 0:
                found[package] = done.stdout.strip()
    return found


def locked_version(lock, name, manifest):
    """The version in a lock file that a manifest's requirement can mean.

    A lock file may hold several versions of one crate; ours is the one that begins as the
    requirement does.
    """
    every = re.findall(rf'name = "{re.escape(name)}"\nversion = "([^"]+)"', lock)
    wanted = re.search(rf'(?m)^{re.escape(name)} = .*version = "([^"]+)"', manifest)
    prefix = wanted.group(1) if wanted else ""
    fitting = [v for v in every if v == prefix or v.startswith(prefix + ".") or not prefix]
    return (fitting or every or ["unknown"])[0]
