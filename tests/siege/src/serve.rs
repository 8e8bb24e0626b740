//! The siege's own server: three dispatch modes, and callbacks that obey the request.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use netpoll::tls::{TlsConfig, TlsListener};
use netpoll::{
    Connection, Dispatch, EventLoop, HandOffOptions, Listener, PoolOptions, ProxyProtocol,
    ReceiveRate, Result,
};

/// `serve [--dispatch MODE] [--echo] [OPTION VALUE]…`: serves until it is killed.
pub(crate) fn main(args: &[String]) -> ExitCode {
    let Err(error) = serve(args) else { return ExitCode::SUCCESS };
    eprintln!("{error}");
    ExitCode::FAILURE
}

fn serve(args: &[String]) -> Result<()> {
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).map(String::as_str)
    };
    let number = |name: &str| value(name).and_then(|it| it.parse::<usize>().ok());
    let millis = |name: &str| number(name).map(|it| Duration::from_millis(it as u64));
    let has = |name: &str| args.iter().any(|arg| arg == name);

    let options = Listener::options().send_buffer(number("--send-buffer"));
    let mut listener = options.bind("tcp", "127.0.0.1:0")?;
    if has("--proxy-protocol") {
        let deadline = Duration::from_secs(60);
        let proxy = ProxyProtocol { deadline, ..ProxyProtocol::default() };
        listener = listener.proxy_protocol(proxy);
    }
    if let Some(place) = value("--tls") {
        // Clients without TLS are served, too: most of the siege's are.
        let config = TlsConfig::builder()
            .certificate(format!("{place}/chain.pem"), format!("{place}/key.pem"))
            .handshake_timeout(millis("--handshake-timeout"))
            .also_plain(true);
        listener = listener.tls(config.build()?);
    }
    let rate = |bytes: usize| ReceiveRate {
        bytes: bytes.try_into().unwrap_or(u32::MAX),
        per: Duration::from_secs(1),
    };
    let serve = if has("--echo") { echo } else { commands };
    let mut builder = EventLoop::builder()
        .on_request(move |(): &mut (), conn: &mut Connection| serve(conn))
        .dispatch(dispatch(value("--dispatch").unwrap_or_default(), number("--max-threads")))
        .memory_budget(number("--memory-budget"))
        .first_byte_timeout(millis("--first-byte"))
        .min_receive_rate(number("--rate").map(rate));
    if let Some(high) = number("--high") {
        builder = builder.output_limits(high / 4, high);
    }
    if let Some(loops) = number("--loops") {
        builder = builder.loops(loops);
    }
    let server = builder.build()?.spawn(listener)?;
    println!("listening on {}", server.address());
    server.wait().map(drop)
}

fn dispatch(mode: &str, max_threads: Option<usize>) -> Dispatch {
    let usual = PoolOptions::default();
    let workers = PoolOptions { max_threads: max_threads.unwrap_or(usual.max_threads), ..usual };
    match mode {
        "inline" => Dispatch::Inline,
        "pool" => Dispatch::Pool(workers),
        _ => Dispatch::HandOff(HandOffOptions { workers, ..HandOffOptions::default() }),
    }
}

fn echo(conn: &mut Connection) -> Result<()> {
    let (mut reader, mut writer) = conn.split();
    writer.append(reader.slice(reader.len())?);
    writer.flush()
}

/// A request has eight bytes, which are sent back: a letter, three unused bytes, and a number. The
/// read waits for all of them, which under `Dispatch::Inline` is `WouldBlock`.
fn commands(conn: &mut Connection) -> Result<()> {
    let (mut reader, mut writer) = conn.split();
    let mut request = [0; 8];
    request.copy_from_slice(reader.next(8)?);
    let number = u32::from_be_bytes([request[4], request[5], request[6], request[7]]);
    match request[0] {
        // sleep: it represents a callback that blocks so many milliseconds
        b's' => thread::sleep(Duration::from_millis(number.into())),
        b'f' => loop {
            thread::park(); // it represents a callback that never returns
        },
        _ => {}
    }
    writer.write_bytes(&request);
    writer.flush()
}
