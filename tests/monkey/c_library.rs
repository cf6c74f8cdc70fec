//! A C library, compiled as distributions compile theirs, and loaded by the program.

use std::ffi::{CString, c_char, c_int, c_long, c_ulong};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use switchgrass::{joinall, spawn, yield_now};

use crate::util::{all_at_once, patched};

macro_rules! library {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        struct Library { $($name: unsafe extern "C" fn($($type),*) -> $result,)* }

        impl Library {
            /// # Safety
            ///
            /// What was loaded is `plain.c`.
            unsafe fn of(library: *mut libc::c_void) -> Self {
                $(
                    let name = CString::new(stringify!($name)).unwrap();
                    // SAFETY: an open library.
                    let $name = unsafe { libc::dlsym(library, name.as_ptr()) };
                    assert!(!$name.is_null(), "{name:?}");
                )*
                // SAFETY: functions of these types, says the caller.
                unsafe { Library { $($name: std::mem::transmute::<*mut libc::c_void, unsafe extern "C" fn($($type),*) -> $result>($name),)* } }
            }
        }

        $(
            fn $name($($arg: $type),*) -> $result {
                // SAFETY: pointers are to what `plain.c` wants: texts.
                unsafe { (PLAIN.$name)($($arg),*) }
            }
        )*
    };
}

library! {
    fn plain_sleep(milliseconds: c_long) -> c_int;
    fn plain_echo(fd: c_int, line: *const c_char, how: c_int, limit: usize, count: c_ulong) -> c_int;
    fn plain_overflow(fd: c_int, length: usize) -> isize;
    fn plain_reuse(path: *const c_char, milliseconds: c_long) -> c_int;
    fn plain_read_timer(fd: c_int) -> isize;
    fn plain_resolve(name: *const c_char) -> c_int;
    fn plain_take_ticket() -> c_int;
    fn plain_give_tickets(count: c_int) -> c_int;
    fn plain_nested(milliseconds: c_long) -> c_int;
    fn plain_gate() -> c_int;
    fn plain_pass() -> c_int;
    fn plain_let_pass() -> c_int;
}

static PLAIN: LazyLock<Library> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/monkey/plain.c");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("plain-{}.so", std::process::id()));
    let compiled = Command::new("cc")
        .args([
            "-O2",
            "-D_FORTIFY_SOURCE=2",
            "-shared",
            "-fPIC",
            "-pthread",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
        ])
        .args([&target, &source])
        .status();
    assert!(compiled.expect("a C compiler, `cc`, is needed").success());
    let path = CString::new(target.to_str().unwrap()).unwrap();
    // SAFETY: a library without constructors.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null(), "the library just compiled cannot be loaded");
    let _ = std::fs::remove_file(&target);
    // SAFETY: it is `plain.c`, and never unloaded.
    unsafe { Library::of(library) }
});

#[test]
fn a_hundred_greenlets_sleep_in_c() {
    all_at_once(100, |_| assert_eq!(plain_sleep(300), 0));
}

#[test]
fn a_hundred_greenlets_exchange_lines_in_c_by_each_of_its_calls() {
    patched();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = spawn(move || {
        let connections: Vec<_> = (0..100).map(|_| listener.accept().unwrap().0).collect();
        // Answers only when all are there, and a line in two parts.
        let answers: Vec<_> = connections
            .into_iter()
            .map(|mut stream: TcpStream| {
                spawn(move || {
                    let mut line = [0; 40];
                    stream.read_exact(&mut line).unwrap();
                    stream.write_all(&line[..15]).unwrap();
                    for _ in 0..3 {
                        yield_now();
                    }
                    stream.write_all(&line[15..]).unwrap();
                })
            })
            .collect();
        joinall(&answers);
    });
    all_at_once(100, move |number| {
        let stream = TcpStream::connect(address).unwrap();
        let line = CString::new(format!("{number:040}")).unwrap();
        let how = number as c_int % 6;
        assert_eq!(
            plain_echo(stream.as_raw_fd(), line.as_ptr(), how, 30, number as c_ulong % 2 + 1),
            0,
            "{how}"
        );
    });
    server.join().unwrap();
}

#[test]
fn a_hundred_greenlets_wait_for_a_condition_in_c() {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    patched();
    let giver = spawn(|| {
        // When all are waiting.
        yield_now();
        let thread = std::thread::spawn(|| {
            assert_eq!(plain_give_tickets(30), 0);
            assert_eq!(plain_take_ticket(), 0);
        });
        for _ in 0..71 {
            assert_eq!(plain_give_tickets(1), 0);
        }
        thread.join().unwrap();
    });
    all_at_once(100, |_| {
        yield_now();
        assert_eq!(plain_take_ticket(), 0);
        TAKEN.fetch_add(1, Ordering::Relaxed);
    });
    giver.join().unwrap();
    assert_eq!(TAKEN.load(Ordering::Relaxed), 100);
}

#[test]
fn a_recursive_mutex_in_c_is_held_over_a_sleep_by_one_greenlet_at_a_time() {
    all_at_once(20, |_| assert_eq!(plain_nested(1), 0));
}

#[test]
fn a_hundred_greenlets_wait_for_a_semaphore_in_c() {
    patched();
    assert_eq!(plain_gate(), 0);
    let poster = spawn(|| {
        yield_now();
        let thread = std::thread::spawn(|| (0..50).for_each(|_| assert_eq!(plain_let_pass(), 0)));
        (0..50).for_each(|_| assert_eq!(plain_let_pass(), 0));
        thread.join().unwrap();
    });
    all_at_once(100, |_| assert_eq!(plain_pass(), 0));
    poster.join().unwrap();
}

#[test]
fn names_are_resolved_in_c() {
    patched();
    // A lookup may be over before the next one begins: that they overlap is shown in `names`.
    let greenlets: Vec<_> = (0..100).map(|_| spawn(|| plain_resolve(c"localhost".as_ptr()))).collect();
    joinall(&greenlets);
    for greenlet in greenlets {
        assert_eq!(greenlet.join().unwrap(), 0);
    }
}

const CHILD: &str = "SWITCHGRASS_TEST_C_LIBRARY";

/// Whether this is the process that [`in_child`] starts.
fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs one test of this module alone in a process.
fn in_child(test: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("c_library::{test}"), "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap()
}

#[test]
fn a_number_that_stdio_has_closed_is_known_anew() {
    if !is_child() {
        let child = in_child("a_number_that_stdio_has_closed_is_known_anew");
        return assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
    }
    patched();
    // In C, so that nobody else's numbers come in between: a file, and then a timer at the number that it had.
    let timer = spawn(|| plain_reuse(c"/proc/self/exe".as_ptr(), 20)).join().unwrap();
    assert!(timer >= 0, "{timer}");
    all_at_once(2, move |number| match number {
        0 => assert_eq!(plain_read_timer(timer), 8),
        _ => assert_eq!(plain_sleep(1), 0),
    });
}

#[test]
fn a_buffer_that_is_too_small_ends_the_process_as_without_us() {
    if is_child() {
        patched();
        let (mut here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        here.write_all(&[7; 16]).unwrap();
        let result = spawn(move || plain_overflow(there.as_raw_fd(), 16)).join();
        unreachable!("not ended: {result:?}");
    }
    let child = in_child("a_buffer_that_is_too_small_ends_the_process_as_without_us");
    let said = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.signal(), Some(libc::SIGABRT), "{said}");
    assert!(said.contains("buffer overflow detected"), "{said}");
}
