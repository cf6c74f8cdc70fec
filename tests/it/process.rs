//! `process`, with real children. What a test counts for the whole process (descriptors, SIGCHLD) it does in a process of its own.

use std::cell::Cell;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use switchgrass::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use switchgrass::signal::{self, SIGCHLD, SIGKILL, SIGTERM};
use switchgrass::{joinall, scope, sleep, spawn, testing, timeout, unblock, yield_now};

use crate::util::{HOUR, OnDrop, in_child, in_child_with, is_exit, open_fds};

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// A process that ends when its stdin does, and its stdin.
fn cat() -> (Child, ChildStdin) {
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

/// A process that ends when it is killed only.
fn sleeper() -> Child {
    // Not with our pipes: should the test fail, it must not keep open those by which the harness is read.
    let mut sleep = Command::new("sleep");
    sleep.arg("3600").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The letter that the system has for what the process does; `None`: there is no such process.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

fn lives(pid: u32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

fn kill(pid: u32) {
    // SAFETY: kill takes two numbers.
    assert_eq!(unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) }, 0);
}

fn ignore_sigchld() {
    // SAFETY: SIG_IGN needs no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Runs `body` in a process of its own, once for each way to learn of the end of a child.
fn both_ways(test: &str, body: impl Fn()) {
    let done = Cell::new(false);
    for way in ["pidfd", "SIGCHLD"] {
        in_child_with(test, way, |way| {
            // The child process comes through this loop, too.
            if done.replace(true) {
                return;
            }
            if way == "SIGCHLD" {
                testing::force_sigchld();
            }
            body();
        });
    }
}

#[test]
fn output_has_the_status_and_what_was_written() {
    let output = sh("echo out; echo err >&2; exit 3").output().unwrap();
    assert_eq!((&*output.stdout, &*output.stderr), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(output.status.code(), Some(3));
    // Nothing is to be read from the terminal of who runs this.
    assert_eq!(Command::new("cat").output().unwrap().stdout, b"");
}

#[test]
fn a_command_is_used_again_and_only_output_makes_pipes_that_were_not_asked_for() {
    let mut command = sh("cat; echo err >&2");
    command.stderr(Stdio::null());
    for _ in 0..2 {
        let output = command.output().unwrap();
        assert!(output.stderr.is_empty() && output.status.success());
    }
    command.stdin(Stdio::null());
    let child = command.spawn().unwrap();
    assert!(child.stdin.is_none() && child.stdout.is_none() && child.stderr.is_none());
    assert!(child.wait_with_output().unwrap().status.success());
    assert!(command.status().unwrap().success());
}

#[test]
fn others_run_while_one_waits_for_a_child() {
    both_ways("process::others_run_while_one_waits_for_a_child", || {
        let (mut child, stdin) = cat();
        let waiter = spawn(move || child.wait().unwrap());
        // It waits, and so does its child: for this.
        yield_now();
        assert!(!waiter.is_ready());
        drop(stdin);
        assert!(waiter.join().unwrap().success());
    });
}

#[test]
fn a_wait_for_a_child_is_no_deadlock() {
    both_ways("process::a_wait_for_a_child_is_no_deadlock", || {
        assert!(Command::new("sleep").arg("0.1").status().unwrap().success());
    });
}

#[test]
fn wait_timeout_gives_none_and_can_be_called_again() {
    both_ways("process::wait_timeout_gives_none_and_can_be_called_again", || {
        let mut child = sleeper();
        for duration in [Duration::ZERO, Duration::from_millis(5), Duration::from_millis(5)] {
            assert_eq!(child.wait_timeout(duration).unwrap(), None);
        }
        assert!(timeout(Duration::from_millis(5), || child.wait()).is_err());
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        let status = child.wait_timeout(HOUR).unwrap().unwrap();
        assert_eq!(status.signal(), Some(SIGKILL));
        // It is remembered.
        assert_eq!(child.wait().unwrap(), status);
        assert_eq!(child.wait_timeout(Duration::ZERO).unwrap(), Some(status));
        assert_eq!(child.try_wait().unwrap(), Some(status));
    });
}

#[test]
fn two_hundred_children_are_waited_for_at_once_each_for_its_own_status() {
    both_ways("process::two_hundred_children_are_waited_for_at_once_each_for_its_own_status", || {
        const CHILDREN: usize = 200;
        let (mut reader, writer) = io::pipe().unwrap();
        let waiters: Vec<_> = (0..CHILDREN)
            .map(|n| {
                // All of them run until the last one has told that it does.
                let script = format!("echo >&2; read line; exit {}", n % 256);
                let mut child =
                    sh(&script).stdin(Stdio::piped()).stderr(writer.try_clone().unwrap()).spawn().unwrap();
                let stdin = child.stdin.take().unwrap();
                (spawn(move || child.wait().unwrap().code()), stdin)
            })
            .collect();
        drop(writer);
        unblock(move || reader.read_exact(&mut [0; CHILDREN])).unwrap();
        let (waiters, inputs): (Vec<_>, Vec<_>) = waiters.into_iter().unzip();
        assert!(waiters.iter().all(|waiter| !waiter.is_ready()));
        drop(inputs);
        for (n, waiter) in waiters.into_iter().enumerate() {
            assert_eq!(waiter.join().unwrap(), Some(n as i32 % 256));
        }
        // The one that waited for SIGCHLD sees that nobody needs it any more.
        yield_now();
        assert_eq!(testing::live(), 0);
    });
}

#[test]
fn the_status_of_nobody_else_is_taken() {
    both_ways("process::the_status_of_nobody_else_is_taken", || {
        let mut theirs = std::process::Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        assert!(Command::new("sleep").arg("0.05").status().unwrap().success());
        assert_eq!(state(theirs.id()), Some('Z'));
        assert_eq!(theirs.wait().unwrap().code(), Some(7));
    });
}

#[test]
fn a_handler_of_sigchld_is_called_beside() {
    both_ways("process::a_handler_of_sigchld_is_called_beside", || {
        let called = Rc::new(Cell::new(false));
        let calls = Rc::clone(&called);
        let handler = signal::handle(SIGCHLD, move || calls.set(true)).unwrap();
        assert!(Command::new("true").status().unwrap().success());
        while !called.get() {
            yield_now();
        }
        drop(handler);
        assert!(Command::new("true").status().unwrap().success());
    });
}

#[test]
fn with_pidfds_sigchld_is_left_alone() {
    in_child("process::with_pidfds_sigchld_is_left_alone", || {
        assert!(Command::new("sleep").arg("0.05").status().unwrap().success());
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
        assert_eq!(caught & 1 << (SIGCHLD - 1), 0);
    });
}

#[test]
fn a_waiting_greenlet_that_is_killed_leaves_its_child_running() {
    both_ways("process::a_waiting_greenlet_that_is_killed_leaves_its_child_running", || {
        let child = sleeper();
        let pid = child.id();
        // The hub has its own descriptors by then.
        sleep(Duration::from_millis(1));
        let before = open_fds();
        let waiter = spawn(move || {
            let mut child = child;
            child.wait()
        });
        yield_now();
        waiter.kill();
        assert!(is_exit(&waiter.join()));
        // Nor is anything left of what it was waited for by.
        yield_now();
        assert_eq!(open_fds(), before);
        assert!(lives(pid));
        kill(pid);
    });
}

#[test]
fn a_dropped_child_goes_on_and_leaves_no_zombie_behind_the_next_spawn() {
    in_child("process::a_dropped_child_goes_on_and_leaves_no_zombie_behind_the_next_spawn", || {
        let child = sleeper();
        let pid = child.id();
        drop(child);
        assert!(Command::new("true").status().unwrap().success());
        assert!(lives(pid));
        kill(pid);
        while state(pid) != Some('Z') {
            sleep(Duration::from_millis(1));
        }
        assert!(Command::new("true").status().unwrap().success());
        assert_eq!(state(pid), None);
    });
}

#[test]
fn output_that_is_timed_out_leaves_nothing_open_and_can_be_called_again() {
    in_child("process::output_that_is_timed_out_leaves_nothing_open_and_can_be_called_again", || {
        let mut slow = sh("exec sleep 3600");
        let mut pids = Vec::new();
        let mut round = || {
            assert!(timeout(Duration::from_millis(20), || slow.output()).is_err());
            let children = fs::read_to_string(format!("/proc/self/task/{}/children", gettid())).unwrap();
            pids.extend(children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
        };
        round();
        let before = (open_fds(), testing::live());
        round();
        assert_eq!((open_fds(), testing::live()), before);
        assert_eq!(testing::live(), 0);
        pids.sort_unstable();
        pids.dedup();
        assert_eq!(pids.len(), 2);
        pids.into_iter().for_each(kill);
        assert_eq!(sh("echo fast").output().unwrap().stdout, b"fast\n");
    });
}

fn gettid() -> libc::pid_t {
    // SAFETY: no arguments, no failure.
    unsafe { libc::gettid() }
}

#[test]
fn failed_spawns_leave_no_descriptor_and_no_process_behind() {
    in_child("process::failed_spawns_leave_no_descriptor_and_no_process_behind", || {
        let failure = || Command::new("/nonexistent/program").output().unwrap_err();
        assert_eq!(failure().kind(), ErrorKind::NotFound);
        let before = open_fds();
        for _ in 0..100 {
            assert_eq!(failure().kind(), ErrorKind::NotFound);
            let mut forbidden = Command::new("/etc/passwd");
            forbidden.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            assert_eq!(forbidden.spawn().unwrap_err().kind(), ErrorKind::PermissionDenied);
            // SAFETY: the closure makes no call at all.
            unsafe { forbidden.pre_exec(|| Err(io::Error::from_raw_os_error(libc::EDOM))) };
            assert_eq!(forbidden.spawn().unwrap_err().raw_os_error(), Some(libc::EDOM));
        }
        assert_eq!(open_fds(), before);
        let children = fs::read_to_string(format!("/proc/self/task/{}/children", gettid())).unwrap();
        assert_eq!(children, "");
    });
}

#[test]
fn killing_a_child_that_has_ended_is_ok() {
    let (mut child, stdin) = cat();
    drop(stdin);
    while state(child.id()) != Some('Z') {
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert!(child.wait().unwrap().success());
    child.kill().unwrap();
    child.send_signal(SIGTERM).unwrap();
}

#[test]
fn send_signal_asks_it_to_end() {
    let mut child = sleeper();
    assert_eq!(child.send_signal(1000).unwrap_err().kind(), ErrorKind::InvalidInput);
    child.send_signal(SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(SIGTERM));
}

#[test]
fn if_sigchld_is_ignored_the_lost_status_is_an_error_that_says_so() {
    in_child("process::if_sigchld_is_ignored_the_lost_status_is_an_error_that_says_so", || {
        ignore_sigchld();
        let (mut child, stdin) = cat();
        let waiter = spawn(move || {
            let error = child.wait().unwrap_err().to_string();
            assert!(error.contains("ECHILD") && error.contains("ignores SIGCHLD"), "{error}");
            assert!(error.contains(&child.id().to_string()), "{error}");
            assert!(child.try_wait().is_err());
            child.kill().unwrap();
        });
        yield_now();
        drop(stdin);
        waiter.join().unwrap();
        // Gone before the wait begins.
        let (mut child, stdin) = cat();
        drop(stdin);
        while state(child.id()).is_some() {
            sleep(Duration::from_millis(1));
        }
        assert!(child.wait().unwrap_err().to_string().contains("ignores SIGCHLD"));
    });
}

#[test]
fn a_status_that_somebody_else_has_taken_is_an_error() {
    let (mut child, stdin) = cat();
    drop(stdin);
    let pid = child.id() as libc::pid_t;
    let mut status = 0;
    // SAFETY: the pointer is valid for the one status.
    assert_eq!(unblock(move || unsafe { libc::waitpid(pid, &mut status, 0) }), pid);
    assert!(child.wait().unwrap_err().to_string().contains("other code has waited for it"));
}

#[test]
fn a_megabyte_goes_through_a_child_and_back() {
    const LEN: usize = 1 << 20;
    let input: Vec<u8> = (0..LEN).map(|n| (n / 7) as u8).collect();
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    scope(|s| {
        let input = &input;
        s.spawn(move || stdin.write_all(input).unwrap());
        let output = child.wait_with_output().unwrap();
        assert!(output.stdout == *input);
    });
}

#[test]
fn what_a_child_writes_to_both_pipes_is_read_at_once() {
    // More than fits into the pipes, in both orders.
    let part = |fd| format!("head -c 300000 /dev/zero >&{fd};");
    let output = sh(&format!("{}{}{}{}", part(2), part(1), part(1), part(2))).output().unwrap();
    assert_eq!((output.stdout.len(), output.stderr.len()), (600_000, 600_000));
}

#[test]
fn a_child_is_talked_to_line_by_line() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut line = [0; 6];
    for _ in 0..10 {
        stdin.write_all(b"hello\n").unwrap();
        stdout.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"hello\n");
    }
    drop(stdin);
    assert_eq!(stdout.read(&mut line).unwrap(), 0);
    assert!(child.wait().unwrap().success());
}

#[test]
fn writing_to_a_child_that_has_ended_fails() {
    in_child("process::writing_to_a_child_that_has_ended_fails", || {
        // As in every Rust program; the test harness has it end the process.
        // SAFETY: SIG_IGN needs no handler.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        let mut child = Command::new("true").stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(stdin.write_all(b"anybody?").unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn wait_closes_stdin_first() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(child.stdin.is_none());
}

#[test]
fn two_children_are_connected_by_a_pipe_that_blocks() {
    // Before the first one writes, the second one reads: from a non-blocking pipe, that would fail.
    let mut first = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let second =
        Command::new("cat").stdin(first.stdout.take().unwrap()).stdout(Stdio::piped()).spawn().unwrap();
    while state(second.id()) != Some('S') {
        sleep(Duration::from_millis(1));
    }
    sleep(Duration::from_millis(5));
    first.stdin.take().unwrap().write_all(b"through both").unwrap();
    assert_eq!(second.wait_with_output().unwrap().stdout, b"through both");
    assert!(first.wait().unwrap().success());
}

#[test]
fn pipes_become_std_pipes_and_back_blocking_and_not() {
    let is_nonblocking = |fd: &dyn AsRawFd| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned();
        i32::from_str_radix(&flags, 8).unwrap() & libc::O_NONBLOCK != 0
    };
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    assert!(is_nonblocking(&stdout));
    let stdout = std::process::ChildStdout::from(stdout);
    assert!(!is_nonblocking(&stdout));
    let stdout = ChildStdout::from(stdout);
    assert!(is_nonblocking(&stdout));
    let stdout = OwnedFd::from(stdout);
    assert!(!is_nonblocking(&stdout));
    let mut child = std::process::Child::from(child);
    assert!(!is_nonblocking(child.stdin.as_ref().unwrap()));
    child.stdin.take();
    let mut child = Child::from(child);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_child_that_was_given_back_to_std_is_left_alone() {
    in_child("process::a_child_that_was_given_back_to_std_is_left_alone", || {
        let (child, stdin) = cat();
        let mut child = std::process::Child::from(child);
        drop(stdin);
        while state(child.id()) != Some('Z') {
            sleep(Duration::from_millis(1));
        }
        assert!(Command::new("true").status().unwrap().success());
        assert_eq!(state(child.id()), Some('Z'));
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn a_plain_thread_and_then_another_one_may_wait() {
    both_ways("process::a_plain_thread_and_then_another_one_may_wait", || {
        let (mut child, stdin) = cat();
        let mut child = thread::spawn(move || {
            assert_eq!(child.wait_timeout(Duration::from_millis(5)).unwrap(), None);
            child
        })
        .join()
        .unwrap();
        assert_eq!(child.wait_timeout(Duration::from_millis(5)).unwrap(), None);
        let waiter = thread::spawn(move || child.wait().unwrap());
        drop(stdin);
        assert!(unblock(|| waiter.join().unwrap()).success());
    });
}

#[test]
fn threads_wait_for_their_children_at_once() {
    both_ways("process::threads_wait_for_their_children_at_once", || {
        let threads: Vec<_> = (0..4)
            .map(|n| {
                thread::spawn(move || {
                    let run = move |m| sh(&format!("exit {}", 10 * n + m)).status().unwrap().code();
                    let greenlets: Vec<_> = (0..5).map(|m| spawn(move || run(m))).collect();
                    joinall(&greenlets);
                    for (m, greenlet) in greenlets.into_iter().enumerate() {
                        assert_eq!(greenlet.join().unwrap(), Some(10 * n + m as i32));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn in_a_destructor_that_runs_while_unwinding_waiting_fails() {
    let kinds = Rc::new(Cell::new(None));
    let given = Rc::clone(&kinds);
    let greenlet = spawn(move || {
        let mut children = Some((sleeper(), sh("exec sleep 3600").stdout(Stdio::piped()).spawn().unwrap()));
        let _on_drop = OnDrop(move || {
            let (mut one, mut other) = children.take().unwrap();
            let wait = one.wait().unwrap_err().kind();
            one.kill().unwrap();
            other.kill().unwrap();
            given.set(Some((wait, other.wait_with_output().unwrap_err().kind())));
        });
        sleep(HOUR);
    });
    yield_now();
    greenlet.kill();
    assert_eq!(kinds.take(), Some((ErrorKind::WouldBlock, ErrorKind::WouldBlock)));
}

#[test]
fn commands_have_what_std_s_have() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo $0 $A $B $(pwd)"]).arg0("zero").env_clear().envs([("A", "1")]).env("B", "2");
    command.env_remove("B").env("PATH", "/usr/bin:/bin").current_dir("/");
    assert_eq!(command.output().unwrap().stdout, b"zero 1 /\n");
    assert_eq!((command.get_program(), command.get_args().count()), ("sh".as_ref(), 2));
    assert_eq!(command.get_envs().count(), 2);
    assert_eq!(command.get_current_dir(), Some("/".as_ref()));
    assert!(format!("{command:?}").contains("zero"));

    let mut leader = Command::from(std::process::Command::new("sleep"));
    let mut leader = leader.arg("3600").process_group(0).spawn().unwrap();
    // SAFETY: getpgid takes a number.
    assert_eq!(unsafe { libc::getpgid(leader.id() as libc::pid_t) }, leader.id() as libc::pid_t);
    leader.kill().unwrap();
    leader.wait().unwrap();

    assert_eq!(Command::new("/nonexistent/program").exec().kind(), ErrorKind::NotFound);
}

#[test]
fn another_thread_may_start_a_child() {
    let child = unblock(|| Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn());
    let mut child = child.unwrap();
    child.stdin.take().unwrap().write_all(b"hello").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"hello");
}
