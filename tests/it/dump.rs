//! `dump`: who spawned whom, what each waits for, and where. Most tests have a process of their own, for a dump shows all hubs.

use std::hint;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use switchgrass::dump::Options;
use switchgrass::{
    Builder, Coroutine, Generator, current, dump, park, sleep, spawn, spawn_later, testing, timeout,
    yield_now,
};

use crate::util::*;

#[inline(never)]
fn waits_deep_inside() {
    park();
}

/// The line that begins with `start`, after its indentation, and that.
fn line<'a>(text: &'a str, start: &str) -> (&'a str, usize) {
    let found = text.lines().find(|line| line.trim_start().starts_with(start));
    let line = found.unwrap_or_else(|| panic!("no line begins with {start:?} in:\n{text}"));
    (line, line.len() - line.trim_start().len())
}

/// The backtrace below that line.
fn trace<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    let mut lines = text.lines().skip_while(|line| !line.trim_start().starts_with(start));
    let (_, indent) = line(text, start);
    lines.next();
    lines.take_while(|line| line.len() - line.trim_start().len() == indent + 6).map(str::trim_start).collect()
}

#[test]
fn it_is_a_tree_of_who_spawned_whom_with_backtraces() {
    in_child("dump::it_is_a_tree_of_who_spawned_whom_with_backtraces", || {
        let parent = Builder::new()
            .name("parent")
            .spawn(|| {
                let child = Builder::new().name("child").spawn(waits_deep_inside).unwrap();
                child.join().unwrap();
            })
            .unwrap();
        yield_now();
        yield_now();
        let text = dump::to_string();
        let parent_starts = format!("greenlet {} 'parent': waits: join of greenlet ", parent.id());
        let (_, main_indent) = line(&text, &format!("main {}", current().id()));
        let (parent_line, parent_indent) = line(&text, &parent_starts);
        let (child_line, child_indent) =
            line(&text, "greenlet 4 'child': waits: park; spawned at tests/it/dump.rs:");
        assert!((main_indent, parent_indent, child_indent) == (2, 4, 6), "{text}");
        assert!(parent_line.contains("; spawned at tests/it/dump.rs:"), "{text}");
        assert!(child_line.contains("; for "), "{text}");
        // Only what is between the library's own ends of the stack.
        let frames = trace(&text, "greenlet 4 'child'");
        assert!(frames.first().unwrap().contains("switchgrass::greenlet::park"), "{text}");
        assert!(
            frames.last().unwrap().starts_with("it::dump::waits_deep_inside (tests/it/dump.rs:"),
            "{text}"
        );
        let frames = trace(&text, &parent_starts);
        assert!(frames.iter().any(|frame| frame.contains("Greenlet<T>::join")), "{text}");
    });
}

#[test]
fn whoever_lost_their_spawner_stands_under_main() {
    in_child("dump::whoever_lost_their_spawner_stands_under_main", || {
        let orphan = spawn(|| spawn(park)).join().unwrap();
        yield_now();
        let text = dump::to_string();
        assert_eq!(line(&text, &format!("greenlet {}: waits: park", orphan.id())).1, 4, "{text}");
    });
}

#[test]
fn each_way_to_be_suspended_has_its_words_and_frames() {
    in_child("dump::each_way_to_be_suspended_has_its_words_and_frames", || {
        let switched = Coroutine::<u32>::new(|_| Coroutine::main().switch(1).unwrap());
        assert_eq!(switched.switch(2).unwrap(), 1);
        let _unstarted = Coroutine::<u32>::new(|n| n);
        let generator = Generator::new(|yielder, ()| yielder.yield_(5));
        let _ = generator.send(());
        let _later = spawn_later(HOUR, || ());
        let _sleeper = spawn(|| sleep(HOUR));
        let yielder = spawn(|| {
            loop {
                yield_now();
            }
        });
        yield_now();
        let text = dump::to_string();
        for (start, words, frame) in [
            ("main", "waits: dump", "each_way_to_be_suspended"),
            ("coroutine 3", "suspended in a switch", "Coroutine<M>::switch"),
            ("generator 5", "waits in a generator's send or yield", "::yield_"),
            ("greenlet 7", "waits: sleep", "timeout::sleep"),
            (&format!("greenlet {}", yielder.id()), "can run", "yield_now"),
        ] {
            if start != "main" {
                assert!(line(&text, start).0.contains(words), "{start}: {text}");
            }
            assert!(trace(&text, start).iter().any(|name| name.contains(frame)), "{start}, {frame}: {text}");
        }
        assert!(line(&text, "coroutine 4").0.contains("was never switched to"), "{text}");
        assert!(line(&text, "greenlet 6").0.contains("is not started yet"), "{text}");
        assert!(trace(&text, "coroutine 4").is_empty(), "{text}");
        yielder.kill_nowait();
    });
}

#[test]
fn nobody_notices_to_have_been_looked_at() {
    in_child("dump::nobody_notices_to_have_been_looked_at", || {
        let clock = Clock::start();
        let set_errno = |value| {
            // SAFETY: this thread's errno.
            unsafe { *libc::__errno_location() = value }
        };
        let sleeper = spawn(move || {
            set_errno(77);
            sleep(secs(5));
            // SAFETY: as above.
            (unsafe { *libc::__errno_location() }, clock.elapsed())
        });
        let late = spawn(|| timeout(secs(3), park).is_err());
        let parked = spawn(park);
        let killed = spawn(forever);
        let echo = Coroutine::<u32>::new(|mut n| {
            loop {
                n = Coroutine::main().switch(n + 1).unwrap();
            }
        });
        let generator = Generator::new(|yielder, mut n: u32| {
            loop {
                n = yielder.yield_(n * 2);
            }
        });
        let look = || Options::new().patience(secs(0)).to_string();
        for round in 0..3 {
            assert_eq!(echo.switch(round).unwrap(), round + 1);
            assert!(matches!(generator.send(round), Ok(switchgrass::Step::Yield(n)) if n == round * 2));
            // In a greenlet, too: then it is there that the others are resumed for a moment.
            assert!(spawn(look).join().unwrap().contains("greenlet"));
            assert!(look().contains("greenlet"));
        }
        parked.handle().unpark();
        parked.join().unwrap();
        killed.kill();
        assert!(is_exit(&killed.join()));
        assert!(late.join().unwrap());
        assert_eq!(sleeper.join().unwrap(), (77, secs(5)));
    });
}

#[test]
fn thousands_that_look_alike_are_one_line() {
    in_child("dump::thousands_that_look_alike_are_one_line", || {
        let spawner = spawn(|| {
            for _ in 0..5000 {
                spawn(|| {
                    spawn(waits_deep_inside);
                    park();
                });
            }
            park();
        });
        for _ in 0..3 {
            yield_now();
        }
        let text = Options::new().backtraces(usize::MAX).to_string();
        assert!(text.lines().count() < 40, "{text}");
        let (line, _) = line(&text, "5000 greenlets (");
        assert!(line.contains("waits: park; spawned at tests/it/dump.rs:"), "{text}");
        assert!(text.contains("each has made what the first has:"), "{text}");
        assert!(text.contains("10001 besides"), "{text}");
        assert!(!text.contains("more"), "{text}");
        drop(spawner);
    });
}

#[test]
fn what_is_too_much_is_counted() {
    in_child("dump::what_is_too_much_is_counted", || {
        let greenlets: Vec<_> = (0..8).map(|_| spawn(park)).collect();
        yield_now();
        let text = Options::new().backtraces(3).lines(5).to_string();
        assert!(text.trim_end().ends_with("… and 4 more"), "{text}");
        let text = Options::new().backtraces(3).to_string();
        assert_eq!(text.matches("no backtrace: there are too many").count(), 5, "{text}");
        let text = Options::new().backtraces(0).to_string();
        assert_eq!(text.lines().count(), 1 + 1 + greenlets.len(), "{text}");
    });
}

#[test]
fn to_take_a_backtrace_uses_hardly_any_of_the_greenlets_stack() {
    in_child("dump::to_take_a_backtrace_uses_hardly_any_of_the_greenlets_stack", || {
        let parked = Builder::new().measure_stack(true).spawn(waits_deep_inside).unwrap();
        yield_now();
        let before = parked.stack_used().unwrap();
        assert!(dump::to_string().contains("waits_deep_inside"));
        let after = parked.stack_used().unwrap();
        assert!(after - before <= 1024, "{before} before, {after} after");
    });
}

#[test]
fn a_greenlet_with_too_little_stack_left_is_not_asked() {
    #[inline(never)]
    fn park_near(floor: usize) {
        let here = hint::black_box([0_u8; 64]);
        if here.as_ptr().addr() - floor > 1900 {
            park_near(floor);
        } else {
            park();
        }
        hint::black_box(here);
    }
    in_child("dump::a_greenlet_with_too_little_stack_left_is_not_asked", || {
        // Only these guards are in the table of memory maps.
        testing::force_mprotect_guards();
        let cramped = Builder::new()
            .stack_size(64 << 10)
            .spawn(|| {
                let here = 0_u8;
                let address = (&raw const here).addr();
                let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
                let mut starts = maps.lines().filter_map(|map| {
                    let (start, rest) = map.split_once('-')?;
                    let (end, _) = rest.split_once(' ')?;
                    let hex = |text| usize::from_str_radix(text, 16).unwrap();
                    (hex(start)..hex(end)).contains(&address).then(|| hex(start))
                });
                park_near(starts.next().unwrap());
            })
            .unwrap();
        yield_now();
        let text = dump::to_string();
        let (line, _) = line(&text, &format!("greenlet {}", cramped.id()));
        assert!(line.contains("no backtrace: too little of its stack is left"), "{text}");
        cramped.handle().unpark();
        cramped.join().unwrap();
    });
}

#[test]
fn hubs_of_other_threads_answer() {
    in_child("dump::hubs_of_other_threads_answer", || {
        let (tell, told) = mpsc::channel();
        let other = thread::Builder::new().name("other".into()).spawn(move || {
            let stays = Builder::new().name("there").spawn(waits_deep_inside).unwrap();
            yield_now();
            tell.send(current()).unwrap();
            park();
            stays.kill();
        });
        let main_there = told.recv().unwrap();
        // From a thread without greenlets, from a context, and from a greenlet.
        for text in [
            thread::spawn(dump::to_string).join().unwrap(),
            dump::to_string(),
            spawn(dump::to_string).join().unwrap(),
        ] {
            assert!(
                line(&text, "hub of thread 'other'").0.ends_with(": 1 besides its own context"),
                "{text}"
            );
            // The loop has the id in between.
            let (there, _) = line(&text, &format!("greenlet {} 'there': waits: park", main_there.id() + 2));
            assert!(there.contains("; spawned at tests/it/dump.rs:"), "{text}");
            assert!(text.contains("it::dump::waits_deep_inside"), "{text}");
        }
        main_there.unpark();
        other.unwrap().join().unwrap();
        assert!(!dump::to_string().contains("'other'"));
    });
}

/// Counted within the function that holds up its hub.
static SPINS: AtomicUsize = AtomicUsize::new(0);

#[inline(never)]
fn holds_up_the_hub(over: &AtomicBool) {
    while !over.load(Ordering::Acquire) {
        SPINS.fetch_add(1, Ordering::Release);
    }
}

#[test]
fn a_hub_that_is_held_up_is_listed_with_who_runs_and_where() {
    in_child("dump::a_hub_that_is_held_up_is_listed_with_who_runs_and_where", || {
        let over = Arc::new(AtomicBool::new(false));
        let (tell, told) = mpsc::channel();
        let other = thread::spawn({
            let over = Arc::clone(&over);
            move || {
                let holder = Builder::new().name("holder").spawn(move || holds_up_the_hub(&over)).unwrap();
                tell.send(holder.id()).unwrap();
                holder.join().unwrap();
            }
        });
        let id = told.recv().unwrap();
        while SPINS.load(Ordering::Acquire) == 0 {
            hint::spin_loop();
        }
        let text = Options::new().patience(secs(0)).to_string();
        assert!(text.contains(": busy, has not come back to its loop within 0ns\n"), "{text}");
        assert!(
            line(&text, &format!("greenlet {id} 'holder': runs; spawned at tests/it/dump.rs:")).1 == 2,
            "{text}"
        );
        assert!(text.contains("it::dump::holds_up_the_hub"), "{text}");
        over.store(true, Ordering::Release);
        other.join().unwrap();
    });
}

#[test]
fn a_dump_in_a_destructor_that_unwinds_works() {
    in_child("dump::a_dump_in_a_destructor_that_unwinds_works", || {
        let (tell, told) = mpsc::channel();
        let dying = spawn(move || {
            let _last = OnDrop(move || tell.send(dump::to_string()).unwrap());
            park();
        });
        let _other = spawn(waits_deep_inside);
        yield_now();
        dying.kill();
        let text = told.recv().unwrap();
        assert!(text.contains(&format!("greenlet {}: runs", dying.id())), "{text}");
        assert!(text.contains("it::dump::waits_deep_inside"), "{text}");
    });
}

#[test]
fn the_deadlock_report_has_the_backtraces() {
    let outer = spawn(|| {
        let inner = spawn(waits_deep_inside);
        inner.join().unwrap();
    });
    let report = catch(|| outer.join()).unwrap_err();
    let text = text(&report);
    assert!(text.contains("would block forever"), "{text}");
    assert!(
        text.contains("\n  main ") && text.contains("\n    greenlet ") && text.contains("\n      greenlet "),
        "{text}"
    );
    assert!(text.contains("it::dump::waits_deep_inside (tests/it/dump.rs:"), "{text}");
    assert!(text.contains("the_deadlock_report_has_the_backtraces"), "{text}");
}

#[test]
fn a_signal_has_a_dump_written_though_the_hub_is_held_up() {
    in_child("dump::a_signal_has_a_dump_written_though_the_hub_is_held_up", || {
        dump::on_signal(libc::SIGUSR1).unwrap();
        let twice = dump::on_signal(libc::SIGUSR1).unwrap_err();
        assert_eq!(twice.kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(dump::on_signal(libc::SIGSEGV).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
        let (mut reader, writer) = std::io::pipe().unwrap();
        // SAFETY: two open descriptors; the second becomes a copy of the first.
        unsafe { libc::dup2(writer.as_raw_fd(), 2) };
        let held_up = Builder::new().name("held up").spawn(move || {
            // SAFETY: raise takes a number.
            unsafe { libc::raise(libc::SIGUSR1) };
            let mut text = String::new();
            // Blocks the OS thread until the dump is there.
            while !text.contains("it::dump::") {
                let mut part = [0; 4096];
                let length = reader.read(&mut part).unwrap();
                text += &String::from_utf8_lossy(&part[..length]);
            }
            text
        });
        let text = held_up.unwrap().join().unwrap();
        assert!(text.contains(": busy, has not come back to its loop"), "{text}");
        assert!(text.contains(" 'held up': runs; spawned at tests/it/dump.rs:"), "{text}");
    });
}

/// Switches, waits, spawns, kills, and checks that all goes as it should, until it is over.
fn work_until(over: &AtomicBool) {
    let echo = Coroutine::<u32>::new(|mut n| {
        loop {
            n = Coroutine::main().switch(n + 1).unwrap();
        }
    });
    for round in 0_u32.. {
        let sleeper = spawn(|| timeout(Duration::from_micros(50), park).is_err());
        let killed = spawn(forever);
        let (one, other) = (spawn(yields), spawn(yields));
        for n in 0..20 {
            assert_eq!(echo.switch(n).unwrap(), n + 1);
        }
        killed.kill();
        assert!(is_exit(&killed.join()));
        assert!(sleeper.join().unwrap());
        assert_eq!(one.join().unwrap() + other.join().unwrap(), 40);
        if over.load(Ordering::Acquire) && round > 10 {
            return;
        }
    }
}

fn yields() -> u32 {
    (0..20).map(|_| yield_now()).map(|()| 1).sum()
}

#[test]
fn a_hub_that_is_looked_at_all_the_time_works_as_ever() {
    in_child("dump::a_hub_that_is_looked_at_all_the_time_works_as_ever", || {
        let over = Arc::new(AtomicBool::new(false));
        let (tell, has_begun) = mpsc::channel();
        let worker = thread::spawn({
            let over = Arc::clone(&over);
            move || {
                yield_now();
                tell.send(()).unwrap();
                work_until(&over);
            }
        });
        has_begun.recv().unwrap();
        // Asked by a message, between two greenlets …
        for _ in 0..20 {
            let text = Options::new().frames(16).to_string();
            assert!(text.contains("besides its own context"), "{text}");
        }
        // … and by a signal, wherever it may be, in the middle of a switch, too.
        for _ in 0..2000 {
            Options::new().backtraces(0).patience(secs(0)).to_string();
        }
        over.store(true, Ordering::Release);
        worker.join().unwrap();
    });
}
