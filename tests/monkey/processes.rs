//! `waitpid` and its relatives, `system`, `pclose`, and the join of threads.

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::ptr;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use libc::{c_int, pid_t};
use switchgrass::{spawn, timeout, yield_now};

use crate::util::{all_at_once, patched};

/// A child that ends with the code that it is told.
fn child() -> (Child, ChildStdin) {
    patched();
    let mut command = Command::new("sh");
    command.args(["-c", "read code; exit $code"]).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

type Tell = Box<dyn FnOnce()>;

/// Has them told when so many wait.
#[derive(Clone, Default)]
struct Tellers(Rc<RefCell<Vec<Tell>>>);

impl Tellers {
    fn tell_when(&self, count: usize, tell: impl FnOnce() + 'static) {
        self.0.borrow_mut().push(Box::new(tell));
        if self.0.borrow().len() == count {
            let all = Rc::clone(&self.0);
            // Runs when the last one waits, too.
            spawn(move || all.take().into_iter().for_each(|tell| tell()));
        }
    }
}

fn write_code(mut to: impl Write, code: usize) {
    to.write_all(format!("{code}\n").as_bytes()).unwrap();
}

fn errno() -> Option<i32> {
    io::Error::last_os_error().raw_os_error()
}

fn waitpid(pid: pid_t, options: c_int) -> Result<(pid_t, ExitStatus), i32> {
    let mut status = 0;
    // SAFETY: a place for the status.
    match unsafe { libc::waitpid(pid, &mut status, options) } {
        -1 => Err(errno().unwrap()),
        pid => Ok((pid, ExitStatus::from_raw(status))),
    }
}

#[test]
fn twenty_children_are_waited_for_at_once() {
    let tellers = Tellers::default();
    all_at_once(20, move |number| {
        let (mut child, stdin) = child();
        tellers.tell_when(20, move || write_code(stdin, number));
        assert_eq!(child.wait().unwrap().code(), Some(number as i32));
    });
}

#[test]
fn the_output_of_twenty_commands_is_read_at_once() {
    let tellers = Tellers::default();
    all_at_once(20, move |number| {
        let (stdin, teller) = io::pipe().unwrap();
        tellers.tell_when(20, move || write_code(teller, number));
        let mut command = Command::new("sh");
        command.args(["-c", "read code; echo $code; echo error >&2; exit $code"]).stdin(stdin);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(number as i32));
        assert_eq!(output.stdout, format!("{number}\n").into_bytes());
        assert_eq!(output.stderr, b"error\n");
    });
}

#[test]
fn what_waits_for_any_child_lets_others_run_too() {
    let tellers = Tellers::default();
    let pids = Rc::new(RefCell::new(Vec::new()));
    let ended = Rc::clone(&pids);
    all_at_once(10, move |number| {
        let (child, stdin) = child();
        pids.borrow_mut().push(child.id() as pid_t);
        tellers.tell_when(10, move || write_code(stdin, number));
        // Whichever; those of this thread only, for other tests have children, too.
        let (pid, status) = waitpid(-1, libc::__WNOTHREAD).unwrap();
        assert!(status.code().is_some());
        pids.borrow_mut().retain(|other| *other != pid);
    });
    assert!(ended.borrow().is_empty());
    assert_eq!(waitpid(-1, libc::__WNOTHREAD), Err(libc::ECHILD));
}

#[test]
#[expect(clippy::zombie_processes, reason = "it is waited for by its group")]
fn a_group_of_children_is_waited_for() {
    patched();
    spawn(|| {
        let mut command = Command::new("sh");
        command.args(["-c", "read code; exit $code"]).stdin(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let pid = child.id() as pid_t;
        let stdin = child.stdin.take().unwrap();
        spawn(move || write_code(stdin, 4));
        assert_eq!(waitpid(-pid, 0), Ok((pid, ExitStatus::from_raw(4 << 8))));
        assert_eq!(waitpid(-pid, 0), Err(libc::ECHILD));
        assert_eq!(waitpid(pid, 0), Err(libc::ECHILD));
    })
    .join()
    .unwrap();
}

#[test]
fn a_stop_is_waited_for() {
    spawn(|| {
        let (child, stdin) = child();
        let pid = child.id() as pid_t;
        let signal = move |signal| {
            // SAFETY: two numbers, and the child was not waited for.
            assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        };
        spawn(move || signal(libc::SIGSTOP));
        let (_, status) = waitpid(pid, libc::WUNTRACED).unwrap();
        assert_eq!(status.stopped_signal(), Some(libc::SIGSTOP));
        spawn(move || signal(libc::SIGCONT));
        assert!(waitpid(pid, libc::WCONTINUED).unwrap().1.continued());
        spawn(move || write_code(stdin, 6));
        assert_eq!(waitpid(pid, libc::WUNTRACED).unwrap().1.code(), Some(6));
    })
    .join()
    .unwrap();
}

#[test]
fn waitid_tells_and_leaves_the_child_if_it_is_asked_to() {
    spawn(|| {
        let (mut child, stdin) = child();
        let pid = child.id();
        // SAFETY: two numbers.
        let open = |flags: libc::c_long| unsafe {
            libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), flags)
        };
        let (pidfd, nonblocking) = (open(0), open(libc::c_long::from(libc::O_NONBLOCK)));
        assert!(pidfd > 0 && nonblocking > 0);
        let waitid = |kind, id: libc::c_long, options| {
            // SAFETY: zeros are a valid value, and a place to write to.
            unsafe {
                let mut found: libc::siginfo_t = std::mem::zeroed();
                match libc::waitid(kind, id as libc::id_t, &mut found, options) {
                    0 => Ok((found.si_pid() as u32, found.si_status())),
                    _ => Err(errno().unwrap()),
                }
            }
        };
        assert_eq!(waitid(libc::P_PIDFD, nonblocking, libc::WEXITED), Err(libc::EAGAIN));
        assert_eq!(waitid(libc::P_PID, pid.into(), libc::WEXITED | libc::WNOHANG), Ok((0, 0)));
        assert_eq!(waitid(libc::P_PID, pid.into(), 0), Err(libc::EINVAL));
        let told = spawn(move || write_code(stdin, 5));
        assert_eq!(waitid(libc::P_PIDFD, pidfd, libc::WEXITED | libc::WNOWAIT), Ok((pid, 5)));
        assert_eq!(waitid(libc::P_PID, pid.into(), libc::WEXITED | libc::WNOWAIT), Ok((pid, 5)));
        // SAFETY: nothing is to be told.
        let result = unsafe {
            libc::waitid(
                libc::P_PIDFD,
                nonblocking as libc::id_t,
                ptr::null_mut(),
                libc::WEXITED | libc::WNOWAIT,
            )
        };
        assert_eq!(result, 0);
        assert_eq!(child.wait().unwrap().code(), Some(5));
        assert_eq!(waitid(libc::P_PIDFD, pidfd, libc::WEXITED), Err(libc::ECHILD));
        close(pidfd as c_int);
        close(nonblocking as c_int);
        told.join().unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn many_wait_for_one_pidfd() {
    let (mut child, stdin) = child();
    // SAFETY: two numbers.
    let pidfd =
        unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(child.id()), 0 as libc::c_long) };
    let tellers = Tellers::default();
    let stdin = Rc::new(Cell::new(Some(stdin)));
    all_at_once(10, move |_| {
        let stdin = Rc::clone(&stdin);
        tellers.tell_when(10, move || {
            if let Some(stdin) = stdin.take() {
                write_code(stdin, 7);
            }
        });
        // SAFETY: nothing is to be told.
        let result = unsafe {
            libc::waitid(libc::P_PIDFD, pidfd as libc::id_t, ptr::null_mut(), libc::WEXITED | libc::WNOWAIT)
        };
        assert_eq!(result, 0);
    });
    assert_eq!(child.wait().unwrap().code(), Some(7));
    close(pidfd as c_int);
}

#[test]
fn the_usage_of_a_child_is_told() {
    spawn(|| {
        let (child, stdin) = child();
        let pid = child.id() as pid_t;
        spawn(move || write_code(stdin, 3));
        // SAFETY: places for the status and the usage, of which zeros are a valid value.
        unsafe {
            let mut status = 0;
            let mut usage: libc::rusage = std::mem::zeroed();
            assert_eq!(libc::wait4(pid, &mut status, 0, &mut usage), pid);
            assert_eq!(ExitStatus::from_raw(status).code(), Some(3));
            assert!(usage.ru_maxrss > 0);
        }
    })
    .join()
    .unwrap();
}

#[test]
fn a_kill_and_a_timeout_end_a_wait_for_a_child() {
    let (mut child, stdin) = child();
    for group in [false, true] {
        // By its pidfd; and by looking from time to time.
        let pid = child.id() as pid_t;
        let wait = move || match group {
            false => waitpid(pid, 0),
            true => waitpid(pid, libc::WUNTRACED),
        };
        let found = Rc::new(Cell::new(None));
        let theirs = Rc::clone(&found);
        let greenlet = spawn(move || theirs.set(Some(wait())));
        yield_now();
        greenlet.kill();
        assert_eq!(found.get(), Some(Err(libc::ECANCELED)));
        let late = timeout(Duration::from_millis(5), || {
            assert_eq!(wait(), Err(libc::ETIMEDOUT));
            assert_eq!(wait(), Err(libc::ETIMEDOUT));
            yield_now();
        });
        assert!(late.is_err());
    }
    write_code(stdin, 1);
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

/// What all commands inherit which are started from now on.
fn inherited(fd: impl IntoRawFd) -> c_int {
    let fd = fd.into_raw_fd();
    // SAFETY: a number that is open.
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }, 0);
    fd
}

fn inherited_pipe() -> (c_int, io::PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    (inherited(reader), writer)
}

fn close(fd: c_int) {
    // SAFETY: of a test that has it open.
    assert_eq!(unsafe { libc::close(fd) }, 0);
}

fn told_command(fd: c_int) -> CString {
    CString::new(format!("read code </dev/fd/{fd}; exit $code")).unwrap()
}

#[test]
fn forty_commands_run_at_once_by_system() {
    let tellers = Tellers::default();
    all_at_once(40, move |number| {
        let (fd, teller) = inherited_pipe();
        tellers.tell_when(40, move || write_code(teller, number));
        // SAFETY: a C string.
        let status = unsafe { libc::system(told_command(fd).as_ptr()) };
        assert_eq!(ExitStatus::from_raw(status).code(), Some(number as i32));
        close(fd);
    });
}

#[test]
fn system_tells_that_there_is_a_shell_and_passes_the_blocked_signals_on() {
    patched();
    spawn(|| {
        // SAFETY: null, or C strings; sets of signals of this thread.
        unsafe {
            assert_ne!(libc::system(ptr::null()), 0);
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&mut set, libc::SIGUSR2);
            let mut old = set;
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut old);
            let bit = 1 << (libc::SIGUSR2 - 1);
            let command = format!("mask=0x$(sed -n 's/^SigBlk:[[:space:]]*//p' /proc/$$/status); exit $(( (mask & {bit}) != 0 ))");
            let command = CString::new(command).unwrap();
            let blocked = libc::system(command.as_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, &old, ptr::null_mut());
            assert_eq!(ExitStatus::from_raw(blocked).code(), Some(1));
            assert_eq!(libc::system(command.as_ptr()), 0);
        }
    })
    .join()
    .unwrap();
}

#[test]
fn a_kill_ends_the_wait_of_system_and_pclose_but_not_the_command() {
    patched();
    for is_popen in [false, true] {
        let (fd, teller) = inherited_pipe();
        let (mut answers, theirs) = io::pipe().unwrap();
        let theirs = inherited(theirs);
        let result = Rc::new(Cell::new(None));
        let told = Rc::clone(&result);
        let greenlet = spawn(move || {
            let command = format!(
                "echo begun >/dev/fd/{theirs}; read code </dev/fd/{fd}; echo $code >/dev/fd/{theirs}"
            );
            let command = CString::new(command).unwrap();
            // SAFETY: C strings; the stream is closed once.
            let status = unsafe {
                match is_popen {
                    false => libc::system(command.as_ptr()),
                    true => libc::pclose(libc::popen(command.as_ptr(), c"r".as_ptr())),
                }
            };
            told.set(Some((status, errno())));
        });
        let mut text = [0; 6];
        answers.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"begun\n");
        greenlet.kill();
        assert_eq!(result.get(), Some((-1, Some(libc::ECANCELED))));
        write_code(teller, 9);
        answers.read_exact(&mut text[..2]).unwrap();
        assert_eq!(&text[..2], b"9\n");
        close(fd);
        close(theirs);
    }
}

#[test]
fn pclose_closes_even_when_a_kill_is_pending() {
    patched();
    let (mut answers, theirs) = io::pipe().unwrap();
    let theirs = inherited(theirs);
    let greenlet = spawn(move || {
        let command = CString::new(format!("cat >/dev/null; echo done >/dev/fd/{theirs}")).unwrap();
        // SAFETY: C strings; the stream is closed once.
        unsafe {
            let stream = libc::popen(command.as_ptr(), c"w".as_ptr());
            // Ended by the kill.
            assert_eq!(libc::usleep(100_000_000), -1);
            assert_eq!((libc::pclose(stream), errno()), (-1, Some(libc::ECANCELED)));
        }
    });
    yield_now();
    greenlet.kill();
    assert!(greenlet.join().is_ok());
    let mut text = [0; 5];
    answers.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"done\n");
    close(theirs);
}

#[test]
fn pclose_gives_the_status() {
    let tellers = Tellers::default();
    all_at_once(40, move |number| {
        let (fd, teller) = inherited_pipe();
        // SAFETY: C strings; the stream is closed once.
        unsafe {
            let stream = libc::popen(told_command(fd).as_ptr(), c"r".as_ptr());
            assert!(!stream.is_null());
            tellers.tell_when(40, move || write_code(teller, number));
            assert_eq!(ExitStatus::from_raw(libc::pclose(stream)).code(), Some(number as i32));
        }
        close(fd);
    });
}

/// stdio reads within libc, where no call of ours is in its place; its descriptor is like any other.
#[test]
fn what_popen_gives_blocks_the_thread_when_stdio_reads_it_and_the_greenlet_when_read_does() {
    patched();
    let (fd, mut teller) = inherited_pipe();
    // The shell reads both lines by itself.
    let command = CString::new(format!("exec </dev/fd/{fd}; read code; echo $code; read code; echo end"));
    // SAFETY: C strings; the stream is closed once.
    let stream = unsafe { libc::popen(command.unwrap().as_ptr(), c"r".as_ptr()) };
    assert!(!stream.is_null());
    let mut line = [0_u8; 10];
    // First by `read`: who tells the command what to say is a greenlet.
    let mut tells = teller.try_clone().unwrap();
    let tells = spawn(move || write_code(&mut tells, 7));
    // SAFETY: an open stream, and so much room.
    let read = unsafe { libc::read(libc::fileno(stream), line.as_mut_ptr().cast(), line.len()) };
    assert_eq!((read, &line[..2]), (2, &b"7\n"[..]));
    assert!(tells.is_ready());
    // Then by stdio: who tells it is another thread, and no greenlet runs meanwhile.
    let other = spawn(|| ());
    // SAFETY: takes nothing.
    let number = unsafe { libc::gettid() };
    let tells = std::thread::spawn(move || {
        let call = format!("/proc/self/task/{number}/syscall");
        let waits = format!("{} ", libc::SYS_read);
        while !std::fs::read_to_string(&call).unwrap().starts_with(&waits) {
            std::thread::yield_now();
        }
        write_code(&mut teller, 8);
    });
    // SAFETY: an open stream, and so much room.
    unsafe {
        assert!(!libc::fgets(line.as_mut_ptr().cast(), line.len() as c_int, stream).is_null());
        assert_eq!(&line[..4], b"end\n");
        assert!(!other.is_ready(), "nobody ran meanwhile");
        assert_eq!(libc::pclose(stream), 0);
    }
    other.join().unwrap();
    tells.join().unwrap();
    close(fd);
}

#[test]
fn fifty_threads_are_joined_at_once() {
    let tellers = Tellers::default();
    all_at_once(50, move |number| {
        let (teller, told) = mpsc::channel();
        let thread = std::thread::spawn(move || told.recv().unwrap());
        tellers.tell_when(50, move || teller.send(number).unwrap());
        assert_eq!(thread.join().unwrap(), number);
    });
}

#[test]
fn a_kill_does_not_end_the_join_of_a_thread() {
    patched();
    let (teller, told) = mpsc::channel();
    let joined = Rc::new(Cell::new(None));
    let theirs = Rc::clone(&joined);
    let greenlet = Rc::new(spawn(move || {
        let thread = std::thread::spawn(move || told.recv().unwrap());
        theirs.set(Some(thread.join().unwrap()));
        yield_now();
        unreachable!("the kill has waited");
    }));
    yield_now();
    let killer = spawn({
        let greenlet = Rc::clone(&greenlet);
        move || greenlet.kill()
    });
    yield_now();
    assert_eq!(joined.get(), None);
    teller.send(5).unwrap();
    killer.join().unwrap();
    assert_eq!(joined.get(), Some(5));
}

extern "C" fn wait_for_a_byte(fd: *mut libc::c_void) -> *mut libc::c_void {
    let mut byte = 0_u8;
    // SAFETY: a place for a byte.
    unsafe { libc::read(fd as c_int, (&raw mut byte).cast(), 1) };
    usize::from(byte) as *mut libc::c_void
}

#[test]
fn a_join_with_a_time_limit_ends_in_time() {
    patched();
    spawn(|| {
        let (reader, mut writer) = io::pipe().unwrap();
        // SAFETY: plain values, places to write to; the thread is joined once, and the pipe is open until then.
        unsafe {
            let mut thread = 0;
            let argument = reader.as_raw_fd() as *mut libc::c_void;
            assert_eq!(libc::pthread_create(&mut thread, ptr::null(), wait_for_a_byte, argument), 0);
            let mut value = ptr::null_mut();
            let mut until = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            libc::clock_gettime(libc::CLOCK_REALTIME, &mut until);
            assert_eq!(libc::pthread_timedjoin_np(thread, &mut value, &until), libc::ETIMEDOUT);
            until.tv_nsec = 1_000_000_000;
            assert_eq!(libc::pthread_timedjoin_np(thread, &mut value, &until), libc::EINVAL);
            until = libc::timespec { tv_sec: until.tv_sec + 100, tv_nsec: 0 };
            let late = timeout(Duration::from_millis(5), || {
                assert_eq!(libc::pthread_timedjoin_np(thread, &mut value, &until), libc::ETIMEDOUT);
                yield_now();
            });
            assert!(late.is_err());
            spawn(move || writer.write_all(&[42]).unwrap());
            assert_eq!(libc::pthread_timedjoin_np(thread, &mut value, &until), 0);
            assert_eq!(value as usize, 42);
            assert_eq!(libc::pthread_join(libc::pthread_self(), ptr::null_mut()), libc::EDEADLK);
        }
    })
    .join()
    .unwrap();
}
