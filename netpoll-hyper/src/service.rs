//! From a `tower_service::Service` to what hyper calls.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use netpoll_core::Address;
use pin_project_lite::pin_project;
use tower_service::Service;

/// Any error of a service or of a body.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The client's address, which [`Http::peer_addr`](crate::Http::peer_addr) adds to the extensions
/// of each request. In axum it is the extractor `Extension<PeerAddr>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddr(pub Address);

/// The service of one connection. Each request has a clone of `service`, waits until it is ready,
/// and calls it.
pub(crate) fn of_connection<S, B>(
    service: S,
    peer: Option<PeerAddr>,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response<B>,
    Error = BoxError,
    Future = Answer<S>,
>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body,
{
    service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        Answer::of(service.clone(), request)
    })
}

pin_project! {
    /// The answer to one request. Most services are always ready: then this is nothing but their
    /// future, and no request is moved once more.
    #[project = AnswerState]
    pub(crate) enum Answer<S: Service<Request<Incoming>>> {
        Called { #[pin] future: S::Future },
        Waits { future: BoxedAnswer<S> },
        Failed { error: Option<BoxError> },
    }
}

type Outcome<S> = Result<<S as Service<Request<Incoming>>>::Response, BoxError>;
type BoxedAnswer<S> = Pin<Box<dyn Future<Output = Outcome<S>> + Send>>;

impl<S> Answer<S>
where
    S: Service<Request<Incoming>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
{
    fn of(mut service: S, request: Request<Incoming>) -> Self {
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Self::Called { future: service.call(request) },
            Poll::Ready(Err(error)) => Self::Failed { error: Some(error.into()) },
            Poll::Pending => Self::Waits {
                future: Box::pin(async move {
                    poll_fn(|context| service.poll_ready(context)).await.map_err(Into::into)?;
                    service.call(request).await.map_err(Into::into)
                }),
            },
        }
    }
}

impl<S> Future for Answer<S>
where
    S: Service<Request<Incoming>>,
    S::Error: Into<BoxError>,
{
    type Output = Outcome<S>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AnswerState::Called { future } => future.poll(context).map_err(Into::into),
            AnswerState::Waits { future } => future.as_mut().poll(context),
            AnswerState::Failed { error } => match error.take() {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            },
        }
    }
}
