//! What the library promises, seen from outside. One module per part.
//!
//! Each test runs on an OS thread of its own, so it has a hub of its own, with a clock of its own.

mod backdoor;
mod channel;
mod dns;
mod dump;
mod fs;
mod future;
mod generator;
mod greenlet;
mod hub;
mod hubs;
mod io;
mod kill;
mod links;
mod local;
mod monitor;
mod net;
mod net_udp;
mod net_unix;
mod pool;
mod process;
mod queue;
mod ready;
mod scope;
mod select;
mod server;
mod server_datagram;
mod signal;
mod stats;
mod stress;
mod stress_all;
mod stress_hubs;
mod switch;
mod sync;
mod sync_std;
mod sync_stress;
mod threadpool;
mod threads;
mod timeout;
mod trace;
mod util;
