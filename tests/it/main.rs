//! What the library promises, seen from outside. One module per part.
//!
//! Each test runs on an OS thread of its own, so it has a hub of its own, with a clock of its own.

mod dump;
mod generator;
mod greenlet;
mod hub;
mod kill;
mod monitor;
mod net;
mod net_udp;
mod net_unix;
mod scope;
mod server;
mod stress;
mod switch;
mod threads;
mod timeout;
mod util;
