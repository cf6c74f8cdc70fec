//! Unmodified blocking code on greenlets: what takes a process of its own.
//!
//! Each case has the main thread of a process of its own (see `cases`). It fails by a panic, or by a child that does.

#![expect(
    clippy::disallowed_methods,
    reason = "that std's own functions let others run is what is tested here"
)]

use std::cell::{Cell, UnsafeCell};
use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};
use std::{env, thread};

use switchgrass::monkey::{self, Parts};
use switchgrass::{Greenlet, joinall, joinall_timeout, spawn, threadpool};

mod cases;

macro_rules! cases {
    ($($name:ident;)*) => {
        &[$((stringify!($name), $name)),*]
    };
}

const CASES: &[(&str, fn())] = cases! {
    before_it_is_patched_nothing_changes;
    a_part_alone_can_be_patched_and_more_later;
    patching_makes_no_hub_and_a_second_time_changes_nothing;
    a_thread_without_a_hub_may_patch_for_one_that_has_one;
    what_was_locked_and_started_before_works_on;
    what_finds_data_asks_the_kernel_for_nothing_else;
    files_are_read_on_other_threads_if_that_is_patched;
    a_kill_during_a_read_of_a_file_waits_for_its_end;
    a_child_of_a_process_without_a_hub_can_block;
    a_child_of_a_process_with_greenlets_can_block_and_has_greenlets_of_its_own;
    a_child_that_a_greenlet_has_forked_can_block;
    forks_amid_threads_that_lock_and_accept_do_not_hang;
    forks_amid_contended_locks_do_not_hang;
    forks_amid_threads_that_make_barriers_do_not_hang;
    a_child_runs_commands_and_looks_up_names_on_threads_of_its_own;
    processes_that_share_a_futex_wake_each_other;
    commands_get_descriptors_that_block;
    standard_input_and_output_block_the_thread;
    calls_in_the_panic_hook_block_the_thread;
    calls_in_a_signal_handler_block_the_thread;
    who_asks_for_a_handler_is_told_the_programs;
    a_signal_handler_may_ask_for_flags_of_descriptors_at_any_time;
    a_handler_without_sa_restart_ends_calls_with_eintr;
    a_handler_with_sa_restart_ends_only_calls_that_are_never_restarted;
    what_is_left_of_a_sleep_is_told_to_whom_a_handler_has_woken;
    a_signal_that_comes_while_the_hub_sleeps_ends_a_read;
    pause_waits_for_a_handler_while_others_run;
    a_blocked_signal_is_waited_for_while_others_run;
    a_hundred_wait_for_a_blocked_signal_and_each_gets_one;
    a_wait_for_a_blocked_signal_ends_in_time;
    a_kill_ends_a_wait_for_a_blocked_signal;
    a_handler_of_another_signal_ends_sigwaitinfo_and_not_sigwait;
    who_yields_alone_yields_to_the_threads_of_the_system;
    waits_leave_nothing_behind;
    two_greenlets_of_one_thread_cannot_meet_at_a_channel_of_std;
    main_that_blocks_for_good_in_a_call_of_libcs_says_so;
};

fn main() -> ExitCode {
    // A limit for what hangs, not for what a busy machine makes slow.
    cases::main(CASES, 1, 240)
}

fn patched() {
    // SAFETY: nothing here keeps anything per thread over a call that blocks.
    unsafe { monkey::patch_all() };
}

/// A greenlet that has run when anybody has waited.
fn other() -> Greenlet<()> {
    spawn(|| ())
}

// ---- What is patched ------------------------------------------------------------------------------------------------

fn before_it_is_patched_nothing_changes() {
    let other = other();
    let (mut one, mut two) = UnixStream::pair().unwrap();
    let writer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(5));
        two.write_all(b"!").unwrap();
    });
    one.read_exact(&mut [0]).unwrap();
    thread::sleep(Duration::from_millis(1));
    writer.join().unwrap();
    assert!(!other.is_ready());
    assert!(!monkey::is_patched(Parts::TIME));
    assert!(monkey::report().symbols.iter().all(|symbol| symbol.is_ours));
    patched();
    patched();
    thread::sleep(Duration::from_millis(1));
    assert!(other.is_ready());
    assert!(monkey::is_patched(Parts::ALL) && !monkey::is_patched(Parts::FILES));
}

fn a_part_alone_can_be_patched_and_more_later() {
    // SAFETY: as in `patched`.
    unsafe { monkey::patch(Parts::TIME).unwrap() };
    let sleeps = other();
    let (one, mut two) = UnixStream::pair().unwrap();
    one.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    (&one).read(&mut [0]).unwrap_err();
    assert!(!sleeps.is_ready());
    thread::sleep(Duration::from_millis(1));
    assert!(sleeps.is_ready());
    one.set_read_timeout(None).unwrap();
    // SAFETY: as above.
    unsafe { monkey::patch(Parts::SOCKETS | Parts::STREAMS).unwrap() };
    let writes = spawn(move || two.write_all(b"!").unwrap());
    (&one).read_exact(&mut [0]).unwrap();
    writes.join().unwrap();
}

fn patching_makes_no_hub_and_a_second_time_changes_nothing() {
    patched();
    let report = monkey::report().to_string();
    patched();
    thread::sleep(Duration::from_millis(1));
    assert!(switchgrass::stats::all().is_empty());
    assert_eq!(monkey::report().to_string(), report);
}

fn a_thread_without_a_hub_may_patch_for_one_that_has_one() {
    let other = other();
    thread::spawn(patched).join().unwrap();
    assert!(!other.is_ready());
    thread::sleep(Duration::from_millis(1));
    assert!(other.is_ready());
}

fn what_was_locked_and_started_before_works_on() {
    static MUTEX: Mutex<usize> = Mutex::new(0);
    /// The next one to say which thread it is.
    fn number() -> i32 {
        // SAFETY: takes nothing.
        unsafe { libc::gettid() }
    }
    let (says, hears) = mpsc::channel();
    let held = MUTEX.lock().unwrap();
    let says_too = says.clone();
    let locks = thread::spawn(move || {
        says_too.send(number()).unwrap();
        *MUTEX.lock().unwrap() += 1;
    });
    let parks = thread::spawn(move || {
        says.send(number()).unwrap();
        thread::park();
    });
    // Until both wait in the kernel for a futex.
    for number in [hears.recv().unwrap(), hears.recv().unwrap()] {
        let call = format!("/proc/self/task/{number}/syscall");
        let waits = format!("{} ", libc::SYS_futex);
        while !std::fs::read_to_string(&call).unwrap().starts_with(&waits) {
            thread::yield_now();
        }
    }
    // SAFETY: initialised before it is used, and never moved.
    let recursive: *mut libc::pthread_mutex_t = unsafe {
        let mut attributes = std::mem::zeroed();
        let mutex = Box::leak(Box::new(libc::PTHREAD_MUTEX_INITIALIZER));
        libc::pthread_mutexattr_init(&mut attributes);
        libc::pthread_mutexattr_settype(&mut attributes, libc::PTHREAD_MUTEX_RECURSIVE);
        assert_eq!(libc::pthread_mutex_init(mutex, &attributes), 0);
        assert_eq!(libc::pthread_mutex_lock(mutex), 0);
        mutex
    };
    patched();
    let greenlet = spawn(move || {
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_mutex_lock(recursive) }, 0);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_mutex_unlock(recursive) }, 0);
        *MUTEX.lock().unwrap() += 1;
    });
    thread::sleep(Duration::from_millis(1));
    assert!(!greenlet.is_ready(), "main has what it wants");
    // SAFETY: as above.
    assert_eq!(unsafe { libc::pthread_mutex_unlock(recursive) }, 0);
    thread::sleep(Duration::from_millis(1));
    assert!(!greenlet.is_ready(), "and the other one, too");
    drop(held);
    greenlet.join().unwrap();
    let other = other();
    locks.join().unwrap();
    parks.thread().unpark();
    parks.join().unwrap();
    assert_eq!(*MUTEX.lock().unwrap(), 2);
    other.join().unwrap();
}

/// After the first calls, from which it is known what the descriptor is. The kernel kills who calls anything but `recv`
/// and `send`.
fn what_finds_data_asks_the_kernel_for_nothing_else() {
    const NUMBER: u32 = 0;
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER);
    let give = |what| statement(libc::BPF_RET | libc::BPF_K, what);
    // Skips what follows next if it is another call.
    let unless = |call: libc::c_long| libc::sock_filter {
        jf: 1,
        ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32)
    };
    let allow = give(libc::SECCOMP_RET_ALLOW);
    let mut filter = [
        load,
        unless(libc::SYS_recvfrom),
        allow,
        unless(libc::SYS_sendto),
        allow,
        unless(libc::SYS_exit_group),
        allow,
        give(libc::SECCOMP_RET_KILL_PROCESS),
    ];
    patched();
    let (mut one, mut two) = UnixStream::pair().unwrap();
    let child = fork(|| {
        spawn(move || {
            let peer = spawn({
                let mut two = two.try_clone().unwrap();
                move || two.write_all(b"!").unwrap()
            });
            // Waits, so it is registered.
            one.read_exact(&mut [0]).unwrap();
            peer.join().unwrap();
            let mut byte = [0];
            two.write_all(b"!").unwrap();
            one.read_exact(&mut byte).unwrap();
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
            // SAFETY: a valid program, which is copied.
            unsafe {
                assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
                assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program), 0);
            }
            let ends = |what: bool| {
                if !what {
                    // SAFETY: ends the process as it is.
                    unsafe { libc::_exit(1) }
                }
            };
            // So few that nobody else gets a turn in between.
            for _ in 0..30 {
                ends(matches!(two.write(b"ab"), Ok(2)));
                ends(matches!(one.read(&mut byte), Ok(1)) && byte == *b"a");
                ends(matches!(one.read(&mut byte), Ok(1)) && byte == *b"b");
            }
            // SAFETY: as above.
            unsafe { libc::_exit(0) }
        })
        .join()
        .unwrap();
    });
    ends_well(child);
}

fn files_are_read_on_other_threads_if_that_is_patched() {
    // SAFETY: as above.
    unsafe { monkey::patch(Parts::ALL | Parts::FILES).unwrap() };
    let path = env::temp_dir().join(format!("switchgrass-files-{}", std::process::id()));
    // The only thread of the pool has time for a file when the greenlet has run.
    threadpool::global().set_max(1);
    let busy_until_other = || {
        let (let_go, end) = mpsc::channel::<()>();
        (threadpool::global().spawn(move || end.recv()), spawn(move || drop(let_go)))
    };
    let (_job, other) = busy_until_other();
    let mut file = File::create_new(&path).unwrap();
    file.write_all(b"hello").unwrap();
    assert!(other.is_ready(), "a write lets others run");
    let (_job, other) = busy_until_other();
    let mut text = String::new();
    File::open(&path).unwrap().read_to_string(&mut text).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(text, "hello");
    assert!(other.is_ready(), "and so does a read");
    let path = path.with_extension("whole");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let (mut one, mut two) = ([0; 2], [0; 3]);
    let mut calls: [(&str, &mut dyn FnMut() -> io::Result<usize>); 4] = [
        ("writev", &mut || (&file).write_vectored(&[IoSlice::new(b"he"), IoSlice::new(b"llo")])),
        ("pwrite", &mut || file.write_at(b"jelly", 0)),
        ("pread", &mut || file.read_at(&mut [0; 5], 0)),
        ("readv", &mut || {
            (&file).rewind()?;
            (&file).read_vectored(&mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)])
        }),
    ];
    for (name, call) in &mut calls {
        let (_job, other) = busy_until_other();
        assert_eq!(call().unwrap(), 5, "{name}");
        assert!(other.is_ready(), "{name} lets others run");
    }
    assert_eq!((&one, &two), (b"je", b"lly"));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(
        (&File::open("/proc/self/exe").unwrap()).write(b"x").unwrap_err().raw_os_error(),
        Some(libc::EBADF)
    );
}

fn a_kill_during_a_read_of_a_file_waits_for_its_end() {
    // SAFETY: as above.
    unsafe { monkey::patch(Parts::ALL | Parts::FILES).unwrap() };
    let greenlet = spawn(|| {
        let mut buffer = vec![0; 1 << 20];
        let count = File::open("/proc/self/exe").unwrap().read(&mut buffer).unwrap();
        assert_eq!(&buffer[..4], b"\x7fELF");
        count
    });
    switchgrass::yield_now();
    greenlet.kill_nowait();
    assert!(greenlet.join().unwrap() > 4);
}

// ---- Processes ------------------------------------------------------------------------------------------------------

/// A process that does this, and ends.
fn fork(child: impl FnOnce()) -> libc::pid_t {
    // SAFETY: what the child does is what these tests are about.
    match unsafe { libc::fork() } {
        -1 => panic!("fork failed"),
        0 => {
            // SAFETY: take numbers; the second one ends the process as it is.
            unsafe {
                libc::alarm(30);
                libc::_exit(if catch_unwind(AssertUnwindSafe(child)).is_ok() { 0 } else { 1 });
            }
        }
        pid => pid,
    }
}

#[track_caller]
fn ends_well(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: writes one int.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0, "how the child ended");
}

/// Everything that blocks, without greenlets.
fn block() {
    thread::sleep(Duration::from_millis(1));
    thread::park_timeout(Duration::from_millis(1));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let mut stream = listener.accept().unwrap().0;
    let mut request = [0; 5];
    stream.read_exact(&mut request).unwrap();
    stream.write_all(&request).unwrap();
    drop(stream);
    assert_eq!(client.join().unwrap(), "hello");
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(1).unwrap());
    assert_eq!(receiver.recv(), Ok(1));
}

fn block_in_greenlets() {
    let greenlets: Vec<_> = (0..10).map(|_| spawn(block)).collect();
    greenlets.into_iter().for_each(|greenlet| greenlet.join().unwrap());
}

fn a_child_of_a_process_without_a_hub_can_block() {
    patched();
    ends_well(fork(|| {
        block();
        block_in_greenlets();
    }));
    block();
}

fn a_child_of_a_process_with_greenlets_can_block_and_has_greenlets_of_its_own() {
    patched();
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let count = Rc::new(Cell::new(0));
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let (mut there, count) = (there.try_clone().unwrap(), Rc::clone(&count));
            spawn(move || {
                there.read_exact(&mut [0]).unwrap();
                count.set(count.get() + 1);
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(1));
    ends_well(fork(|| {
        block();
        block_in_greenlets();
        // What the parent waits for can be read, and closed, here.
        here.write_all(b"!").unwrap();
        there.read_exact(&mut [0]).unwrap();
        drop(there);
        assert_eq!(count.get(), 0);
    }));
    here.write_all(b"abc").unwrap();
    joinall(&waiting);
    assert_eq!(count.get(), 3);
    block_in_greenlets();
}

fn a_child_that_a_greenlet_has_forked_can_block() {
    patched();
    spawn(|| {
        let pid = fork(|| {
            block();
            block_in_greenlets();
        });
        ends_well(pid);
        block();
    })
    .join()
    .unwrap();
}

fn forks_amid_threads_that_lock_and_accept_do_not_hang() {
    patched();
    let done: &'static AtomicBool = Box::leak(Box::default());
    let listener: &'static TcpListener = Box::leak(Box::new(TcpListener::bind("127.0.0.1:0").unwrap()));
    let mutex: &'static Mutex<()> = Box::leak(Box::default());
    let address = listener.local_addr().unwrap();
    // Once the queue is full and nobody accepts any more, a connect would never come to an end.
    let connect = move || match TcpStream::connect_timeout(&address, Duration::from_millis(10)) {
        Ok(stream) => drop(stream),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
    };
    // A greenlet of two threads each that accepts and locks, and threads without a hub.
    let threads: Vec<_> = (0..4)
        .map(|number| {
            thread::spawn(move || {
                let work = move || {
                    while !done.load(Ordering::Relaxed) {
                        drop(listener.accept().unwrap());
                        let _locked = mutex.lock().unwrap();
                        thread::yield_now();
                    }
                };
                if number < 2 { joinall([&spawn(work), &spawn(work)]) } else { work() }
            })
        })
        .collect();
    let connects = thread::spawn(move || {
        while !done.load(Ordering::Relaxed) {
            connect();
        }
    });
    for _ in 0..100 {
        ends_well(fork(|| {
            let (one, mut two) = UnixStream::pair().unwrap();
            two.write_all(b"!").unwrap();
            (&one).read_exact(&mut [0]).unwrap();
            one.set_nonblocking(true).unwrap();
            drop(one);
            thread::sleep(Duration::from_micros(100));
        }));
    }
    done.store(true, Ordering::Relaxed);
    connects.join().unwrap();
    while threads.iter().any(|thread| !thread.is_finished()) {
        connect();
    }
}

/// What is locked for a fork is let go by threads that have to wake who forks.
fn forks_amid_contended_locks_do_not_hang() {
    patched();
    let done: &'static AtomicBool = Box::leak(Box::default());
    let mutexes: &'static [Mutex<()>] = Vec::leak((0..64).map(|_| Mutex::new(())).collect());
    let threads: Vec<_> = (0..3)
        .map(|number| {
            thread::spawn(move || {
                let work = move || {
                    let mut at = number;
                    while !done.load(Ordering::Relaxed) {
                        at = (at + 1) % 4;
                        let _locked = mutexes[at].lock().unwrap();
                        thread::yield_now();
                    }
                };
                joinall([&spawn(work), &spawn(work), &spawn(work)]);
            })
        })
        .collect();
    for _ in 0..300 {
        ends_well(fork(|| drop(mutexes[9].lock().unwrap())));
    }
    done.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn forks_amid_threads_that_make_barriers_do_not_hang() {
    patched();
    let done: &'static AtomicBool = Box::leak(Box::default());
    let use_one = || {
        let mut barrier = std::mem::MaybeUninit::<libc::pthread_barrier_t>::uninit();
        // SAFETY: initialised before it is used, for one; destroyed once.
        unsafe {
            assert_eq!(libc::pthread_barrier_init(barrier.as_mut_ptr(), std::ptr::null(), 1), 0);
            let result = libc::pthread_barrier_wait(barrier.as_mut_ptr());
            assert_eq!(result, libc::PTHREAD_BARRIER_SERIAL_THREAD);
            assert_eq!(libc::pthread_barrier_destroy(barrier.as_mut_ptr()), 0);
        }
    };
    let work = move || {
        while !done.load(Ordering::Relaxed) {
            use_one();
        }
    };
    let threads = [thread::spawn(work), thread::spawn(work)];
    for _ in 0..300 {
        ends_well(fork(use_one));
    }
    done.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// The threads that did so in the parent are not there.
fn a_child_runs_commands_and_looks_up_names_on_threads_of_its_own() {
    patched();
    let use_threads = || {
        let greenlet = spawn(|| {
            // SAFETY: a C string.
            assert_eq!(unsafe { libc::system(c"exit 3".as_ptr()) }, 3 << 8);
            assert!(std::net::ToSocketAddrs::to_socket_addrs("localhost:1").unwrap().next().is_some());
        });
        greenlet.join().unwrap();
    };
    use_threads();
    ends_well(fork(use_threads));
    use_threads();
}

/// A futex that is not private: who waits there, or wakes, may be in another process, which our table knows nothing of.
fn processes_that_share_a_futex_wake_each_other() {
    fn futex(word: &AtomicI32, operation: i32, value: i32) -> i64 {
        // SAFETY: a word that stays mapped, and no time limit.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, 0, 0, 0) }
    }
    patched();
    // SAFETY: a new mapping, of zeros, which stays.
    let words: &[AtomicI32; 2] = unsafe {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let page = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        &*page.cast()
    };
    let waits = spawn(move || {
        while words[1].load(Ordering::SeqCst) == 0 {
            futex(&words[1], libc::FUTEX_WAIT, 0);
        }
    });
    let other = other();
    thread::sleep(Duration::from_millis(1));
    assert!(!waits.is_ready() && other.is_ready());
    let child = fork(|| {
        assert_eq!(futex(&words[0], libc::FUTEX_WAIT, 0), 0);
        words[1].store(1, Ordering::SeqCst);
        futex(&words[1], libc::FUTEX_WAKE, 1);
    });
    // Until it is there.
    while futex(&words[0], libc::FUTEX_WAKE, 1) == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    waits.join().unwrap();
    ends_well(child);
}

fn commands_get_descriptors_that_block() {
    patched();
    let other = other();
    spawn(|| {
        let (from, mut to) = io::pipe().unwrap();
        let (one, mut two) = UnixStream::pair().unwrap();
        // Waited for once, by us.
        let waits = [
            spawn({
                let mut from = from.try_clone().unwrap();
                move || from.read_exact(&mut [0]).unwrap()
            }),
            spawn({
                let mut one = one.try_clone().unwrap();
                move || one.read_exact(&mut [0]).unwrap()
            }),
        ];
        thread::sleep(Duration::from_millis(1));
        to.write_all(b"!").unwrap();
        two.write_all(b"!").unwrap();
        joinall(&waits);
        let output = Command::new("cat")
            .args(["/proc/self/fdinfo/0", "/proc/self/fdinfo/1", "/proc/self/fdinfo/2"])
            .stdin(from)
            .stderr(Stdio::from(OwnedFd::from(one)))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let flags: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("flags:"))
            .map(|flags| i32::from_str_radix(flags.trim(), 8).unwrap())
            .collect();
        assert_eq!(flags.len(), 3, "{text}");
        assert!(flags.iter().all(|flags| flags & libc::O_NONBLOCK == 0), "{text}");
    })
    .join()
    .unwrap();
    other.join().unwrap();
}

/// They are shared with whoever started us, and a library's output is no place to switch.
fn standard_input_and_output_block_the_thread() {
    patched();
    let (from, mut to) = io::pipe().unwrap();
    // SAFETY: both are open; number 0 is the process's own.
    assert_eq!(unsafe { libc::dup2(from.as_raw_fd(), 0) }, 0);
    let writer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(10));
        to.write_all(b"line\n").unwrap();
    });
    let other = other();
    let mut line = String::new();
    io::stdin().read_line(&mut line).unwrap();
    assert_eq!(line, "line\n");
    println!("a line");
    eprintln!("and another one");
    assert!(!other.is_ready());
    writer.join().unwrap();
    other.join().unwrap();
}

// ---- Panics and signals ---------------------------------------------------------------------------------------------

fn calls_in_the_panic_hook_block_the_thread() {
    static CALLED: AtomicBool = AtomicBool::new(false);
    static LOCK: Mutex<()> = Mutex::new(());
    patched();
    let (mut here, there) = UnixStream::pair().unwrap();
    std::panic::set_hook(Box::new(move |_| {
        thread::sleep(Duration::from_millis(1));
        (&there).write_all(b"panic").unwrap();
        drop(LOCK.lock());
        CALLED.store(true, Ordering::SeqCst);
    }));
    let panics = spawn(|| panic!("now"));
    let other = spawn(|| assert!(CALLED.load(Ordering::SeqCst), "nobody runs while the hook does"));
    assert!(panics.join().is_err());
    other.join().unwrap();
    let mut text = [0; 5];
    here.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"panic");
}

static IN_HANDLER: AtomicBool = AtomicBool::new(false);

extern "C" fn sleeps(_: i32) {
    // SAFETY: takes a number.
    unsafe { libc::usleep(2000) };
    IN_HANDLER.store(true, Ordering::SeqCst);
}

extern "C" fn sleeps_with_information(_: i32, information: *mut libc::siginfo_t, _: *mut libc::c_void) {
    assert!(!information.is_null());
    sleeps(0);
}

fn install(signal: i32, handler: usize, flags: i32) -> libc::sigaction {
    // SAFETY: actions of zeros are valid; the handler is the caller's.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut before: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(signal, &action, &mut before), 0);
        before
    }
}

fn calls_in_a_signal_handler_block_the_thread() {
    patched();
    for (handler, flags) in [
        (sleeps as *const () as usize, 0),
        (sleeps as *const () as usize, libc::SA_ONSTACK),
        (sleeps_with_information as *const () as usize, libc::SA_SIGINFO),
        (sleeps_with_information as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK),
    ] {
        install(libc::SIGUSR1, handler, flags);
        IN_HANDLER.store(false, Ordering::SeqCst);
        let raises = spawn(|| {
            let other = other();
            // SAFETY: a handler is installed.
            unsafe { libc::raise(libc::SIGUSR1) };
            assert!(IN_HANDLER.load(Ordering::SeqCst));
            assert!(!other.is_ready());
            // Afterwards all is as before.
            thread::sleep(Duration::from_millis(1));
            assert!(other.is_ready());
        });
        raises.join().unwrap();
    }
}

fn who_asks_for_a_handler_is_told_the_programs() {
    patched();
    let (plain, full) = (sleeps as *const () as usize, sleeps_with_information as *const () as usize);
    install(libc::SIGUSR1, plain, libc::SA_RESTART);
    let before = install(libc::SIGUSR1, full, libc::SA_SIGINFO);
    assert_eq!((before.sa_sigaction, before.sa_flags & libc::SA_SIGINFO), (plain, 0));
    let before = install(libc::SIGUSR1, libc::SIG_IGN, 0);
    assert_eq!((before.sa_sigaction, before.sa_flags & libc::SA_SIGINFO), (full, libc::SA_SIGINFO));
    // SAFETY: ignored.
    unsafe { libc::raise(libc::SIGUSR1) };
    // SAFETY: as in `install`.
    unsafe {
        assert_eq!(libc::signal(libc::SIGUSR1, plain), libc::SIG_IGN);
        assert_eq!(libc::signal(libc::SIGUSR1, libc::SIG_DFL), plain);
        assert_eq!(libc::signal(libc::SIGUSR1, libc::SIG_DFL), libc::SIG_DFL);
    }
}

/// `fcntl` may be called in handlers; also in one that has interrupted just that.
fn a_signal_handler_may_ask_for_flags_of_descriptors_at_any_time() {
    extern "C" fn asks(_: i32) {
        // SAFETY: F_GETFL takes no argument.
        unsafe { libc::fcntl(0, libc::F_GETFL) };
    }
    patched();
    install(libc::SIGUSR1, asks as *const () as usize, libc::SA_RESTART);
    // SAFETY: this thread's.
    let main = unsafe { libc::pthread_self() };
    let done: &'static AtomicBool = Box::leak(Box::default());
    let signals = thread::spawn(move || {
        while !done.load(Ordering::Relaxed) {
            // SAFETY: the thread lives until this one is joined.
            unsafe { libc::pthread_kill(main, libc::SIGUSR1) };
            thread::yield_now();
        }
    });
    let (one, _two) = UnixStream::pair().unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(200) {
        one.set_nonblocking(true).unwrap();
    }
    done.store(true, Ordering::Relaxed);
    signals.join().unwrap();
}

extern "C" fn does_nothing(_: i32) {}

/// Greenlets that wait, each in a call, and the number that it fails with; 0: it does not.
fn waiting_calls(socket: &UnixStream, limited: &UnixStream) -> Vec<(&'static str, Greenlet<i32>)> {
    limited.set_read_timeout(Some(Duration::from_secs(600))).unwrap();
    let (fd, limited) = (socket.as_raw_fd(), limited.as_raw_fd());
    fn call(call: impl FnOnce() -> i64 + 'static) -> Greenlet<i32> {
        spawn(move || if call() == -1 { io::Error::last_os_error().raw_os_error().unwrap() } else { 0 })
    }
    let buf = std::ptr::from_mut(Box::leak(Box::new(0_u8))).cast();
    let child = spawn_child();
    // SAFETY: descriptors that outlive the calls, which find nothing to read, in buffers that are valid.
    unsafe {
        vec![
            ("recv", call(move || libc::recv(fd, buf, 1, 0) as i64)),
            ("read", call(move || libc::read(fd, buf, 1) as i64)),
            ("waitpid", call(move || libc::waitpid(child, std::ptr::null_mut(), 0).into())),
            ("recv with a limit", call(move || libc::recv(limited, buf, 1, 0) as i64)),
            ("usleep", call(|| libc::usleep(600_000_000).into())),
            (
                "poll",
                call(move || {
                    let mut fds = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
                    libc::poll(&mut fds, 1, -1).into()
                }),
            ),
            ("poll of nothing", call(|| libc::poll(std::ptr::null_mut(), 0, 600_000).into())),
        ]
    }
}

/// One that waits for its standard input, which nobody closes.
fn spawn_child() -> i32 {
    let child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let id = child.id() as i32;
    std::mem::forget(child);
    id
}

fn results(flags: i32) -> Vec<(&'static str, Option<i32>)> {
    patched();
    install(libc::SIGUSR1, does_nothing as *const () as usize, flags);
    let ((socket, _one), (limited, _two)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    let calls = waiting_calls(&socket, &limited);
    // Each gets as far as its wait.
    for _ in 0..10 {
        switchgrass::yield_now();
    }
    assert!(calls.iter().all(|(_, call)| !call.is_ready()));
    // SAFETY: a handler is installed. It runs on this thread.
    unsafe { libc::raise(libc::SIGUSR1) };
    // They are woken by the loop, and in its next turn at the latest they have gone on.
    switchgrass::sleep(Duration::from_millis(1));
    switchgrass::sleep(Duration::from_millis(1));
    let result = |(name, call): (_, Greenlet<i32>)| {
        let result = call.value().copied();
        call.kill();
        (name, result)
    };
    calls.into_iter().map(result).collect()
}

fn a_handler_without_sa_restart_ends_calls_with_eintr() {
    for (call, result) in results(0) {
        assert_eq!(result, Some(libc::EINTR), "{call}");
    }
}

/// signal(7), "Interruption of system calls".
fn a_handler_with_sa_restart_ends_only_calls_that_are_never_restarted() {
    for (call, result) in results(libc::SA_RESTART) {
        let is_restarted = ["recv", "read", "waitpid"].contains(&call);
        assert_eq!(result, if is_restarted { None } else { Some(libc::EINTR) }, "{call}");
    }
}

fn what_is_left_of_a_sleep_is_told_to_whom_a_handler_has_woken() {
    patched();
    install(libc::SIGUSR1, does_nothing as *const () as usize, libc::SA_RESTART);
    let sleeps = spawn(|| {
        let time = libc::timespec { tv_sec: 600, tv_nsec: 0 };
        let mut rest = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both are valid.
        let result = unsafe { libc::nanosleep(&time, &mut rest) };
        (result, io::Error::last_os_error().raw_os_error(), rest.tv_sec)
    });
    // SAFETY: takes a number.
    let seconds = spawn(|| unsafe { libc::sleep(600) });
    switchgrass::yield_now();
    // SAFETY: a handler is installed.
    unsafe { libc::raise(libc::SIGUSR1) };
    let (result, error, rest) = sleeps.join().unwrap();
    assert_eq!((result, error), (-1, Some(libc::EINTR)));
    assert!((1..600).contains(&rest), "{rest}");
    assert!((1..600).contains(&seconds.join().unwrap()));
}

fn a_signal_that_comes_while_the_hub_sleeps_ends_a_read() {
    patched();
    install(libc::SIGUSR1, does_nothing as *const () as usize, 0);
    // SAFETY: this thread's.
    let main = unsafe { libc::pthread_self() };
    for _ in 0..100 {
        let (one, _two) = UnixStream::pair().unwrap();
        let done = std::sync::Arc::new(AtomicBool::new(false));
        let signals = thread::spawn({
            let done = done.clone();
            move || {
                while !done.load(Ordering::Relaxed) {
                    // SAFETY: the thread lives until this one is joined.
                    unsafe { libc::pthread_kill(main, libc::SIGUSR1) };
                    for _ in 0..1000 {
                        thread::yield_now();
                    }
                }
            }
        });
        let reads = spawn(move || (&one).read(&mut [0]).unwrap_err().kind());
        assert_eq!(reads.join().unwrap(), io::ErrorKind::Interrupted);
        done.store(true, Ordering::Relaxed);
        signals.join().unwrap();
    }
}

fn pause_waits_for_a_handler_while_others_run() {
    patched();
    install(libc::SIGUSR1, does_nothing as *const () as usize, libc::SA_RESTART);
    let raises = spawn(|| {
        thread::sleep(Duration::from_millis(1));
        // SAFETY: a handler is installed.
        unsafe { libc::raise(libc::SIGUSR1) };
    });
    // SAFETY: takes nothing.
    assert_eq!(unsafe { libc::pause() }, -1);
    assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EINTR));
    raises.join().unwrap();
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap()
}

/// Blocks these signals on this thread, and on those that it starts.
fn blocked(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: a set of zeros is empty; it is of this thread.
    unsafe {
        let mut set = std::mem::zeroed();
        signals.iter().for_each(|signal| assert_eq!(libc::sigaddset(&mut set, *signal), 0));
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()), 0);
        set
    }
}

fn sigwait(set: &libc::sigset_t) -> Result<i32, i32> {
    let mut signal = 0;
    // SAFETY: a set, and a place.
    match unsafe { libc::sigwait(set, &mut signal) } {
        0 => Ok(signal),
        error => Err(error),
    }
}

fn sigwaitinfo(set: &libc::sigset_t) -> Result<(i32, libc::siginfo_t), i32> {
    // SAFETY: zeros are a valid value.
    let mut information = unsafe { std::mem::zeroed() };
    // SAFETY: a set, and a place.
    match unsafe { libc::sigwaitinfo(set, &mut information) } {
        -1 => Err(errno()),
        signal => Ok((signal, information)),
    }
}

fn sigtimedwait(set: &libc::sigset_t, time: Option<libc::timespec>) -> Result<i32, i32> {
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: a set; null, or a time.
    match unsafe { libc::sigtimedwait(set, std::ptr::null_mut(), time) } {
        -1 => Err(errno()),
        signal => Ok(signal),
    }
}

fn until_all_wait() {
    (0..20).for_each(|_| switchgrass::yield_now());
}

fn a_blocked_signal_is_waited_for_while_others_run() {
    patched();
    let set = blocked(&[libc::SIGUSR1, libc::SIGCHLD]);
    // SAFETY: take numbers, or a thread that lives.
    let sends: [fn(i32); 3] = unsafe {
        [
            |signal| assert_eq!(libc::kill(std::process::id() as i32, signal), 0),
            |signal| assert_eq!(libc::raise(signal), 0),
            |signal| assert_eq!(libc::pthread_kill(libc::pthread_self(), signal), 0),
        ]
    };
    for send in sends {
        for signal in [libc::SIGUSR1, libc::SIGCHLD] {
            let calls: [&dyn Fn() -> i32; 3] = [
                &|| sigwait(&set).unwrap(),
                &|| {
                    let (signal, information) = sigwaitinfo(&set).unwrap();
                    assert_eq!(information.si_signo, signal);
                    // SAFETY: a process has sent it.
                    assert_eq!(unsafe { information.si_pid() }, std::process::id() as i32);
                    signal
                },
                &|| sigtimedwait(&set, Some(libc::timespec { tv_sec: 600, tv_nsec: 0 })).unwrap(),
            ];
            for call in calls {
                // First while nobody has sent one, then one that is there.
                let sender = spawn(move || send(signal));
                assert_eq!(call(), signal);
                assert!(sender.is_ready());
                let other = other();
                send(signal);
                assert_eq!(call(), signal);
                assert!(!other.is_ready(), "it did not wait");
                other.join().unwrap();
            }
        }
    }
}

fn a_hundred_wait_for_a_blocked_signal_and_each_gets_one() {
    patched();
    let set = blocked(&[libc::SIGRTMIN()]);
    let greenlets: Vec<_> = (0..100).map(|_| spawn(move || sigwait(&set))).collect();
    until_all_wait();
    for _ in 0..100 {
        // SAFETY: takes numbers. Those from SIGRTMIN on queue up.
        unsafe { libc::kill(std::process::id() as i32, libc::SIGRTMIN()) };
    }
    assert!(greenlets.into_iter().all(|greenlet| greenlet.join().unwrap() == Ok(libc::SIGRTMIN())));
    assert_eq!(sigtimedwait(&set, Some(libc::timespec { tv_sec: 0, tv_nsec: 0 })), Err(libc::EAGAIN));
}

fn a_wait_for_a_blocked_signal_ends_in_time() {
    patched();
    let set = blocked(&[libc::SIGUSR1]);
    let other = other();
    let nanos = |tv_nsec| Some(libc::timespec { tv_sec: 0, tv_nsec });
    assert_eq!(sigtimedwait(&set, nanos(0)), Err(libc::EAGAIN));
    assert_eq!(sigtimedwait(&set, nanos(1_000_000_000)), Err(libc::EINVAL));
    assert!(!other.is_ready());
    let start = Instant::now();
    assert_eq!(sigtimedwait(&set, nanos(5_000_000)), Err(libc::EAGAIN));
    assert!(start.elapsed() >= Duration::from_millis(5));
    assert!(other.is_ready());
}

fn a_kill_ends_a_wait_for_a_blocked_signal() {
    patched();
    let set = blocked(&[libc::SIGUSR1]);
    let calls: [fn(&libc::sigset_t) -> i32; 3] = [
        |set| sigwait(set).unwrap_err(),
        |set| sigwaitinfo(set).err().unwrap(),
        |set| sigtimedwait(set, None).unwrap_err(),
    ];
    for call in calls {
        let killed = spawn(move || (call(&set), call(&set)));
        let late = spawn(move || switchgrass::timeout(Duration::from_millis(5), || call(&set)).unwrap());
        until_all_wait();
        killed.kill_nowait();
        assert_eq!(killed.join().unwrap(), (libc::ECANCELED, libc::ECANCELED));
        assert_eq!(late.join().unwrap(), libc::ETIMEDOUT);
    }
}

fn a_handler_of_another_signal_ends_sigwaitinfo_and_not_sigwait() {
    patched();
    install(libc::SIGUSR2, does_nothing as *const () as usize, libc::SA_RESTART);
    let set = blocked(&[libc::SIGUSR1]);
    let goes_on = spawn(move || sigwait(&set));
    let ends = spawn(move || sigwaitinfo(&set).err());
    until_all_wait();
    // SAFETY: a handler is installed.
    unsafe { libc::raise(libc::SIGUSR2) };
    assert_eq!(ends.join().unwrap(), Some(libc::EINTR));
    thread::sleep(Duration::from_millis(1));
    assert!(!goes_on.is_ready());
    // SAFETY: it is blocked.
    unsafe { libc::raise(libc::SIGUSR1) };
    assert_eq!(goes_on.join().unwrap(), Ok(libc::SIGUSR1));
}

// ---- What costs nothing
// ----------------------------------------------------------------------------------------------

/// The kernel tells who asks it to yield by an error.
fn who_yields_alone_yields_to_the_threads_of_the_system() {
    patched();
    let statement = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    ends_well(fork(|| {
        spawn(move || {
            let mut filter = [
                statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
                statement(libc::BPF_JMP | libc::BPF_JEQ, 1, libc::SYS_sched_yield as u32),
                statement(libc::BPF_RET, 0, libc::SECCOMP_RET_ERRNO | libc::EXDEV as u32),
                statement(libc::BPF_RET, 0, libc::SECCOMP_RET_ALLOW),
            ];
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
            // SAFETY: a valid program, which is copied.
            unsafe {
                assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
                assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program), 0);
            }
            // SAFETY: takes nothing.
            let asks_the_kernel = || unsafe { libc::sched_yield() } == -1 && errno() == libc::EXDEV;
            assert!(asks_the_kernel());
            let other = other();
            assert!(!asks_the_kernel());
            assert!(other.is_ready());
            assert!(asks_the_kernel());
        })
        .join()
        .unwrap();
    }));
}

/// How many descriptors this process has, how many of them its epoll instances watch, and what the tables keep.
fn kept() -> (usize, usize, [usize; 5]) {
    let descriptors: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let watched = |number: &String| {
        // The one of the directory itself is gone.
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        text.lines().filter(|line| line.starts_with("tfd:")).count()
    };
    (descriptors.len(), descriptors.iter().map(watched).sum(), switchgrass::testing::kept_by_monkey())
}

/// One of each wait: most end as they should, some by a timeout or a kill.
fn wait_for_all() {
    let (mut one, mut two) = UnixStream::pair().unwrap();
    let (limited, _open) = UnixStream::pair().unwrap();
    let (mut reads, mut writes) = io::pipe().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let set = blocked(&[libc::SIGUSR1]);
    let shared = Rc::new((Mutex::new(false), Condvar::new(), std::sync::RwLock::new(())));
    let theirs = Rc::clone(&shared);
    // SAFETY: zeros are a valid value, which is initialised before it is used.
    let sem = Rc::new(UnsafeCell::new(unsafe { std::mem::zeroed::<libc::sem_t>() }));
    // SAFETY: as above.
    assert_eq!(unsafe { libc::sem_init(sem.get(), 0, 0) }, 0);
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let stdin = child.stdin.take();
    let fds = [two.as_raw_fd(), reads.as_raw_fd()];
    let waiting = [
        spawn(move || one.read_exact(&mut [0; 2]).unwrap()),
        spawn(move || {
            limited.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            (&limited).read(&mut [0]).unwrap_err();
        }),
        spawn(move || reads.read_exact(&mut [0; 2]).unwrap()),
        spawn(move || drop(listener.accept().unwrap())),
        spawn(move || drop(TcpStream::connect(address).unwrap())),
        spawn(move || assert!(child.wait().unwrap().success())),
        spawn(move || assert_eq!(sigwait(&set), Ok(libc::SIGUSR1))),
        spawn(move || {
            let locked = theirs.2.write().unwrap();
            let guard = theirs.1.wait_while(theirs.0.lock().unwrap(), |done| !*done).unwrap();
            drop((locked, guard));
        }),
        spawn(|| thread::park_timeout(Duration::from_millis(1))),
        spawn({
            let sem = Rc::clone(&sem);
            // SAFETY: initialised, and lives as long as the greenlets.
            move || assert_eq!(unsafe { libc::sem_wait(sem.get()) }, 0)
        }),
    ];
    let poll = move || {
        let mut fds = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        // SAFETY: an array of two.
        unsafe { libc::poll(fds.as_mut_ptr(), 2, 600_000) }
    };
    let cut = [
        spawn(poll),
        // SAFETY: waits for a child that there is, or not.
        spawn(|| unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WUNTRACED) }),
        spawn(move || sigwait(&set).unwrap_err()),
    ];
    let contends = spawn({
        let shared = Rc::clone(&shared);
        move || drop(shared.2.read().unwrap())
    });
    until_all_wait();
    for greenlet in &cut {
        greenlet.kill();
    }
    two.write_all(b"ab").unwrap();
    writes.write_all(b"ab").unwrap();
    drop(stdin);
    *shared.0.lock().unwrap() = true;
    shared.1.notify_all();
    // SAFETY: as above.
    assert_eq!(unsafe { libc::sem_post(sem.get()) }, 0);
    // SAFETY: it is blocked.
    unsafe { libc::raise(libc::SIGUSR1) };
    waiting.into_iter().chain([contends]).for_each(|greenlet| greenlet.join().unwrap());
    joinall(&cut);
}

fn waits_leave_nothing_behind() {
    patched();
    // What is made once is made here.
    (0..3).for_each(|_| wait_for_all());
    // More than there are ever in use at once.
    let slots = || switchgrass::testing::slots(100);
    let before = (slots(), kept());
    (0..200).for_each(|_| wait_for_all());
    assert_eq!((slots(), kept()), before);
}

// ---- What blocks for good -------------------------------------------------------------------------------------------

fn two_greenlets_of_one_thread_cannot_meet_at_a_channel_of_std() {
    patched();
    let (sender, receiver) = mpsc::channel();
    let receives = spawn(move || receiver.recv().unwrap());
    thread::sleep(Duration::from_millis(1));
    sender.send(1).unwrap();
    // std does not wake who waits on the thread of who sends; who is woken for nothing does not look at the channel.
    assert!(!joinall_timeout([&receives], Duration::from_millis(1500)));
    // The last sender's end is told to all.
    drop(sender);
    assert_eq!(receives.join().unwrap(), 1);

    let (sender, receiver) = mpsc::sync_channel(0);
    let sends = spawn(move || sender.send(1));
    thread::sleep(Duration::from_millis(1));
    assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Empty));
    assert!(receiver.recv_timeout(Duration::from_millis(5)).is_err());
    drop(receiver);
    assert!(sends.join().unwrap().is_err());
}

fn main_that_blocks_for_good_in_a_call_of_libcs_says_so() {
    const BLOCKS: &str = "SWITCHGRASS_BLOCKS";
    if env::var(BLOCKS).is_ok() {
        patched();
        // Without a hub, nobody knows that it cannot be woken.
        spawn(|| ()).join().unwrap();
        let (mutex, condvar) = (Mutex::new(()), Condvar::new());
        let _never = condvar.wait_while(mutex.lock().unwrap(), |()| true);
        unreachable!("nobody notifies");
    }
    let mut child =
        Command::new(env::current_exe().unwrap()).env(BLOCKS, "").stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let report: Vec<_> =
        lines.map(Result::unwrap).take_while(|line| !line.contains("so it blocks for good")).collect();
    assert!(report.iter().any(|line| line.contains("switchgrass")), "{report:?}");
    assert!(child.try_wait().unwrap().is_none(), "it does block");
    child.kill().unwrap();
    child.wait().unwrap();
}
