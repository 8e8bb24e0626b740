//! netpoll and its codecs, after the example `framed_rpc`: each frame behind its length comes back.

use netpoll::codec::{Frame, LengthPrefix};
use netpoll::{
    Connection, Dispatch, EventLoop, Framed, HandOffOptions, Listener, Out, PoolOptions, Result,
    on_frame,
};
use netpoll_peers::Arguments;

/// The longest frame, in bytes.
const LONGEST: usize = 64 << 10;

fn main() -> Result<()> {
    let arguments = Arguments::read(&["--dispatch"]);
    let modes = [
        ("hand-off", Dispatch::HandOff(HandOffOptions::default())),
        ("inline", Dispatch::Inline),
        ("pool", Dispatch::Pool(PoolOptions::default())),
    ];
    let address = format!("127.0.0.1:{}", arguments.port);
    let listener = Listener::options().reuse_port(true).bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    let codec = LengthPrefix::new(4, LONGEST)?;
    EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(Framed::new(())))
        .on_request(on_frame(codec, answer))
        .loops(arguments.threads)
        .dispatch(arguments.choice("--dispatch", &modes))
        .build()?
        .serve(listener)?;
    Ok(())
}

/// Answers one call, with the request itself.
fn answer((): &mut (), call: Frame<'_>, out: &mut Out<'_, LengthPrefix>) -> Result<()> {
    out.send_buffer(call.into_buffer()) // moves blocks, copies nothing
}
