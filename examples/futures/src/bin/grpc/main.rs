//! A gRPC service by tonic, over TLS, and its client.
//!
//! Shows tonic without its feature `transport`, and so without a runtime of tokio: its services are
//! a `tower_service::Service`, which `netpoll_hyper` serves; its client sends through the client of
//! hyper-util.
//!
//! Its limits: 10 s to the first byte, 4 MiB for a message, 30 s without progress of an output,
//! 1 024 clients.
//!
//! ```text
//! cd examples/futures
//! cargo run --release --bin grpc -- [ADDRESS]         # the server
//! cargo run --release --bin grpc -- call [ADDRESS]    # its client
//! ```

mod client;
mod server;

/// The code that `build.rs` generates.
mod hello {
    tonic::include_proto!("hello");
}

use std::error::Error;

/// Where the server writes the certificate that its clients must trust.
const ROOT: &str = "/tmp/netpoll-grpc.pem";

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1).peekable();
    let is_client = args.next_if(|it| it == "call").is_some();
    let address = args.next().unwrap_or_else(|| "127.0.0.1:7032".into());
    if is_client { client::call(&address) } else { server::serve(&address) }
}
