//! A server on a Unix socket, as a daemon has it to be asked by programs of the same machine: it keeps a
//! number, and its clients add to it.
//!
//! A Unix socket is a file. It stays when the server is gone, and then nobody can bind its path again: so whoever
//! starts a server removes what an earlier one has left (if nobody answers there), and removes its own at the end.
//!
//! Run with: `cargo run --release --example unix_socket`

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, process};

use switchgrass::net::UnixStream;
use switchgrass::server::UnixStreamServer;
use switchgrass::spawn;

/// A server at `path`, in the place of one that has left its file there.
fn serve(path: &Path, handler: impl Fn(UnixStream) + 'static) -> io::Result<UnixStreamServer> {
    let left_over =
        UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if left_over {
        println!("an earlier server has left its socket: removed");
        fs::remove_file(path)?;
    }
    // Clients of a Unix socket have no address worth looking at.
    let server = UnixStreamServer::bind(path, move |stream, _peer| handler(stream))?;
    server.start();
    Ok(server)
}

/// Answers each line, a number to add, with the sum so far. No lock: greenlets of a thread never run at the same time.
fn count(stream: &UnixStream, sum: &Cell<i64>) -> io::Result<()> {
    for line in BufReader::new(stream).lines() {
        match line?.trim().parse::<i64>() {
            Ok(n) => {
                sum.set(sum.get() + n);
                writeln!(&*stream, "{}", sum.get())?;
            }
            Err(error) => writeln!(&*stream, "error: {error}")?,
        }
    }
    Ok(())
}

/// Sends each line, and gives the answers.
fn ask(path: &Path, lines: &[&str]) -> io::Result<Vec<String>> {
    let stream = UnixStream::connect(path)?;
    let mut answers = BufReader::new(&stream).lines();
    lines
        .iter()
        .map(|line| {
            writeln!(&stream, "{line}")?;
            answers.next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))
        })
        .collect()
}

/// Removes the file at the end, however that comes.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn main() -> io::Result<()> {
    let path = env::temp_dir().join(format!("switchgrass-example-{}.socket", process::id()));
    let place = Removed(path);

    // What a server leaves that had no time to clean up.
    drop(std::os::unix::net::UnixListener::bind(&place.0)?);

    let sum = Cell::new(0);
    let server = serve(&place.0, move |stream| {
        if let Err(error) = count(&stream, &sum) {
            eprintln!("a connection: {error}");
        }
    })?;

    println!("1, 2, three: {:?}", ask(&place.0, &["1", "2", "three"])?);

    // Ten clients at once. Who comes when is not known, but the sum is.
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let path = place.0.clone();
            spawn(move || ask(&path, &["1", "1"]).map(|answers| answers.len()))
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().expect("a client does not panic")?, 2);
    }
    println!("after ten clients more: {:?}", ask(&place.0, &["0"])?);

    server.stop(Duration::from_secs(1));
    println!("connections: {}", server.statistics().accepted);
    Ok(())
}
