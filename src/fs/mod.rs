//! Files and directories: the functions and types of [`std::fs`], which let other greenlets run while the disk works.
//!
//! No system tells when a regular file is "ready": it always is, and yet a read may wait for a disk or for a server far
//! away. So each call is a job on a thread of [the pool of the process](crate::threadpool::global), and the greenlet
//! waits for it. Signatures, errors and everything else are std's, so porting is changing a `use`.
//!
//! ```
//! use std::io::{Read, Seek, Write};
//! use switchgrass::fs;
//!
//! let path = std::env::temp_dir().join(format!("switchgrass-doc-{}", std::process::id()));
//! let mut file = fs::File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
//! file.write_all(b"grass")?;
//! file.rewind()?;
//! let mut text = String::new();
//! file.read_to_string(&mut text)?;
//! assert_eq!(text, "grass");
//! assert_eq!(fs::read(&path)?, b"grass");
//! fs::remove_file(&path)?;
//! # std::io::Result::Ok(())
//! ```
//!
//! All functions here may switch to other greenlets. In a destructor that runs while its greenlet
//! unwinds, they block the OS thread.
//!
//! # What it costs
//!
//! A job is a hand-over to another thread and back. A [`read`] of 4 KiB that the system has in memory takes **3 to
//! 7 times as long as std's** (20 to 35 µs instead of 5), of a megabyte 1.3 times (`file_read` in
//! `benches/work.rs`). So where files are small and surely in memory, [`std::fs`] within a greenlet is the better
//! choice: it holds the others up for microseconds. This module is for what may take long: network file systems,
//! slow disks, much data, `fsync`. Read and write in large pieces ([`read`], [`write`](write()),
//! [`BufReader`](std::io::BufReader)), since each piece is a job.
//!
//! # Kill and timeout
//!
//! A greenlet that is killed or runs out of time abandons its call. One that has not begun is taken back; one that has
//! goes on on its thread: the file is written or removed all the same, a read moves the cursor of its file. Data goes
//! through a buffer that belongs to the job, so an abandoned read never writes into memory that is gone (at the price
//! of a copy, which is small beside the hand-over. Waiting for the read instead would make a greenlet that reads from a
//! dead file server impossible to kill).

#![forbid(unsafe_code)]

mod dir;
mod file;

use std::io;
use std::path::{Path, PathBuf};

pub use std::fs::{FileTimes, FileType, Metadata, Permissions};

pub use self::dir::{DirBuilder, DirEntry, ReadDir, read_dir};
pub use self::file::{File, OpenOptions};
use crate::task::Reason;
use crate::threadpool::unblock_for;

/// Runs a function of std's on paths of its own.
macro_rules! in_the_pool {
    ($($(#[$doc:meta])* $name:ident($($path:ident),+ $(; $other:ident: $type:ty)?) -> $result:ty;)*) => {$(
        $(#[$doc])*
        ///
        /// May switch to other greenlets.
        ///
        /// # Errors
        ///
        #[doc = concat!("As [`std::fs::", stringify!($name), "`].")]
        pub fn $name($($path: impl AsRef<Path>),+ $(, $other: $type)?) -> io::Result<$result> {
            $(let $path: PathBuf = $path.as_ref().to_owned();)+
            unblock_for(Reason::new(concat!("fs::", stringify!($name))), move || std::fs::$name($($path),+ $(, $other)?))
        }
    )*};
}

in_the_pool! {
    /// The whole content of a file.
    read(path) -> Vec<u8>;
    /// The whole content of a file, which must be UTF-8.
    read_to_string(path) -> String;
    /// Copies the content and the permissions of one file to another, and gives the number of bytes.
    copy(from, to) -> u64;
    /// Renames a file or directory, in place of one that may be there.
    rename(from, to) -> ();
    /// Removes a file.
    remove_file(path) -> ();
    /// Makes a directory.
    create_dir(path) -> ();
    /// Makes a directory, and those above it that are missing.
    create_dir_all(path) -> ();
    /// Removes an empty directory.
    remove_dir(path) -> ();
    /// Removes a directory with all that is in it. Follows no symbolic links.
    remove_dir_all(path) -> ();
    /// What the system knows about a file, following symbolic links.
    metadata(path) -> Metadata;
    /// What the system knows about a file or a symbolic link.
    symlink_metadata(path) -> Metadata;
    /// Gives a file another name.
    hard_link(original, link) -> ();
    /// The absolute path, without symbolic links in it.
    canonicalize(path) -> PathBuf;
    /// Sets the permissions of a file or directory.
    set_permissions(path; permissions: Permissions) -> ();
    /// Where a symbolic link leads.
    read_link(path) -> PathBuf;
    /// Whether there is something of this name, following symbolic links. `Err` if that cannot be told.
    exists(path) -> bool;
}

/// Writes a whole file, in place of one that may be there. The content is copied first. May switch to other greenlets.
///
/// # Errors
///
/// As [`std::fs::write`].
pub fn write(path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> io::Result<()> {
    let (path, contents) = (path.as_ref().to_owned(), contents.as_ref().to_owned());
    unblock_for(Reason::new("fs::write"), move || std::fs::write(path, contents))
}

/// Makes a symbolic link at `link` that leads to `original`. May switch to other greenlets.
///
/// # Errors
///
/// As [`std::os::unix::fs::symlink`].
pub fn symlink(original: impl AsRef<Path>, link: impl AsRef<Path>) -> io::Result<()> {
    let (original, link) = (original.as_ref().to_owned(), link.as_ref().to_owned());
    unblock_for(Reason::new("fs::symlink"), move || std::os::unix::fs::symlink(original, link))
}
