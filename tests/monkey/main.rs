//! Unmodified blocking code on greenlets. A process of its own: what is patched stays so.

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
