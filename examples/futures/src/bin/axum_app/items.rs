//! Items in SQLite, which is called right in the handlers: where it waits for its disk, another
//! thread goes on with the loop.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};

/// Connections to the database that no request uses now.
pub(crate) struct Items {
    path: String,
    idle: Mutex<Vec<Connection>>,
}

#[derive(Serialize)]
pub(crate) struct Item {
    id: i64,
    name: String,
}

#[derive(Deserialize)]
pub(crate) struct NewItem {
    name: String,
}

type Shared = State<Arc<Items>>;
type Answer<T> = Result<T, StatusCode>;

pub(crate) async fn list(State(items): Shared) -> Answer<Json<Vec<Item>>> {
    items.query(|it| {
        let mut statement =
            it.prepare_cached("SELECT id, name FROM items ORDER BY id LIMIT 100")?;
        statement.query_map([], item)?.collect::<Result<_, _>>().map(Json)
    })
}

pub(crate) async fn one(State(items): Shared, Path(id): Path<i64>) -> Answer<Json<Item>> {
    let found = items.query(|it| {
        let mut statement = it.prepare_cached("SELECT id, name FROM items WHERE id = ?1")?;
        statement.query_row([id], item).optional()
    })?;
    found.map(Json).ok_or(StatusCode::NOT_FOUND)
}

pub(crate) async fn add(
    State(items): Shared,
    Json(NewItem { name }): Json<NewItem>,
) -> Answer<(StatusCode, Json<Item>)> {
    let id = items
        .query(|it| it.prepare_cached("INSERT INTO items (name) VALUES (?1)")?.insert([&name]))?;
    Ok((StatusCode::CREATED, Json(Item { id, name })))
}

pub(crate) async fn remove(State(items): Shared, Path(id): Path<i64>) -> Answer<StatusCode> {
    let removed = items.query(|it| it.execute("DELETE FROM items WHERE id = ?1", [id]))?;
    if removed == 0 { Err(StatusCode::NOT_FOUND) } else { Ok(StatusCode::NO_CONTENT) }
}

fn item(row: &rusqlite::Row<'_>) -> rusqlite::Result<Item> {
    Ok(Item { id: row.get(0)?, name: row.get(1)? })
}

impl Items {
    pub(crate) fn open(path: String) -> rusqlite::Result<Self> {
        let connection = connect(&path)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY, name TEXT NOT NULL);",
        )?;
        Ok(Self { path, idle: Mutex::new(vec![connection]) })
    }

    /// Runs `query` on a connection of its own, a new one if all are in use.
    fn query<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Answer<T> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let outcome = kept.map_or_else(|| connect(&self.path), Ok).and_then(|connection| {
            let found = query(&connection)?;
            idle().push(connection);
            Ok(found)
        });
        outcome.map_err(|error| {
            eprintln!("SQLite: {error}");
            StatusCode::INTERNAL_SERVER_ERROR
        })
    }
}

fn connect(path: &str) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(connection)
}
