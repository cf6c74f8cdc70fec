//! What threads share memory by: std's. The modules whose protocols are checked exhaustively take it from here, since
//! there the check has a module of its own, by which it sees each access (`tests/protocols`).

pub(crate) use std::cell::{Cell, UnsafeCell};
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
