//! The console to look into a running program. What sees all hubs of the process is tried in a process of its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use switchgrass::backdoor::Backdoor;
use switchgrass::net::{TcpStream, UnixListener, UnixStream};
use switchgrass::{
    Builder, Coroutine, Greenlet, Handle, current, sleep, spawn, spawn_later, stats, timeout, yield_now,
};

use crate::util::{Clock, HOUR, catch, forever, in_child, is_exit, secs, time_limit};

/// A directory of the test's own.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let place = std::env::temp_dir().join(format!("backdoor-test-{}-{number}", std::process::id()));
        fs::create_dir(&place).unwrap();
        Place(place)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    fn new(path: &Path) -> Client {
        Client(BufReader::new(UnixStream::connect(path).unwrap()))
    }

    fn send(&self, text: &str) {
        self.0.get_ref().write_all(text.as_bytes()).unwrap();
    }

    /// The lines of the next answer.
    fn answer(&mut self) -> Vec<String> {
        answer_of(&mut self.0)
    }

    fn ask(&mut self, command: &str) -> Vec<String> {
        self.send(&format!("{command}\n"));
        self.answer()
    }

    /// Whether the server has closed the connection.
    fn is_at_end(&mut self) -> bool {
        match self.0.read(&mut [0; 1]) {
            Ok(len) => len == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn answer_of(from: &mut impl BufRead) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        assert_ne!(from.read_line(&mut line).unwrap(), 0, "the answer has an end; so far: {lines:?}");
        match line.strip_suffix('\n').unwrap() {
            "." => return lines,
            line => lines.push(line.to_owned()),
        }
    }
}

fn named(name: &str, f: impl FnOnce() + 'static) -> Greenlet<()> {
    Builder::new().name(name).spawn(f).unwrap()
}

/// The columns of those whom `ps` shows, by name.
fn ps(client: &mut Client) -> HashMap<String, Vec<String>> {
    let lines = client.ask("ps");
    assert_eq!(lines[0], "#ID\tHUB\tKIND\tSTATE\tSECONDS\tSPAWNED_BY\tNAME\tSPAWNED_AT\tWAITS_FOR");
    let rows = lines.iter().filter(|line| !line.starts_with('#'));
    rows.map(|row| {
        let columns: Vec<String> = row.split('\t').map(str::to_owned).collect();
        assert_eq!(columns.len(), 9, "{row:?}");
        (columns[6].clone(), columns)
    })
    .collect()
}

/// An OS thread with a greenlet `name` that waits for ever, and a thread's own context that waits for it. Gives the greenlet (with whose handle here
/// it could be woken, so that this is no deadlock), and whether its join gave the exit.
fn other_hub(name: &'static str) -> (Handle, JoinHandle<bool>) {
    let (tell, told) = mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("thread of {name}")).spawn(move || {
        let greenlet = Builder::new().name(name).spawn(move || {
            tell.send(current()).unwrap();
            forever()
        });
        is_exit(&greenlet.unwrap().join())
    });
    (told.recv().unwrap(), thread.unwrap())
}

#[test]
fn each_answer_ends_with_a_dot_and_commands_are_answered_in_order() {
    time_limit();
    let place = Place::new();
    let _backdoor = Backdoor::bind(place.socket()).unwrap();
    let mut client = Client::new(&place.socket());
    let help = client.ask("help");
    for command in ["help", "ps", "tree", "bt", "stats", "kill ID", "trace start", "trace stop", "quit"] {
        assert!(help.iter().any(|line| line.starts_with(command)), "{command}: {help:?}");
    }
    // Together, with other line ends, and without the last one.
    client.send("\n  help  \r\nnonsense\nkill\nkill x\nbt many\nps no\ntrace\nstats all\nhelp");
    client.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.answer(), [""; 0]);
    assert_eq!(client.answer(), help);
    assert_eq!(client.answer(), ["error: there is no command `nonsense`: `help` tells which there are"]);
    assert_eq!(client.answer(), ["error: of which? `ps` tells the ids"]);
    assert_eq!(client.answer(), ["error: `x` is not an id: `ps` tells them"]);
    assert_eq!(client.answer(), ["error: `many` is not an id: `ps` tells them"]);
    assert_eq!(client.answer(), ["error: `no` is not a number"]);
    assert_eq!(client.answer(), ["error: trace what? `trace start [N]` or `trace stop [FILE]`"]);
    assert_eq!(client.answer(), ["error: `stats` stands alone"]);
    assert_eq!(client.answer(), help);
    assert!(client.is_at_end());
}

#[test]
fn quit_closes_this_connection_only() {
    time_limit();
    let place = Place::new();
    let backdoor = Backdoor::bind(place.socket()).unwrap();
    let (mut one, mut other) = (Client::new(&place.socket()), Client::new(&place.socket()));
    // Both are served at once, whoever speaks first.
    assert!(!other.ask("help").is_empty());
    assert!(!one.ask("help").is_empty());
    assert_eq!(backdoor.connections(), 2);
    one.send("quit\nhelp\n");
    assert!(one.is_at_end());
    assert!(!other.ask("help").is_empty());
    assert_eq!(backdoor.connections(), 1);
}

#[test]
fn ps_and_tree_show_greenlets_of_all_hubs() {
    in_child("backdoor::ps_and_tree_show_greenlets_of_all_hubs", || {
        let place = Place::new();
        let _backdoor = Backdoor::bind(place.socket()).unwrap();
        let (far, _thread) = other_hub("far");
        let near = named("near\t\n.\n", || forever());
        let later = spawn_later(HOUR, || {});
        let coroutine = Coroutine::<()>::new(|()| ());
        let mut client = Client::new(&place.socket());
        // So that the other one has come to its wait.
        while ps(&mut client)["far"][3] != "waits" {}
        let rows = ps(&mut client);
        let columns = |name: &str| rows[name].iter().map(String::as_str).collect::<Vec<_>>();

        let main = columns("backdoor::ps_and_tree_show_greenlets_of_all_hubs");
        let near_id = near.id().to_string();
        let row = columns("near\\t\\n.\\n");
        assert_eq!(row[..4], [near_id.as_str(), main[1], "greenlet", "waits"]);
        assert!(row[4].parse::<f64>().unwrap() >= 0.0, "{row:?}");
        assert_eq!(row[5], main[0]);
        assert!(row[7].starts_with("tests/it/backdoor.rs:"), "{row:?}");
        assert!(row[8].starts_with("park"), "{row:?}");
        let row = columns("far");
        assert_eq!((row[0], row[2], row[3]), (far.id().to_string().as_str(), "greenlet", "waits"));
        assert_ne!(row[1], main[1]);
        assert_eq!(columns("thread of far")[2], "main");
        assert_eq!(columns("backdoor console")[3], "runs");
        // Those have no names.
        let rows = client.ask("ps");
        let row = |id: u64| rows.iter().find(|row| row.starts_with(&format!("{id}\t"))).unwrap();
        let columns = |id: u64| row(id).split('\t').collect::<Vec<_>>();
        assert_eq!(columns(later.id())[1..5], [main[1], "greenlet", "unstarted", "-"]);
        assert_eq!(columns(coroutine.id())[1..5], [main[1], "coroutine", "unstarted", "-"]);
        assert_eq!(columns(coroutine.id())[6], "-");

        let few = client.ask("ps 1");
        assert_eq!(few.iter().filter(|line| !line.starts_with('#')).count(), 2, "{few:?}");
        assert!(
            few.iter().any(|line| line.starts_with("# and ") && line.contains(" more on hub ")),
            "{few:?}"
        );

        let tree = client.ask("tree").join("\n");
        assert!(tree.contains(&format!("greenlet {} 'far': waits: park", far.id())), "{tree}");
        assert!(!tree.contains("backdoor::forever"), "{tree}");
        // The name of `near` has a line that is a dot, which is not the end.
        assert!(tree.contains("\n..\n"), "{tree}");
        assert!(!client.ask("help").is_empty());
    });
}

#[inline(never)]
fn a_place_to_be_found() {
    forever()
}

#[test]
fn bt_shows_where_one_waits() {
    in_child("backdoor::bt_shows_where_one_waits", || {
        let place = Place::new();
        let _backdoor = Backdoor::bind(place.socket()).unwrap();
        let (far, _thread) = other_hub("far");
        let near = named("near", a_place_to_be_found);
        let mut client = Client::new(&place.socket());
        while ps(&mut client)["far"][3] != "waits" {}
        let near = client.ask(&format!("bt {}", near.id()));
        assert!(near[0].starts_with("greenlet ") && near[0].contains(" 'near': waits: park"), "{near:?}");
        assert!(near.iter().any(|line| line.contains("a_place_to_be_found")), "{near:?}");
        assert!(!near.iter().any(|line| line.contains("far")), "{near:?}");
        let far = client.ask(&format!("bt {}", far.id()));
        assert!(far[0].contains(" 'far': waits: park"), "{far:?}");
        assert!(far.iter().any(|line| line.contains("forever")), "{far:?}");
        let all = client.ask("bt").join("\n");
        assert!(
            all.contains("'near'") && all.contains("'far'") && all.contains("a_place_to_be_found"),
            "{all}"
        );
        assert_eq!(
            client.ask("bt 999999"),
            ["error: nobody who lives has the id 999999: `ps` tells the ids"]
        );
        let own = ps(&mut client)["backdoor console"][0].clone();
        let own = client.ask(&format!("bt {own}"));
        assert!(own[0].contains("'backdoor console': runs"), "{own:?}");
    });
}

#[test]
fn kill_ends_a_greenlet_of_whichever_hub() {
    in_child("backdoor::kill_ends_a_greenlet_of_whichever_hub", || {
        let place = Place::new();
        let _backdoor = Backdoor::bind(place.socket()).unwrap();
        let (far, thread) = other_hub("far");
        let far = far.id();
        let near = named("near", || forever());
        let mut client = Client::new(&place.socket());
        assert_eq!(client.ask(&format!("kill {far}")), [format!("killed {far}")]);
        assert!(thread.join().unwrap(), "its join gave the exit");
        let id = near.id();
        assert_eq!(client.ask(&format!("kill {id}")), [format!("killed {id}")]);
        assert!(is_exit(&near.join()));
        assert_eq!(
            client.ask(&format!("kill {id}")),
            [format!("error: nobody who lives has the id {id}: `ps` tells the ids")]
        );

        let main = ps(&mut client)["backdoor::kill_ends_a_greenlet_of_whichever_hub"][0].clone();
        let refused = client.ask(&format!("kill {main}"));
        assert_eq!(
            refused,
            [format!("error: {main} is a thread's own context, which is not killed from outside")]
        );
        let coroutine = Coroutine::<()>::new(|()| ());
        let refused = client.ask(&format!("kill {}", coroutine.id()));
        assert!(refused[0].starts_with("error: ") && refused[0].contains("is a coroutine"), "{refused:?}");
        assert!(!coroutine.is_dead());
    });
}

#[test]
fn who_does_not_die_in_time_has_been_told_to() {
    time_limit();
    let place = Place::new();
    let _backdoor = Backdoor::bind(place.socket()).unwrap();
    let stubborn = spawn(|| {
        let exit = catch(|| forever());
        sleep(secs(5));
        drop(exit);
    });
    let mut client = Client::new(&place.socket());
    let _clock = Clock::start();
    let id = stubborn.id();
    assert_eq!(client.ask(&format!("kill {id}")), [format!("told {id}")]);
    assert!(!stubborn.is_ready());
    stubborn.join().unwrap();
}

#[test]
fn a_busy_hub_is_named_and_holds_up_nobody_else() {
    in_child("backdoor::a_busy_hub_is_named_and_holds_up_nobody_else", || {
        let place = Place::new();
        let _backdoor = Backdoor::bind(place.socket()).unwrap();
        let (go_on, wait) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let busy = std::thread::Builder::new().name("busy".to_owned()).spawn(move || {
            yield_now();
            tell.send(()).unwrap();
            let _ = wait.recv();
        });
        told.recv().unwrap();
        let mut client = Client::new(&place.socket());
        let lines = client.ask("ps");
        assert!(lines.iter().any(|line| line.starts_with("# the hub of thread 'busy' ")), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("backdoor console")), "{lines:?}");
        let answer = client.ask("kill 999999");
        assert!(
            answer[0].starts_with("error: nobody has the id 999999, unless on thread 'busy' "),
            "{answer:?}"
        );
        drop(go_on);
        busy.unwrap().join().unwrap();
    });
}

#[test]
fn stats_are_a_number_per_line() {
    in_child("backdoor::stats_are_a_number_per_line", || {
        let place = Place::new();
        let _backdoor = Backdoor::bind(place.socket()).unwrap();
        let (_far, _thread) = other_hub("far");
        let mut client = Client::new(&place.socket());
        let lines = client.ask("stats");
        assert_eq!(lines[0], "#HUB\tNAME\tVALUE");
        let mut hubs: HashMap<u64, HashMap<&str, &str>> = HashMap::new();
        for line in &lines[1..] {
            let [hub, name, value] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
            hubs.entry(hub.parse().unwrap()).or_default().insert(name, value);
        }
        assert_eq!(hubs.len(), 2);
        let own = &hubs[&stats::here().hub];
        // The one that accepts, and the console.
        assert_eq!(own["live"], "2");
        assert!(own["switches"].parse::<u64>().unwrap() > 0);
        assert!(own["thread"].contains("stats_are_a_number_per_line"), "{own:?}");
        assert!(own.iter().all(|(name, value)| *name == "thread" || value.parse::<u64>().is_ok()), "{own:?}");
    });
}

#[test]
fn a_recording_is_started_and_its_trace_fetched() {
    in_child("backdoor::a_recording_is_started_and_its_trace_fetched", || {
        let place = Place::new();
        let _backdoor = Backdoor::bind(place.socket()).unwrap();
        let mut client = Client::new(&place.socket());
        assert_eq!(client.ask("trace stop"), ["error: no recording goes on: `trace start` begins one"]);
        assert_eq!(client.ask("trace start"), ["recording 100000 events per hub"]);
        let again = client.ask("trace start");
        assert_eq!(again, ["error: a recording goes on already: `trace stop` ends it"]);
        named("worker", yield_now).join().unwrap();
        let json = client.ask("trace stop").join("\n");
        assert!(json.starts_with("{\"displayTimeUnit\"") && json.ends_with("]}"), "{json}");
        assert!(json.contains("'worker'"), "{json}");

        assert_eq!(client.ask("trace start 50"), ["recording 50 events per hub"]);
        named("other worker", yield_now).join().unwrap();
        // A file that is there stays as it is, and the recording goes on.
        let file = place.0.join("a trace.json");
        fs::write(&file, "precious").unwrap();
        let refused = client.ask(&format!("trace stop {}", file.display()));
        assert!(refused[0].starts_with("error: ") && refused[0].contains("File exists"), "{refused:?}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        fs::remove_file(&file).unwrap();
        let written = client.ask(&format!("trace  stop  {}", file.display()));
        let json = fs::read_to_string(&file).unwrap();
        assert_eq!(written, [format!("{} {}", json.len(), file.display())]);
        assert!(json.starts_with("{\"displayTimeUnit\"") && json.contains("'other worker'"), "{json}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!switchgrass::trace::is_on());
    });
}

#[test]
fn the_socket_is_the_owners_alone_whatever_the_umask() {
    in_child("backdoor::the_socket_is_the_owners_alone_whatever_the_umask", || {
        for mask in [0o000, 0o022, 0o777] {
            let place = Place::new();
            // SAFETY: umask takes a number and touches no memory. Nobody else makes files in this process.
            let before = unsafe { libc::umask(mask) };
            let backdoor = Backdoor::bind(place.socket()).unwrap();
            let made = fs::metadata(place.socket()).unwrap();
            // SAFETY: as before.
            unsafe { libc::umask(before) };
            assert!(made.file_type().is_socket());
            assert_eq!(made.permissions().mode() & 0o777, 0o600, "with umask {mask:o}");
            assert_eq!(backdoor.path(), Some(&*place.socket()));
            assert!(!Client::new(&place.socket()).ask("help").is_empty());
        }
    });
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_refused() {
    time_limit();
    let place = Place::new();
    drop(UnixListener::bind(place.socket()).unwrap());
    assert!(place.socket().exists());
    let backdoor = Backdoor::bind(place.socket()).unwrap();
    assert!(!Client::new(&place.socket()).ask("help").is_empty());

    let error = Backdoor::bind(place.socket()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains("a process that lives listens there"), "{error}");
    assert!(!Client::new(&place.socket()).ask("help").is_empty());
    backdoor.stop();

    // One whose queue is full lives, too, and does not hold up who asks.
    let full = std::os::unix::net::UnixListener::bind(place.socket()).unwrap();
    let socket = socket_of(&full);
    // SAFETY: listen takes no pointers.
    assert_eq!(unsafe { libc::listen(socket, 0) }, 0);
    let _queued = std::os::unix::net::UnixStream::connect(place.socket()).unwrap();
    let error = timeout(secs(10), || Backdoor::bind(place.socket())).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}

fn socket_of(listener: &impl std::os::fd::AsRawFd) -> i32 {
    listener.as_raw_fd()
}

#[test]
fn what_is_no_socket_is_left_alone() {
    time_limit();
    let place = Place::new();
    fs::write(place.socket(), "precious").unwrap();
    let error = Backdoor::bind(place.socket()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("not a socket"), "{error}");
    assert_eq!(fs::read_to_string(place.socket()).unwrap(), "precious");
    // Nor what a link leads to.
    let link = place.0.join("link");
    std::os::unix::fs::symlink(place.0.join("elsewhere"), &link).unwrap();
    assert_eq!(Backdoor::bind(&link).unwrap_err().kind(), ErrorKind::AlreadyExists);

    let long = place.0.join("x".repeat(120));
    let error = Backdoor::bind(long).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("1 to 107 bytes"), "{error}");
    assert_eq!(Backdoor::bind(place.0.join("no/socket")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn of_many_that_find_a_dead_socket_one_gets_it() {
    time_limit();
    for _ in 0..20 {
        let place = Place::new();
        drop(UnixListener::bind(place.socket()).unwrap());
        let start = std::sync::Barrier::new(4);
        let end = std::sync::Barrier::new(4);
        let bound: Vec<bool> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        let backdoor = Backdoor::bind(place.socket());
                        end.wait();
                        match backdoor {
                            // Its file is still there.
                            Ok(_backdoor) => !Client::new(&place.socket()).ask("help").is_empty(),
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
                                false
                            }
                        }
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(bound.iter().filter(|&&bound| bound).count(), 1);
    }
}

#[test]
fn the_file_is_removed_at_the_end_but_not_somebody_elses() {
    time_limit();
    let place = Place::new();
    let backdoor = Backdoor::bind(place.socket()).unwrap();
    backdoor.stop();
    assert!(!place.socket().exists());
    backdoor.stop();
    let backdoor = Backdoor::bind(place.socket()).unwrap();
    drop(backdoor);
    assert!(!place.socket().exists());

    let backdoor = Backdoor::bind(place.socket()).unwrap();
    fs::remove_file(place.socket()).unwrap();
    fs::write(place.socket(), "somebody else's").unwrap();
    drop(backdoor);
    assert!(place.socket().exists());
}

#[test]
fn the_child_of_a_fork_leaves_the_file_to_its_parent() {
    in_child("backdoor::the_child_of_a_fork_leaves_the_file_to_its_parent", || {
        let place = Place::new();
        let backdoor = Backdoor::bind(place.socket()).unwrap();
        // SAFETY: the child does nothing but drop the backdoor, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(backdoor);
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: `status` may be written to.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        assert!(!Client::new(&place.socket()).ask("help").is_empty());
    });
}

#[test]
fn tcp_is_for_this_machine_only() {
    time_limit();
    for address in ["0.0.0.0:0", "192.0.2.1:0", "[::]:0", "[::ffff:192.0.2.1]:0"] {
        let error = Backdoor::bind_tcp(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{address}");
        assert!(error.to_string().contains("use 127.0.0.1"), "{error}");
    }
    let backdoor = Backdoor::bind_tcp("localhost:0").unwrap();
    let address = backdoor.local_addr().unwrap();
    assert!(address.ip().is_loopback() && backdoor.path().is_none());
    let client = TcpStream::connect(address).unwrap();
    let mut answers = BufReader::new(&client);
    (&client).write_all(b"stats\n").unwrap();
    assert!(answer_of(&mut answers)[0].starts_with("#HUB"));
    assert_eq!(Backdoor::bind_tcp(address).unwrap_err().kind(), ErrorKind::AddrInUse);
    backdoor.stop();
    let mut left = Vec::new();
    answers.read_to_end(&mut left).unwrap();
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_browser_cannot_be_made_to_send_commands() {
    time_limit();
    let place = Place::new();
    let _backdoor = Backdoor::bind(place.socket()).unwrap();
    let victim = spawn(|| forever());
    let mut client = Client::new(&place.socket());
    client.send(&format!("POST / HTTP/1.1\r\nHost: localhost\r\n\r\nkill {}\r\n", victim.id()));
    assert!(client.is_at_end());
    assert!(!victim.is_ready());
    victim.kill();
}

#[test]
fn stopping_ends_its_greenlets_and_nothing_is_left() {
    time_limit();
    let place = Place::new();
    let live = || stats::here().live;
    let before = live();
    let backdoor = Backdoor::bind(place.socket()).unwrap();
    let mut clients: Vec<_> = (0..3).map(|_| Client::new(&place.socket())).collect();
    clients.iter_mut().for_each(|client| drop(client.ask("help")));
    // Connected, and not accepted yet.
    let mut late = Client::new(&place.socket());
    assert_eq!(live(), before + 4);
    backdoor.stop();
    assert_eq!((live(), backdoor.connections()), (before, 0));
    clients.iter_mut().for_each(|client| assert!(client.is_at_end()));
    assert!(late.is_at_end());
}

#[test]
fn dropping_ends_its_greenlets_soon() {
    time_limit();
    let place = Place::new();
    let live = || stats::here().live;
    let before = live();
    let backdoor = Backdoor::bind(place.socket()).unwrap();
    let mut client = Client::new(&place.socket());
    assert!(!client.ask("help").is_empty());
    drop(backdoor);
    assert!(client.is_at_end());
    while live() > before {
        yield_now();
    }

    // Also while its owner unwinds, and for a console that has not begun.
    let owner_place = Rc::new(place);
    let place = Rc::clone(&owner_place);
    let owner = spawn(move || {
        let _backdoor = Backdoor::bind(owner_place.socket()).unwrap();
        forever()
    });
    yield_now();
    let mut late = Client::new(&place.socket());
    owner.kill();
    assert!(late.is_at_end());
    assert!(!place.socket().exists());
    while live() > before {
        yield_now();
    }
}

#[test]
fn serve_forever_returns_when_it_was_stopped() {
    time_limit();
    let place = Place::new();
    let backdoor = Rc::new(Backdoor::bind(place.socket()).unwrap());
    let other = Rc::clone(&backdoor);
    let server = spawn(move || other.serve_forever());
    assert!(!Client::new(&place.socket()).ask("help").is_empty());
    backdoor.stop();
    server.join().unwrap().unwrap();
}

#[test]
fn long_lines_and_garbage_are_answered_with_an_error_and_the_next_line_is_fine() {
    time_limit();
    let place = Place::new();
    let _backdoor = Backdoor::bind(place.socket()).unwrap();
    let mut client = Client::new(&place.socket());
    assert_eq!(client.ask(&"x".repeat(1_000_000)), ["error: a line has 4096 bytes at most"]);
    let garbage: Vec<u8> = (0..=255).filter(|&byte| byte != b'\n').collect();
    client.0.get_ref().write_all(&garbage).unwrap();
    let answer = client.ask("");
    assert!(answer.len() == 1 && answer[0].starts_with("error: there is no command `"), "{answer:?}");
    assert!(!answer[0].chars().any(char::is_control), "{answer:?}");
    assert!(!client.ask("help").is_empty());
}

#[test]
fn who_does_not_read_is_left_and_holds_up_nobody() {
    time_limit();
    let place = Place::new();
    let backdoor = Backdoor::bind(place.socket()).unwrap();
    let mut lazy = Client::new(&place.socket());
    // Answers of 6 MB.
    lazy.send(&"help\n".repeat(10_000));
    let mut other = Client::new(&place.socket());
    for _ in 0..100 {
        assert!(!other.ask("help").is_empty());
    }
    assert_eq!(backdoor.connections(), 2);
    let clock = Clock::start();
    sleep(secs(9));
    assert_eq!(backdoor.connections(), 2);
    sleep(secs(2));
    assert_eq!(backdoor.connections(), 1);
    assert_eq!(clock.elapsed(), secs(11));
    assert!(!other.ask("help").is_empty());
    // What it was sent is there, up to the end.
    let mut sent = 0;
    while let Ok(1..) = lazy.0.read(&mut [0; 4096]) {
        sent += 1;
    }
    assert!(sent > 0);
}

#[test]
fn whoever_may_write_to_the_file_may_be_let_in_afterwards() {
    time_limit();
    let place = Place::new();
    let _backdoor = Backdoor::bind(place.socket()).unwrap();
    fs::set_permissions(place.socket(), Permissions::from_mode(0o660)).unwrap();
    assert!(!Client::new(&place.socket()).ask("help").is_empty());
}

#[test]
fn a_command_may_come_in_pieces() {
    time_limit();
    let place = Place::new();
    let _backdoor = Backdoor::bind(place.socket()).unwrap();
    let mut client = Client::new(&place.socket());
    let whole = client.ask("help");
    for piece in ["h", "el", "p\nhe", "lp", "\n"] {
        client.send(piece);
        yield_now();
    }
    assert_eq!((client.answer(), client.answer()), (whole.clone(), whole));
}

#[test]
fn who_is_killed_may_drop_the_backdoor() {
    time_limit();
    let place = Place::new();
    let backdoor = Rc::new(RefCell::new(Some(Backdoor::bind(place.socket()).unwrap())));
    let holder = Rc::clone(&backdoor);
    let victim = spawn(move || {
        let _end = crate::util::OnDrop(move || drop(holder.take()));
        forever()
    });
    let mut client = Client::new(&place.socket());
    client.send(&format!("kill {}\n", victim.id()));
    assert!(is_exit(&victim.join()));
    assert!(client.is_at_end());
    assert!(backdoor.borrow().is_none() && !place.socket().exists());
}
