//! Code that knows nothing of greenlets, in greenlets: std's sockets, sleeps and locks.
//!
//! ```text
//! cargo run --release --features monkey --example patched
//! ```
//!
//! A hundred fetches of slow pages, on one OS thread, in the time of one. Only `main` names switchgrass: what fetches
//! and what serves is plain blocking code, as it would be written for threads.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[macro_use]
mod common;

/// Who is inside a fetch: now, and at most so far.
#[derive(Default)]
struct Inside {
    now: usize,
    most: usize,
}

fn fetch(site: SocketAddr, path: &str, inside: &Mutex<Inside>) -> io::Result<String> {
    {
        let mut inside = inside.lock().unwrap();
        inside.now += 1;
        inside.most = inside.most.max(inside.now);
    }
    let mut stream = TcpStream::connect(site)?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    inside.lock().unwrap().now -= 1;
    Ok(answer)
}

#[expect(clippy::disallowed_methods, reason = "what it shows: with `patch_all`, only the greenlet sleeps")]
fn serve_one(stream: &TcpStream) -> io::Result<()> {
    let mut request = String::new();
    BufReader::new(stream).read_line(&mut request)?;
    let path = request.split(' ').nth(1).unwrap_or_default();
    std::thread::sleep(Duration::from_millis(500));
    write!(&*stream, "HTTP/1.0 200 OK\r\n\r\nthe page {path}")
}

fn main() -> io::Result<()> {
    // From here on, what blocks in libc waits for its greenlet, and the others go on.
    // SAFETY: nothing in this program keeps a thread-local borrowed or set while it waits.
    unsafe { switchgrass::monkey::patch_all() };

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let site = listener.local_addr()?;
    switchgrass::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            switchgrass::spawn(move || serve_one(&stream));
        }
    });

    let inside = Arc::new(Mutex::new(Inside::default()));
    let fetches: Vec<_> = (0..100)
        .map(|number| {
            let inside = Arc::clone(&inside);
            switchgrass::spawn(move || fetch(site, &format!("/{number}"), &inside))
        })
        .collect();
    let mut right = 0;
    for (number, fetch) in fetches.into_iter().enumerate() {
        let answer = fetch.join().expect("a fetch does not panic")?;
        right += usize::from(answer.ends_with(&format!("the page /{number}")));
    }
    say!("{right} pages are right");
    say!("{} fetches were under way at once", inside.lock().unwrap().most);
    Ok(())
}
