//! Standard input, whatever it is.

#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, BufRead, Lines, Read};
use std::marker::PhantomData;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::hub::{Unwinding, hub};
use crate::select::{PollFlags, wait_for_one};
use crate::sys;
use crate::sys::clock::NEVER;
use crate::sys::lock::{Lock, LockGuard};
use crate::task::Reason;
use crate::threadpool::unblock_for;
use crate::wait::{Line, Outcome, Queue, wait};

/// How much is read at once, as std does.
const CHUNK: usize = 8 * 1024;

/// The standard input of the process, cooperative: [`std::io::stdin`], and who waits for it waits for its greenlet only.
///
/// It may be a terminal, a pipe, a socket, a file, `/dev/null`, or closed (which reads as empty, as in std).
///
/// All handles share one buffer. Each operation is done as a whole: two greenlets that read lines get whole lines, each
/// line once, and take turns. That is so across OS threads, too. A line is taken when it is there as a whole: who is
/// killed or timed out while waiting for the rest of it leaves it to the next.
///
/// The descriptor is *not* made non-blocking, since the mode would be that of all who share the terminal or the pipe:
/// the shell that started us, and the other processes of the pipeline. It is waited for, and read when there is
/// something. What is a file is read on a thread of the pool. From this follow two limits:
///
/// - If another process that shares the input reads it in the same moment, so that nothing is left for us, the OS
///   thread waits with its greenlets until more comes.
/// - [`std::io::stdin`] has a buffer of its own. Use one or the other.
///
/// # Examples
///
/// Answers each line, while other greenlets go on:
///
/// ```no_run
/// use switchgrass::io;
///
/// let ticker = switchgrass::spawn(|| loop {
///     switchgrass::sleep(std::time::Duration::from_secs(1));
///     println!("tick");
/// });
/// for line in io::stdin().lines() {
///     println!("you said: {}", line?);
/// }
/// ticker.kill();
/// # std::io::Result::Ok(())
/// ```
pub fn stdin() -> Stdin {
    Stdin { stds: io::stdin() }
}

/// A handle on the standard input; see [`stdin`].
#[derive(Debug)]
pub struct Stdin {
    stds: io::Stdin,
}

impl Stdin {
    /// Takes the input for more than one operation. Others wait until the guard is dropped, in the order
    /// in which they came. May switch.
    ///
    /// In a destructor that runs while its greenlet unwinds, nothing can be waited for: if somebody else has the input
    /// then, reading from the guard is an error.
    pub fn lock(&self) -> StdinLock<'static> {
        StdinLock { held: Held::take().ok(), stds: io::stdin(), scope: PhantomData }
    }

    /// Appends one line to `buf`, with its `\n` if it has one, and tells how many bytes that were: 0 is the end. May switch.
    ///
    /// # Errors
    ///
    /// Those of the system. `InvalidData` if the line is not UTF-8; it is gone then.
    pub fn read_line(&self, buf: &mut String) -> io::Result<usize> {
        self.lock().read_line(buf)
    }

    /// All lines until the end, without their `\n`. The input is [locked](Self::lock) until the iterator is dropped. May switch.
    #[must_use = "iterators are lazy and do nothing unless consumed"]
    pub fn lines(self) -> Lines<StdinLock<'static>> {
        self.lock().lines()
    }
}

/// The standard input while others wait for it, with the methods of [`BufRead`]; see [`Stdin::lock`].
pub struct StdinLock<'a> {
    /// `None`: it was lost to a kill during a read, or was not to be had while unwinding.
    held: Option<Held>,
    stds: io::Stdin,
    scope: PhantomData<&'a ()>,
}

impl StdinLock<'_> {
    fn buffer(&mut self) -> io::Result<&mut Buffer> {
        let held = match self.held.take() {
            Some(held) => held,
            None => Held::take()?,
        };
        Ok(&mut self.held.insert(held).buffer)
    }

    /// Reads some more into the buffer; 0 is the end.
    fn fill(&mut self) -> io::Result<usize> {
        loop {
            match self.fill_once() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Closed, which counts as empty.
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => return Ok(0),
                // Somebody has made it non-blocking, and somebody else was faster.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                result => return result,
            }
        }
    }

    fn fill_once(&mut self) -> io::Result<usize> {
        wait_for_one(self.stds.as_fd(), PollFlags::READABLE, None, "read of stdin, fd")?;
        if !sys::fd::is_file(self.stds.as_fd()) {
            return self.buffer()?.read_more();
        }
        self.buffer()?;
        let mut held = self.held.take().expect("it was just made sure of");
        // The buffer goes along. Should we be killed meanwhile, it is given back over there, with what was read.
        let (held, result) = unblock_for(Reason::new("read of stdin"), move || {
            let result = held.buffer.read_more();
            (held, result)
        });
        self.held = Some(held);
        result
    }
}

impl BufRead for StdinLock<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        hub().be_fair();
        if self.buffer()?.unread().is_empty() {
            self.fill()?;
        }
        Ok(self.buffer()?.unread())
    }

    fn consume(&mut self, amount: usize) {
        if let Some(held) = &mut self.held {
            held.buffer.consume(amount);
        }
    }

    /// Takes nothing out before all of it is there: who is killed meanwhile has taken nothing.
    fn read_until(&mut self, byte: u8, out: &mut Vec<u8>) -> io::Result<usize> {
        hub().be_fair();
        let mut searched = 0;
        loop {
            let buffer = self.buffer()?;
            let unread = buffer.unread();
            let found = unread[searched..].iter().position(|&other| other == byte);
            searched = found.map_or(unread.len(), |place| searched + place + 1);
            if found.is_some() || self.fill()? == 0 {
                let buffer = self.buffer()?;
                out.extend_from_slice(&buffer.unread()[..searched]);
                buffer.consume(searched);
                return Ok(searched);
            }
        }
    }

    fn read_line(&mut self, out: &mut String) -> io::Result<usize> {
        let mut line = Vec::new();
        let len = self.read_until(b'\n', &mut line)?;
        let line = String::from_utf8(line)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "stream did not contain valid UTF-8"))?;
        out.push_str(&line);
        Ok(len)
    }
}

impl Read for StdinLock<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let len = self.fill_buf()?.read(buf)?;
        self.consume(len);
        Ok(len)
    }
}

impl Read for &Stdin {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.lock().read(buf)
    }

    fn read_to_end(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        self.lock().read_to_end(buf)
    }

    fn read_to_string(&mut self, buf: &mut String) -> io::Result<usize> {
        self.lock().read_to_string(buf)
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        self.lock().read_exact(buf)
    }
}

impl Read for Stdin {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }

    fn read_to_end(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        (&*self).read_to_end(buf)
    }

    fn read_to_string(&mut self, buf: &mut String) -> io::Result<usize> {
        (&*self).read_to_string(buf)
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        (&*self).read_exact(buf)
    }
}

impl AsFd for Stdin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stds.as_fd()
    }
}

impl AsRawFd for Stdin {
    fn as_raw_fd(&self) -> RawFd {
        self.stds.as_raw_fd()
    }
}

impl AsFd for StdinLock<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stds.as_fd()
    }
}

impl AsRawFd for StdinLock<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.stds.as_raw_fd()
    }
}

impl fmt::Debug for StdinLock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdinLock").finish_non_exhaustive()
    }
}

// ---- The one buffer -----------------------------------------------------------------------------------------------------------

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Before this, they have been read.
    start: usize,
}

impl Buffer {
    fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn consume(&mut self, amount: usize) {
        self.start = (self.start + amount).min(self.bytes.len());
        if self.start == self.bytes.len() {
            *self = Buffer { bytes: mem::take(&mut self.bytes), start: 0 };
            self.bytes.clear();
            // A very long line is no reason to keep so much.
            self.bytes.shrink_to(2 * CHUNK);
        }
    }

    fn read_more(&mut self) -> io::Result<usize> {
        self.bytes.drain(..mem::take(&mut self.start));
        let len = self.bytes.len();
        self.bytes.resize(len + CHUNK, 0);
        let result = sys::fd::read(io::stdin().as_fd(), &mut self.bytes[len..]);
        self.bytes.truncate(len + *result.as_ref().unwrap_or(&0));
        result
    }
}

/// Where the buffer is when nobody reads, and who waits for it.
struct Shared {
    buffer: Option<Buffer>,
    waiting: Queue<Buffer>,
}

struct TheBuffer(Lock<Shared>);

static THE_BUFFER: TheBuffer = TheBuffer(Lock::new(Shared {
    buffer: Some(Buffer { bytes: Vec::new(), start: 0 }),
    waiting: Queue::new(),
}));

impl Line for TheBuffer {
    type State = Shared;
    type Item = Buffer;

    fn lock(&self) -> &Lock<Shared> {
        &self.0
    }

    fn queue(shared: &mut Shared) -> &mut Queue<Buffer> {
        &mut shared.waiting
    }

    fn pass_on(&self, mut shared: LockGuard<'_, Shared>, mut buffer: Option<Buffer>) {
        match shared.waiting.hand_over(|next| *next = buffer.take()) {
            Some(((), wakeup)) => {
                drop(shared);
                wakeup.wake();
            }
            None => shared.buffer = buffer,
        }
    }

    fn reason(&self) -> Reason {
        Reason::shared("lock of stdin", self)
    }
}

/// The buffer in the hands of who reads. Dropping it gives it to the next, on whichever thread that happens.
struct Held {
    buffer: Buffer,
}

impl Held {
    fn take() -> Result<Held, Unwinding> {
        let mut shared = THE_BUFFER.0.lock();
        if let Some(buffer) = shared.buffer.take() {
            return Ok(Held { buffer });
        }
        match wait(&THE_BUFFER, shared, None, NEVER) {
            Outcome::Chosen(buffer) => {
                Ok(Held { buffer: buffer.expect("it is the buffer that is handed over") })
            }
            Outcome::TimedOut(_) => unreachable!("there is no deadline"),
            Outcome::Unwinding(_) => Err(Unwinding),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        THE_BUFFER.pass_on(THE_BUFFER.0.lock(), Some(mem::take(&mut self.buffer)));
    }
}
