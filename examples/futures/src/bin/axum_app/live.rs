//! Answers that go on: events for a page, and a WebSocket that sends back what it gets.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::OnUpgrade;
use netpoll::futures::{sleep, spawn};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// One event a second, until the client leaves.
pub(crate) async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::unfold(0_u64, |count| async move {
        if count > 0 {
            sleep(Duration::from_secs(1)).await;
        }
        Some((Ok(Event::default().data(count.to_string())), count + 1))
    }))
}

/// Switches to a WebSocket. axum's own extractor would spawn on tokio.
pub(crate) async fn echo(mut request: Request) -> Response {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
    let Ok(accept) = accept else { return StatusCode::BAD_REQUEST.into_response() };
    spawn(talk(hyper::upgrade::on(&mut request))).detach();
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
}

async fn talk(upgrade: OnUpgrade) {
    let Ok(upgraded) = upgrade.await else { return };
    let Ok(parts) = upgraded.downcast::<netpoll_hyper::NetpollIo>() else { return };
    let limits = WebSocketConfig::default().max_message_size(Some(1 << 20));
    let connection = parts.io.into_inner();
    let early = parts.read_buf.to_vec();
    let socket =
        WebSocketStream::from_partially_read(connection, early, Role::Server, Some(limits)).await;
    let (mut answers, mut messages) = socket.split();
    while let Some(Ok(message)) = messages.next().await {
        let is_for_the_client = message.is_text() || message.is_binary();
        if is_for_the_client && answers.send(message).await.is_err() {
            return;
        }
    }
}
