//! One open file.

#![forbid(unsafe_code)]

use std::fs::{FileTimes, Metadata, Permissions, TryLockError};
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::descriptor::persist;
use crate::sys::clock::NEVER;
use crate::task::Reason;
use crate::threadpool::unblock_for;

/// One job reads or writes no more than this, so that a huge buffer is not held twice.
const MOST: usize = 2 << 20;

/// An open file: [`std::fs::File`], whose calls let other greenlets run while they wait. See [`fs`](super) for how.
///
/// As in std, `File` and `&File` can read, write and seek, and [`FileExt`] reads and writes at an offset. Reads and
/// writes may be short: one moves 2 MiB at most.
///
/// **A call that was abandoned**, by a kill or a timeout, may go on: then it moves the cursor, or writes, before or
/// after calls that follow. Who needs to know uses [`FileExt`], which has no cursor, or gives the file up.
///
/// The descriptor closes where the last user of it is, on this thread or on one of the pool.
#[derive(Debug)]
pub struct File {
    /// Shared with the jobs that work on it.
    file: Arc<std::fs::File>,
}

impl File {
    /// Opens a file for reading. May switch to other greenlets.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::open`].
    pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
        File::options().read(true).open(path)
    }

    /// Opens a file for writing, empty: made if it is not there. May switch to other greenlets.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::create`].
    pub fn create(path: impl AsRef<Path>) -> io::Result<File> {
        File::options().write(true).create(true).truncate(true).open(path)
    }

    /// Makes a file that must not be there yet, and opens it for reading and writing. May switch to other greenlets.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::create_new`].
    pub fn create_new(path: impl AsRef<Path>) -> io::Result<File> {
        File::options().read(true).write(true).create_new(true).open(path)
    }

    /// More ways to open a file.
    pub fn options() -> OpenOptions {
        OpenOptions::new()
    }

    /// Does something with the file on a thread of the pool.
    fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        job: impl FnOnce(&std::fs::File) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let file = Arc::clone(&self.file);
        unblock_for(Reason::of(what, self.file.as_raw_fd() as u64), move || job(&file))
    }

    /// Has all data and metadata written to the disk. May switch to other greenlets.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::sync_all`].
    pub fn sync_all(&self) -> io::Result<()> {
        self.run("sync_all of file", std::fs::File::sync_all)
    }

    /// Has all data written to the disk. May switch to other greenlets.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::sync_data`].
    pub fn sync_data(&self) -> io::Result<()> {
        self.run("sync_data of file", std::fs::File::sync_data)
    }

    /// Cuts the file off, or fills it up with zeros. May switch to other greenlets.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::set_len`].
    pub fn set_len(&self, size: u64) -> io::Result<()> {
        self.run("set_len of file", move |file| file.set_len(size))
    }

    /// What the system knows about the file. May switch to other greenlets.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::metadata`].
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.run("metadata of file", std::fs::File::metadata)
    }

    /// Another descriptor of the same open file, with the same cursor. Does not wait.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::try_clone`].
    pub fn try_clone(&self) -> io::Result<File> {
        self.file.try_clone().map(File::from)
    }

    /// Sets the permissions of the file. May switch to other greenlets.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::set_permissions`].
    pub fn set_permissions(&self, permissions: Permissions) -> io::Result<()> {
        self.run("set_permissions of file", move |file| file.set_permissions(permissions))
    }

    /// Sets when the file was used. May switch to other greenlets.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::set_times`].
    pub fn set_times(&self, times: FileTimes) -> io::Result<()> {
        self.run("set_times of file", move |file| file.set_times(times))
    }

    /// Sets when the file was last written. May switch to other greenlets.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::set_modified`].
    pub fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        self.set_times(FileTimes::new().set_modified(time))
    }

    /// Waits until the file can be locked by this descriptor and no other. May switch to other greenlets.
    ///
    /// Uses no thread: it looks again and again, after up to 20 ms. So those who wait for locks cannot
    /// keep those who have them from working. The lock belongs to the open file, as in std: greenlets that
    /// share it do not exclude each other.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::lock`]. In a destructor that runs while its greenlet unwinds: `WouldBlock`, if it is locked.
    pub fn lock(&self) -> io::Result<()> {
        self.persist_in_locking(std::fs::File::try_lock)
    }

    /// As [`lock`](Self::lock), but others may have the same kind of lock.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub fn lock_shared(&self) -> io::Result<()> {
        self.persist_in_locking(std::fs::File::try_lock_shared)
    }

    fn persist_in_locking(
        &self,
        attempt: impl Fn(&std::fs::File) -> Result<(), TryLockError>,
    ) -> io::Result<()> {
        let reason = Reason::of("lock of file", self.file.as_raw_fd() as u64);
        persist(reason, NEVER, || attempt(&self.file).map_err(io::Error::from))
    }

    /// Locks the file, if nobody else has.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::try_lock`].
    pub fn try_lock(&self) -> Result<(), TryLockError> {
        self.file.try_lock()
    }

    /// Locks the file together with others, if nobody has locked it alone.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::try_lock_shared`].
    pub fn try_lock_shared(&self) -> Result<(), TryLockError> {
        self.file.try_lock_shared()
    }

    /// Gives the lock up.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::unlock`].
    pub fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }

    /// std's file, whose calls block the OS thread.
    ///
    /// # Errors
    ///
    /// This file, as it is, if an abandoned call still works on it.
    pub fn try_into_std(self) -> Result<std::fs::File, File> {
        Arc::try_unwrap(self.file).map_err(|file| File { file })
    }

    /// Reads by a job with a buffer of its own, whose content comes back.
    fn read_by(
        &self,
        buffer: &mut [u8],
        read: impl FnOnce(&std::fs::File, &mut [u8]) -> io::Result<usize> + Send + 'static,
    ) -> io::Result<usize> {
        let len = buffer.len().min(MOST);
        let bytes = self.run("read of file", move |file| {
            let mut bytes = vec![0; len];
            let count = read(file, &mut bytes)?;
            bytes.truncate(count);
            Ok(bytes)
        })?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    /// Writes a copy of the first bytes of `buffer` by a job.
    fn write_by(
        &self,
        buffer: &[u8],
        write: impl FnOnce(&std::fs::File, &[u8]) -> io::Result<usize> + Send + 'static,
    ) -> io::Result<usize> {
        let bytes = buffer[..buffer.len().min(MOST)].to_owned();
        self.run("write of file", move |file| write(file, &bytes))
    }
}

impl Read for &File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_by(buffer, |mut file, bytes| file.read(bytes))
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match buffers.iter_mut().find(|buffer| !buffer.is_empty()) {
            Some(buffer) => self.read(buffer),
            None => self.read(&mut []),
        }
    }

    /// One job for all that is left.
    fn read_to_end(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let (mut bytes, result) = self.run("read of file", |mut file| {
            let mut bytes = Vec::new();
            let result = file.read_to_end(&mut bytes);
            Ok((bytes, result))
        })?;
        // What was read before an error counts, as in std.
        if buffer.is_empty() && buffer.capacity() < bytes.len() {
            *buffer = bytes;
        } else {
            buffer.append(&mut bytes);
        }
        result
    }

    fn read_to_string(&mut self, text: &mut String) -> io::Result<usize> {
        let read = self.run("read of file", |mut file| {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(text)
        })?;
        text.push_str(&read);
        Ok(read.len())
    }
}

impl Write for &File {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.write_by(buffer, |mut file, bytes| file.write(bytes))
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        // One job for all of them: to gather them is cheaper than a hand-over for each.
        let mut bytes = Vec::new();
        for buffer in buffers {
            bytes.extend_from_slice(&buffer[..buffer.len().min(MOST - bytes.len())]);
        }
        self.run("write of file", move |mut file| file.write(&bytes))
    }

    /// Does nothing, as in std: what was written is with the system. See [`File::sync_all`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for &File {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.run("seek of file", move |mut file| file.seek(position))
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(buffers)
    }

    fn read_to_end(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        (&*self).read_to_end(buffer)
    }

    fn read_to_string(&mut self, text: &mut String) -> io::Result<usize> {
        (&*self).read_to_string(text)
    }
}

impl Write for File {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&*self).write(buffer)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for File {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        (&*self).seek(position)
    }
}

impl FileExt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_by(buffer, move |file, bytes| file.read_at(bytes, offset))
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        self.write_by(buffer, move |file, bytes| file.write_at(bytes, offset))
    }
}

impl From<std::fs::File> for File {
    fn from(file: std::fs::File) -> Self {
        File { file: Arc::new(file) }
    }
}

impl From<OwnedFd> for File {
    fn from(fd: OwnedFd) -> Self {
        std::fs::File::from(fd).into()
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// How to open a file: [`std::fs::OpenOptions`]. [`OpenOptionsExt`] works, too.
#[derive(Clone, Debug)]
pub struct OpenOptions(std::fs::OpenOptions);

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(&mut self, $name: bool) -> &mut Self {
            self.0.$name($name);
            self
        }
    )*};
}

impl OpenOptions {
    /// Nothing is set.
    #[expect(clippy::new_without_default, reason = "as in std")]
    pub fn new() -> Self {
        OpenOptions(std::fs::OpenOptions::new())
    }

    options! {
        /// To read from it.
        read;
        /// To write to it.
        write;
        /// To write to its end, whatever others write.
        append;
        /// To make it empty.
        truncate;
        /// To make it, if it is not there.
        create;
        /// To make it, and fail if it is there.
        create_new;
    }

    /// Opens the file. May switch to other greenlets.
    ///
    /// If the greenlet is killed or timed out meanwhile, the descriptor is closed where it was opened.
    ///
    /// # Errors
    ///
    /// As [`std::fs::OpenOptions::open`].
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let (options, path) = (self.0.clone(), path.as_ref().to_owned());
        unblock_for(Reason::new("open of file"), move || options.open(path)).map(File::from)
    }
}

impl OpenOptionsExt for OpenOptions {
    fn mode(&mut self, mode: u32) -> &mut Self {
        self.0.mode(mode);
        self
    }

    fn custom_flags(&mut self, flags: i32) -> &mut Self {
        self.0.custom_flags(flags);
        self
    }
}
