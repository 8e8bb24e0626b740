"""How the programs are built, and which of them need no build."""

import os
import re
import shutil
import subprocess
from pathlib import Path

BENCHES = Path(__file__).resolve().parent.parent
ROOT = BENCHES.parent
PEERS = BENCHES / "peers"

# How long one build may take, in seconds.
BUILD_TIMEOUT = 1800

# Programs that a C or C++ compiler builds: compiler, source, flags, Debian's package.
FOREIGN = {
    "asio_echo": ("c++", "asio_echo.cpp", ("-std=c++17", "-lpthread"), "libasio-dev"),
    "libuv_echo": ("cc", "libuv_echo.c", ("-luv",), "libuv1-dev"),
}

# Go's compiler, which Debian keeps apart by version where it is not the usual one.
GO_PLACES = "/usr/lib/go-*/bin"
# Programs that it builds, of the standard library alone.
IN_GO = {"go_echo"}

# The feature that builds a program, where it is not the first word of its name.
FEATURES = {
    "raw_epoll": None,
    "raw_udp": None,
    "raw_udp_batch": "raw_udp_batch",
    "std_udp": None,
    "std_threads": None,
    "raw_uring": "raw_uring",
    "netpoll_websocket": "netpoll_websocket",
    "tokio_rpc": "tokio_rpc",
    "tokio_websocket": "tokio_websocket",
}

# Programs that are an example of ours, or come with Debian: its package. What is called
# `PROGRAM unstable` is built with what tokio calls so, in a directory of its own.
EXAMPLES = {"http", "redis", "tcp_proxy"}
PACKAGED = {"haproxy": "haproxy", "nginx": "nginx-light", "redis-server": "redis-server"}
UNSTABLE = " unstable"
# Of what programs are made, below the root: peers of the first, ours of all.
PEERS_SOURCES = tuple(f"benches/peers/{name}" for name in ("src", "c", "go", "Cargo.lock"))
OUR_SOURCES = ("Cargo.lock", "Cargo.toml", "examples", "src", *(
    f"netpoll-{crate}" for crate in ("buffer", "client", "codec", "core", "server")
))  # fmt: skip

# Programs that cannot run where io_uring is switched off, and one that can with an option.
ON_URING = {"raw_uring", "compio_echo", "glommio_echo"}


class Skipped(Exception):
    """Why a contestant does not take part."""


def target_directory():
    """Where cargo puts what it builds for the harness."""
    return Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target" / "benches").resolve()


def build_load(unless_fresh=False):
    """Builds the load generator and returns its path."""
    path = target_directory() / "release" / "load"
    if not (unless_fresh and is_fresh(path, ("benches/load", "Cargo.lock"))):
        cargo(["-p", "netpoll-load"], ROOT)
        os.utime(path)
    return path


def build(program, unless_fresh=False):
    """Builds a contestant and returns its path, or raises why it is skipped."""
    if program in PACKAGED:
        return installed(program, PACKAGED[program])
    if program in ON_URING:
        need_uring()
    path = path_of(program)
    if unless_fresh and is_fresh(path, PEERS_SOURCES + OUR_SOURCES * is_ours(program)):
        return path
    if program in FOREIGN:
        compile_foreign(program, path)
    elif program in IN_GO:
        compile_go(program, path)
    elif program in EXAMPLES:
        cargo(["--example", program], ROOT)
    else:
        name = program.removesuffix(UNSTABLE)
        feature = FEATURES.get(name, name.split("_")[0])
        features = ["--features", feature] if feature else []
        cargo(["--bin", name, *features], PEERS, unstable=program.endswith(UNSTABLE))
    os.utime(path)  # cargo leaves it as it is where nothing changed that matters
    return path


def path_of(program):
    """Where a program is that was built."""
    if program in EXAMPLES:
        return target_directory() / "release" / "examples" / program
    if program.endswith(UNSTABLE):
        return target_directory() / "unstable" / "release" / program.removesuffix(UNSTABLE)
    return target_directory() / "release" / program


def installed(program, package):
    """The path of a program that comes with the system."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise Skipped(f"there is no `{program}`; is the package {package} installed?")
    return Path(found)


def is_ours(program):
    return program in EXAMPLES or program.startswith("netpoll_")


def is_fresh(path, sources):
    """Whether a file is newer than all that it is made of."""
    if not path.exists():
        return False
    made = path.stat().st_mtime
    files = (file for each in sources for file in files_below(ROOT / each))
    return all(file.stat().st_mtime <= made for file in files)


def files_below(path):
    return [path] if path.is_file() else (file for file in path.rglob("*") if file.is_file())


def cargo(arguments, directory, unstable=False):
    target = target_directory() / "unstable" if unstable else target_directory()
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
    if unstable:
        environment["RUSTFLAGS"] = f"{os.environ.get('RUSTFLAGS', '')} --cfg tokio_unstable"
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


def compile_go(program, path):
    """Without modules, so nothing is fetched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GO111MODULE": "off", "GOTOOLCHAIN": "local"}
    source = str(PEERS / "go" / f"{program}.go")
    run_build([str(go()), "build", "-o", str(path), source], PEERS, environment)


def go():
    """Go's compiler."""
    elsewhere = sorted(Path("/").glob(f"{GO_PLACES[1:]}/go"))
    found = shutil.which("go") or (elsewhere[-1] if elsewhere else None)
    if not found:
        raise Skipped("there is no compiler `go`; is the package golang-go installed?")
    return found


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
    for name in re.findall(r"(?m)^([\w-]+) = .*optional = true", manifest):
        found[name] = locked_version(lock, name, manifest)
    for package in [*(package for *_, package in FOREIGN.values()), *PACKAGED.values(), "wrk"]:
        query = ["dpkg-query", "-W", "-f", "${Version}", package]
        if shutil.which("dpkg-query"):
            done = subprocess.run(query, capture_output=True, text=True)
            if done.returncode == 0:
                found[package] = done.stdout.strip()
    if version := go_version():
        found["go"] = version
    return found


def go_version():
    """What Go calls itself, or None."""
    try:
        done = subprocess.run([str(go()), "env", "GOVERSION"], capture_output=True, text=True)
    except (OSError, Skipped):
        return None
    return done.stdout.strip().removeprefix("go") or None


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
