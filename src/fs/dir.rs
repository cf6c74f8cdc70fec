//! Directories.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::fs::{FileType, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, DirEntryExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::task::Reason;
use crate::threadpool::unblock_for;

/// So many entries are read by one job.
const BATCH: usize = 256;

/// The entries of a directory, as by [`std::fs::read_dir`]. They are read in batches. May switch to other greenlets.
///
/// # Errors
///
/// As [`std::fs::read_dir`].
pub fn read_dir(path: impl AsRef<Path>) -> io::Result<ReadDir> {
    let path = path.as_ref().to_owned();
    let (entries, batch) = unblock_for(Reason::new("fs::read_dir"), move || {
        let mut entries = std::fs::read_dir(path)?;
        let batch = take_batch(&mut entries);
        io::Result::Ok((entries, batch))
    })?;
    Ok(ReadDir { rest: (batch.len() == BATCH).then_some(entries), batch })
}

fn take_batch(entries: &mut std::fs::ReadDir) -> VecDeque<io::Result<DirEntry>> {
    let known = |entry: std::fs::DirEntry| {
        // Most file systems tell the type with the name; where they do not, this asks, so it belongs here.
        let file_type = entry.file_type().ok();
        DirEntry { entry: Arc::new(entry), file_type }
    };
    entries.take(BATCH).map(|entry| entry.map(known)).collect()
}

/// Iterates over the entries of a directory; see [`read_dir`]. Each step may switch to other greenlets.
///
/// A greenlet that is unwound in the middle of a step loses the rest of the entries.
pub struct ReadDir {
    batch: VecDeque<io::Result<DirEntry>>,
    /// `None`: there are no more.
    rest: Option<std::fs::ReadDir>,
}

impl Iterator for ReadDir {
    type Item = io::Result<DirEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.batch.is_empty()
            && let Some(mut rest) = self.rest.take()
        {
            let (batch, rest) = unblock_for(Reason::new("fs::read_dir"), move || {
                let batch = take_batch(&mut rest);
                let rest = (batch.len() == BATCH).then_some(rest);
                (batch, rest)
            });
            (self.batch, self.rest) = (batch, rest);
        }
        self.batch.pop_front()
    }
}

impl fmt::Debug for ReadDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadDir").field("at hand", &self.batch.len()).finish_non_exhaustive()
    }
}

/// An entry of a directory: [`std::fs::DirEntry`].
pub struct DirEntry {
    entry: Arc<std::fs::DirEntry>,
    file_type: Option<FileType>,
}

impl DirEntry {
    /// The path of the directory, as given to [`read_dir`], and the name in it.
    pub fn path(&self) -> PathBuf {
        self.entry.path()
    }

    /// The name in the directory.
    pub fn file_name(&self) -> OsString {
        self.entry.file_name()
    }

    /// What the system knows about it. Follows no symbolic links. May switch to other greenlets.
    ///
    /// # Errors
    ///
    /// As [`std::fs::DirEntry::metadata`].
    pub fn metadata(&self) -> io::Result<Metadata> {
        let entry = Arc::clone(&self.entry);
        unblock_for(Reason::new("fs::DirEntry::metadata"), move || entry.metadata())
    }

    /// Whether it is a file, a directory, or what else. Follows no symbolic links. Usually known already.
    ///
    /// # Errors
    ///
    /// As [`std::fs::DirEntry::file_type`].
    pub fn file_type(&self) -> io::Result<FileType> {
        match self.file_type {
            Some(known) => Ok(known),
            None => self.metadata().map(|metadata| metadata.file_type()),
        }
    }
}

impl DirEntryExt for DirEntry {
    fn ino(&self) -> u64 {
        self.entry.ino()
    }
}

impl fmt::Debug for DirEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entry.fmt(f)
    }
}

/// Makes directories in various ways: [`std::fs::DirBuilder`].
#[derive(Debug, Default)]
pub struct DirBuilder {
    recursive: bool,
    mode: Option<u32>,
}

impl DirBuilder {
    /// As [`create_dir`](super::create_dir) does it.
    pub fn new() -> Self {
        DirBuilder::default()
    }

    /// Whether to make those above it, too, and to be content with one that is there.
    pub fn recursive(&mut self, recursive: bool) -> &mut Self {
        self.recursive = recursive;
        self
    }

    /// Makes the directory. May switch to other greenlets.
    ///
    /// # Errors
    ///
    /// As [`std::fs::DirBuilder::create`].
    pub fn create(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref().to_owned();
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(self.recursive);
        if let Some(mode) = self.mode {
            builder.mode(mode);
        }
        unblock_for(Reason::new("fs::create_dir"), move || builder.create(path))
    }
}

impl DirBuilderExt for DirBuilder {
    fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = Some(mode);
        self
    }
}
