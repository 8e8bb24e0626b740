//! The language of the tests: servers on port 0, plain clients, and waiting with a bound.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crate::toy::Toys;
use crate::tunnel;
use netpoll::filter::FilterServer;
use netpoll::{
    CloseReason, Connection, Dispatch, EventLoop, EventLoopBuilder, HandOffOptions, Listener,
    Listeners, PoolOptions, Report, Result,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How long a test waits for what must happen: it bounds failures, and delays no success.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How often [`one_takes_less`] tries.
const ATTEMPTS: usize = 10;
/// How long a process that runs one test alone may take. nextest ends it after that as well.
const ALONE_AT_MOST: Duration = Duration::from_secs(175);
/// Set for a process that runs one test alone, or plays one part in another process's test.
pub(crate) const ROLE: &str = "NETPOLL_TEST_ROLE";

/// With this variable servers have a filter, and clients reach them through a tunnel: so what holds
/// without a filter is tested with one. `tls` is TLS, any other value the filter of `toy.rs`.
const FILTER: &str = "NETPOLL_TEST_FILTER";

/// Whether servers have the filter. Few tests ask: those of what the tunnel does not pass on.
pub(crate) fn is_filtered() -> bool {
    std::env::var(FILTER).is_ok()
}

/// All dispatch modes.
pub(crate) fn modes() -> [Dispatch; 3] {
    [Dispatch::Inline, pool(), hand_off()]
}

pub(crate) fn hand_off() -> Dispatch {
    Dispatch::HandOff(HandOffOptions::default())
}

pub(crate) fn pool() -> Dispatch {
    Dispatch::Pool(PoolOptions::default())
}

/// An event loop that serves on a thread of its own.
pub(crate) struct Server {
    pub(crate) event_loop: EventLoop,
    pub(crate) address: SocketAddr,
    serving: Option<JoinHandle<Result<Report>>>,
}

impl Server {
    pub(crate) fn start<S: Send + 'static>(builder: EventLoopBuilder<S>) -> Self {
        let event_loop = builder.build().expect("options that can be used");
        Self::serve(event_loop)
    }

    pub(crate) fn serve(event_loop: EventLoop) -> Self {
        let mut listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
        let mut address = inet(&listener);
        if let Ok(filter) = std::env::var(FILTER) {
            let max_handshakes = Some(20_000); // crowds come at once
            let server: Arc<dyn FilterServer> = match filter.as_str() {
                "tls" => crate::tls::server(),
                _ => Arc::new(Toys { max_handshakes, ..Toys::default() }),
            };
            listener = listener.filter(server);
            address = tunnel::to(address, &filter);
        }
        let server = event_loop.clone();
        let serving = thread::spawn(move || server.serve(listener));
        Self { event_loop, address, serving: Some(serving) }
    }

    /// A plain client, which waits with a bound.
    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Shuts down in order, with a deadline that no test reaches unless it must.
    pub(crate) fn stop(self) -> Report {
        self.event_loop.shutdown(PATIENCE);
        self.join()
    }

    /// What `serve` returned.
    pub(crate) fn join(mut self) -> Report {
        let serving = self.serving.take().expect("joined once");
        let outcome = serving.join().expect("serve does not panic");
        outcome.expect("serve ends without an error")
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.serving.as_ref().is_some_and(|it| !it.is_finished())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            self.event_loop.shutdown(Duration::ZERO);
            let _ = serving.join();
        }
    }
}

/// An event loop that serves whatever listeners on a thread of its own.
pub(crate) struct Serving {
    pub(crate) event_loop: EventLoop,
    thread: Option<JoinHandle<Result<Report>>>,
}

impl Serving {
    pub(crate) fn start(event_loop: EventLoop, listeners: impl Into<Listeners>) -> Self {
        let (listeners, server) = (listeners.into(), event_loop.clone());
        let thread = Some(thread::spawn(move || server.serve(listeners)));
        Self { event_loop, thread }
    }

    /// Shuts down in order, with a deadline that no test reaches unless it must.
    pub(crate) fn stop(self) -> Report {
        self.event_loop.shutdown(PATIENCE);
        self.join()
    }

    /// What `serve` returned.
    pub(crate) fn join(mut self) -> Report {
        let thread = self.thread.take().expect("joined once");
        thread.join().expect("serve does not panic").expect("serve ends without an error")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.event_loop.shutdown(Duration::ZERO);
            let _ = thread.join();
        }
    }
}

/// The address of a TCP listener.
pub(crate) fn inet(listener: &Listener) -> SocketAddr {
    listener.local_addr().expect("an address").inet().expect("of TCP")
}

/// A builder whose `on_request` sends back what it was sent.
pub(crate) fn echo() -> EventLoopBuilder {
    EventLoop::builder().on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
}

/// Sends back what has arrived.
pub(crate) fn echo_once(conn: &mut Connection) -> Result<()> {
    let (mut reader, mut writer) = conn.split();
    writer.append(reader.slice(reader.len())?);
    writer.flush()
}

/// An echo whose callback holds its loop when a `!` comes first, until the gate opens; the count
/// says how many have.
pub(crate) fn holding(builder: EventLoopBuilder) -> (EventLoopBuilder, Gate, Count) {
    let (gate, held) = (Gate::default(), Count::default());
    let (closed, entered) = (gate.clone(), held.clone());
    let builder = builder.on_request(move |(): &mut (), conn: &mut Connection| {
        if conn.reader().peek(1)? == b"!" {
            entered.add();
            closed.pass();
        }
        echo_once(conn)
    });
    (builder.dispatch(Dispatch::Inline), gate, held)
}

/// A plain client, which waits with a bound.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    stream.set_write_timeout(Some(PATIENCE)).expect("an option");
    stream.set_nodelay(true).expect("an option");
    stream
}

/// Whether the port is closed. The socket of a listener that is gone may live on for a moment: a
/// process that another test starts has a copy of it until it executes.
pub(crate) fn refuses(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// What plain clients do, with a failure that says what was expected.
pub(crate) trait Client {
    /// Sends all of it.
    fn say(&mut self, bytes: &[u8]);
    /// Receives as many bytes, which must be these.
    fn hear(&mut self, expected: &[u8]);
    /// Sends, and hears the same.
    fn echo(&mut self, bytes: &[u8]);
    /// Everything up to the peer's FIN.
    fn rest(&mut self) -> Vec<u8>;
    /// Waits for the end, in order or by a reset: no byte comes before it.
    fn end(&mut self);
    /// Ends our stream and keeps receiving.
    fn half_close(&self);
    /// Closes with a reset.
    fn reset(self);
}

impl Client for TcpStream {
    fn say(&mut self, bytes: &[u8]) {
        self.write_all(bytes).expect("the peer takes it");
    }

    fn hear(&mut self, expected: &[u8]) {
        let mut heard = vec![0; expected.len()];
        self.read_exact(&mut heard).expect("the peer answers");
        assert!(heard == expected, "heard other bytes than expected");
    }

    fn echo(&mut self, bytes: &[u8]) {
        self.say(bytes);
        self.hear(bytes);
    }

    fn rest(&mut self) -> Vec<u8> {
        let mut heard = Vec::new();
        self.read_to_end(&mut heard).expect("the peer ends in order");
        heard
    }

    fn end(&mut self) {
        let end = self.read(&mut [0]).map_err(|error| error.kind());
        assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "no end, but {end:?}");
    }

    fn half_close(&self) {
        self.shutdown(Shutdown::Write).expect("a FIN");
    }

    fn reset(self) {
        let socket = socket2::SockRef::from(&self);
        socket.set_linger(Some(Duration::ZERO)).expect("an option");
    }
}

/// Waits for `condition`, with a bound; fails as what is said in `hope`.
#[track_caller]
pub(crate) fn eventually(hope: &str, condition: impl FnMut() -> bool) {
    assert!(within(PATIENCE, condition), "in vain, hoped that {hope}");
}

/// Whether `condition` comes true in that time.
pub(crate) fn within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        // sleep: the pace of looking at a condition that nothing announces
        thread::sleep(Duration::from_millis(1));
    }
    true
}

/// What `act` returns, and how long it took.
pub(crate) fn timed<R>(act: impl FnOnce() -> R) -> (R, Duration) {
    let begun = Instant::now();
    let outcome = act();
    (outcome, begun.elapsed())
}

/// Tries until one attempt takes less than `limit`. What else the machine does delays some of them.
#[track_caller]
pub(crate) fn one_takes_less(limit: Duration, mut attempt: impl FnMut() -> Duration) {
    let took: Vec<_> = (0..ATTEMPTS).map(|_| attempt()).take_while(|took| *took >= limit).collect();
    assert!(took.len() < ATTEMPTS, "none takes less than {limit:?}: {took:?}");
}

/// Lets time pass in which nothing must happen.
pub(crate) fn quiet(milliseconds: u64) {
    // sleep: that nothing happens shows only in time
    thread::sleep(Duration::from_millis(milliseconds));
}

/// What happened, in order, as told by callbacks.
#[derive(Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    pub(crate) fn add(&self, entry: impl Into<String>) {
        lock(&self.0).push(entry.into());
    }

    pub(crate) fn entries(&self) -> Vec<String> {
        lock(&self.0).clone()
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// Waits until there are that many entries, and returns them.
    #[track_caller]
    pub(crate) fn wait(&self, count: usize) -> Vec<String> {
        let enough = within(PATIENCE, || self.len() >= count);
        let entries = self.entries();
        assert!(enough, "hoped for {count} entries, there are {entries:?}");
        entries
    }

    /// An `on_disconnect` that enters the reason.
    pub(crate) fn on_disconnect<S>(&self) -> impl Fn(S, &CloseReason) + Send + Sync + 'static {
        let journal = self.clone();
        move |_, reason| journal.add(name_of(reason))
    }
}

/// The variant's name.
pub(crate) fn name_of(reason: &CloseReason) -> String {
    let text = format!("{reason:?}");
    let end = text.find(|c: char| !c.is_alphanumeric());
    text[..end.unwrap_or(text.len())].to_owned()
}

/// A lock that a failed test can't poison.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A counter that threads share.
#[derive(Clone, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    /// Adds one; returns how many there were before.
    pub(crate) fn add(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// xorshift64*: numbers that a seed brings back.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The seed of this run: `NETPOLL_TEST_SEED`, or the clock's.
    pub(crate) fn seed() -> u64 {
        match std::env::var("NETPOLL_TEST_SEED") {
            Ok(seed) => seed.parse().expect("NETPOLL_TEST_SEED is a number"),
            Err(_) => SystemTime::UNIX_EPOCH.elapsed().map_or(1, |it| u64::from(it.subsec_nanos())),
        }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 33) as usize) % limit
    }

    /// 1 byte to `2^bits` bytes, each power of two as likely as any other.
    pub(crate) fn size(&mut self, bits: u32) -> usize {
        let magnitude = 1 << self.below(bits as usize);
        magnitude + self.below(magnitude + 1)
    }
}

/// `len` random bytes from a supply that all share; `place` says which.
pub(crate) fn noise(place: usize, len: usize) -> &'static [u8] {
    static SUPPLY: OnceLock<Vec<u8>> = OnceLock::new();
    const SUPPLIED: usize = 20 << 20;
    let supply = SUPPLY.get_or_init(|| {
        let mut random = Random::new(7);
        let words = (0..SUPPLIED / 8).map(|_| random.next().to_le_bytes());
        words.flatten().collect()
    });
    let start = place % (supply.len() - len);
    &supply[start..start + len]
}

/// How many descriptors this process has open.
pub(crate) fn fd_count() -> usize {
    // The listing itself has one.
    fs::read_dir("/proc/self/fd").expect("procfs").count() - 1
}

/// How many sockets this process has open.
pub(crate) fn sockets() -> usize {
    let all = fs::read_dir("/proc/self/fd").expect("procfs").filter_map(Result::ok);
    let targets = all.filter_map(|it| fs::read_link(it.path()).ok());
    targets.filter(|it| it.to_string_lossy().starts_with("socket:")).count()
}

/// How many threads this process has.
pub(crate) fn thread_count() -> usize {
    fs::read_dir("/proc/self/task").expect("procfs").count()
}

/// Memory that a process has in use, in bytes.
pub(crate) fn resident(process: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status"));
    let status = status.expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    kilobytes.and_then(|it| it.parse::<usize>().ok()).expect("a number") << 10
}

/// Processor time that a process has used.
pub(crate) fn cpu_time(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"));
    let stat = stat.expect("procfs");
    // The name, in parentheses, may hold anything; state is the first field behind it.
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|it| it.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

/// Lets this process open as many descriptors as the system allows.
pub(crate) fn raise_fd_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    set_fd_limit(hard);
}

pub(crate) fn set_fd_limit(limit: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).expect("a limit");
}

/// While it lives, the system refuses this process further threads: its address space has no room
/// for the stack that each is to have. For a process that [`refusing_threads`] has started.
pub(crate) struct NoThreads {
    before: (u64, u64),
}

/// The stack of a thread in a process that plays [`NoThreads`]: address space, hardly any memory.
const STACK: u64 = 512 << 20;

impl NoThreads {
    pub(crate) fn from_now_on() -> Self {
        let before = getrlimit(Resource::RLIMIT_AS).expect("a limit");
        let pages = fs::read_to_string("/proc/self/statm").expect("proc is mounted");
        let pages: u64 = pages.split(' ').next().and_then(|it| it.parse().ok()).expect("a number");
        let limit = pages * 4096 + STACK - (64 << 20);
        setrlimit(Resource::RLIMIT_AS, limit, before.1).expect("a limit");
        let refused = thread::Builder::new().spawn(|| ());
        assert!(refused.is_err(), "there is room for a thread still");
        Self { before }
    }
}

impl Drop for NoThreads {
    fn drop(&mut self) {
        setrlimit(Resource::RLIMIT_AS, self.before.0, self.before.1).expect("a limit");
    }
}

/// As [`alone`], in a process whose further threads can be refused.
pub(crate) fn refusing_threads(name: &str, test: impl FnOnce()) {
    alone_with(name, &[("RUST_MIN_STACK", &STACK.to_string())], test);
}

/// Runs `test` in a process of its own, where it may count descriptors and threads. `name` is the
/// test that calls this, as the harness knows it.
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    alone_with(name, &[], test);
}

pub(crate) fn alone_with(name: &str, variables: &[(&str, &str)], test: impl FnOnce()) {
    if std::env::var(ROLE).is_ok_and(|role| role == name) {
        return test();
    }
    let mut child = Process::start(name, variables);
    let mut output = String::new();
    let complete = within(ALONE_AT_MOST, || child.child.try_wait().is_ok_and(|it| it.is_some()));
    if !complete {
        let _ = child.child.kill();
    }
    let _ = child.output.read_to_string(&mut output);
    let status = child.child.wait().expect("a status");
    println!("{output}");
    assert!(status.success() && output.contains("1 passed"), "{name} alone: {status}");
}

/// This test binary once more, playing one part of a test.
pub(crate) struct Process {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Process {
    /// Starts the test `role`, which asks [`is_role`] first, with further variables.
    pub(crate) fn start(role: &str, variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("our own path"))
            .args(["--exact", role, "--nocapture", "--test-threads=1", "--include-ignored"])
            .env(ROLE, role)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("our own binary starts");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, output }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the process says behind `key`.
    pub(crate) fn said(&mut self, key: &str) -> String {
        let (mut all, mut line) = (String::new(), String::new());
        while self.output.read_line(&mut line).is_ok_and(|read| read > 0) {
            if let Some((_, value)) = line.split_once(key) {
                return value.trim().to_owned();
            }
            let _ = write!(all, "{line}");
            line.clear();
        }
        panic!("the process ended without saying {key:?}; it said {all}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether this process was started to play `role`.
pub(crate) fn is_role(role: &str) -> bool {
    std::env::var(ROLE).is_ok_and(|it| it == role)
}

impl Server {
    /// As [`Server::serve`], on an address that no other test uses: there a port whose listener is
    /// gone stays refused.
    pub(crate) fn serve_at(event_loop: EventLoop, address: &str) -> Self {
        let listener = Listener::bind("tcp", address).expect("a port");
        let address = inet(&listener);
        let server = event_loop.clone();
        let serving = thread::spawn(move || server.serve(listener));
        Self { event_loop, address, serving: Some(serving) }
    }
}

/// A gate that callbacks wait at until the test opens it.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    pub(crate) fn pass(&self) {
        let open = lock(&self.0.0);
        let waited = self.0.1.wait_timeout_while(open, PATIENCE, |open| !*open);
        let waited = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.1.timed_out(), "nobody opened the gate");
    }
}

/// The threads of this process that netpoll started.
pub(crate) fn our_threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("procfs");
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
    let names = tasks.filter_map(|task| name(task.ok()?));
    names.map(|it| it.trim().to_owned()).filter(|it| it.starts_with("netpoll-")).collect()
}

impl Process {
    /// Lets the process, which reads its input, see the end of it.
    pub(crate) fn end_input(&mut self) {
        drop(self.child.stdin.take());
    }
}
