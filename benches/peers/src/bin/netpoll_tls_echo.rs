//! netpoll over TLS: the echo of `netpoll_echo`, with `--chain FILE --key FILE`, and
//! `--provider ring|aws-lc-rs`.

use netpoll::tls::{Provider, TlsConfig, TlsListener};
use netpoll::{Connection, Dispatch, EventLoop, HandOffOptions, Listener, PoolOptions};
use netpoll_peers::Arguments;

fn main() -> netpoll::Result<()> {
    let arguments = Arguments::read(&["--dispatch", "--chain", "--key", "--provider"]);
    let modes = [
        ("inline", Dispatch::Inline),
        ("pool", Dispatch::Pool(PoolOptions::default())),
        ("hand-off", Dispatch::HandOff(HandOffOptions::default())),
    ];
    let file = |name| arguments.option(name).unwrap_or_default();
    let providers = [("ring", Provider::Ring), ("aws-lc-rs", Provider::AwsLcRs)];
    let config = TlsConfig::builder()
        .certificate(file("--chain"), file("--key"))
        .provider(arguments.choice("--provider", &providers))
        .build()?;
    let address = format!("127.0.0.1:{}", arguments.port);
    let listener = Listener::options().reuse_port(true).bind("tcp", &address)?.tls(config);
    println!("listening on {}", listener.local_addr()?);
    EventLoop::builder()
        .on_request(|(): &mut (), conn: &mut Connection| {
            let (mut reader, mut writer) = conn.split();
            writer.append(reader.slice(reader.len())?);
            writer.flush()
        })
        .loops(arguments.threads)
        .dispatch(arguments.choice("--dispatch", &modes))
        .build()?
        .serve(listener)?;
    Ok(())
}
