//! netpoll: a zero-copy echo, `--dispatch pool|inline|hand-off`, `--workers` for how many at most;
//! `--blocking block_in_place` says beforehand which requests block; with `--spin never` its loops
//! sleep whenever they have nothing to do; with `--listen one` its loops get their connections in
//! turn, not by the kernel's choice, and with `--listen idle` one that waits accepts the next; with
//! `--gather when-cheaper` a thread may turn several.

use netpoll::{
    Connection, Dispatch, EventLoop, Gather, HandOffOptions, Listener, PoolOptions, Spin,
    block_in_place,
};
use netpoll_peers::{Arguments, Blocking};

fn main() -> netpoll::Result<()> {
    let [block_us, block_pct] = Blocking::OPTIONS;
    let ways = ["--dispatch", "--workers", "--blocking", "--spin", "--listen", "--gather"];
    let known = [&ways[..], &[block_us, block_pct, Blocking::WAY]].concat();
    let arguments = Arguments::read(&known);
    let blocking = Blocking::of(&arguments);
    let usual = PoolOptions::default();
    let max_threads = arguments.number("--workers", usual.max_threads);
    let workers = PoolOptions { max_threads, ..usual };
    let modes = [
        ("pool", Dispatch::Pool(workers)),
        ("inline", Dispatch::Inline),
        ("hand-off", Dispatch::HandOff(HandOffOptions { workers, ..HandOffOptions::default() })),
    ];
    let says_so = arguments.choice("--blocking", &[("naive", false), ("block_in_place", true)]);
    let gathers = [("never", Gather::Never), ("when-cheaper", Gather::WhenCheaper)];
    let spins = [("when-cheaper", Spin::WhenCheaper), ("never", Spin::Never)];
    // A socket for each loop, as the other servers have it that accept on each of their threads.
    let address = format!("127.0.0.1:{}", arguments.port);
    let ways = [("each", [true, false]), ("one", [false, false]), ("idle", [false, true])];
    let [each, idle] = arguments.choice("--listen", &ways);
    let listener = Listener::options().reuse_port(each).bind("tcp", &address)?;
    let listener = listener.idle_loop_accepts(idle);
    println!("listening on {}", listener.local_addr()?);
    EventLoop::builder()
        .on_prepare(move |_: &Connection| Ok(blocking.for_connection()))
        .on_request(move |blocking: &mut Blocking, conn: &mut Connection| {
            if blocking.is_due() {
                if says_so { block_in_place(|| blocking.block()) } else { blocking.block() }
            }
            let (mut reader, mut writer) = conn.split();
            writer.append(reader.slice(reader.len())?); // moves blocks, copies nothing
            writer.flush()
        })
        .loops(arguments.threads)
        .gather(arguments.choice("--gather", &gathers))
        .spin(arguments.choice("--spin", &spins))
        .dispatch(arguments.choice("--dispatch", &modes))
        .build()?
        .serve(listener)?;
    Ok(())
}
