//! Standard input, whatever it is.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, Lines, Read};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::blocking::unblock_for;
use crate::hub::{Unwinding, hub};
use crate::select::{PollFlags, wait_for_one};
use crate::sys;
use crate::sys::clock::NEVER;
use crate::task::{Reason, Waker};

/// How much is read at once, as std does.
const CHUNK: usize = 8 * 1024;

/// The standard input of the process, cooperative: [`std::io::stdin`], and who waits for it waits for its greenlet only.
///
/// It may be a terminal, a pipe, a socket, a file, `/dev/null`, or closed (which reads as empty, as in std).
///
/// All handles share one buffer. Each operation is done as a whole: two greenlets that read lines get whole lines, each line once, and take turns. That
/// is so across OS threads, too. A line is taken when it is there as a whole: who is killed or timed out while waiting for
/// the rest of it leaves it to the next.
///
/// The descriptor is *not* made non-blocking, since the mode would be that of all who share the terminal or the pipe: the shell that started us,
/// and the other processes of the pipeline. It is waited for, and read when there is something. What is a file is read on a thread of the pool.
/// From this follow two limits:
///
/// - If another process that shares the input reads it in the same moment, so that nothing is left for us, the OS thread waits with its greenlets until more comes.
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
    Stdin { _private: () }
}

/// A handle on the standard input; see [`stdin`].
#[derive(Debug)]
pub struct Stdin {
    _private: (),
}

impl Stdin {
    /// Takes the input for more than one operation. Others wait until the guard is dropped, in the order in which they came. May switch.
    ///
    /// In a destructor that runs while its greenlet unwinds nothing can be waited for: if somebody else has the input, reading from the
    /// guard is an error.
    pub fn lock(&self) -> StdinLock<'static> {
        StdinLock { held: Held::take().ok(), stdin: self.as_static() }
    }

    /// Appends one line to `buf`, with its `\n` if it has one, and tells how many bytes that were: 0 is the end. May switch.
    ///
    /// # Errors
    ///
    /// Those of the system. `InvalidData` if the line, which is gone then, is not UTF-8.
    pub fn read_line(&self, buf: &mut String) -> io::Result<usize> {
        self.lock().read_line(buf)
    }

    /// All lines until the end, without their `\n`. The input is [locked](Self::lock) until the iterator is dropped.
    #[must_use = "iterators are lazy and do nothing unless consumed"]
    pub fn lines(self) -> Lines<StdinLock<'static>> {
        self.lock().lines()
    }
}
