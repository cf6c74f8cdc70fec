//! Unmodified blocking code on greenlets. A process of its own: what is patched stays so.

mod report;
mod std_net;
mod std_sync;
mod util;
