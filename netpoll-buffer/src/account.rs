//! Accounts: how much memory a connection, or a group of them, is responsible for.

use std::fmt;

use bytes::Bytes;

use crate::ledger::{Handle, Ledger};

/// Counts the memory that one connection, or all connections together, are responsible for.
///
/// ```text
///   block a   block b            block c   Charge     each is charged to one account, until it
///       ╲       ╱                   ╲       ╱         is freed
///        ▼     ▼                     ▼     ▼
///     connection 1                connection 2        within(&all)
///                ╲                 ╱
///                 ▼               ▼
///                   all: all four
/// ```
///
/// A handle: clones are the same account, for any thread. What is charged keeps the account alive,
/// so the order in which both are dropped doesn't matter. An account sets no limit and refuses
/// nothing; it only counts.
///
/// To charge costs an atomic addition, and one more for each account further up; to release costs
/// the same. Threads that charge one account, or accounts within one, contend for a cache line: a
/// program with many threads should have an account for each thread, and add up what they hold.
///
/// ```
/// use netpoll_buffer::{Account, LinkBuffer};
///
/// let all = Account::new();
/// let account = Account::within(&all);
///
/// let mut input = LinkBuffer::new();
/// input.write_bytes(b"one, two");
/// input.flush();
/// let mut slice = input.slice(4)?;
/// slice.charge(&account);
/// assert_eq!((account.held(), all.held()), (4096, 4096)); // the block, not the 4 bytes
///
/// drop(input);
/// assert_eq!(account.held(), 4096);
/// drop(slice); // the last owner of the block
/// assert_eq!((account.held(), all.held()), (0, 0));
/// # Ok::<_, netpoll_buffer::Shortfall>(())
/// ```
#[derive(Clone)]
pub struct Account(Handle);

impl Account {
    /// An independent account with nothing charged. One small allocation.
    ///
    /// ```
    /// assert_eq!(netpoll_buffer::Account::new().held(), 0);
    /// ```
    pub fn new() -> Self {
        Self(Handle::new(None))
    }

    /// An account within `parent`: what is charged to it is also charged to `parent` and its
    /// parents.
    ///
    /// ```
    /// # use netpoll_buffer::Account;
    /// let all = Account::new();
    /// let one = Account::within(&all).charge(100);
    /// let other = Account::within(&all).charge(20);
    /// assert_eq!(all.held(), 120);
    /// ```
    pub fn within(parent: &Self) -> Self {
        Self(Handle::new(Some(parent.0.clone())))
    }

    /// Whether it is [within](Self::within) another.
    ///
    /// ```
    /// # use netpoll_buffer::Account;
    /// let all = Account::new();
    /// assert!(Account::within(&all).is_within());
    /// assert!(!all.is_within());
    /// ```
    #[inline]
    pub fn is_within(&self) -> bool {
        self.0.parent().is_some()
    }

    /// How many bytes are charged to this account now.
    ///
    /// Two loads. While other threads charge or release, the figure may be a moment old, and that
    /// of a parent a moment behind its children's.
    ///
    /// ```
    /// # use netpoll_buffer::{Account, LinkBuffer};
    /// let account = Account::new();
    /// let mut buffer = LinkBuffer::new();
    /// buffer.malloc(100_000);
    /// buffer.charge(&account);
    /// assert_eq!(account.held(), 256 << 10); // the smallest block with so much
    /// ```
    #[inline]
    pub fn held(&self) -> usize {
        self.0.held()
    }

    /// Charges `bytes` that don't lie in a block of this crate, until the [`Charge`] is dropped.
    ///
    /// ```
    /// # use netpoll_buffer::Account;
    /// let account = Account::new();
    /// let charge = account.charge(1000);
    /// assert_eq!(account.held(), 1000);
    /// drop(charge);
    /// assert_eq!(account.held(), 0);
    /// ```
    pub fn charge(&self, bytes: usize) -> Charge {
        self.0.add_others(bytes);
        Charge { account: self.clone(), bytes }
    }

    #[inline]
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.0
    }

    /// Whether this is its last handle, and nothing is charged.
    #[cfg(test)]
    pub(crate) fn is_alone(&self) -> bool {
        self.0.is_alone()
    }

    /// Charges memory for as long as it is read.
    pub(crate) fn keep(&self, memory: Vec<u8>) -> Bytes {
        let charge = self.charge(memory.len());
        Bytes::from_owner(Kept { memory, _charge: charge })
    }
}

impl Default for Account {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut account = f.debug_struct("Account");
        account.field("held", &self.held());
        if let Some(parent) = self.0.parent() {
            account.field("within", &Self(parent.clone()));
        }
        account.finish()
    }
}

/// Bytes charged to an [`Account`], which are released when this is dropped.
///
/// ```
/// # use netpoll_buffer::Account;
/// struct Message {
///     text: String,
///     charge: netpoll_buffer::Charge,
/// }
///
/// let account = Account::new();
/// let message = Message { text: "hello".to_owned(), charge: account.charge(5) };
/// assert_eq!(account.held(), 5);
/// drop(message);
/// assert_eq!(account.held(), 0);
/// ```
#[derive(Debug)]
#[must_use = "dropping it releases what was charged"]
pub struct Charge {
    account: Account,
    bytes: usize,
}

impl Charge {
    /// How many bytes are charged.
    ///
    /// ```
    /// # use netpoll_buffer::Account;
    /// assert_eq!(Account::new().charge(1000).bytes(), 1000);
    /// ```
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes how many bytes are charged. Costs an addition for each account, none if nothing
    /// changes.
    ///
    /// ```
    /// # use netpoll_buffer::Account;
    /// let account = Account::new();
    /// let mut charge = account.charge(1000);
    /// charge.resize(300);
    /// assert_eq!(account.held(), 300);
    /// ```
    pub fn resize(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.account.0.add_others(bytes - self.bytes);
        } else if bytes < self.bytes {
            self.account.0.remove_others(self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.0.remove_others(self.bytes);
    }
}

/// Charged memory. The fields are dropped in this order: first freed, then released.
struct Kept {
    memory: Vec<u8>,
    _charge: Charge,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}
