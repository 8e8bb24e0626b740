//! Memory that the program owns and gets back.

use bytes::Bytes;

/// Makes [`Bytes`] of memory, and calls `release` with it when nothing reads it any more.
///
/// For [`LinkBuffer::write_shared`](crate::LinkBuffer::write_shared), when the memory has to go
/// back to an arena, a mapping or another language. `release` is called once, on the thread that
/// drops the last reference, and gets the memory back. One allocation, no copy. Where nothing has
/// to be released, use `Bytes::from(vec)`, `Bytes::from_static` or [`Bytes::from_owner`].
///
/// ```
/// use netpoll_buffer::{LinkBuffer, released};
///
/// let (give_back, given_back) = std::sync::mpsc::channel();
/// let mut buffer = LinkBuffer::new();
/// buffer.write_shared(released(vec![7; 5000], move |memory| give_back.send(memory).unwrap()));
/// buffer.flush();
/// assert!(given_back.try_recv().is_err());
///
/// buffer.consume(5000); // sent
/// assert_eq!(given_back.try_recv().unwrap().len(), 5000);
/// ```
pub fn released<M, F>(memory: M, release: F) -> Bytes
where
    M: AsRef<[u8]> + Send + 'static,
    F: FnOnce(M) + Send + 'static,
{
    Bytes::from_owner(Foreign { owner: Some((memory, release)) })
}

struct Foreign<M, F: FnOnce(M)> {
    /// `None` only while it is dropped.
    owner: Option<(M, F)>,
}

impl<M: AsRef<[u8]>, F: FnOnce(M)> AsRef<[u8]> for Foreign<M, F> {
    fn as_ref(&self) -> &[u8] {
        self.owner.as_ref().map_or(&[], |(memory, _)| memory.as_ref())
    }
}

impl<M, F: FnOnce(M)> Drop for Foreign<M, F> {
    fn drop(&mut self) {
        if let Some((memory, release)) = self.owner.take() {
            release(memory);
        }
    }
}
