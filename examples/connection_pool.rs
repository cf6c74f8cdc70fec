//! A pool of connections: a dozen greenlets share three, and a broken one is replaced.
//!
//! ```text
//! cargo run --release --example connection_pool
//! ```
//!
//! The pool is a queue of connections that nobody uses. Who needs one gets it from the queue, and waits
//! in line while it is empty; a guard puts it back. The server, which this program runs itself, is told
//! to hang up on us now and then.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use switchgrass::net::TcpStream;
use switchgrass::queue::LifoQueue;
use switchgrass::server::StreamServer;
use switchgrass::{scope, sleep, spawn, timeout};

#[macro_use]
mod common;

/// Connections to one server, never more than a certain number.
struct ConnectionPool {
    addr: SocketAddr,
    /// One place for each connection; `None`: it has to be opened. The last one used is the first to be used again, so
    /// a pool that is too large does not keep all of them open.
    idle: LifoQueue<Option<BufReader<TcpStream>>>,
}

impl ConnectionPool {
    fn new(addr: SocketAddr, size: usize) -> Self {
        ConnectionPool { addr, idle: (0..size).map(|_| None).collect() }
    }

    /// Waits for a connection that is free, but not for ever.
    fn get(&self, patience: Duration) -> io::Result<Connection<'_>> {
        let place =
            self.idle.get_timeout(patience).map_err(|_| io::Error::other("all connections are in use"))?;
        // From here on the guard brings the place back, also if the connection cannot be opened.
        let mut connection = Connection { pool: self, stream: place };
        if connection.stream.is_none() {
            connection.stream = Some(BufReader::new(TcpStream::connect(self.addr)?));
        }
        Ok(connection)
    }
}

/// A connection of the pool, until it is dropped.
struct Connection<'a> {
    pool: &'a ConnectionPool,
    /// `None`: broken.
    stream: Option<BufReader<TcpStream>>,
}

impl Connection<'_> {
    /// Sends a line, and waits for the line that answers it.
    fn ask(&mut self, question: &str) -> io::Result<String> {
        // Taken out meanwhile. An error leaves a broken connection behind; and so does a kill or a timeout, since an
        // answer that nobody has read would be taken for that to the next question.
        let mut stream = self.stream.take().ok_or(io::ErrorKind::NotConnected)?;
        stream.get_mut().write_all(format!("{question}\n").as_bytes())?;
        let mut answer = String::new();
        if stream.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.stream = Some(stream);
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        // There is room: the place was taken from there. So this never waits, and may be done while a kill unwinds.
        let put = self.pool.idle.try_put(self.stream.take());
        assert!(put.is_ok(), "the place of a connection is free");
    }
}

/// Squares numbers. Hangs up when it is told to, and thinks long about `slow`.
fn serve(stream: &TcpStream) -> io::Result<()> {
    for question in BufReader::new(stream).lines() {
        let answer = match question?.as_str() {
            "hang up" => return Ok(()),
            "slow" => {
                sleep(Duration::from_secs(60));
                "done at last".to_owned()
            }
            number => number.parse().map_or("what?".to_owned(), |n: u64| (n * n).to_string()),
        };
        sleep(Duration::from_millis(2));
        writeln!(&*stream, "{answer}")?;
    }
    Ok(())
}

fn main() -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let most = Rc::new(Cell::new(0));
    let server = StreamServer::bind("127.0.0.1:0", {
        let (now, most) = (Cell::new(0), Rc::clone(&most));
        move |stream, _peer| {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            // A client that has gone away misses its answer.
            let _ = serve(&stream);
            now.set(now.get() - 1);
        }
    })?;
    server.start();
    let pool = Rc::new(ConnectionPool::new(server.local_addr(), 3));
    let opened = || server.statistics().accepted;

    // Twelve greenlets, three connections.
    let mut squares = [0_u64; 12];
    scope(|s| {
        for (n, square) in squares.iter_mut().enumerate() {
            let pool = &pool;
            s.spawn(move || {
                let mut connection = pool.get(PATIENCE).expect("it is my turn soon");
                *square = connection.ask(&n.to_string()).expect("an answer").parse().expect("a number");
            });
        }
    });
    say!("squares {squares:?}");
    say!("connections opened: {}, most at once: {}", opened(), most.get());

    // The server hangs up: that question fails, and the connection is replaced when it is needed again.
    let error = pool.get(PATIENCE)?.ask("hang up").expect_err("there is no answer");
    say!("hang up: {error}");
    say!("afterwards: {}", pool.get(PATIENCE)?.ask("12")?);
    say!("connections opened: {}", opened());

    // A question that takes too long: its connection cannot be used any more, since the answer may still come.
    let slow = timeout(Duration::from_millis(20), || pool.get(PATIENCE)?.ask("slow"));
    say!("slow: {}", slow.map(drop).expect_err("it takes a minute"));
    say!("afterwards: {}", pool.get(PATIENCE)?.ask("13")?);
    say!("connections opened: {}", opened());

    // A greenlet that is killed brings its place back, too.
    let victim = spawn({
        let pool = Rc::clone(&pool);
        move || pool.get(PATIENCE)?.ask("slow")
    });
    sleep(Duration::from_millis(20));
    victim.kill();

    // All are in use: who wants a fourth waits in vain.
    let all = (0..3).map(|_| pool.get(PATIENCE)).collect::<io::Result<Vec<_>>>()?;
    let fourth = pool.get(Duration::from_millis(20)).map(drop);
    say!("a fourth one: {}", fourth.expect_err("there are three"));
    drop(all);
    say!("free again: {}, connections opened: {}", pool.idle.len(), opened());

    server.stop(Duration::ZERO);
    Ok(())
}
