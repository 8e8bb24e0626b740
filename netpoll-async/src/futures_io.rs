//! The traits of the crate `futures-io`, for libraries that ask for them.
//!
//! `poll_close` is [`shutdown`](AsyncConnection::shutdown): it ends this side's stream.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_io::{AsyncBufRead, AsyncRead, AsyncWrite};

use crate::connection::AsyncConnection;
use crate::halves::{AsyncReadHalf, AsyncWriteHalf};

impl AsyncRead for AsyncReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<Result<usize>> {
        Self::poll_read(self.get_mut(), context, out).map_err(Into::into)
    }
}

impl AsyncBufRead for AsyncReadHalf {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<&[u8]>> {
        Self::poll_fill_buf(self.get_mut(), context).map_err(Into::into)
    }

    fn consume(self: Pin<&mut Self>, n: usize) {
        Self::consume(self.get_mut(), n);
    }
}

impl AsyncWrite for AsyncWriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        Self::poll_write(self.get_mut(), context, bytes).map_err(Into::into)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Self::poll_write_vectored(self.get_mut(), context, pieces).map_err(Into::into)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Self::poll_flush(self.get_mut(), context).map_err(Into::into)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Self::poll_shutdown(self.get_mut(), context).map_err(Into::into)
    }
}

impl AsyncRead for AsyncConnection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<Result<usize>> {
        AsyncRead::poll_read(Pin::new(&mut self.get_mut().read), context, out)
    }
}

impl AsyncBufRead for AsyncConnection {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<&[u8]>> {
        AsyncBufRead::poll_fill_buf(Pin::new(&mut self.get_mut().read), context)
    }

    fn consume(self: Pin<&mut Self>, n: usize) {
        Self::consume(self.get_mut(), n);
    }
}

impl AsyncWrite for AsyncConnection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.get_mut().write), context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        AsyncWrite::poll_write_vectored(Pin::new(&mut self.get_mut().write), context, pieces)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.get_mut().write), context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        AsyncWrite::poll_close(Pin::new(&mut self.get_mut().write), context)
    }
}
