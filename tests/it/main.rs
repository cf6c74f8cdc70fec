//! What the library promises, seen from outside. One module per part.
//!
//! Each test runs on an OS thread of its own, so it has a hub of its own.

mod net;
mod net_udp;
mod net_unix;
mod util;
