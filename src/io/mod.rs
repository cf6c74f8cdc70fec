//! Descriptors of every kind: any that can be waited for ([`Pollable`]), pipes, stdin; and copying from one stream to another.
//!
//! Sockets are in [`net`](crate::net); to wait for many descriptors at once, or for one that other code reads, there is
//! [`select`](mod@crate::select).
//!
//! **Regular files** are not here: a system has no way to wait for a disk other than to block. That is done on other OS
//! threads, by `switchgrass::fs`, or by [`unblock`](crate::unblock).
//!
//! **stdout and stderr** are left to std (`println!`): writing blocks the OS thread only while a pipe is full that
//! nobody empties, or a terminal is stopped. They cannot be made non-blocking without making them so for the shell and
//! whoever else writes there. A program whose output is a slow pipe, and that has something else to do meanwhile,
//! writes it in [`unblock`](crate::unblock).

mod copy;
mod pipe;
mod pollable;
mod stdin;

pub use self::copy::{Duplex, copy_bidirectional};
pub use self::pipe::{PipeReader, PipeWriter, pipe};
pub use self::pollable::Pollable;
pub use self::stdin::{Stdin, StdinLock, stdin};
pub use crate::descriptor::ConcurrentUse;

/// Copies all that `reader` gives to `writer`, and tells how many bytes that were: [`std::io::copy`] itself.
///
/// It waits as its arguments do: with streams of this crate, for its greenlet; with those of std, for the OS thread.
///
/// For both directions at once there is [`copy_bidirectional`].
pub use std::io::copy;
