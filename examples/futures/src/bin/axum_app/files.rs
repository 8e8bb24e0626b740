//! The files below a directory, read by the handler itself, a piece at a time.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

const PIECE: usize = 64 << 10;

pub(crate) struct Files {
    root: PathBuf,
}

impl Files {
    pub(crate) fn below(directory: impl Into<PathBuf>) -> io::Result<Self> {
        Ok(Self { root: directory.into().canonicalize()? })
    }

    /// The file, if it lies below the root, wherever links lead.
    fn open(&self, path: &str) -> io::Result<(File, u64)> {
        let path = self.root.join(path).canonicalize()?;
        if !path.starts_with(&self.root) || !path.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }
}

pub(crate) async fn send(State(files): State<Arc<Files>>, Path(path): Path<String>) -> Response {
    let Ok((file, length)) = files.open(&path) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    // A piece is read when the client has taken the one before.
    let pieces = stream::try_unfold(file, |mut file| async {
        let mut piece = vec![0; PIECE];
        let length = file.read(&mut piece)?;
        piece.truncate(length);
        io::Result::Ok((length > 0).then_some((Bytes::from(piece), file)))
    });
    ([(header::CONTENT_LENGTH, length)], Body::from_stream(pieces)).into_response()
}
