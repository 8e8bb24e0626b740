"""Which servers take part; `builds` makes their programs and `launch` starts them."""

from dataclasses import dataclass


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
    # Whether it takes part where some connections of a loop are hot: its loops get connections in
    # turn, or it has none.
    hot: bool = False
    # How it is started: see `launch`.
    launch: str = "peer"


# What the others are divided by, within each rotation.
BASE = "raw epoll"
# Our mode that chooses by itself, among those that are fixed.
HAND_OFF = "hand-off"
# For a server that takes part in few cells.
BLOCKS = {"echoes": False, "blocks": True, "idles": False}
ASIDE = {"echoes": False, "idles": False}


# What the others are divided by where they speak something else.
HAPROXY, NGINX, REDIS = "haproxy", "nginx", "redis-server"
TOKIO_BULK, TOKIO_RPC, TUNGSTENITE = "tokio bulk", "tokio-util codec", "tokio-tungstenite"
TOKIO_UDP = "tokio udp current-thread"
# Loops by hand, of datagrams: one by one, one for each wait, and all that the kernel offers.
UDP_ALL, UDP_ONE, UDP_BATCH = "raw udp", "raw udp, one each wait", "raw udp in batches"

MULTI, CURRENT = ("--runtime", "multi"), ("--runtime", "current")
HANDS_OFF, INLINE = ("--dispatch", "hand-off"), ("--dispatch", "inline")
IN_TURN = ("--listen", "one")


def ours(name, *options, **takes_part):
    return Server(f"netpoll {name}", "netpoll_echo", options, ours=True, **takes_part)


SERVERS = (
    Server(BASE, "raw_epoll", blocks=True),
    Server("raw io_uring", "raw_uring"),
    ours("inline", "--dispatch", "inline", blocks=True, dispatches=True),
    ours("inline, never spins", "--dispatch", "inline", "--spin", "never", idles=False),
    ours(HAND_OFF, "--dispatch", "hand-off", blocks=True, dispatches=True),
    ours("block_in_place", *HANDS_OFF, "--blocking", "block_in_place", **BLOCKS),
    ours("inline, in turn", "--dispatch", "inline", *IN_TURN, **ASIDE, hot=True),
    ours("hand-off, in turn", *HANDS_OFF, *IN_TURN, **ASIDE, hot=True),
    ours("pool", "--dispatch", "pool", blocks=True, dispatches=True),
    ours("pool of 2", "--dispatch", "pool", "--workers", "2", **ASIDE, dispatches=True),
    ours("pool of 8", "--dispatch", "pool", "--workers", "8", **ASIDE, dispatches=True),
    ours("pool of 64", "--dispatch", "pool", "--workers", "64", **ASIDE, dispatches=True),
    Server("tokio", "tokio_echo", MULTI, blocks=True, hot=True),
    Server("tokio current-thread", "tokio_echo", CURRENT, single=True),
    Server(
        "tokio eager driver", "tokio_echo unstable", (*MULTI, "--driver", "eager"),
        blocks=True, hot=True, idles=False,
    ),
    Server(
        "tokio block_in_place", "tokio_echo", (*MULTI, "--blocking", "block_in_place"), **BLOCKS
    ),
    Server(
        "tokio spawn_blocking", "tokio_echo", (*MULTI, "--blocking", "spawn_blocking"), **BLOCKS
    ),
    Server("tokio, buffers of 1 KiB", "tokio_echo", (*MULTI, "--buffer", "1024"), echoes=False),
    Server("mio", "mio_echo"),
    Server("monoio io_uring", "monoio_echo", ("--driver", "uring")),
    Server("monoio epoll", "monoio_echo", ("--driver", "epoll")),
    Server("may", "may_echo", blocks=True, hot=True),
    Server("smol", "smol_echo"),
    Server("compio", "compio_echo"),
    Server("glommio", "glommio_echo"),
    Server("asio", "asio_echo"),
    Server("libuv", "libuv_echo"),
    Server("std threads", "std_threads", blocks=True, hot=True),
    Server("Go net", "go_echo", blocks=True, hot=True),
    # Bytes in one direction.
    Server("netpoll bulk", "netpoll_bulk", HANDS_OFF, ours=True, speaks="bulk"),
    Server("netpoll bulk inline", "netpoll_bulk", INLINE, ours=True, speaks="bulk"),
    Server(TOKIO_BULK, "tokio_bulk", MULTI, speaks="bulk"),
    Server("tokio bulk current-thread", "tokio_bulk", CURRENT, speaks="bulk"),
    # Frames behind their length.
    Server("netpoll rpc", "netpoll_rpc", HANDS_OFF, ours=True, speaks="rpc"),
    Server("netpoll rpc inline", "netpoll_rpc", INLINE, ours=True, speaks="rpc"),
    Server("netpoll rpc pool", "netpoll_rpc", ("--dispatch", "pool"), ours=True, speaks="rpc"),
    Server(TOKIO_RPC, "tokio_rpc", MULTI, speaks="rpc"),
    Server("tokio-util codec current-thread", "tokio_rpc", CURRENT, speaks="rpc"),
    Server("raw epoll, frames not read", "raw_epoll", speaks="rpc"),
    # Datagrams.
    Server(UDP_ALL, "raw_udp", speaks="datagrams"),
    Server(UDP_ONE, "raw_udp", ("--drain", "one"), speaks="datagrams"),
    Server(UDP_BATCH, "raw_udp_batch", speaks="datagrams"),
    Server("netpoll udp", "netpoll_udp", HANDS_OFF, ours=True, speaks="datagrams"),
    Server("netpoll udp inline", "netpoll_udp", INLINE, ours=True, speaks="datagrams"),
    Server("tokio udp", "tokio_udp", MULTI, speaks="datagrams"),
    Server(TOKIO_UDP, "tokio_udp", CURRENT, speaks="datagrams"),
    Server("std udp threads", "std_udp", speaks="datagrams"),
    # WebSocket.
    Server("netpoll websocket", "netpoll_websocket", ours=True, speaks="websocket"),
    Server(TUNGSTENITE, "tokio_websocket", MULTI, speaks="websocket"),
    Server("axum websocket", "axum_http", speaks="websocket"),
    # HTTP.
    Server("netpoll http", "http", ours=True, speaks="http", launch="http"),
    Server(NGINX, "nginx", speaks="http", launch="nginx"),
    Server("hyper", "hyper_http", speaks="http"),
    Server("axum", "axum_http", speaks="http"),
    # Redis.
    Server("netpoll redis", "redis", ours=True, speaks="redis", launch="redis"),
    Server(REDIS, "redis-server", speaks="redis", launch="redis-server"),
    # Forwarding to an origin.
    Server("netpoll proxy", "tcp_proxy", ours=True, speaks="proxy", launch="proxy"),
    Server(HAPROXY, "haproxy", speaks="proxy", launch="haproxy"),
    Server("nginx stream", "nginx", speaks="proxy", launch="nginx-stream"),
    Server("tokio proxy", "tokio_proxy", MULTI, speaks="proxy"),
    Server("tokio proxy current-thread", "tokio_proxy", CURRENT, speaks="proxy"),
)
