//! Unmodified blocking code on greenlets. A process of its own: what is patched stays so.

mod names;
mod processes;
mod report;
mod std_net;
mod std_sync;
mod util;
