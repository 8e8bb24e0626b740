//! What the web servers on tokio and on netpoll serve alike: `/plaintext`, 1 KiB of `/json`,
//! `/block`, of which a share sleeps, and `/sqlite`, a short query. On hyper by hand, or by a
//! `Router` of axum.

use std::convert::Infallible;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::get;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use rusqlite::Connection;
use serde::Serialize;

/// How long a request of `/block` sleeps, if it does.
const PAUSE: Duration = Duration::from_millis(1);
/// Rows that `/sqlite` chooses from.
const ROWS: i64 = 1_000;

/// Where code that may block runs.
pub trait Blocking: Clone + Send + Sync + 'static {
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send;
}

/// In the handler, as it is.
#[derive(Clone)]
pub struct Naive;

impl Blocking for Naive {
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        work()
    }
}

/// What the handlers share.
pub struct Site<B> {
    blocking: B,
    percent: u64,
    requests: AtomicU64,
    database: Arc<Database>,
}

impl<B: Blocking> Site<B> {
    /// `percent` of the requests of `/block` sleep; `database` is made if it is not there.
    pub fn new(blocking: B, percent: usize, database: &Path) -> Arc<Self> {
        let database = Arc::new(Database::open(database));
        let (percent, requests) = (percent as u64, AtomicU64::new(0));
        Arc::new(Self { blocking, percent, requests, database })
    }

    /// Answers by hyper alone.
    pub async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let body = match request.uri().path() {
            "/plaintext" => Bytes::from_static(b"Hello, World!"),
            "/json" => return Ok(json()),
            "/block" => Bytes::from_static(self.block().await.as_bytes()),
            "/sqlite" => self.query().await.into(),
            _ => {
                let mut missing = Response::new(Full::new(Bytes::new()));
                *missing.status_mut() = StatusCode::NOT_FOUND;
                return Ok(missing);
            }
        };
        let mut answer = Response::new(Full::new(body));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(answer)
    }

    /// The same as a router of axum.
    pub fn router(self: Arc<Self>) -> Router {
        let (block, query) = (self.clone(), self);
        Router::new()
            .route("/plaintext", get(|| async { "Hello, World!" }))
            .route("/json", get(|| async { json().map(Body::new).into_response() }))
            .route("/block", get(async move || block.block().await))
            .route("/sqlite", get(async move || query.query().await))
    }

    async fn block(&self) -> &'static str {
        // Spreads the share evenly: 7 919 has no common factor with 100.
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        if number.wrapping_mul(7_919) % 100 < self.percent {
            // sleep: it stands for what blocks
            self.blocking.run(|| std::thread::sleep(PAUSE)).await;
        }
        "done"
    }

    async fn query(&self) -> String {
        let id = 1 + self.requests.fetch_add(1, Ordering::Relaxed) as i64 % ROWS;
        let database = self.database.clone();
        self.blocking.run(move || database.value(id)).await
    }
}

#[derive(Serialize)]
struct Item {
    id: u32,
    name: &'static str,
    price: f64,
    tags: [&'static str; 3],
}

/// 12 items, about 1 KiB.
fn json() -> Response<Full<Bytes>> {
    let tags = ["new", "red", "big"];
    let item = |id| Item { id, name: "a thing of some kind", price: 9.75, tags };
    let items: [Item; 12] = std::array::from_fn(|id| item(id as u32));
    let text = serde_json::to_vec(&items).expect("it has no map");
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Connections to SQLite that nobody uses now, as a pool of r2d2 would keep them.
struct Database {
    path: std::path::PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Database {
    fn open(path: &Path) -> Self {
        let connection = Connection::open(path).expect("a database");
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = OFF;
                 CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY, value TEXT NOT NULL);",
            )
            .expect("a table");
        for id in 1..=ROWS {
            let row = (id, format!("value {id}"));
            connection.execute("INSERT OR REPLACE INTO items VALUES (?1, ?2)", row).expect("a row");
        }
        Self { path: path.to_owned(), idle: Mutex::new(vec![connection]) }
    }

    fn value(&self, id: i64) -> String {
        let idle = self.idle.lock().expect("no query panics").pop();
        let connection = idle.unwrap_or_else(|| Connection::open(&self.path).expect("a database"));
        let value = {
            let statement = connection.prepare_cached("SELECT value FROM items WHERE id = ?1");
            statement.and_then(|mut it| it.query_row([id], |row| row.get(0))).expect("a row")
        };
        self.idle.lock().expect("no query panics").push(connection);
        value
    }
}
