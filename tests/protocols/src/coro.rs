#[path = "../../../src/coro/unwind.rs"]
pub(crate) mod unwind;
