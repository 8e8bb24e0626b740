//! netpoll: one callback for each batch of datagrams, and a socket for each loop.

use netpoll::{
    DatagramBatch, Datagrams, Dispatch, EventLoop, HandOffOptions, PoolOptions, Result, Spin,
};
use netpoll_peers::{Arguments, Serve, Sink};

static SINK: Sink = Sink::new();

fn main() -> Result<()> {
    let arguments = Arguments::read(&[Serve::OPTION, "--dispatch", "--spin"]);
    let ways = [
        ("hand-off", Dispatch::HandOff(HandOffOptions::default())),
        ("pool", Dispatch::Pool(PoolOptions::default())),
        ("inline", Dispatch::Inline),
    ];
    let dispatch = arguments.choice("--dispatch", &ways);
    let spins = [("when-cheaper", Spin::WhenCheaper), ("never", Spin::Never)];
    let spin = arguments.choice("--spin", &spins);
    let serve = Serve::of(&arguments);
    let service = Datagrams::bind("udp", &format!("127.0.0.1:{}", arguments.port))?.on_datagrams(
        move |_: &mut (), batch: &DatagramBatch<'_>| match serve {
            Serve::Echo => echo(batch),
            Serve::Sink => count(batch),
        },
    );
    println!("listening on {}", service.local_addr());
    let loops = EventLoop::for_datagrams().loops(arguments.threads).dispatch(dispatch).spin(spin);
    loops.build()?.serve(service).map(drop)
}

fn echo(batch: &DatagramBatch<'_>) -> Result<()> {
    for datagram in batch {
        datagram.reply(datagram.payload())?;
    }
    Ok(())
}

fn count(batch: &DatagramBatch<'_>) -> Result<()> {
    let (mut datagrams, mut bytes) = (0, 0);
    for datagram in batch {
        let payload = datagram.payload();
        if SINK.is_asked(payload) {
            SINK.add(datagrams, bytes);
            (datagrams, bytes) = (0, 0);
            datagram.reply(&SINK.count())?;
        } else {
            datagrams += 1;
            bytes += payload.len() as u64;
        }
    }
    SINK.add(datagrams, bytes);
    Ok(())
}
