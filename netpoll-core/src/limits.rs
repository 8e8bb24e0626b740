//! The limits of a connection: data, each with a unit and a default, checked once.

use std::time::Duration;

use crate::error::{Error, Result};

/// The limits of a connection.
///
/// ```
/// use netpoll_core::Limits;
/// let limits = Limits { input_limit: 64 << 10, ..Limits::default() };
/// assert!(limits.validate().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long one read waits for all the bytes that it asked for. `None`, the default: for ever.
    pub read_timeout: Option<Duration>,
    /// How long one flush above the high-water mark waits for the peer to take bytes. Default 60
    /// s: peers that never read would otherwise hold the workers that serve them for ever.
    /// `None` is for ever. Under `Dispatch::Inline` no flush waits.
    pub write_timeout: Option<Duration>,
    /// Bytes that may be buffered unread; beyond them the kernel's receive window fills and the
    /// peer waits. Default 1 MiB: larger than most messages, and 10 000 connections that all
    /// fill it still fit a server's memory. It also bounds what one read may ask for.
    pub input_limit: usize,
    /// The water marks of the output queue.
    pub output: OutputLimits,
    /// How long an orderly close may take to send what was accepted. Default 10 s.
    pub linger: Duration,
}

/// The water marks of a connection's output queue, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimits {
    /// Below this, those who wait above `high` go on. Default 256 KiB.
    pub low: usize,
    /// Above this, a flush waits, `Handle::send` refuses, and no more is read from the peer.
    /// Default 1 MiB.
    pub high: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            read_timeout: None,
            write_timeout: Some(Duration::from_secs(60)),
            input_limit: 1 << 20,
            output: OutputLimits { low: 256 << 10, high: 1 << 20 },
            linger: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// Checks every limit.
    ///
    /// # Errors
    /// [`Error::Config`], one sentence that names the first option that can't be used.
    pub fn validate(&self) -> Result<()> {
        not_zero("read_timeout", self.read_timeout)?;
        not_zero("write_timeout", self.write_timeout)?;
        if self.input_limit == 0 {
            return Err(Error::config("input_limit is 0 bytes, so nothing could ever be read"));
        }
        let OutputLimits { low, high } = self.output;
        if high == 0 || low >= high {
            return Err(Error::config(format!(
                "output_limits are low {low} and high {high} bytes, but low must be less than high"
            )));
        }
        Ok(())
    }
}

fn not_zero(name: &str, timeout: Option<Duration>) -> Result<()> {
    if timeout == Some(Duration::ZERO) {
        return Err(Error::config(format!(
            "{name} is 0, so every wait would fail; None is for ever"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(limits: Limits) -> String {
        limits.validate().expect_err("options that can't be used").to_string()
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let good = Limits::default();
        assert!(good.validate().is_ok());
        assert!(complaint(Limits { input_limit: 0, ..good }).contains("input_limit"));
        let zero = Some(Duration::ZERO);
        assert!(complaint(Limits { read_timeout: zero, ..good }).contains("read_timeout"));
        assert!(complaint(Limits { write_timeout: zero, ..good }).contains("write_timeout"));
        let output = OutputLimits { low: 2, high: 2 };
        assert!(complaint(Limits { output, ..good }).contains("output_limits"));
    }
}
