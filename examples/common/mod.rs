//! What several of the examples need, and none of them is about: output, exit status, limits, memory.

#![allow(dead_code, unused_macros, reason = "each example uses a part of it")]

use std::fmt::Arguments;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// As `println!`, but when nobody reads our output any more (`| head -1`), the program ends quietly instead of panicking.
macro_rules! say {
    ($($text:tt)*) => { $crate::common::print(format_args!("{}\n", format_args!($($text)*))) };
}

/// A line on stderr; as `eprintln!`, but never a panic.
macro_rules! complain {
    ($($text:tt)*) => { $crate::common::print_error(format_args!($($text)*)) };
}

pub(crate) mod process;

pub(crate) fn print(text: Arguments<'_>) {
    if let Err(error) = try_print(text) {
        let unread = error.kind() == io::ErrorKind::BrokenPipe;
        if !unread {
            complain!("cannot write to stdout: {error}");
        }
        std::process::exit(if unread { 0 } else { 1 });
    }
}

/// For a program that has better things to do than to end when its output goes nowhere.
pub(crate) fn try_print(text: Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_fmt(text)?;
    out.flush()
}

pub(crate) fn print_error(text: Arguments<'_>) {
    // There is no other place to tell about it.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Progress: on a terminal one line that changes, else line after line.
pub(crate) struct LiveLine {
    terminal: bool,
}

impl LiveLine {
    pub(crate) fn new() -> Self {
        LiveLine { terminal: io::stdout().is_terminal() }
    }

    pub(crate) fn show(&self, text: &str) {
        if self.terminal {
            // Back to the start, and clear what the last one may have left behind this one.
            print(format_args!("\r{text}\x1b[K"));
        } else {
            say!("{text}");
        }
    }

    /// What comes next begins below.
    pub(crate) fn end(&self) {
        if self.terminal {
            say!("");
        }
    }
}

/// Why an example ends before it is done.
pub(crate) struct Failure {
    status: u8,
    text: String,
}

impl Failure {
    /// The arguments make no sense.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Failure { status: 2, text: text.into() }
    }

    pub(crate) fn new(text: impl Into<String>) -> Self {
        Failure { status: 1, text: text.into() }
    }
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Failure::usage(format!("{error}; see --help"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::new(error.to_string())
    }
}

/// One clear line for a failure, and the exit status of the program.
pub(crate) fn finish(result: Result<ExitCode, Failure>) -> ExitCode {
    result.unwrap_or_else(|failure| {
        complain!("{}: {}", env!("CARGO_BIN_NAME"), failure.text);
        ExitCode::from(failure.status)
    })
}

/// The value of an option that is a number within a range.
pub(crate) fn number(
    parser: &mut lexopt::Parser,
    option: &str,
    least: usize,
    most: usize,
) -> Result<usize, Failure> {
    let value = parser.value()?;
    value
        .to_str()
        .and_then(|text| text.parse().ok())
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| {
            let value = value.display();
            Failure::usage(format!("--{option} needs a whole number from {least} to {most}, not '{value}'"))
        })
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.char_indices() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes as MiB, or KiB if they are few.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1024.0 / 1024.0),
    }
}
