//! A reverse proxy: passes requests on to one server, over connections that it keeps, and streams
//! bodies both ways.
//!
//! Shows hyper on both sides: a service, and the client of hyper-util, which gets its connections
//! from a netpoll `Dialer`.
//!
//! Its limits: 10 s for a request's head, 2 s for a dial, 30 s for an answer's head and for an
//! output without progress, 1 024 clients, 64 idle connections to the server.
//!
//! ```text
//! cd examples/futures
//! cargo run --release --bin hyper_proxy -- [ADDRESS [ORIGIN]]
//! curl -i http://127.0.0.1:7031/items
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::client::legacy;
use netpoll::futures::timeout;
use netpoll::{Dialer, Listener};
use netpoll_hyper::client::Connector;
use netpoll_hyper::{Http, NetpollExecutor, PeerAddr};

type Client = legacy::Client<Connector, Incoming>;
type Body = BoxBody<Bytes, hyper::Error>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:7031".into());
    let origin = args.next().unwrap_or_else(|| "http://localhost:7030".into());

    let dialer = Dialer::builder().timeout(Duration::from_secs(2)).build()?;
    let client: Client = legacy::Client::builder(NetpollExecutor)
        .pool_max_idle_per_host(64)
        .build(Connector::new(dialer));
    let service = service(client, origin.parse()?);

    let listener = Listener::bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    Http::new()
        .header_read_timeout(Duration::from_secs(10))
        .peer_addr(true)
        .event_loop(service)
        .write_timeout(Duration::from_secs(30))
        .max_connections(1024)
        .build()?
        .serve(listener)?;
    Ok(())
}

/// What answers requests: a clone of it for each.
fn service(
    client: Client,
    origin: Uri,
) -> impl tower_service::Service<
    Request<Incoming>,
    Response = Response<Body>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ Sync
+ 'static {
    tower::service_fn(move |request| {
        let (client, origin) = (client.clone(), origin.clone());
        async move { Ok(pass_on(&client, &origin, request).await.unwrap_or_else(refusal)) }
    })
}

async fn pass_on(
    client: &Client,
    origin: &Uri,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, StatusCode> {
    let path = request.uri().path_and_query().map_or("/", |it| it.as_str());
    let target = Uri::builder()
        .scheme(origin.scheme_str().unwrap_or("http"))
        .authority(origin.authority().ok_or(StatusCode::BAD_GATEWAY)?.as_str())
        .path_and_query(path);
    *request.version_mut() = Version::HTTP_11; // the client may have spoken HTTP/2
    *request.uri_mut() = target.build().map_err(|_| StatusCode::BAD_REQUEST)?;
    let peer = request.extensions().get::<PeerAddr>().and_then(|PeerAddr(peer)| peer.ip());
    strip(request.headers_mut());
    request.headers_mut().remove(header::HOST); // the client sets that of the origin
    if let Some(Ok(peer)) = peer.map(|peer| HeaderValue::try_from(peer.to_string())) {
        request.headers_mut().insert("x-forwarded-for", peer);
    }
    let answer = timeout(Duration::from_secs(30), client.request(request)).await;
    let answer = answer.map_err(|_| StatusCode::GATEWAY_TIMEOUT)?;
    let mut answer = answer.map_err(|error| {
        eprintln!("{origin}: {error:?}");
        StatusCode::BAD_GATEWAY
    })?;
    strip(answer.headers_mut());
    Ok(answer.map(BodyExt::boxed))
}

fn refusal(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Empty::new().map_err(|never| match never {}).boxed());
    *answer.status_mut() = status;
    answer
}

/// Takes out the headers that are of one connection and not of the message.
fn strip(headers: &mut HeaderMap) {
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|it| it.to_str().ok());
    let named = named.flat_map(|it| it.split(',')).filter_map(|name| name.trim().parse().ok());
    let always = ["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"];
    let always = always.into_iter().chain(["transfer-encoding", "proxy-authorization"]);
    for name in named.chain(always.map(HeaderName::from_static)).collect::<Vec<_>>() {
        headers.remove(name);
    }
}
