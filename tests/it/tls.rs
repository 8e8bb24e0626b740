//! TLS for the servers of the other tests, if `NETPOLL_TEST_FILTER` says so, and for the tunnel to
//! them, which is another process.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use netpoll::filter::{Filter, FilterClient, FilterServer};
use netpoll_tls::{TlsClient, TlsConfig};
use rcgen::CertifiedKey;

use crate::util::PATIENCE;

/// The certificate of this process's servers, for its tunnel.
const ROOT: &str = "NETPOLL_TEST_ROOT";

/// The certificate and its key, in PEM.
static IDENTITY: LazyLock<(String, String)> = LazyLock::new(|| {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".into()]).expect("a certificate");
    (cert.pem(), signing_key.serialize_pem())
});

static SERVER: LazyLock<TlsConfig> = LazyLock::new(|| {
    let (chain, key) = &*IDENTITY;
    TlsConfig::builder()
        .certificate(chain.as_bytes(), key.as_bytes())
        .handshake_timeout(PATIENCE * 2) // crowds come at once, to a tunnel of one thread
        .build()
        .expect("a server")
});

static CLIENT: LazyLock<TlsClient> = LazyLock::new(|| {
    let root = std::env::var(ROOT).expect("the tunnel was told");
    TlsClient::builder().roots(root.as_bytes()).build().expect("a client")
});

pub(crate) fn server() -> Arc<dyn FilterServer> {
    Arc::new(SERVER.clone())
}

/// A client that trusts those servers, in this process.
pub(crate) fn client() -> TlsClient {
    TlsClient::builder().roots(IDENTITY.0.as_bytes()).build().expect("a client")
}

/// What the tunnel must be told.
pub(crate) fn variables() -> [(&'static str, &'static str); 1] {
    [(ROOT, &IDENTITY.0)]
}

/// A client's end of a new connection of the tunnel.
pub(crate) fn client_end() -> Arc<dyn Filter> {
    let peer = SocketAddr::from(([127, 0, 0, 1], 1)).into();
    CLIENT.dial("localhost:1", &peer).expect("a client's end")
}
