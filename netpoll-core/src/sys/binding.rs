//! What binds a socket, of streams or of datagrams: its options up to there, and the file of a Unix
//! socket.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::fs::MetadataExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::libc;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::base::address::Address;

/// The options that any socket gets before it is bound. `ListenOptions` and `DatagramOptions`
/// document each.
#[derive(Clone, Default)]
#[expect(missing_docs, reason = "the options of netpoll-server document each, with defaults")]
pub struct BindOptions {
    pub reuse_address: bool,
    pub reuse_port: bool,
    pub only_v6: Option<bool>,
    pub freebind: bool,
    pub receive_buffer: Option<usize>,
    pub send_buffer: Option<usize>,
    pub device: Option<String>,
    pub mode: Option<u32>,
    pub before_bind: Option<Arc<BeforeBind>>,
}

/// A function that is given the raw socket before it is bound.
pub type BeforeBind = dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync;

impl fmt::Debug for BindOptions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("BindOptions")
            .field("reuse_address", &self.reuse_address)
            .field("reuse_port", &self.reuse_port)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// Sets what only a socket of the internet has.
pub(super) fn prepare_inet(
    socket: &Socket,
    domain: Domain,
    options: &BindOptions,
) -> io::Result<()> {
    socket.set_reuse_address(options.reuse_address)?;
    socket.set_reuse_port(options.reuse_port)?;
    if let (Some(only), Domain::IPV6) = (options.only_v6, domain) {
        socket.set_only_v6(only)?;
    }
    if options.freebind {
        match domain {
            Domain::IPV6 => socket.set_freebind_v6(true)?,
            _ => socket.set_freebind_v4(true)?,
        }
    }
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    Ok(())
}

/// Sets what each socket has, and calls the user's function, which comes last.
pub(super) fn prepare(socket: &Socket, options: &BindOptions) -> io::Result<()> {
    if let Some(bytes) = options.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    match &options.before_bind {
        Some(hook) => hook(socket.as_fd()),
        None => Ok(()),
    }
}

/// Binds a socket.
pub(super) fn bind(socket: &Socket, address: &Address) -> io::Result<()> {
    match address {
        Address::Inet(inet) => socket.bind(&SockAddr::from(*inet)),
        Address::Path(path) => bind_path(socket, path),
        Address::Abstract(_) => socket.bind(&raw_address(address)?),
        Address::Unnamed => Err(ErrorKind::AddrNotAvailable.into()),
    }
}

/// An address as the system has it.
pub(super) fn raw_address(address: &Address) -> io::Result<SockAddr> {
    match address {
        Address::Inet(inet) => Ok(SockAddr::from(*inet)),
        Address::Path(path) => SockAddr::unix(path),
        Address::Abstract(name) => {
            let zero_first = [b"\0", &name[..]].concat();
            SockAddr::unix(Path::new(std::ffi::OsStr::from_bytes(&zero_first)))
        }
        Address::Unnamed => Err(ErrorKind::InvalidInput.into()),
    }
}

/// Whether a path is of a socket behind which no process listens any more.
pub(crate) fn is_dead_socket(path: &Path) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    // A listener with a full queue answers EAGAIN, and a socket of datagrams EPROTOTYPE, so they
    // live. One that we may not reach may live too.
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    let answer = socket.connect(&SockAddr::unix(path)?);
    Ok(answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
}

/// Removes the file at a path if it is still that one; says whether it was.
pub(crate) fn remove_own(path: &Path, own: (u64, u64)) -> io::Result<bool> {
    let is_own = identity(path).is_ok_and(|it| it == own);
    if is_own {
        fs::remove_file(path)?;
    }
    Ok(is_own)
}

/// Says which file a path is: device and inode.
pub(crate) fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.st_dev(), file.st_ino()))
}

/// Binds to a path. A socket that stands there already is removed if no process listens behind it
/// any more; no other file is ever removed.
fn bind_path(socket: &Socket, path: &Path) -> io::Result<()> {
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
        other => return other,
    }
    // Held open, so that no other socket has its inode before it is removed.
    let held =
        OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)?;
    let file = held.metadata()?;
    let dead = (file.st_dev(), file.st_ino());
    if !is_dead_socket(path)? || identity(path)? != dead {
        return Err(ErrorKind::AddrInUse.into());
    }
    remove(path, dead)?;
    socket.bind(&address)
}

/// Removes the dead socket `dead` from its path. Another server may have taken the path since the
/// socket was found dead. So the file is moved aside first, and looked at where no other file can
/// replace it; if it is another one, it is put back.
fn remove(path: &Path, dead: (u64, u64)) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".dead-{}-{}", std::process::id(), super::thread::thread_number()));
    let aside = PathBuf::from(aside);
    fs::rename(path, &aside)?;
    if identity(&aside).is_ok_and(|it| it == dead) {
        return fs::remove_file(&aside);
    }
    // A link fails if a third file has come meanwhile, so it overwrites none.
    fs::hard_link(&aside, path)?;
    fs::remove_file(&aside)?;
    Err(ErrorKind::AddrInUse.into())
}
