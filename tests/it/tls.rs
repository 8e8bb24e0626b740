//! TLS for the servers of the other tests, if `NETPOLL_TEST_FILTER` says so, and for their tunnels.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use netpoll::filter::{Filter, FilterClient, FilterServer};
use netpoll_tls::{TlsClient, TlsConfig};
use rcgen::CertifiedKey;

static ENDS: LazyLock<(TlsConfig, TlsClient)> = LazyLock::new(|| {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".into()]).expect("a certificate");
    let (chain, key) = (cert.pem(), signing_key.serialize_pem());
    let server = TlsConfig::from_pem(chain.as_bytes(), key.as_bytes());
    let client = TlsClient::builder().roots(chain.as_bytes()).build();
    (server.expect("a server"), client.expect("a client"))
});

pub(crate) fn server() -> Arc<dyn FilterServer> {
    Arc::new(ENDS.0.clone())
}

/// A client's end of a new connection.
pub(crate) fn client_end() -> Arc<dyn Filter> {
    let peer = SocketAddr::from(([127, 0, 0, 1], 1)).into();
    ENDS.1.dial("localhost:1", &peer).expect("a client's end")
}
