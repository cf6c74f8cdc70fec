//! The protocol: a line in, some lines out, and a dot.

#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, Read, Write};

use super::commands::{self, Answer};
use crate::greenlet::yield_now;

/// The longest line that a client may send: room for a command and a path.
const LONGEST: usize = 4096;
/// So much is sent at a time.
const CHUNK: usize = 64 * 1024;

/// Answers a client's commands until it leaves.
pub(super) fn converse<S>(stream: &S) -> io::Result<()>
where
    for<'a> &'a S: Read + Write,
{
    let mut from = BufReader::new(stream);
    while let Some(line) = next_line(&mut from)? {
        let answer = match &line {
            None => Err(format!("a line has {LONGEST} bytes at most")),
            Some(line) => {
                let line = String::from_utf8_lossy(line);
                // A page in a browser of this machine can have it send requests to any port, but each has a line like this.
                if line.contains(" HTTP/") {
                    return Ok(());
                }
                match commands::answer(line.trim()) {
                    Answer::Quit => return Ok(()),
                    Answer::Lines(result) => result,
                }
            }
        };
        match answer {
            Ok(lines) => send(stream, &lines)?,
            Err(why) => send(stream, format!("error: {why}").as_bytes())?,
        }
    }
    Ok(())
}

/// The next line, without its end; `Some(None)`: it was too long, and is thrown away. What stands before the
/// end of the stream is a line, too.
fn next_line(from: &mut impl BufRead) -> io::Result<Option<Option<Vec<u8>>>> {
    let (mut line, mut seen) = (Some(Vec::new()), false);
    loop {
        let chunk = from.fill_buf()?;
        if chunk.is_empty() {
            return Ok(seen.then_some(line));
        }
        seen = true;
        let end = chunk.iter().position(|&byte| byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        line = line.filter(|line| line.len() + part.len() <= LONGEST);
        if let Some(line) = &mut line {
            line.extend_from_slice(part);
        }
        let used = part.len() + usize::from(end.is_some());
        from.consume(used);
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

/// Sends an answer, and the dot.
fn send(mut to: impl Write, lines: &[u8]) -> io::Result<()> {
    let mut chunk = Vec::new();
    for line in lines.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b".") {
            chunk.push(b'.');
        }
        chunk.extend_from_slice(line);
        if chunk.len() >= CHUNK {
            to.write_all(&chunk)?;
            chunk.clear();
            yield_now();
        }
    }
    if lines.last().is_some_and(|&last| last != b'\n') {
        chunk.push(b'\n');
    }
    chunk.extend_from_slice(b".\n");
    to.write_all(&chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart_and_long_ones_thrown_away() {
        let long = "x".repeat(LONGEST + 1);
        let text = format!("one\n\n{long}\n{}\nlast", &long[1..]);
        // Whatever the parts are in which it comes.
        for size in [1, 7, 100_000] {
            let mut from = BufReader::with_capacity(size, text.as_bytes());
            let mut next = || next_line(&mut from).unwrap();
            assert_eq!(next(), Some(Some(b"one".to_vec())));
            assert_eq!(next(), Some(Some(Vec::new())));
            assert_eq!(next(), Some(None));
            assert_eq!(next(), Some(Some(long.as_bytes()[1..].to_vec())));
            assert_eq!(next(), Some(Some(b"last".to_vec())));
            assert_eq!(next(), None);
        }
    }

    #[test]
    fn only_the_end_of_an_answer_is_a_single_dot() {
        let sent = |lines: &str| {
            let mut out = Vec::new();
            send(&mut out, lines.as_bytes()).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(sent(""), ".\n");
        assert_eq!(sent("a"), "a\n.\n");
        assert_eq!(sent("a\n.\n..b\nc.\n"), "a\n..\n...b\nc.\n.\n");
    }
}
