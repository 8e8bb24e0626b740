//! Two ends of a connection in memory: filters as the core drives them, and rustls's own buffered
//! connections as the other end.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use netpoll_buffer::LinkBuffer;
use netpoll_core::{Address, Filter, FilterClient, FilterError, FilterServer, FilterState};
use netpoll_tls::rustls::{self, ClientConnection, ServerConnection};
use netpoll_tls::{TlsClient, TlsConfig, TlsInfo};

/// One end: it takes wire bytes and plain bytes, and has both.
pub(crate) trait End {
    /// Wire bytes from the other end.
    fn receive(&mut self, wire: &[u8]) -> Result<(), String>;
    /// Wire bytes for the other end.
    fn transmit(&mut self) -> Vec<u8>;
    /// Plain bytes to the other end.
    fn send(&mut self, plain: &[u8]);
    /// Plain bytes from the other end.
    fn plain(&mut self) -> Vec<u8>;
    fn finish(&mut self);
    fn has_finished(&self) -> bool;
}

/// A filter, driven as the core does it.
pub(crate) struct Ours {
    pub(crate) filter: Arc<dyn Filter>,
    pub(crate) state: FilterState,
    /// At most so many plain bytes are asked for at a time.
    pub(crate) room: usize,
    /// What came and is not used yet.
    pub(crate) wire: Vec<u8>,
    input: LinkBuffer,
    /// Plain bytes that wait for the handshake.
    output: LinkBuffer,
    out: LinkBuffer,
}

impl Ours {
    pub(crate) fn accept(config: &TlsConfig) -> Self {
        Self::of(config.accept(&anywhere(), None).unwrap())
    }

    pub(crate) fn dial(client: &TlsClient, address: &str) -> Self {
        Self::of(client.dial(address, &anywhere()).unwrap())
    }

    fn of(filter: Arc<dyn Filter>) -> Self {
        let mut out = LinkBuffer::new();
        filter.say(&mut out);
        Self {
            filter,
            state: FilterState::Handshaking,
            room: usize::MAX,
            wire: Vec::new(),
            input: LinkBuffer::new(),
            output: LinkBuffer::new(),
            out,
        }
    }

    pub(crate) fn info(&self) -> TlsInfo {
        TlsInfo::of_filter(&*self.filter).expect("the handshake is over")
    }

    /// As `receive`, with the error itself.
    pub(crate) fn open(&mut self, wire: &[u8]) -> Result<(), FilterError> {
        self.wire.extend_from_slice(wire);
        loop {
            let before = self.input.len();
            let opened = self.filter.open(&mut self.wire, self.room, &mut self.input);
            self.input.flush();
            let opened = opened.inspect_err(|_| self.filter.say(&mut self.out))?;
            self.wire.drain(..opened.used);
            self.state = opened.state;
            if opened.speaks {
                self.filter.say(&mut self.out);
            }
            if self.state != FilterState::Handshaking {
                self.seal();
            }
            if self.wire.is_empty() || self.input.len() - before < self.room {
                return Ok(());
            }
        }
    }

    fn seal(&mut self) {
        while !self.output.is_empty() {
            let taken = self.filter.seal(&self.output, 0, &mut self.out).unwrap();
            assert!((1..=self.output.len()).contains(&taken), "{taken}");
            self.output.consume(taken);
        }
    }
}

impl End for Ours {
    fn receive(&mut self, wire: &[u8]) -> Result<(), String> {
        self.open(wire).map_err(|error| error.to_string())
    }

    fn transmit(&mut self) -> Vec<u8> {
        self.out.flush();
        take(&mut self.out)
    }

    fn send(&mut self, plain: &[u8]) {
        self.output.append(LinkBuffer::from(plain.to_vec()));
        self.output.flush();
        if self.state != FilterState::Handshaking {
            self.seal();
        }
    }

    fn plain(&mut self) -> Vec<u8> {
        take(&mut self.input)
    }

    fn finish(&mut self) {
        self.filter.finish(&mut self.out);
    }

    fn has_finished(&self) -> bool {
        self.state == FilterState::Finished
    }
}

/// rustls's buffered connection.
pub(crate) struct Theirs {
    pub(crate) tls: rustls::Connection,
    plain: Vec<u8>,
    ended: bool,
}

impl Theirs {
    pub(crate) fn server(config: Arc<rustls::ServerConfig>) -> Self {
        Self::of(ServerConnection::new(config).unwrap().into())
    }

    pub(crate) fn client(config: Arc<rustls::ClientConfig>) -> Self {
        Self::of(ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap().into())
    }

    fn of(mut tls: rustls::Connection) -> Self {
        tls.set_buffer_limit(None);
        Self { tls, plain: Vec::new(), ended: false }
    }
}

impl End for Theirs {
    fn receive(&mut self, mut wire: &[u8]) -> Result<(), String> {
        while !wire.is_empty() {
            self.tls.read_tls(&mut wire).unwrap();
            let state = self.tls.process_new_packets().map_err(|error| error.to_string())?;
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            self.tls.reader().read_exact(&mut plain).unwrap();
            self.plain.append(&mut plain);
            if state.peer_has_closed() {
                self.ended = true;
                return Ok(());
            }
        }
        Ok(())
    }

    fn transmit(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut wire).unwrap();
        }
        wire
    }

    fn send(&mut self, plain: &[u8]) {
        self.tls.writer().write_all(plain).unwrap();
    }

    fn plain(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.plain)
    }

    fn finish(&mut self) {
        self.tls.send_close_notify();
    }

    fn has_finished(&self) -> bool {
        self.ended
    }
}

/// Passes bytes until both are silent. The error is the first one, and of which end.
pub(crate) fn exchange(client: &mut impl End, server: &mut impl End) -> Result<(), String> {
    loop {
        let (there, back) = (client.transmit(), server.transmit());
        if there.is_empty() && back.is_empty() {
            return Ok(());
        }
        server.receive(&there).map_err(|error| format!("server: {error}"))?;
        client.receive(&back).map_err(|error| format!("client: {error}"))?;
    }
}

/// A client of `localhost` and a server, after their handshake.
pub(crate) fn open_pair(client: &TlsClient, config: &TlsConfig) -> (Ours, Ours) {
    let (mut client, mut server) = (Ours::dial(client, "localhost:1"), Ours::accept(config));
    exchange(&mut client, &mut server).unwrap();
    assert_eq!((client.state, server.state), (FilterState::Open, FilterState::Open));
    (client, server)
}

pub(crate) fn anywhere() -> Address {
    SocketAddr::from(([127, 0, 0, 1], 1)).into()
}

pub(crate) fn take(buffer: &mut LinkBuffer) -> Vec<u8> {
    let mut bytes = vec![0; buffer.len()];
    buffer.copy_to(&mut bytes);
    bytes
}
