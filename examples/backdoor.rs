//! Looking into a running program: who is there, what does it wait for, and what if it is killed?
//!
//! A backdoor is a socket that takes commands, made for `nc` and for scripts. Each answer ends with a line that is a
//! single dot. This example has a client of its own, which does what a person would: it finds somebody that has been
//! waiting for too long, looks where, and kills it.
//!
//! Run with: `cargo run --release --example backdoor`
//!
//! With a path, it stays up until Ctrl-C, and you are the client:
//! `cargo run --release --example backdoor -- /tmp/door`, and then, in another shell, `nc -U /tmp/door` (try `help`) or
//! `echo ps | nc -N -U /tmp/door | column -t -s "$(printf '\t')"`.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use std::{env, process};

use switchgrass::backdoor::Backdoor;
use switchgrass::net::UnixStream;
use switchgrass::queue::Queue;
use switchgrass::signal::{self, SIGINT, SIGTERM};
use switchgrass::{Builder, sleep, yield_now};

/// Sends a command, and gives the lines of the answer.
fn ask(client: &mut BufReader<UnixStream>, command: &str) -> io::Result<Vec<String>> {
    writeln!(client.get_ref(), "{command}")?;
    client.lines().take_while(|line| line.as_ref().map_or(true, |line| line != ".")).collect()
}

fn main() -> io::Result<()> {
    let given = env::args_os().nth(1).map(PathBuf::from);
    let path = given.clone().unwrap_or_else(|| env::temp_dir().join(format!("backdoor-{}", process::id())));

    // Something to look at: one that waits for an order that never comes, and one that wakes now and then.
    let orders = Rc::new(Queue::<u32>::unbounded());
    let inbox = Rc::clone(&orders);
    let cook = Builder::new().name("cook").spawn(move || inbox.get())?;
    let clock = Builder::new().name("clock").spawn(|| {
        loop {
            sleep(Duration::from_secs(60));
        }
    })?;
    yield_now();

    let backdoor = Backdoor::bind(&path)?;
    if given.is_some() {
        println!("try: nc -U {}", path.display());
        signal::wait(&[SIGINT, SIGTERM])?;
        return Ok(());
    }

    look_around(&path)?;
    println!("the cook was killed: {}", cook.is_ready());
    clock.kill();
    backdoor.stop();
    println!("the file is gone: {}", !path.exists());
    Ok(())
}

fn look_around(path: &Path) -> io::Result<()> {
    let mut client = BufReader::new(UnixStream::connect(path)?);

    // Columns, with a tab between two: ID HUB KIND STATE SECONDS SPAWNED_BY NAME SPAWNED_AT WAITS_FOR.
    println!("ps:");
    let mut suspect = None;
    for row in ask(&mut client, "ps")?.iter().filter(|row| !row.starts_with('#')) {
        let column: Vec<&str> = row.split('\t').collect();
        let (id, kind, state, name) = (column[0], column[2], column[3], column[6]);
        if name == "cook" {
            suspect = Some(id.to_owned());
        }
        if matches!(name, "main" | "cook" | "clock" | "backdoor console") {
            println!("  {kind:8}  {state:5}  {name}");
        }
    }

    let suspect = suspect.ok_or_else(|| io::Error::other("there is no cook"))?;
    let backtrace = ask(&mut client, &format!("bt {suspect}"))?;
    println!("bt: it waits in Queue::get: {}", backtrace.iter().any(|line| line.contains("get")));
    let answer = ask(&mut client, &format!("kill {suspect}"))?;
    println!("kill: {}", answer[0].replace(&suspect, "ID"));
    let answer = ask(&mut client, &format!("kill {suspect}"))?;
    println!("kill again: {}", answer[0].replace(&suspect, "ID"));

    println!("trace start: {}", ask(&mut client, "trace start 1000")?[0]);
    let json = ask(&mut client, "trace stop")?;
    println!("trace stop: {}", if json[0].starts_with("{\"displayTimeUnit\"") { "JSON" } else { "?" });
    Ok(())
}
