#[path = "../../../src/greenlet/block_on.rs"]
pub(crate) mod block_on;
#[path = "../../../src/greenlet/result.rs"]
mod result;

/// The checks are no child of this module, for which the methods are.
pub(crate) struct Outcome<T>(result::ResultPart<T>);

// SAFETY: the library's `Greenlet` says the same of its packet: each side touches what the bits say is its own. That is what is checked.
unsafe impl<T: Send> Sync for Outcome<T> {}
// SAFETY: as above; no scope, so no pointer to one.
unsafe impl<T: Send> Send for Outcome<T> {}

pub(crate) type Payload = crate::coro::unwind::Payload;

impl<T> Outcome<T> {
    pub(crate) fn new() -> Self {
        Outcome(result::ResultPart::new(std::ptr::null()))
    }

    pub(crate) fn store(&self, value: T) {
        self.0.store(Ok(value));
    }

    pub(crate) fn detach(&self) {
        self.0.detach();
    }

    /// For the owner of the handle, when the greenlet has ended.
    pub(crate) fn take(&self) -> Result<T, Payload> {
        // SAFETY: each check has one thread that plays the handle.
        unsafe { self.0.take() }
    }

    /// For the owner of the handle.
    pub(crate) fn link(&self, look: impl FnOnce(&Result<T, Payload>) + 'static) {
        // SAFETY: as above.
        unsafe { self.0.link(Box::new(look)) }
    }
}
