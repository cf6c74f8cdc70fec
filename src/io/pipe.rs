//! Pipes.

use std::io::{self, IoSlice, Write};
use std::os::fd::AsFd;
use std::process::Stdio;

use crate::descriptor::Io;
use crate::descriptor::macros::{byte_reader, descriptor};
use crate::sys;

/// A pipe: what is written to one end is read from the other. [`std::io::pipe`], cooperative.
///
/// Given to a child process (as [`Stdio`]), an end is blocking again, as the child expects.
///
/// # Errors
///
/// As std's: too many descriptors are open.
///
/// # Examples
///
/// ```
/// use std::io::{Read, Write};
///
/// let (mut reader, mut writer) = switchgrass::io::pipe()?;
/// let greenlet = switchgrass::spawn(move || writer.write_all(b"through the pipe"));
/// let mut text = String::new();
/// reader.read_to_string(&mut text)?;      // until the writer is dropped
/// assert_eq!(text, "through the pipe");
/// # greenlet.join().unwrap()?;
/// # std::io::Result::Ok(())
/// ```
pub fn pipe() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = std::io::pipe()?;
    sys::fd::set_nonblocking(reader.as_fd(), true);
    sys::fd::set_nonblocking(writer.as_fd(), true);
    Ok((PipeReader { io: Io::new(reader) }, PipeWriter { io: Io::new(writer) }))
}

/// The end of a [`pipe`] from which is read; [`std::io::PipeReader`], cooperative.
///
/// Reading gives 0 bytes, the end, when there is nothing left and all writers have been dropped.
pub struct PipeReader {
    io: Io<std::io::PipeReader>,
}

descriptor!(PipeReader, std::io::PipeReader);
byte_reader!(PipeReader, read_chunks);

/// The end of a [`pipe`] to which is written; [`std::io::PipeWriter`], cooperative.
///
/// Writing gives `BrokenPipe` when all readers have been dropped.
pub struct PipeWriter {
    io: Io<std::io::PipeWriter>,
}

descriptor!(PipeWriter, std::io::PipeWriter);

// Not as a socket writes: how much room there is where a write has ended early, a pipe does not tell in all its modes.
impl Write for &PipeWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.io.write_with("write of fd", |mut pipe| pipe.write(buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.io.write_with("write of fd", |mut pipe| pipe.write_vectored(bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for PipeWriter {
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

impl From<PipeReader> for Stdio {
    /// For the child's stdin.
    fn from(pipe: PipeReader) -> Stdio {
        std::io::PipeReader::from(pipe).into()
    }
}

impl From<PipeWriter> for Stdio {
    /// For the child's stdout or stderr.
    fn from(pipe: PipeWriter) -> Stdio {
        std::io::PipeWriter::from(pipe).into()
    }
}
