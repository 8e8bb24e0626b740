//! The name that a client asks for, which rustls's unbuffered API shows only to the resolver of
//! certificates.
//!
//! The resolver runs inside a step of the connection, on its thread; so a place of the thread
//! carries the name from there to the connection.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

thread_local! {
    static ASKED: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// Notes the name, then asks another resolver.
#[derive(Debug)]
pub(crate) struct Noting(pub(crate) Arc<dyn ResolvesServerCert>);

/// The name that was noted on this thread since the last call.
pub(crate) fn take() -> Option<Box<str>> {
    ASKED.with_borrow_mut(Option::take)
}

impl ResolvesServerCert for Noting {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        ASKED.set(client_hello.server_name().map(Box::from));
        self.0.resolve(client_hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0.only_raw_public_keys()
    }
}
