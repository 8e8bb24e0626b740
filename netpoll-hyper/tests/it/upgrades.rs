//! Connections that leave HTTP.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use netpoll_async::spawn;
use netpoll_hyper::{Http, NetpollIo};

use crate::util::{Client, builder, modes, signal, start};

async fn switch(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let upgraded = hyper::upgrade::on(&mut request);
    spawn(async move {
        let parts = upgraded.await.expect("the client has asked for it").downcast::<NetpollIo>();
        let parts = parts.expect("it was served by this crate");
        let mut connection = parts.io.into_inner();
        connection.write_bytes(parts.read_buf).await?;
        while let Some(bytes) = connection.read_bytes().await? {
            connection.write_bytes(bytes).await?;
            connection.flush().await?;
        }
        Ok::<(), netpoll_core::Error>(())
    })
    .detach();
    let mut answer = Response::new(Empty::new());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("echo"));
    Ok(answer)
}

const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";

#[test]
fn an_upgraded_connection_lives_on_in_a_task_of_its_own() {
    for mode in modes() {
        // Neither the limit on heads nor that on the first byte applies to what it has become.
        let http = Http::new().header_read_timeout(Duration::from_secs(1));
        let server = start(builder(http, switch).dispatch(mode));
        let mut client = Client::of(&server);
        client.send(format!("{ASK}early"));
        let head = client.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let mut echoed = [0; 5];
        client.stream.read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"early");
        // sleep: only time shows that no timer ends it
        std::thread::sleep(Duration::from_millis(1300));
        for _ in 0..100 {
            client.send("again");
            client.stream.read_exact(&mut echoed).unwrap();
            assert_eq!(&echoed, b"again");
        }
        client.stream.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.rest(), b"");
    }
}

#[test]
fn the_deadline_of_a_shutdown_ends_an_upgraded_connection() {
    for mode in modes() {
        let (done, is_done) = signal();
        let server = start(builder(Http::new(), switch).dispatch(mode));
        let mut client = Client::of(&server);
        client.send(ASK);
        client.head();
        client.stream.get_mut().write_all(b"hello").unwrap();
        client.stream.read_exact(&mut [0; 5]).unwrap();
        let stops = std::thread::spawn(move || {
            server.shutdown(Duration::from_millis(50));
            done.send(server.wait().unwrap().aborted).unwrap();
        });
        client.rest();
        assert!(is_done.wait() <= 1);
        stops.join().unwrap();
    }
}
