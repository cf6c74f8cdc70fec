//! What the tests share.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use switchgrass::{joinall, spawn};

/// Patches everything, once.
pub(crate) fn patched() {
    static ONCE: Once = Once::new();
    // SAFETY: nothing in these tests keeps anything per thread over a call that blocks.
    ONCE.call_once(|| unsafe { switchgrass::monkey::patch_all() });
    time_limit();
}

/// Catches a hang.
fn time_limit() {
    const LIMIT: Duration = Duration::from_secs(120);
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::thread::spawn(|| {
            std::thread::sleep(LIMIT);
            eprintln!("the tests hang");
            std::process::abort();
        });
    });
}

/// How many are inside at once, at most.
#[derive(Debug, Default)]
pub(crate) struct Overlap {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Overlap {
    /// Counts a call as one that goes on.
    pub(crate) fn during<R>(&self, f: impl FnOnce() -> R) -> R {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let result = f();
        self.now.fetch_sub(1, Ordering::SeqCst);
        result
    }

    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// Runs `f` in so many greenlets of this thread; all of them must be inside at once.
pub(crate) fn all_at_once(count: usize, f: impl Fn(usize) + Clone + 'static) {
    patched();
    let overlap: &'static Overlap = Box::leak(Box::default());
    let greenlets: Vec<_> = (0..count)
        .map(|number| {
            let f = f.clone();
            spawn(move || overlap.during(|| f(number)))
        })
        .collect();
    joinall(&greenlets);
    for greenlet in greenlets {
        greenlet.join().unwrap();
    }
    assert_eq!(overlap.most(), count, "not all were waiting at once");
}

/// Runs the other greenlets of this thread until each of them waits for something, or is done. (Each yield runs all that are ready, once.)
pub(crate) fn let_all_run() {
    (0..20).for_each(|_| switchgrass::yield_now());
}

/// Two ends of a connection.
pub(crate) fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

/// Runs `f` in a greenlet that has to wait in it; `meanwhile`, when it does.
pub(crate) fn waits<T: 'static>(f: impl FnOnce() -> T + 'static, meanwhile: impl FnOnce()) -> T {
    patched();
    let greenlet = spawn(f);
    let_all_run();
    assert!(!greenlet.is_ready(), "it did not wait");
    meanwhile();
    greenlet.join().unwrap()
}

/// What a call of libc's has given: its error, if it is -1.
pub(crate) fn checked(result: impl TryInto<i64>) -> Result<i64, i32> {
    match result.try_into().ok().unwrap() {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap()),
        result => Ok(result),
    }
}

/// A directory that goes when this does.
pub(crate) struct TempDir(pub(crate) PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("switchgrass-monkey-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs `f` in a greenlet.
pub(crate) fn in_greenlet<T: 'static>(f: impl FnOnce() -> T + 'static) -> T {
    patched();
    spawn(f).join().unwrap()
}
