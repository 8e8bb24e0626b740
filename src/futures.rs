//! Futures on the loops: connections that a future serves.
//!
//! ```no_run
//! use netpoll::futures::{AsyncConnection, serve_async};
//! use netpoll::{Listener, Result};
//!
//! async fn echo(mut conn: AsyncConnection) -> Result<()> {
//!     while let Some(bytes) = conn.read_bytes().await? {
//!         conn.write_bytes(bytes).await?;
//!     }
//!     Ok(())
//! }
//!
//! let listener = Listener::bind("tcp", "127.0.0.1:7777")?;
//! serve_async(echo).build()?.serve(listener)?;
//! # Ok::<(), netpoll::Error>(())
//! ```

pub use netpoll_async::*;
