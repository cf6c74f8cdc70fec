//! `rustls`, both sides, over std's sockets.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Barrier};

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use switchgrass::spawn;

/// The configurations of two sides that trust each other.
fn configurations() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let server =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

/// A server in greenlets of this thread: it sends back what comes, to the end. It shakes no hand before `together` connections are there.
fn echo(configuration: Arc<ServerConfig>, together: usize) -> SocketAddr {
    real::patched();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let meeting = Arc::new(Barrier::new(together));
    spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let (configuration, meeting) = (Arc::clone(&configuration), Arc::clone(&meeting));
            spawn(move || {
                meeting.wait();
                let mut stream = StreamOwned::new(ServerConnection::new(configuration).unwrap(), stream);
                let mut part = [0; 8192];
                loop {
                    match stream.read(&mut part) {
                        Ok(0) => break,
                        Ok(len) => stream.write_all(&part[..len]).unwrap(),
                        // One that does not trust us, or that goes without a word.
                        Err(_) => return,
                    }
                }
                stream.conn.send_close_notify();
                stream.flush().unwrap();
            });
        }
    });
    address
}

type Client = StreamOwned<ClientConnection, TcpStream>;

fn connect(configuration: Arc<ClientConfig>, name: &'static str, address: SocketAddr) -> Client {
    let connection = ClientConnection::new(configuration, ServerName::try_from(name).unwrap()).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    StreamOwned::new(connection, stream)
}

#[test]
fn a_hundred_handshakes_of_greenlets_overlap() {
    let (server, client) = configurations();
    let address = echo(server, 100);
    real::all(100, move |number| {
        let mut stream = connect(Arc::clone(&client), "localhost", address);
        let said = format!("greenlet {number}");
        stream.write_all(said.as_bytes()).unwrap();
        stream.conn.send_close_notify();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, said);
    });
}

#[test]
fn megabytes_go_both_ways_at_once() {
    const LEN: usize = 1_000_000;
    let (server, client) = configurations();
    let address = echo(server, 10);
    real::all(10, move |number| {
        let stream = connect(Arc::clone(&client), "localhost", address);
        let mut stream = BufReader::with_capacity(4000, stream);
        let part = vec![number as u8; 10_000];
        let mut heard = vec![0; part.len()];
        for _ in 0..LEN / part.len() {
            stream.get_mut().write_all(&part).unwrap();
            stream.read_exact(&mut heard).unwrap();
            assert!(heard == part);
        }
    });
}

#[test]
fn a_certificate_of_another_name_is_an_error_to_its_greenlet_only() {
    let (server, client) = configurations();
    let address = echo(server, 20);
    let results = real::all(20, move |number| {
        let name = if number % 2 == 0 { "elsewhere" } else { "localhost" };
        let mut stream = connect(Arc::clone(&client), name, address);
        stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut [0; 5])).is_ok()
    });
    assert!(results.iter().enumerate().all(|(number, is_well)| *is_well == (number % 2 == 1)), "{results:?}");
}
