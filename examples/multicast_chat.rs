//! A chat on the local network without a server: each line goes to a multicast group.
//!
//! Shows a group that is joined on an interface, how far its datagrams go, and a handle that sends
//! from another thread than that of the callback. All processes on one network hear each
//! other, and each hears itself.
//!
//! Its limits: lines of 1 000 bytes, which fit one packet everywhere. What others send is shown on
//! one line, whatever is in it. Datagrams may get lost, and are not sent again.
//!
//! ```text
//! cargo run --release --example multicast_chat -- NAME [INTERFACE]
//! ```

use std::io::BufRead;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use netpoll::{
    Address, DatagramBatch, DatagramHandle, Datagrams, Error, EventLoop, Listeners, Result,
};

/// Of those that stay within an organisation (RFC 2365); nothing else uses it here.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 70, 17);
const PORT: u16 = 7017;
/// The longest line, in bytes.
const LONGEST: usize = 1000;

fn main() -> ExitCode {
    let Err(error) = chat() else { return ExitCode::SUCCESS };
    eprintln!("{error}");
    ExitCode::FAILURE
}

fn chat() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().filter(|name| (1..=32).contains(&name.len()));
    let name = name.ok_or_else(|| Error::config("usage: multicast_chat NAME [INTERFACE]"))?;
    let interface = args.next();
    let interface = interface.as_deref();

    // Bound to the group, it hears nothing else. Several processes of a machine share the port.
    let hearing = Datagrams::options()
        .reuse_address(true)
        .reuse_port(false)
        .join(IpAddr::V4(GROUP), interface)
        .bind("udp4", &format!("{GROUP}:{PORT}"))?;
    // What is sent needs an address of its own: a group is no sender.
    let saying = Datagrams::options()
        .reuse_port(false)
        .multicast_ttl(1) // no router passes it on
        .multicast_interface(interface)
        .bind("udp4", "0.0.0.0:0")?;
    let (sender, told) = std::sync::mpsc::channel();
    let hearing = hearing.on_datagrams(move |(): &mut (), batch: &DatagramBatch<'_>| {
        batch.iter().for_each(|datagram| show(datagram.payload()));
        Ok(())
    });
    let saying = saying
        .on_open(move |handle: &DatagramHandle| {
            let _ = sender.send(handle.clone()); // the other end waits for it
            Ok(())
        })
        .on_datagrams(|(): &mut (), _: &DatagramBatch<'_>| Ok(()));
    let running =
        EventLoop::for_datagrams().loops(1).build()?.spawn(Listeners::from(hearing).and(saying))?;
    let handle = told.recv().map_err(|_| Error::Closed)?;
    eprintln!("listening on {GROUP}:{PORT}");

    let group = Address::from(SocketAddr::from((GROUP, PORT)));
    for line in std::io::stdin().lock().lines() {
        let mut line = format!("{name}: {}", line?);
        while line.len() > LONGEST {
            line.pop();
        }
        handle.send_to(&group, line)?;
    }
    running.shutdown(Duration::from_secs(1));
    running.wait().map(drop)
}

/// Shows what a process said.
fn show(payload: &[u8]) {
    println!("{}", String::from_utf8_lossy(payload).escape_debug());
}
