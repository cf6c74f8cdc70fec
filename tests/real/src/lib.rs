//! What the tests share.
//!
//! The greenlets of a test run on one OS thread, unless its name says otherwise. That calls overlap is never told by a
//! clock: the server side answers only when all of them are there.

#![allow(clippy::disallowed_methods, reason = "what they are about: calls that block")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, Once};
use std::time::Duration;

use switchgrass::spawn;

/// Patches everything, once.
pub fn patched() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: nothing in these tests keeps anything per thread over a call that blocks, nor do the libraries, as
        // far as the tests know: that they work is what is tried here.
        unsafe { switchgrass::monkey::patch_all() };
        // Where calls do not overlap, servers wait for ever.
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_secs(120));
            eprintln!("the tests hang: not all calls were there at once, or one was not answered");
            std::process::abort();
        });
    });
}

/// The address of a server that the test needs.
pub fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} is not set: start the servers by `eval \"$(tests/real/servers.sh start)\"` \
             (and install them by `tests/real/servers.sh install`)"
        )
    })
}

/// Calls `f` in so many greenlets of this thread, and gives what they returned.
pub fn all<T: 'static>(count: usize, f: impl Fn(usize) -> T + Clone + 'static) -> Vec<T> {
    patched();
    let greenlets: Vec<_> = (0..count)
        .map(|number| {
            let f = f.clone();
            spawn(move || f(number))
        })
        .collect();
    greenlets.into_iter().map(|greenlet| greenlet.join().unwrap()).collect()
}

/// Ends a call in the middle, once by a kill and once by a timeout around it, and gives the error that it ends with.
/// (Whoever does not wait again afterwards ends as ever: nothing unwinds through the library.)
///
/// `entered` waits until the last call is inside.
pub fn ended<E: 'static>(call: impl Fn() -> E + Clone + 'static, mut entered: impl FnMut()) -> [E; 2] {
    patched();
    let killed = spawn(call.clone());
    entered();
    killed.kill_nowait();
    let killed = killed.join().unwrap();
    let late = spawn(move || switchgrass::timeout(Duration::from_millis(300), call).unwrap());
    entered();
    [killed, late.join().unwrap()]
}

/// Asks until it is so.
pub fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A server that takes a request, says so, and does not answer: its address, and what waits for the next request.
pub fn silent() -> (SocketAddr, impl FnMut()) {
    patched();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut kept = Vec::new();
    let next = move || {
        let mut reader = BufReader::new(listener.accept().unwrap().0);
        reader.read_line(&mut String::new()).unwrap();
        kept.push(reader);
    };
    (address, next)
}

/// An HTTP server in greenlets of this thread, on std's sockets: it answers a request with its path, and with the
/// length of its body if it has one. Nobody is answered before `gate` requests are there.
pub fn serve(gate: usize) -> SocketAddr {
    patched();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let arrived = Arc::new((Mutex::new(0), Condvar::new()));
    spawn(move || {
        // The end of the test ends the calls with an error.
        while let Ok((stream, _)) = listener.accept() {
            let arrived = Arc::clone(&arrived);
            spawn(move || converse(&stream, gate, &arrived));
        }
    });
    address
}

fn converse(stream: &TcpStream, gate: usize, arrived: &(Mutex<usize>, Condvar)) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut length = 0;
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let received = io::copy(&mut (&mut reader).take(length), &mut io::sink())?;
        let (count, there) = arrived;
        let mut count = count.lock().unwrap();
        *count += 1;
        there.notify_all();
        drop(there.wait_while(count, |count| *count < gate).unwrap());
        let body = if length > 0 { format!("{path} {received}") } else { path };
        write!(&*stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    }
}

/// Tests that something does *not* work, each after the reason. The table has them in a column of its own, with the
/// reasons.
///
/// One that fails says that the limit is gone, or is another: then the table is wrong, and the docs of
/// `switchgrass::monkey`.
#[macro_export]
macro_rules! limits {
    ($($why:literal fn $name:ident() $body:block)*) => {
        mod limits {
            use super::*;

            $(
                #[doc = $why]
                #[test]
                fn $name() {
                    // What `run.sh` reads.
                    println!("why {}: {}", stringify!($name), $why);
                    $body
                }
            )*
        }
    };
}
