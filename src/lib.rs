//! Stackful green threads: greenlet's `switch()`, gevent's `spawn`, `joinall` and hub, std's types.
//!
//! Write plain blocking code, and run thousands of it at once on one OS thread. No `async`, no `Send` bounds,
//! no runtime to set up:
//!
//! ```
//! use std::io::{Read, Write};
//! use switchgrass::net::{TcpListener, TcpStream};
//! use switchgrass::spawn;
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let addr = listener.local_addr()?;
//! let server = spawn(move || {
//!     let (mut stream, _) = listener.accept()?;       // waits: the others run
//!     std::io::copy(&mut stream.try_clone()?, &mut stream)
//! });
//! let mut client = TcpStream::connect(addr)?;         // main waits, too: the hub runs right here
//! client.write_all(b"hello")?;
//! client.shutdown(std::net::Shutdown::Write)?;
//! let mut answer = String::new();
//! client.read_to_string(&mut answer)?;
//! assert_eq!(answer, "hello");
//! assert_eq!(server.join().unwrap()?, 5);
//! # std::io::Result::Ok(())
//! ```
//!
//! # What there is
//!
//! - **Greenlets**: [`spawn`], [`Greenlet::join`], [`joinall`], [`Greenlet::kill`], [`Greenlet::link`],
//!   [`sleep`], [`timeout`], [`scope()`] for those that borrow, [`wait()`] for several things at once,
//!   [`green_local!`] for values of their own.
//! - **Waiting for each other**: [`sync`], [`channel`] with [`select!`], [`queue`], [`pool`].
//! - **OS threads**: [`unblock`] and [`threadpool`] for work that can only block; through it [`fs`], std's files, and [`dns`].
//! - **Descriptors**: [`net`], with std's types and methods; [`server`]s for streams and datagrams;
//!   [`io`]; [`select`](mod@select).
//! - **The system**: [`process`], with std's `Command` and `Child`; [`signal`].
//! - **Async code**: [`block_on`]; a [`Greenlet`] is a future.
//! - **Explicit switching**: [`Coroutine`] and [`Generator`].
//! - **Many cores**: [`hubs`], on several OS threads, which share greenlets that have not started.
//! - **Looking inside**: [`dump`], what every greenlet waits for, and where; [`monitor`], which finds
//!   those that hold up the others; [`stats`], [`trace`].
//!
//! # How it works
//!
//! Each OS thread that waits for something has a *hub*, an event loop on mio, which is made when it is first needed. A
//! greenlet has a stack of its own (256 KiB of address space; memory for what it touches) and stays on its thread. A
//! call that would block suspends the greenlet, and the hub resumes whoever is ready, in turn. When the thread's own
//! code waits, the loop runs right there. ARCHITECTURE.md in the repository tells more.
//!
//! # What to know
//!
//! - A computation that never waits holds up all greenlets of its thread; [`yield_now`] lets the others run,
//!   [`unblock`] moves the work away.
//! - So does a call that blocks the OS thread itself, like `std::thread::sleep` or `std::net`.
//! - A `RefCell` borrowed, or a std mutex locked, across a call that may switch is seen so by the other greenlets. A
//!   std mutex that a second greenlet of the same thread waits for never becomes free.
//! - `thread_local!` values are shared by the greenlets of a thread. Code that sets one for the time of a call into
//!   your code (scoped thread-locals) may find another greenlet's value there.
//! - Kill and timeout unwind, as a panic does; `catch_unwind` sees them. In a destructor that runs during unwinding
//!   nothing can be switched, so a call that would wait fails there.
//! - A panic of a greenlet is its result; the others go on.
//! - In the child of a `fork`, only the greenlet that has called it goes on, and main; and coroutines and generators,
//!   which run when somebody switches to them. All others are the parent's: they do not run, their destructors do not
//!   either, and who joins them gets an error. The child can do all that its parent can. For workers that serve one
//!   listener there is [`server::Prefork`].
//!
//! # Platforms
//!
//! Linux on x86-64 is what is run and tested. Linux on aarch64 and the other Unixes that mio knows should build.

#![deny(unsafe_code)]
#![warn(clippy::missing_errors_doc, clippy::missing_panics_doc)]

pub mod backdoor;
pub mod channel;
mod coro;
mod descriptor;
pub mod dns;
pub mod dump;
pub mod fs;
mod generator;
mod greenlet;
mod hub;
pub mod hubs;
pub mod io;
pub mod local;
pub mod monitor;
#[cfg(feature = "monkey")]
pub mod monkey;
pub mod net;
pub mod pool;
pub mod process;
pub mod queue;
mod ready;
pub mod select;
pub mod server;
pub mod signal;
pub mod stats;
mod switch;
pub mod sync;
mod sys;
mod task;
#[doc(hidden)]
pub mod testing;
pub mod threadpool;
mod timeout;
pub mod trace;
mod wait;

pub use crate::generator::{CloseError, Generator, GeneratorError, GeneratorState, Step, Yielder};
pub use crate::greenlet::{
    AnyGreenlet, Builder, Exit, ExitReason, Greenlet, Handle, LinkId, Scope, ScopedGreenlet, block_on,
    current, joinall, joinall_raise, joinall_timeout, killall, killall_timeout, park, park_timeout, scope,
    spawn, spawn_later, yield_now,
};
pub use crate::hub::TraceEvent;
pub use crate::ready::{FdWait, IWait, Waitable, iwait, wait};
pub use crate::switch::{Coroutine, ParentError, SwitchError, Tracer, set_tracer};
pub use crate::task::GreenletExit;
pub use crate::threadpool::unblock;
pub use crate::timeout::{Elapsed, Timeout, sleep, sleep_until, timeout};

/// The code in the README compiles, and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So does that in the guide for users of gevent.
#[cfg(doctest)]
#[doc = include_str!("../docs/gevent.md")]
struct Gevent;
