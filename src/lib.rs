//! switchgrass
#![deny(unsafe_code)]

mod blocking;
mod coro;
mod dns;
mod greenlet;
mod hub;
mod io;
pub mod net;
pub mod server;
mod sys;
mod task;
#[doc(hidden)]
pub mod testing;
mod timeout;

pub use crate::blocking::unblock;
pub use crate::greenlet::{
    Builder, Greenlet, Handle, Scope, ScopedGreenlet, current, joinall, killall, park, park_timeout, scope,
    spawn, spawn_later, yield_now,
};
pub use crate::task::GreenletExit;
pub use crate::timeout::{Elapsed, sleep, sleep_until, timeout};
