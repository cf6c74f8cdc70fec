//! The command line.

use std::net::SocketAddr;
use std::time::Duration;

use lexopt::Arg::{Long, Short};
use lexopt::Parser;

use crate::common::{Failure, number};

pub(crate) const HELP: &str = "\
An echo server: one OS thread, a greenlet per connection, plain blocking code.

Without --listen it is loaded by clients of its own, in another process, and ends after some seconds.

  --connections N   how many clients connect [10000]
  --seconds S       how long they send requests [8]
  --listen ADDR     only serve on ADDR, such as 127.0.0.1:7000, until SIGINT or SIGTERM
  --grace S         with --listen: how many seconds live connections have to end then [5]
  --help            this
";

pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) connections: usize,
    pub(crate) length: Duration,
    pub(crate) grace: Duration,
}

pub(crate) enum Mode {
    Help,
    Demo,
    Serve(String),
    /// What the demo runs in its second process: the clients of these servers.
    Clients(Vec<SocketAddr>),
}

impl Options {
    pub(crate) fn parse() -> Result<Options, Failure> {
        let mut options = Options {
            mode: Mode::Demo,
            connections: 10_000,
            length: Duration::from_secs(8),
            grace: Duration::from_secs(5),
        };
        // One that makes no sense together with, or without, --listen.
        let (mut of_demo, mut of_listen) = (None, None);
        let seconds = |number: usize| Duration::from_secs(number as u64);
        let mut parser = Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Long("connections") => {
                    options.connections = number(&mut parser, "connections", 1, 1_000_000)?;
                    of_demo = Some("--connections");
                }
                Long("seconds") => {
                    options.length = seconds(number(&mut parser, "seconds", 1, 86_400)?);
                    of_demo = Some("--seconds");
                }
                Long("grace") => {
                    options.grace = seconds(number(&mut parser, "grace", 0, 86_400)?);
                    of_listen = Some("--grace");
                }
                Long("listen") => options.mode = Mode::Serve(parser.value()?.to_string_lossy().into_owned()),
                Long("clients") => options.mode = Mode::Clients(addresses(&mut parser)?),
                Long("help") | Short('h') => return Ok(Options { mode: Mode::Help, ..options }),
                _ => return Err(arg.unexpected().into()),
            }
        }
        match (&options.mode, of_demo, of_listen) {
            (Mode::Serve(_), Some(option), _) => {
                Err(Failure::usage(format!("{option} is for the clients, and with --listen there are none")))
            }
            (Mode::Demo, _, Some(option)) => {
                Err(Failure::usage(format!("{option} goes with --listen: the demo ends with its clients")))
            }
            _ => Ok(options),
        }
    }
}

fn addresses(parser: &mut Parser) -> Result<Vec<SocketAddr>, Failure> {
    let list = parser.value()?.to_string_lossy().into_owned();
    let addresses: Result<_, _> = list.split(',').map(str::parse).collect();
    addresses.map_err(|_| Failure::usage(format!("--clients needs addresses, not '{list}'")))
}
