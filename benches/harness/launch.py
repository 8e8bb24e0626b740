"""How servers are started: what is typed, and what those need that are told by a file."""

import socket
from dataclasses import dataclass
from pathlib import Path

# The text that servers of HTTP answer with, and the file that they have.
PLAINTEXT = b"Hello, World!"
FILE = bytes(range(251)) * 261
HOST = "127.0.0.1"
# Connections that may wait to be accepted, and that may be open.
BACKLOG, CONNECTIONS = 4096, 8192
# What a server of bytes in one direction does, by the cell.
SERVES = {"up": "sink", "down": "source", "both": "echo"}
STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"


@dataclass(frozen=True)
class Launch:
    """What starts a server."""

    command: list
    # Where it will listen, if it can't say so itself.
    address: tuple = None


@dataclass(frozen=True)
class Place:
    """What a server may need from around it."""

    # A directory of its own.
    scratch: Path
    # Where an origin listens, HOST:PORT, for one that forwards.
    origin: str = None


def launch(server, path, threads, cell, place):
    """What to type for a server in a cell."""
    return LAUNCHES[server.launch](server, str(path), threads, cell, place)


def peer(server, path, threads, cell, place):
    """A program of `benches/peers`."""
    extra = cell.block_options
    if server.speaks == "proxy":
        extra = ["--origin", place.origin]
    if server.speaks == "http":
        extra = ["--files", str(files(place))]
    if server.speaks == "bulk":
        extra = ["--serve", SERVES[cell.what]]
    if server.speaks == "datagrams":
        extra = ["--serve", "sink" if cell.load_mode == "udp-flood" else "echo"]
    return Launch([path, "0", str(threads), *server.options, *extra])


def example_http(_server, path, _threads, _cell, place):
    return Launch([path, f"{HOST}:0", str(files(place))])


def example_redis(_server, path, _threads, _cell, _place):
    return Launch([path, f"{HOST}:0"])


def example_proxy(_server, path, _threads, _cell, place):
    return Launch([path, place.origin, f"{HOST}:0"])


def nginx(_server, path, _threads, _cell, place):
    port = free_port()
    temporary = "".join(
        f"    {name}_temp_path {place.scratch}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return run_nginx(path, port, place, f"""\
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
{temporary}\
    server {{
        listen {HOST}:{port} backlog={BACKLOG};
        root {files(place)};
        location = /plaintext {{
            default_type text/plain;
            return 200 '{PLAINTEXT.decode()}';
        }}
    }}
}}
""")  # fmt: skip


def nginx_stream(_server, path, _threads, _cell, place):
    port = free_port()
    module = f"load_module {STREAM_MODULE};\n" if Path(STREAM_MODULE).exists() else ""
    return run_nginx(path, port, place, f"""\
stream {{
    server {{
        listen {HOST}:{port} backlog={BACKLOG};
        proxy_pass {place.origin};
    }}
}}
""", module)  # fmt: skip


def run_nginx(path, port, place, body, before=""):
    """One worker, and no second process to measure beside it."""
    text = f"""\
{before}daemon off;
master_process off;
pid {place.scratch}/nginx.pid;
error_log stderr crit;
events {{ worker_connections {2 * CONNECTIONS}; }}
{body}"""
    configuration = place.scratch / "nginx.conf"
    configuration.write_text(text)
    command = [path, "-p", str(place.scratch), "-e", "stderr", "-c", str(configuration)]
    return Launch(command, (HOST, port))


def haproxy(_server, path, threads, _cell, place):
    port = free_port()
    configuration = place.scratch / "haproxy.cfg"
    configuration.write_text(f"""\
global
    nbthread {threads}
    maxconn {CONNECTIONS}
defaults
    mode tcp
    timeout connect 5s
    timeout client 5m
    timeout server 5m
listen proxy
    bind {HOST}:{port} backlog {BACKLOG}
    server origin {place.origin}
""")
    return Launch([path, "-db", "-q", "-f", str(configuration)], (HOST, port))


def redis_server(_server, path, _threads, _cell, place):
    port = free_port()
    options = f"--bind {HOST} --port {port} --tcp-backlog {BACKLOG} --appendonly no --daemonize no"
    command = [path, *options.split(), "--save", "", "--dir", str(place.scratch)]
    return Launch(command, (HOST, port))


LAUNCHES = {
    "peer": peer,
    "http": example_http,
    "redis": example_redis,
    "proxy": example_proxy,
    "nginx": nginx,
    "nginx-stream": nginx_stream,
    "haproxy": haproxy,
    "redis-server": redis_server,
}


def files(place):
    """A directory with the file that servers of HTTP have."""
    directory = place.scratch / "files"
    directory.mkdir(exist_ok=True)
    (directory / "file").write_bytes(FILE)
    return directory


def free_port():
    """A port that is free now, for servers that can't be given port 0."""
    with socket.create_server((HOST, 0)) as listener:
        return listener.getsockname()[1]
