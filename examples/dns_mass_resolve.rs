//! Resolves many names at once, and prints what is known when the time is up: gevent's `dns_mass_resolve.py`.
//!
//! ```text
//! cargo run --release --example dns_mass_resolve
//! cargo run --release --example dns_mass_resolve -- --deadline 0.5 --at-once 50 example.org example.com example.net
//! ```
//!
//! Without names: `localhost`, and those of /etc/hosts. The system's resolver blocks, so each lookup takes an OS thread of a pool
//! that `dns` has for itself. What is not known at the deadline is given up: a lookup that has begun goes on unseen until the
//! process ends, and the others never begin.

use std::io;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lexopt::Arg::{Long, Short, Value};
use switchgrass::{Greenlet, dns, joinall, killall, spawn, timeout};

#[macro_use]
mod common;

use common::Failure;

const HELP: &str = "\
Resolves names: dns_mass_resolve [--at-once N] [--deadline SECONDS] [NAME...]

  --at-once N         how many lookups run at once [10]
  --deadline SECONDS  when to give up those that are not done [2]
  --help              this
";

/// `localhost`, and the names of /etc/hosts, each once.
fn known_names() -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    let hosts = switchgrass::fs::read_to_string("/etc/hosts").unwrap_or_default();
    for line in hosts.lines() {
        let entry = line.split('#').next().unwrap_or(line);
        // An address, and its names.
        for name in entry.split_whitespace().skip(1) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    }
    names
}

fn show(result: &io::Result<Vec<IpAddr>>) -> String {
    match result {
        Ok(addresses) => addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "),
        Err(error) => error.to_string(),
    }
}

fn resolve_all(names: Vec<String>, deadline: Duration) {
    let lookups: Vec<(String, Greenlet<_>)> =
        names.into_iter().map(|name| (name.clone(), spawn(move || dns::resolve(&name)))).collect();

    // For no longer than the deadline; then look at what there is.
    let in_time = timeout(deadline, || joinall(lookups.iter().map(|(_, lookup)| lookup)));
    let unknown: Vec<bool> = lookups.iter().map(|(_, lookup)| !lookup.is_ready()).collect();
    if in_time.is_err() {
        killall(lookups.iter().map(|(_, lookup)| lookup));
    }

    let mut resolved = 0;
    for ((name, lookup), unknown) in lookups.into_iter().zip(unknown) {
        match lookup.join() {
            Ok(result) if !unknown => {
                resolved += usize::from(result.is_ok());
                say!("{name}: {}", show(&result));
            }
            _ => say!("{name}: no answer in time"),
        }
    }
    say!("resolved: {resolved}");
}

fn run() -> Result<ExitCode, Failure> {
    let mut names = Vec::new();
    let mut deadline = Duration::from_secs(2);
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("at-once") => {
                dns::threadpool().set_max(common::number(&mut parser, "at-once", 1, 1000)?);
            }
            Long("deadline") => {
                let value = parser.value()?.to_string_lossy().into_owned();
                deadline =
                    value
                        .parse()
                        .ok()
                        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                        .ok_or_else(|| Failure::usage(format!("--deadline needs seconds, not '{value}'")))?;
            }
            Long("help") | Short('h') => {
                common::print(format_args!("{HELP}"));
                return Ok(ExitCode::SUCCESS);
            }
            Value(name) => names.push(name.to_string_lossy().into_owned()),
            _ => return Err(arg.unexpected().into()),
        }
    }
    let start = Instant::now();
    resolve_all(if names.is_empty() { known_names() } else { names }, deadline);
    // Not to stdout, which is the same in every run.
    complain!("{:.3} s", start.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    common::finish(run())
}
