//! The service, and a server whose certificate is made now.

use std::error::Error;
use std::fs;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use netpoll::Listener;
use netpoll::futures::sleep;
use netpoll::tls::{TlsConfig, TlsListener};
use netpoll_hyper::Http;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::ROOT;
use crate::hello::greeter_server::{Greeter, GreeterServer};
use crate::hello::{Greeting, Name};

struct Service;

#[tonic::async_trait]
impl Greeter for Service {
    type CountStream = BoxStream<'static, Result<Greeting, Status>>;

    async fn hello(&self, name: Request<Name>) -> Result<Response<Greeting>, Status> {
        let Name { name } = name.into_inner();
        // sleep: it stands for what blocks; no other call waits for this one
        std::thread::sleep(Duration::from_millis(5));
        Ok(Response::new(Greeting { text: format!("hello {name}") }))
    }

    async fn count(&self, name: Request<Name>) -> Result<Response<Self::CountStream>, Status> {
        let Name { name } = name.into_inner();
        let greetings = stream::iter(1..=3).then(move |at| {
            let text = format!("{at}: hello {name}");
            async move {
                sleep(Duration::from_millis(100)).await;
                Ok(Greeting { text })
            }
        });
        Ok(Response::new(greetings.boxed()))
    }
}

pub(crate) fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let made = rcgen::generate_simple_self_signed(["localhost".into(), "127.0.0.1".into()])?;
    fs::write(ROOT, made.cert.pem())?;
    let tls = TlsConfig::builder()
        .certificate(made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes())
        .alpn(["h2"])
        .build()?;
    let listener = Listener::bind("tcp", address)?.tls(tls);
    println!("listening on {}; clients must trust {ROOT}", listener.local_addr()?);
    Http::new()
        .header_read_timeout(Duration::from_secs(10))
        .event_loop(Routes::new(GreeterServer::new(Service)).prepare())
        .write_timeout(Duration::from_secs(30))
        .max_connections(1024)
        .build()?
        .serve(listener)?;
    Ok(())
}
