//! A door for plain clients to servers with a filter: what it is told plainly it passes on through
//! the filter's client end, and so it does the other way.
//!
//! ```text
//!   test process                              the tunnel's process, one thread
//!     plain client ───────plain bytes──────► door ──► Pair ──► Filter, client end
//!     server with the filter ◄───wire bytes─────────────────────────┘
//! ```
//! It is a process of its own, so a test counts its own descriptors, threads and memory alone. It
//! ends by itself when the test's process has ended. Ends of streams and resets pass through it;
//! urgent data and what is sent before the handshake do not.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use netpoll::LinkBuffer;
use netpoll::filter::{Filter, FilterState};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::getppid;
use socket2::{Domain, SockRef, Socket, Type};

use crate::toy::Toy;
use crate::util::{ROLE, is_role};

const PART: &str = "tunnel::the_door_for_plain_clients";
/// What the tunnel says before its address.
const SAYS: &str = "tunnel at ";
/// How often the tunnel looks whether its parent lives, in milliseconds.
const LOOK: u16 = 200;
/// How many times in a row one pair goes on while others wait.
const TURNS: usize = 2;
const BLOCK: usize = 64 << 10;

/// The tunnel of this process.
static TUNNEL: LazyLock<(Child, SocketAddr)> = LazyLock::new(start);

/// A new address whose plain clients reach `server` through `filter`.
pub(crate) fn to(server: SocketAddr, filter: &str) -> SocketAddr {
    let mut asked = TcpStream::connect(TUNNEL.1).expect("the tunnel is there");
    writeln!(asked, "{server} {filter}").expect("it listens");
    let mut door = String::new();
    BufReader::new(asked).read_line(&mut door).expect("it answers");
    door.trim().parse().expect("an address")
}

fn start() -> (Child, SocketAddr) {
    let mut child = Command::new(std::env::current_exe().expect("our own path"))
        .args(["--exact", PART, "--nocapture", "--test-threads=1"])
        .env(ROLE, PART)
        .envs(crate::tls::variables())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("our own binary starts");
    let said = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut lines = said.lines().map_while(Result::ok);
    let address = lines.find_map(|line| line.split_once(SAYS).map(|(_, it)| it.trim().to_owned()));
    let address = address.expect("the tunnel says where it is");
    (child, address.parse().expect("an address"))
}

/// No test: the tunnel, where this process was started as one.
#[test]
fn the_door_for_plain_clients() {
    if is_role(PART) {
        // A test may have lowered the limits that its children inherit.
        for limit in [Resource::RLIMIT_NOFILE, Resource::RLIMIT_AS] {
            let (_, most) = getrlimit(limit).expect("a limit");
            setrlimit(limit, most, most).expect("a limit");
        }
        let outcome = Tunnel::open().and_then(|mut tunnel| tunnel.run());
        std::process::exit(i32::from(outcome.is_err()));
    }
}

struct Tunnel {
    epoll: Epoll,
    places: Vec<Option<Place>>,
    /// Pairs that have more to do at once.
    ready: VecDeque<usize>,
}

enum Place {
    /// Where tests ask for doors.
    Control(TcpListener),
    Door(TcpListener, SocketAddr, fn() -> Arc<dyn Filter>),
    Pair(Box<Pair>),
}

impl Tunnel {
    fn open() -> io::Result<Self> {
        let control = TcpListener::bind("127.0.0.1:0")?;
        println!("\n{SAYS}{}", control.local_addr()?);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut tunnel = Self { epoll, places: Vec::new(), ready: VecDeque::new() };
        tunnel.listen(control, Place::Control)?;
        Ok(tunnel)
    }

    fn run(&mut self) -> io::Result<()> {
        let parent = getppid();
        let mut events = [EpollEvent::empty(); 256];
        while getppid() == parent {
            let wait = if self.ready.is_empty() { LOOK } else { 0 };
            let count = match self.epoll.wait(&mut events, wait) {
                Err(nix::Error::EINTR) => continue,
                count => count?,
            };
            let named = events[..count].iter().map(|it| it.data() as usize);
            let all: Vec<usize> = self.ready.drain(..).chain(named).collect();
            for place in all {
                self.go_on(place);
            }
        }
        Ok(())
    }

    fn go_on(&mut self, index: usize) {
        match self.places.get_mut(index) {
            Some(Some(Place::Control(listener))) => {
                if let Ok((asked, _)) = listener.accept() {
                    let _ = self.answer(&asked);
                }
            }
            Some(Some(Place::Door(listener, server, make))) => {
                let (server, make) = (*server, *make);
                let come = std::iter::from_fn(|| listener.accept().ok());
                for (plain, from) in come.collect::<Vec<_>>() {
                    // If it fails, the client sees its connection end.
                    let _ = self.pair(plain, from, server, make());
                }
            }
            Some(Some(Place::Pair(pair))) => match pair.go_on() {
                Ok(Progress::Waits) => {}
                Ok(Progress::More) => self.ready.push_back(index),
                Ok(Progress::Over) | Err(()) => self.places[index] = None,
            },
            _ => {}
        }
    }

    /// Opens a door.
    fn answer(&mut self, mut asked: &TcpStream) -> io::Result<()> {
        let mut line = String::new();
        BufReader::new(asked).read_line(&mut line)?;
        let (server, filter) = line.trim().split_once(' ').ok_or(ErrorKind::InvalidData)?;
        let server = server.parse().map_err(io::Error::other)?;
        let make: fn() -> Arc<dyn Filter> =
            if filter == "tls" { crate::tls::client_end } else { || Toy::new(true) };
        let door = TcpListener::bind("127.0.0.1:0")?;
        let address = door.local_addr()?;
        self.listen(door, |door| Place::Door(door, server, make))?;
        writeln!(asked, "{address}")
    }

    fn listen(
        &mut self,
        listener: TcpListener,
        place: impl FnOnce(TcpListener) -> Place,
    ) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        // As long a queue as the servers of the tests have.
        SockRef::from(&listener).listen(4096)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.places.len() as u64);
        self.epoll.add(&listener, event)?;
        self.places.push(Some(place(listener)));
        Ok(())
    }

    fn pair(
        &mut self,
        plain: TcpStream,
        from: SocketAddr,
        server: SocketAddr,
        end: Arc<dyn Filter>,
    ) -> io::Result<()> {
        let wire = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        wire.set_nonblocking(true)?;
        if from.ip() != server.ip() {
            wire.bind(&SocketAddr::new(from.ip(), 0).into())?;
        }
        match wire.connect(&server.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => {
                return Err(error);
            }
            _ => {}
        }
        let wire = TcpStream::from(wire);
        plain.set_nonblocking(true)?;
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        let index = self.places.len();
        for socket in [&plain, &wire] {
            socket.set_nodelay(true)?;
            self.epoll.add(socket, EpollEvent::new(flags, index as u64))?;
        }
        self.places.push(Some(Place::Pair(Box::new(Pair::new(plain, wire, end)))));
        self.ready.push_back(index);
        Ok(())
    }
}

/// A plain client and its connection to the server.
struct Pair {
    plain: TcpStream,
    wire: TcpStream,
    end: Arc<dyn Filter>,
    state: FilterState,
    /// Received from the server and not opened yet.
    sealed: Vec<u8>,
    to_plain: LinkBuffer,
    to_wire: LinkBuffer,
    /// The client's stream has ended, and the server's.
    ended: [bool; 2],
    /// That was passed on.
    passed_on: [bool; 2],
}

enum Progress {
    Waits,
    More,
    Over,
}

impl Pair {
    fn new(plain: TcpStream, wire: TcpStream, end: Arc<dyn Filter>) -> Self {
        let mut to_wire = LinkBuffer::new();
        end.say(&mut to_wire);
        to_wire.flush();
        let (sealed, to_plain) = (Vec::new(), LinkBuffer::new());
        let (ended, passed_on) = ([false; 2], [false; 2]);
        let state = FilterState::Handshaking;
        Self { plain, wire, end, state, sealed, to_plain, to_wire, ended, passed_on }
    }

    /// `Err`: one side has broken off, and now the other one has too.
    fn go_on(&mut self) -> Result<Progress, ()> {
        for _ in 0..TURNS {
            let moved = self.serve_client().map_err(|_| break_off(&self.wire))?
                | self.serve_server().map_err(|_| break_off(&self.plain))?;
            if self.passed_on == [true; 2] {
                return Ok(Progress::Over);
            }
            if !moved {
                return Ok(Progress::Waits);
            }
        }
        Ok(Progress::More)
    }

    /// What the client's socket has and takes; whether anything has moved.
    fn serve_client(&mut self) -> io::Result<bool> {
        let mut moved = drain(&mut self.to_plain, &mut self.plain)?;
        if self.ended[1] && self.to_plain.is_empty() && !self.passed_on[1] {
            self.passed_on[1] = true;
            self.plain.shutdown(Shutdown::Write)?;
        }
        let waits = self.state == FilterState::Handshaking && !self.ended[1];
        if !waits && !self.ended[0] && self.to_wire.is_empty() {
            let mut bytes = vec![0; BLOCK];
            if let Some(read) = come(self.plain.read(&mut bytes))? {
                moved = true;
                self.ended[0] = read == 0;
                self.seal(&bytes[..read])?;
            }
        }
        // What came before a reset was read before it.
        if moved { Ok(true) } else { failure(&self.plain) }
    }

    /// What the server's socket has and takes; whether anything has moved.
    fn serve_server(&mut self) -> io::Result<bool> {
        let mut moved = drain(&mut self.to_wire, &mut self.wire)?;
        if self.ended[0] && self.to_wire.is_empty() && !self.passed_on[0] {
            self.passed_on[0] = true;
            self.wire.shutdown(Shutdown::Write)?;
        }
        if !self.ended[1] && self.to_plain.is_empty() {
            let before = self.sealed.len();
            self.sealed.resize(before + BLOCK, 0);
            let read = come(self.wire.read(&mut self.sealed[before..]))?;
            self.sealed.truncate(before + read.unwrap_or(0));
            if let Some(read) = read {
                moved = true;
                self.open(read == 0)?;
            }
        }
        if moved { Ok(true) } else { failure(&self.wire) }
    }

    fn seal(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.state == FilterState::Handshaking {
            return Ok(()); // the server has closed before; nothing is sealed for it
        }
        if self.ended[0] {
            self.end.finish(&mut self.to_wire);
        }
        let (plain, mut from) = (LinkBuffer::from(bytes.to_vec()), 0);
        while from < plain.len() {
            let sealed = self.end.seal(&plain, from, &mut self.to_wire);
            from += sealed.map_err(io::Error::other)?;
        }
        self.to_wire.flush();
        Ok(())
    }

    fn open(&mut self, is_over: bool) -> io::Result<()> {
        let opened = self.end.open(&mut self.sealed, usize::MAX, &mut self.to_plain);
        let opened = opened.map_err(io::Error::other)?;
        self.to_plain.flush();
        self.sealed.drain(..opened.used);
        self.state = opened.state;
        if opened.speaks {
            self.end.say(&mut self.to_wire);
            self.to_wire.flush();
        }
        self.ended[1] = is_over || self.state == FilterState::Finished;
        // An end before the handshake is over is a close in order; later one is said by the filter.
        if is_over && self.state == FilterState::Open {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// The error of a socket that was not read from; else nothing has moved.
fn failure(socket: &TcpStream) -> io::Result<bool> {
    socket.take_error()?.map_or(Ok(false), Err)
}

/// `None`: nothing yet.
fn come(read: io::Result<usize>) -> io::Result<Option<usize>> {
    match read {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        read => read.map(Some),
    }
}

/// Writes what the socket takes; whether it took any.
fn drain(bytes: &mut LinkBuffer, socket: &mut TcpStream) -> io::Result<bool> {
    let mut moved = false;
    while !bytes.is_empty() {
        let chunks: Vec<_> = bytes.chunks().map(IoSlice::new).take(64).collect();
        let Some(taken) = come(socket.write_vectored(&chunks))? else { break };
        bytes.skip(taken).map_err(io::Error::other)?;
        bytes.release();
        moved = true;
    }
    Ok(moved)
}

/// Has the close of the socket be a reset.
fn break_off(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
