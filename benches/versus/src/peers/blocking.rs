//! What a server does with a connection whose calls look as if they blocked: may's, and the threads'.

use std::io::{self, Read, Write};

use crate::http::Http;

pub(crate) fn echo(mut stream: impl Read + Write) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..len])?;
    }
}

/// The buffers are on the heap: a coroutine's stack of may has 32 KiB.
pub(crate) fn http(mut stream: impl Read + Write) -> io::Result<()> {
    let mut http = Box::new(Http::new());
    loop {
        let len = stream.read(http.room())?;
        if len == 0 {
            return Ok(());
        }
        let open = http.answer(len);
        stream.write_all(&http.output)?;
        http.output.clear();
        if !open {
            return Ok(());
        }
    }
}
