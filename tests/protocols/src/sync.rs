#[path = "../../../src/sync/mutex.rs"]
pub(crate) mod mutex;
#[path = "../../../src/sync/poison.rs"]
mod poison;
#[path = "../../../src/sync/semaphore.rs"]
pub(crate) mod semaphore;
