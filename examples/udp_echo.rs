//! A UDP server that gives back what it gets, and three clients at once.
//!
//! Each datagram has a greenlet of its own, so one that takes its time holds up nobody; but no more than so
//! many at once: while all are busy, the server does not read, and the kernel keeps what comes (as long as it
//! has room: UDP makes no promises).
//!
//! Run with: `cargo run --release --example udp_echo`

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use switchgrass::net::UdpSocket;
use switchgrass::server::DatagramServer;
use switchgrass::{sleep, spawn};

/// Called for each datagram, in a greenlet.
fn echo(data: Vec<u8>, peer: SocketAddr, socket: &UdpSocket) {
    if data.starts_with(b"slow") {
        sleep(Duration::from_millis(100));
    }
    // The peer may be gone. With UDP, that is its own business.
    let _ = socket.send_to(&data, peer);
}

/// Sends `data` and waits for it to come back, however often that takes: a datagram may get lost, and so may the answer.
fn ask(server: SocketAddr, data: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut answer = vec![0; 65_535];
    for _ in 0..5 {
        socket.send(data)?;
        match socket.recv(&mut answer) {
            Ok(len) => {
                answer.truncate(len);
                return Ok(answer);
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn main() -> io::Result<()> {
    let server = DatagramServer::bind("127.0.0.1:0", echo)?.max_datagrams(100);
    server.start();
    let address = server.local_addr();

    // The slow one asks first, and is answered last.
    let questions = ["slow and steady".to_owned(), "quick".to_owned(), "long ".repeat(12_000)];
    let clients = questions.map(|question| {
        spawn(move || -> io::Result<()> {
            let answer = ask(address, question.as_bytes())?;
            assert_eq!(answer, question.as_bytes());
            match answer.len() {
                len @ ..100 => println!("{len} bytes came back: {question}"),
                len => println!("{len} bytes came back, whole"),
            }
            Ok(())
        })
    });
    for client in clients {
        client.join().expect("a client does not panic")?;
    }

    let stopped = server.stop(Duration::from_secs(1));
    println!("datagrams: {}, still handled at the end: {}", server.statistics().accepted, stopped.killed);
    Ok(())
}
