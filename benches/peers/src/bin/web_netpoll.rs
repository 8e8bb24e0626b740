//! hyper and axum on netpoll: `--stack hyper|axum`, `--dispatch hand-off|inline|pool`. `--percent`
//! of the requests of `/block` sleep in the handler. HTTP/1 and HTTP/2 on one port.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, Response};
use netpoll::{Dispatch, EventLoopBuilder, Listener};
use netpoll_hyper::Http;
use netpoll_peers::Arguments;
use netpoll_peers::web::{Naive, Site};
use tower::service_fn;

fn main() -> netpoll::Result<()> {
    let arguments = Arguments::read(&["--stack", "--dispatch", "--percent", "--database"]);
    let database = arguments.option("--database").unwrap_or("/tmp/web-netpoll.sqlite");
    let site = Site::new(Naive, arguments.number("--percent", 0), database.as_ref());
    let listener = Listener::from(arguments.listen());
    match arguments.choice("--stack", &[("hyper", false), ("axum", true)]) {
        true => run(&arguments, Http::new().event_loop(site.router()), listener),
        false => run(&arguments, Http::new().event_loop(by_hyper(site)), listener),
    }
}

fn by_hyper(
    site: Arc<Site<Naive>>,
) -> impl tower::Service<
    Request<Incoming>,
    Response = Response<http_body_util::Full<hyper::body::Bytes>>,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone
+ Send
+ Sync
+ 'static {
    service_fn(move |request| site.clone().answer(request))
}

fn run<S: Send + 'static>(
    arguments: &Arguments,
    event_loop: EventLoopBuilder<S>,
    listener: Listener,
) -> netpoll::Result<()> {
    let ways = [
        ("hand-off", Dispatch::default()),
        ("inline", Dispatch::Inline),
        ("pool", Dispatch::Pool(Default::default())),
    ];
    let dispatch = arguments.choice("--dispatch", &ways);
    event_loop.loops(arguments.threads).dispatch(dispatch).build()?.serve(listener)?;
    Ok(())
}
