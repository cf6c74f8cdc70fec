//! Our ends of a child's pipes.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::process::Stdio;

use crate::descriptor::Io;

macro_rules! pipe {
    ($(#[$attribute:meta])* $ours:ident, $stds:ty) => {
        $(#[$attribute])*
        pub struct $ours {
            io: Io<File>,
        }

        impl std::fmt::Debug for $ours {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($ours)).field("fd", &self.as_raw_fd()).finish()
            }
        }

        impl From<$stds> for $ours {
            /// The descriptor becomes non-blocking, for all who share it.
            fn from(stds: $stds) -> Self {
                $ours { io: Io::adopt(OwnedFd::from(stds).into()) }
            }
        }

        impl From<$ours> for OwnedFd {
            /// The descriptor becomes blocking again.
            fn from(ours: $ours) -> Self {
                ours.io.into_inner().into()
            }
        }

        impl From<$ours> for $stds {
            /// The descriptor becomes blocking again.
            fn from(ours: $ours) -> Self {
                OwnedFd::from(ours).into()
            }
        }

        impl From<$ours> for Stdio {
            /// For another child: so two processes are connected. The descriptor becomes blocking again.
            fn from(ours: $ours) -> Self {
                OwnedFd::from(ours).into()
            }
        }

        impl AsFd for $ours {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.io.as_fd()
            }
        }

        impl AsRawFd for $ours {
            fn as_raw_fd(&self) -> RawFd {
                self.io.as_raw_fd()
            }
        }

        impl IntoRawFd for $ours {
            /// The descriptor becomes blocking again.
            fn into_raw_fd(self) -> RawFd {
                OwnedFd::from(self).into_raw_fd()
            }
        }
    };
}

/// A pipe to read from.
///
/// A short read does not tell that it is empty: on a terminal, which std's types may hold as well, a read ends with the line.
macro_rules! output {
    ($(#[$attribute:meta])* $ours:ident, $stds:ty) => {
        pipe!($(#[$attribute])* $ours, $stds);

        impl Read for $ours {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.io.read_chunks("read of pipe", buf.len(), |mut pipe| pipe.read(buf))
            }

            fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                let len = bufs.iter().map(|buf| buf.len()).sum();
                self.io.read_chunks("read of pipe", len, |mut pipe| pipe.read_vectored(bufs))
            }
        }
    };
}

pipe!(
    /// The pipe to a child's stdin; see [`Child::stdin`](super::Child::stdin).
    ///
    /// Writing waits while the pipe is full. Dropped, it is the end of the child's input. To write while reading what the child
    /// answers takes a second greenlet, or both may wait for ever.
    ChildStdin,
    std::process::ChildStdin
);

output!(
    /// The pipe from a child's stdout; see [`Child::stdout`](super::Child::stdout). Reading waits.
    ChildStdout,
    std::process::ChildStdout
);

output!(
    /// The pipe from a child's stderr; see [`Child::stderr`](super::Child::stderr). Reading waits.
    ChildStderr,
    std::process::ChildStderr
);

impl Write for &ChildStdin {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.io.write_stream("write to pipe", buf.len(), None, |mut pipe| pipe.write(buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        self.io.write_stream("write to pipe", len, None, |mut pipe| pipe.write_vectored(bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for ChildStdin {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
