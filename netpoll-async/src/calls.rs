//! Calls of a multiplexer as futures.

use std::time::Duration;

use netpoll_client::{Mux, MuxCall, MuxProtocol};
use netpoll_core::Result;

use crate::steps::Steps;

/// What this crate adds to a [`Mux`].
pub trait AsyncMux<P: MuxProtocol> {
    /// As [`Mux::call`], without a thread that waits: for the connection, for room in its output,
    /// or for the response. Dropping the future gives the call up: a request that has been sent is
    /// not taken back, its response is dropped when it comes, and counted as
    /// [`late`](netpoll_client::MuxStats::late).
    ///
    /// The calls of futures and of threads share the connections, and the bound on how many wait
    /// for a response. Any executor may poll it; the loop of the connection wakes the task. The
    /// request is sent at the first poll, and `encode` runs on the thread of that. A call costs
    /// three allocations beside those of [`Mux::call`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use netpoll_async::{AsyncMux, block_on};
    /// # use netpoll_buffer::LinkBuffer;
    /// # use netpoll_client::{Mux, MuxProtocol};
    /// # struct Lines;
    /// # impl MuxProtocol for Lines {
    /// #     type Request = &'static str;
    /// #     type Response = String;
    /// #     fn encode(&self, _: u32, _: &'static str, _: &mut LinkBuffer)
    /// #         -> netpoll_core::Result<()> { Ok(()) }
    /// #     fn decode(&self, _: &mut LinkBuffer)
    /// #         -> netpoll_core::Result<Option<(u32, String)>> { Ok(None) }
    /// # }
    /// # let server = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?.to_string();
    /// let mux = Mux::<Lines>::builder().build("tcp", &address, Lines)?;
    /// let answer = block_on(mux.call_async("question", Duration::from_millis(1)));
    /// assert!(answer.is_err(), "this server says nothing");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Mux::call`], but for that of a callback that must not wait.
    fn call_async(
        &self,
        request: P::Request,
        timeout: Duration,
    ) -> impl Future<Output = Result<P::Response>> + Send + use<P, Self>
    where
        P::Request: Send;
}

impl<P: MuxProtocol> AsyncMux<P> for Mux<P> {
    fn call_async(
        &self,
        request: P::Request,
        timeout: Duration,
    ) -> impl Future<Output = Result<P::Response>> + Send + use<P>
    where
        P::Request: Send,
    {
        let mux = self.clone();
        async move {
            let begin = |notify: &_| Ok(mux.begin_call(request, timeout, notify));
            Steps::<MuxCall<P>>::begin(begin)?.await
        }
    }
}
