//! Descriptor numbers: closed, duplicated, given out again, while greenlets wait or have waited for them.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::Mutex;
use std::time::Duration;

use switchgrass::spawn;

use crate::util::{checked, in_greenlet, let_all_run, patched, tcp_pair, waits};

/// Tests that close a number and count on what is opened next to get it: one at a time. (Others open descriptors, too; see [`in_place_of`].)
static NUMBERS: Mutex<()> = Mutex::new(());

fn close(fd: RawFd) {
    // SAFETY: the callers' own descriptors, which nobody closes again.
    assert_eq!(unsafe { libc::close(fd) }, 0);
}

/// Gives `fd` the number `number`, which is open as something else, in a way that is not seen: by the system call itself.
fn unseen_in_place_of(fd: OwnedFd, number: RawFd) {
    // SAFETY: dup3 with the numbers of two open descriptors of the test's own.
    unsafe { raw_syscall(libc::SYS_dup3, fd.as_raw_fd() as usize, number as usize, 0) };
}

/// A system call that goes past libc.
unsafe fn raw_syscall(number: i64, a: usize, b: usize, c: usize) -> isize {
    let result;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel clobbers rcx and r11; what the call does is the caller's affair.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, out("rcx") _, out("r11") _)
    };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c)
    };
    result
}

#[test]
fn a_close_by_another_greenlet_ends_a_read() {
    patched();
    let (one, _other) = tcp_pair();
    let fd = one.into_raw_fd();
    let reader = move || {
        let mut byte = 0_u8;
        // SAFETY: room for one byte.
        checked(unsafe { libc::read(fd, (&raw mut byte).cast(), 1) })
    };
    assert_eq!(waits(reader, || close(fd)), Err(libc::EBADF));
}

#[test]
fn a_close_by_an_os_thread_ends_a_read() {
    patched();
    let (one, _other) = UnixStream::pair().unwrap();
    let fd = one.into_raw_fd();
    let reader = move || {
        let mut byte = 0_u8;
        // SAFETY: as above.
        checked(unsafe { libc::read(fd, (&raw mut byte).cast(), 1) })
    };
    assert_eq!(waits(reader, || std::thread::spawn(move || close(fd)).join().unwrap()), Err(libc::EBADF));
}

#[test]
fn a_close_ends_every_wait_for_it() {
    patched();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let fd = listener.into_raw_fd();
    let accepts: Vec<_> = (0..3)
        .map(|_| {
            spawn(move || {
                // SAFETY: without an address.
                checked(unsafe { libc::accept(fd, std::ptr::null_mut(), std::ptr::null_mut()) })
            })
        })
        .collect();
    let_all_run();
    close(fd);
    for accept in accepts {
        assert_eq!(accept.join().unwrap(), Err(libc::EBADF));
    }
}

#[test]
fn what_is_open_elsewhere_too_works_there_after_a_close() {
    patched();
    let (one, mut other) = tcp_pair();
    let mut clone = one.try_clone().unwrap();
    waits(move || (&one).read_exact(&mut [0]).unwrap(), || other.write_all(b"!").unwrap());
    // `one` is closed now, its registration with it.
    for _ in 0..3 {
        let mut again = clone.try_clone().unwrap();
        waits(move || again.read_exact(&mut [0]).unwrap(), || other.write_all(b"!").unwrap());
    }
    waits(move || clone.read_exact(&mut [0]).unwrap(), || other.write_all(b"!").unwrap());
}

#[test]
fn a_number_that_is_given_out_again_is_waited_for_as_what_it_is_now() {
    patched();
    let _turn = NUMBERS.lock().unwrap();
    for round in 0..30 {
        let (one, mut other) = tcp_pair();
        waits(move || (&one).read_exact(&mut [0]).unwrap(), || other.write_all(b"!").unwrap());
        let (mut from, mut to) = std::io::pipe().unwrap();
        waits(move || from.read_exact(&mut [0]).unwrap(), || to.write_all(b"!").unwrap());
        let (one, mut other) = UnixStream::pair().unwrap();
        one.set_nonblocking(round % 2 == 0).unwrap();
        let result = spawn(move || (&one).read(&mut [0]));
        let_all_run();
        if round % 2 == 0 {
            assert_eq!(result.join().unwrap().unwrap_err().kind(), ErrorKind::WouldBlock);
        } else {
            other.write_all(b"!").unwrap();
            assert_eq!(result.join().unwrap().unwrap(), 1);
        }
    }
}

#[test]
fn a_number_that_has_become_another_sockets_unseen_is_waited_for_as_that() {
    patched();
    let (one, mut other) = UnixStream::pair().unwrap();
    let number = one.as_raw_fd();
    let mut reader = one.try_clone().unwrap();
    waits(
        {
            let mut one = File::from(OwnedFd::from(one));
            move || {
                one.read_exact(&mut [0]).unwrap();
                std::mem::forget(one);
            }
        },
        || other.write_all(b"!").unwrap(),
    );
    let (new, mut peer) = UnixStream::pair().unwrap();
    unseen_in_place_of(new.into(), number);
    // SAFETY: it is open, and nobody else's.
    let mut changed = unsafe { UnixStream::from_raw_fd(number) };
    waits(move || changed.read_exact(&mut [0]).unwrap(), || peer.write_all(b"!").unwrap());
    waits(move || reader.read_exact(&mut [0]).unwrap(), || other.write_all(b"!").unwrap());
}

#[test]
fn a_socket_that_has_become_a_pipe_unseen_is_read_as_a_pipe() {
    patched();
    let (one, mut other) = tcp_pair();
    let number = one.as_raw_fd();
    waits(
        move || {
            (&one).read_exact(&mut [0]).unwrap();
            std::mem::forget(one);
        },
        || other.write_all(b"!").unwrap(),
    );
    let (from, mut to) = std::io::pipe().unwrap();
    unseen_in_place_of(from.into(), number);
    // SAFETY: it is open, and nobody else's.
    let mut changed = unsafe { File::from_raw_fd(number) };
    waits(move || changed.read_exact(&mut [0]).unwrap(), || to.write_all(b"!").unwrap());
}

#[test]
fn a_pipe_that_has_become_a_socket_unseen_is_read_as_a_socket() {
    patched();
    let (mut from, mut to) = std::io::pipe().unwrap();
    let number = from.as_raw_fd();
    waits(
        move || {
            from.read_exact(&mut [0]).unwrap();
            std::mem::forget(from);
        },
        || to.write_all(b"!").unwrap(),
    );
    let (one, mut other) = tcp_pair();
    unseen_in_place_of(one.into(), number);
    // SAFETY: as above.
    let mut changed = unsafe { File::from_raw_fd(number) };
    waits(move || changed.read_exact(&mut [0]).unwrap(), || other.write_all(b"!").unwrap());
}

#[test]
fn dup2_and_dup3_end_the_waits_for_what_was_there_before() {
    patched();
    for three in [false, true] {
        let (one, _kept) = UnixStream::pair().unwrap();
        let (new, mut peer) = UnixStream::pair().unwrap();
        let number = one.into_raw_fd();
        let read = move || {
            let mut byte = 0_u8;
            // SAFETY: room for one byte.
            checked(unsafe { libc::read(number, (&raw mut byte).cast(), 1) })
        };
        let replaced = waits(read, || {
            // SAFETY: both are open.
            let result = unsafe {
                match three {
                    false => libc::dup2(new.as_raw_fd(), number),
                    true => libc::dup3(new.as_raw_fd(), number, libc::O_CLOEXEC),
                }
            };
            assert_eq!(result, number);
        });
        assert_eq!(replaced, Err(libc::EBADF));
        assert_eq!(waits(read, || peer.write_all(b"!").unwrap()), Ok(1));
        close(number);
    }
}

#[test]
fn the_time_limit_of_a_socket_is_not_that_of_a_pipe_that_has_its_number_later() {
    patched();
    let _turn = NUMBERS.lock().unwrap();
    let (one, _other) = UnixStream::pair().unwrap();
    one.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let one = in_greenlet(move || {
        assert_eq!((&one).read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        one
    });
    let (reader, mut writer) = std::io::pipe().unwrap();
    let number = one.into_raw_fd();
    // SAFETY: both are open, and the test's own.
    assert_eq!(unsafe { libc::dup2(reader.as_raw_fd(), number) }, number);
    // SAFETY: it is a pipe now, and nobody else's.
    let mut pipe = unsafe { File::from_raw_fd(number) };
    let got = waits(
        move || pipe.read(&mut [0; 8]),
        || {
            std::thread::sleep(Duration::from_millis(5));
            writer.write_all(b"abc").unwrap();
        },
    );
    assert_eq!(got.unwrap(), 3);
}

#[test]
fn a_dup2_that_fails_ends_no_wait() {
    patched();
    let (one, mut other) = UnixStream::pair().unwrap();
    let number = one.as_raw_fd();
    let got = waits(
        move || (&one).read(&mut [0]),
        || {
            // SAFETY: not open, which it says.
            assert_eq!(checked(unsafe { libc::dup2(999_999, number) }), Err(libc::EBADF));
            // SAFETY: as above.
            assert_eq!(checked(unsafe { libc::dup3(999_999, number, 0) }), Err(libc::EBADF));
            // SAFETY: the range is empty, which it says.
            let result = unsafe { libc::close_range(number as u32 + 1, number as u32, 0) };
            assert_eq!(checked(result), Err(libc::EINVAL));
            let_all_run();
            other.write_all(b"!").unwrap();
        },
    );
    assert_eq!(got.unwrap(), 1);
}

#[test]
fn close_range_ends_the_waits_for_what_it_closes() {
    patched();
    let (one, _other) = UnixStream::pair().unwrap();
    // A number far from those of others.
    // SAFETY: takes numbers.
    let number = unsafe { libc::fcntl(one.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 900) };
    assert!(number >= 900);
    let read = move || {
        let mut byte = 0_u8;
        // SAFETY: room for one byte.
        checked(unsafe { libc::read(number, (&raw mut byte).cast(), 1) })
    };
    let got = waits(read, || {
        // SAFETY: the number is this test's.
        unsafe { libc::close_range(number as u32, number as u32, libc::CLOSE_RANGE_CLOEXEC as i32) };
        let_all_run();
        // SAFETY: as above.
        assert_eq!(unsafe { libc::close_range(number as u32, number as u32, 0) }, 0);
    });
    assert_eq!(got, Err(libc::EBADF));
}

/// A raw `close` by `syscall`, which is ours, too.
#[test]
fn a_close_by_libcs_syscall_is_seen() {
    patched();
    let (one, _other) = UnixStream::pair().unwrap();
    let number = one.into_raw_fd();
    let read = move || {
        let mut byte = 0_u8;
        // SAFETY: room for one byte.
        checked(unsafe { libc::read(number, (&raw mut byte).cast(), 1) })
    };
    // SAFETY: this test's own.
    let got = waits(read, || assert_eq!(unsafe { libc::syscall(libc::SYS_close, number) }, 0));
    assert_eq!(got, Err(libc::EBADF));
}

#[test]
fn regular_files_are_as_before() {
    in_greenlet(|| {
        let directory = crate::util::TempDir::new();
        let path = directory.0.join("file");
        std::fs::write(&path, b"hello").unwrap();
        let other = spawn(|| ());
        let mut text = String::new();
        let mut file = File::open(&path).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(file.read(&mut [0; 3]).unwrap(), 0);
        assert!(!other.is_ready(), "a file is always ready");
        assert_eq!(
            file.set_len(3).unwrap_err().raw_os_error(),
            Some(libc::EINVAL),
            "a file that is open for reading only"
        );
        assert_eq!((&file).write(b"x").unwrap_err().raw_os_error(), Some(libc::EBADF));
        other.join().unwrap();
    });
}

/// Two descriptors of one file, of which one has the lock.
fn locked_file() -> (crate::util::TempDir, File, File) {
    let directory = crate::util::TempDir::new();
    let path = directory.0.join("file");
    let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
    let (has, wants) = (open(), open());
    has.lock().unwrap();
    (directory, has, wants)
}

#[test]
fn the_lock_of_a_file_is_waited_for() {
    patched();
    let (_directory, has, wants) = locked_file();
    waits(
        move || {
            assert!(matches!(wants.try_lock(), Err(std::fs::TryLockError::WouldBlock)));
            wants.lock().unwrap();
        },
        || has.unlock().unwrap(),
    );
    has.lock_shared().unwrap();
}

#[test]
fn a_kill_and_a_timeout_end_the_wait_for_the_lock_of_a_file() {
    patched();
    let (_directory, has, wants) = locked_file();
    let wants = std::rc::Rc::new(wants);
    let waits = |wants: &std::rc::Rc<File>| {
        let wants = std::rc::Rc::clone(wants);
        move || wants.lock().unwrap_err().raw_os_error()
    };
    let killed = spawn(waits(&wants));
    let_all_run();
    killed.kill_nowait();
    assert_eq!(killed.join().unwrap(), Some(libc::ECANCELED));
    let late = waits(&wants);
    let late = in_greenlet(move || switchgrass::timeout(Duration::from_millis(5), late));
    assert_eq!(late, Ok(Some(libc::ETIMEDOUT)));
    has.unlock().unwrap();
    wants.lock().unwrap();
}

/// The locks of POSIX belong to the process, or to the open file: `fcntl` and `lockf`.
#[test]
fn the_lock_of_a_range_is_waited_for() {
    patched();
    let (_directory, has, wants) = locked_file();
    // SAFETY: zeros are a whole file from its beginning on.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = libc::F_WRLCK as _;
    let lock = move |file: &File, command, range: &libc::flock| {
        // SAFETY: reads a valid structure.
        checked(unsafe { libc::fcntl(file.as_raw_fd(), command, ptr::from_ref(range)) })
    };
    assert_eq!(lock(&has, libc::F_OFD_SETLKW, &range), Ok(0));
    waits(
        move || {
            assert_eq!(lock(&wants, libc::F_OFD_SETLK, &range), Err(libc::EAGAIN));
            assert_eq!(lock(&wants, libc::F_OFD_SETLKW, &range), Ok(0));
            // Then by the other calls, when it is free.
            range.l_type = libc::F_UNLCK as _;
            assert_eq!(lock(&wants, libc::F_OFD_SETLKW, &range), Ok(0));
            // SAFETY: takes numbers.
            assert_eq!(checked(unsafe { libc::lockf(wants.as_raw_fd(), libc::F_LOCK, 0) }), Ok(0));
            range.l_type = libc::F_WRLCK as _;
            assert_eq!(lock(&wants, libc::F_SETLKW, &range), Ok(0));
        },
        move || {
            range.l_type = libc::F_UNLCK as _;
            assert_eq!(lock(&has, libc::F_OFD_SETLK, &range), Ok(0));
        },
    );
}

#[test]
fn lockf_waits_for_its_greenlet() {
    patched();
    let (_directory, has, wants) = locked_file();
    // SAFETY: as above.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = libc::F_WRLCK as _;
    // Locks of the open file count as another one's for those of the process.
    // SAFETY: reads a valid structure.
    unsafe { assert_eq!(libc::fcntl(has.as_raw_fd(), libc::F_OFD_SETLK, &range), 0) };
    waits(
        // SAFETY: takes numbers.
        move || assert_eq!(checked(unsafe { libc::lockf(wants.as_raw_fd(), libc::F_LOCK, 0) }), Ok(0)),
        || drop(has),
    );
}

#[test]
fn devices_that_never_block_are_as_before() {
    in_greenlet(|| {
        let mut buffer = [1; 100];
        assert_eq!(File::open("/dev/zero").unwrap().read(&mut buffer).unwrap(), 100);
        assert_eq!(buffer, [0; 100]);
        assert_eq!(File::open("/dev/urandom").unwrap().read(&mut buffer).unwrap(), 100);
        assert_eq!(File::open("/dev/null").unwrap().read(&mut buffer).unwrap(), 0);
        let mut null = File::options().write(true).open("/dev/null").unwrap();
        assert_eq!(null.write(&[0; 1 << 20]).unwrap(), 1 << 20);
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(full.write(&[0]).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(
            File::open("/tmp").unwrap().read(&mut buffer).unwrap_err().kind(),
            ErrorKind::IsADirectory
        );
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(status.contains("Threads:"));
    });
}
