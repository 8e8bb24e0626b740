//! Loads a server of TLS, and says what that cost the server's process.
//!
//! ```text
//! tls_load echo      ADDRESS PID ROOT CONNECTIONS SIZE SECONDS   requests/s, µs of CPU per request
//! tls_load full      ADDRESS PID ROOT VERSION SECONDS            handshakes/s, µs of CPU for each
//! tls_load resumed   ADDRESS PID ROOT VERSION SECONDS
//! tls_load idle      ADDRESS PID ROOT CONNECTIONS SIZE           bytes of memory per connection
//! tls_load stream    ADDRESS PID ROOT MIB                        MiB/s, ms of CPU per GiB each way
//! tls_load beside    ADDRESS PID ROOT CONNECTIONS RATE SECONDS   µs: median and p99 of an echo
//!                                                                beside RATE handshakes/s
//! ```

use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::exit;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

type Client = StreamOwned<ClientConnection, TcpStream>;
type Outcome<T> = Result<T, Box<dyn Error>>;

struct Load {
    address: String,
    pid: u32,
    config: Arc<ClientConfig>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Err(error) = run(&arguments) {
        eprintln!("tls_load: {error}");
        exit(1);
    }
}

fn run(arguments: &[&str]) -> Outcome<()> {
    let [what, address, pid, root, ref rest @ ..] = *arguments else { return Err("usage".into()) };
    let load = |version, resumes| -> Outcome<Load> {
        let config = Arc::new(config(root, version, resumes)?);
        Ok(Load { address: address.into(), pid: pid.parse()?, config })
    };
    match (what, rest) {
        ("echo", [connections, size, seconds]) => {
            load("1.3", false)?.echo(connections.parse()?, size.parse()?, seconds.parse()?)
        }
        ("full", [version, seconds]) => load(version, false)?.handshakes(seconds.parse()?),
        ("resumed", [version, seconds]) => load(version, true)?.handshakes(seconds.parse()?),
        ("idle", [connections, size]) => {
            load("1.3", false)?.idle(connections.parse()?, size.parse()?)
        }
        ("stream", [mib]) => load("1.3", false)?.stream(mib.parse()?),
        ("beside", [connections, rate, seconds]) => {
            load("1.3", false)?.beside(connections.parse()?, rate.parse()?, seconds.parse()?)
        }
        _ => Err("usage".into()),
    }
}

fn config(root: &str, version: &str, resumes: bool) -> Outcome<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(root)?)?;
    let version = if version == "1.2" { &TLS12 } else { &TLS13 };
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    if !resumes {
        config.resumption = Resumption::disabled();
    }
    Ok(config)
}

impl Load {
    fn dial(&self) -> Outcome<Client> {
        let socket = TcpStream::connect(&self.address)?;
        socket.set_nodelay(true)?;
        let tls = ClientConnection::new(self.config.clone(), "localhost".try_into()?)?;
        Ok(StreamOwned::new(tls, socket))
    }

    fn echo(&self, connections: usize, size: usize, seconds: f64) -> Outcome<()> {
        let mut clients = (0..connections).map(|_| self.dial()).collect::<Outcome<Vec<_>>>()?;
        let (request, mut answer) = (vec![b'x'; size], vec![0; size]);
        let mut round = |clients: &mut [Client]| -> Outcome<()> {
            for client in &mut *clients {
                client.write_all(&request)?;
                client.flush()?;
            }
            for client in clients {
                client.read_exact(&mut answer)?;
            }
            Ok(())
        };
        for _ in 0..200 {
            round(&mut clients)?; // records are long from here on, blocks are pooled
        }
        let (begin, before, mut requests) = (Instant::now(), self.cpu()?, 0);
        while begin.elapsed() < Duration::from_secs_f64(seconds) {
            round(&mut clients)?;
            requests += connections;
        }
        self.report(requests, begin, before)
    }

    fn handshakes(&self, seconds: f64) -> Outcome<()> {
        self.handshake()?;
        let (begin, before, mut handshakes) = (Instant::now(), self.cpu()?, 0);
        while begin.elapsed() < Duration::from_secs_f64(seconds) {
            self.handshake()?;
            handshakes += 1;
        }
        self.report(handshakes, begin, before)
    }

    /// One handshake, and one request that servers of echoes and of HTTP answer.
    fn handshake(&self) -> Outcome<()> {
        let mut client = self.dial()?;
        client.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        client.read_exact(&mut [0])?; // with the tickets in front
        Ok(())
    }

    /// Each way at once: 256 KiB are on their way at a time.
    fn stream(&self, mib: usize) -> Outcome<()> {
        const PIECE: usize = 256 << 10;
        let (mut client, sent, mut heard) = (self.dial()?, vec![b'x'; PIECE], vec![0; PIECE]);
        let mut pass = |pieces: usize| -> Outcome<()> {
            for _ in 0..pieces {
                client.write_all(&sent)?;
                client.read_exact(&mut heard)?;
            }
            Ok(())
        };
        pass(16)?; // records are long from here on
        let (begin, before) = (Instant::now(), self.cpu()?);
        pass(mib * 4)?;
        let (seconds, cpu) = (begin.elapsed().as_secs_f64(), self.cpu()? - before);
        println!("{:.0} {:.1}", mib as f64 / seconds, cpu * 1e3 * 1024.0 / mib as f64);
        Ok(())
    }

    /// Echoes of 64 B, one after the other, while another thread has new clients shake hands.
    fn beside(&self, connections: usize, rate: f64, seconds: f64) -> Outcome<()> {
        let mut clients = (0..connections).map(|_| self.dial()).collect::<Outcome<Vec<_>>>()?;
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        let mut took = Vec::new();
        thread::scope(|scope| -> Outcome<()> {
            let greeting = scope.spawn(|| self.greet(rate, end).map_err(|error| error.to_string()));
            while Instant::now() < end {
                for client in &mut clients {
                    let begin = Instant::now();
                    client.write_all(&[b'x'; 64])?;
                    client.read_exact(&mut [0; 64])?;
                    took.push(begin.elapsed().as_secs_f64() * 1e6);
                }
            }
            Ok(greeting.join().map_err(|_| "it panicked")??)
        })?;
        took.sort_by(f64::total_cmp);
        println!("{:.1} {:.1}", took[took.len() / 2], took[took.len() * 99 / 100]);
        Ok(())
    }

    /// Has new clients shake hands at this rate; fails if that can't be held.
    fn greet(&self, rate: f64, end: Instant) -> Outcome<()> {
        let (begin, mut done) = (Instant::now(), 0_f64);
        while Instant::now() < end {
            if begin.elapsed().as_secs_f64() * rate < done {
                // sleep: until the next handshake is due
                thread::sleep(Duration::from_micros(200));
                continue;
            }
            self.handshake()?;
            done += 1.0;
        }
        let held = done / begin.elapsed().as_secs_f64();
        if held < rate * 0.95 { Err(format!("only {held:.0} handshakes/s").into()) } else { Ok(()) }
    }

    fn idle(&self, connections: usize, size: usize) -> Outcome<()> {
        let (request, mut answer) = (vec![b'x'; size], vec![0; size]);
        let mut clients = Vec::new();
        let mut open = |n: usize| -> Outcome<()> {
            for _ in 0..n {
                let mut client = self.dial()?;
                client.write_all(&request)?;
                client.read_exact(&mut answer)?;
                clients.push(client);
            }
            Ok(())
        };
        open(100)?; // what the process takes once
        let before = self.resident()?;
        open(connections)?;
        println!("{:.0}", (self.resident()? - before) / connections as f64);
        Ok(())
    }

    fn report(&self, n: usize, begin: Instant, before: f64) -> Outcome<()> {
        let (seconds, cpu) = (begin.elapsed().as_secs_f64(), self.cpu()? - before);
        println!("{:.0} {:.3}", n as f64 / seconds, cpu * 1e6 / n as f64);
        Ok(())
    }

    /// Seconds of processors that the server's threads have had, to the nanosecond.
    fn cpu(&self) -> Outcome<f64> {
        let mut nanoseconds = 0.0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let had = fs::read_to_string(task?.path().join("schedstat"))?;
            nanoseconds += had.split_whitespace().next().ok_or("schedstat")?.parse::<f64>()?;
        }
        Ok(nanoseconds / 1e9)
    }

    fn resident(&self) -> Outcome<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS")).ok_or("VmRSS")?;
        let kib: f64 = line.split_whitespace().nth(1).ok_or("VmRSS")?.parse()?;
        Ok(kib * 1024.0)
    }
}
