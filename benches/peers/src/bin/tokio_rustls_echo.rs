//! tokio-rustls, after its example: a task per connection, `--runtime current|multi`, with
//! `--chain FILE --key FILE`; tickets as netpoll has them.

use std::io;
use std::sync::Arc;

use netpoll_peers::{Arguments, OWN_BUFFER};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::NoServerSessionStorage;

fn main() -> io::Result<()> {
    let arguments = Arguments::read(&["--runtime", "--buffer", "--chain", "--key"]);
    let multi = arguments.choice("--runtime", &[("multi", true), ("current", false)]);
    let buffer = arguments.number("--buffer", OWN_BUFFER);
    let acceptor = TlsAcceptor::from(Arc::new(config(&arguments).map_err(io::Error::other)?));
    let mut builder =
        if multi { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    let runtime = builder.worker_threads(arguments.threads).enable_io().build()?;
    runtime.block_on(async {
        let listener = arguments.listen();
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(echo(acceptor.clone(), stream, buffer));
        }
    })
}

fn config(arguments: &Arguments) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let file = |name| arguments.option(name).unwrap_or_default();
    let chain = CertificateDer::pem_file_iter(file("--chain"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(file("--key"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.ticketer = ring::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

async fn echo(acceptor: TlsAcceptor, stream: TcpStream, buffer: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    let mut buffer = vec![0; buffer];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..length]).await?;
        stream.flush().await?;
    }
}
