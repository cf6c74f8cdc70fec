//! Unmodified blocking code on greenlets. A process of its own: what is patched stays so.

#![allow(clippy::disallowed_methods, reason = "that std's calls do not block the thread is what is tested")]

mod at_once;
mod c_library;
mod libc_fds;
mod libc_ready;
mod libc_sockets;
mod names;
mod pending;
mod processes;
mod pthread;
mod report;
mod std_io;
mod std_mpsc;
mod std_net;
mod std_sync;
mod util;
