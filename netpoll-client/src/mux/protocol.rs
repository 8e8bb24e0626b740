//! What a multiplexer must know of a protocol.

use netpoll_buffer::LinkBuffer;
use netpoll_core::Result;

/// How requests and responses are written on the wire: all that a [`Mux`](crate::Mux) must know of
/// a protocol.
///
/// ```
/// use netpoll_buffer::LinkBuffer;
/// use netpoll_client::MuxProtocol;
/// use netpoll_core::Result;
///
/// /// Four bytes of length, four of id, and the rest.
/// struct Frames;
///
/// impl MuxProtocol for Frames {
///     type Request = Vec<u8>;
///     type Response = Vec<u8>;
///
///     fn encode(&self, id: u32, body: Vec<u8>, out: &mut LinkBuffer) -> Result<()> {
///         out.write_bytes(&(body.len() as u32 + 4).to_be_bytes());
///         out.write_bytes(&id.to_be_bytes());
///         out.write_bytes(&body);
///         Ok(())
///     }
///
///     fn decode(&self, input: &mut LinkBuffer) -> Result<Option<(u32, Vec<u8>)>> {
///         let Ok(head) = input.peek(8) else { return Ok(None) };
///         let number = |four: &[u8]| u32::from_be_bytes(four.try_into().expect("four bytes"));
///         let (len, id) = (number(&head[..4]) as usize, number(&head[4..]));
///         if !(4..1 << 20).contains(&len) {
///             return Err(std::io::Error::from(std::io::ErrorKind::InvalidData).into());
///         }
///         if input.len() < 4 + len {
///             return Ok(None);
///         }
///         input.consume(8);
///         let body = input.next(len - 4).map_err(std::io::Error::from)?;
///         Ok(Some((id, body.to_vec())))
///     }
/// }
/// ```
pub trait MuxProtocol: Send + Sync + 'static {
    /// What is sent.
    type Request;
    /// What comes back.
    type Response: Send + 'static;

    /// Writes a request with this id to `out`, which is empty. It runs on the calling thread.
    ///
    /// # Errors
    /// Any; the call fails with it, and nothing is sent.
    fn encode(&self, id: u32, request: Self::Request, out: &mut LinkBuffer) -> Result<()>;

    /// Takes the next whole response out of `input`, with the id of its request. While the response
    /// is not whole, it takes nothing and returns `None`. It runs on the reactor's thread and must
    /// not block there. If it returns a response and has taken no byte, the connection ends with an
    /// error.
    ///
    /// # Errors
    /// Any, for input that makes no sense: the connection is closed, and all its calls fail with
    /// it. That should include a response with a length above what is allowed: a response larger
    /// than [`Limits::input_limit`](netpoll_core::Limits) never becomes whole.
    fn decode(&self, input: &mut LinkBuffer) -> Result<Option<(u32, Self::Response)>>;
}
