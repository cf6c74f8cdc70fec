//! The file of a Unix socket: made with the right mode, in the place of a dead one, and removed at the end.

#![forbid(unsafe_code)]

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys;
use crate::timeout::sleep;

/// Who may connect: the owner of the file.
const MODE: u32 = 0o600;
/// As many consoles as anybody opens at once.
const BACKLOG: u32 = 16;

/// A socket's file, removed when this is dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// In the child of a fork the file is still the parent's.
    generation: u32,
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have put another one in its place.
        let is_ours = |file: fs::Metadata| file.dev() == self.device && file.ino() == self.inode;
        if self.generation == sys::fork::generation() && fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens at `path`, where there is nothing, or the socket of somebody who is dead.
pub(super) fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    // The working directory may change before the file is to be removed.
    let path = std::path::absolute(path)?;
    // Whether a socket is dead cannot be told from whether it is about to listen. So those who do this in one
    // directory do it one after the other.
    let _turn = path.parent().map(take_turn).transpose()?;
    remove_dead(&path)?;

    // Nobody can connect before `listen`, so it is enough to have the mode right by then. Linux makes the file with the
    // mode of the descriptor (less the umask), so there not even the file is ever open to others. The umask itself
    // belongs to the whole process: to change it would change the mode of files that other threads make meanwhile.
    let socket = File::from(sys::fd::unix_stream()?);
    // Not all systems can do this.
    let _ = socket.set_permissions(Permissions::from_mode(MODE));
    sys::fd::bind_unix(socket.as_fd(), &path).map_err(|error| explain(&path, &error))?;
    let made = fs::symlink_metadata(&path)?;
    let file =
        SocketFile { path, device: made.dev(), inode: made.ino(), generation: sys::fork::generation() };
    if made.permissions().mode() & 0o777 != MODE {
        fs::set_permissions(&file.path, Permissions::from_mode(MODE))?;
    }
    sys::fd::listen(socket.as_fd(), BACKLOG)?;
    Ok((OwnedFd::from(socket).into(), file))
}

/// Locks the directory, until the result is dropped. `None` where directories cannot be locked.
fn take_turn(directory: &Path) -> io::Result<Option<File>> {
    // One that may be written to, but not be read, is one of those.
    let Ok(opened) = File::open(directory) else { return Ok(None) };
    for _ in 0..100 {
        match opened.try_lock() {
            Ok(()) => return Ok(Some(opened)),
            Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(10)),
            Err(TryLockError::Error(_)) => return Ok(None),
        }
    }
    let text = format!("somebody has locked the directory {} for a second", directory.display());
    Err(io::Error::new(io::ErrorKind::WouldBlock, text))
}

/// Removes a socket that nobody listens at any more.
fn remove_dead(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(explain(path, &error)),
        Ok(file) if file.file_type().is_socket() => {}
        Ok(_) => {
            let text = "there is a file that is not a socket: remove it, or choose another path";
            return Err(explain(path, &io::Error::new(io::ErrorKind::AlreadyExists, text)));
        }
    }
    // mio's does not wait, also if the listener's queue is full.
    match mio::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let text = "there is a socket that this process may not connect to, so nobody knows whether it is dead: remove it, or choose another path";
            Err(explain(path, &io::Error::new(error.kind(), text)))
        }
        // What goes wrong otherwise does so since somebody is there.
        Ok(_) | Err(_) => {
            let text = "a process that lives listens there: stop it, or choose another path";
            Err(explain(path, &io::Error::new(io::ErrorKind::AddrInUse, text)))
        }
    }
}

fn explain(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("backdoor at {}: {error}", path.display()))
}
