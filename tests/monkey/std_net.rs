//! `std::net`, `std::os::unix::net`, `std::thread::sleep`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use switchgrass::spawn;

use crate::util::{all_at_once, patched};

#[test]
fn a_hundred_greenlets_sleep_at_once() {
    all_at_once(100, |_| std::thread::sleep(Duration::from_millis(20)));
}

#[test]
fn a_hundred_greenlets_read_at_once_from_a_server_in_greenlets() {
    patched();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = spawn(move || {
        // Answers only when all are there.
        let mut streams: Vec<TcpStream> = (0..100).map(|_| listener.accept().unwrap().0).collect();
        for stream in &mut streams {
            let mut request = [0; 4];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&request).unwrap();
        }
    });
    all_at_once(100, move |number| {
        let mut stream = TcpStream::connect(address).unwrap();
        let request = (number as u32).to_be_bytes();
        stream.write_all(&request).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, request);
        assert_eq!(stream.read(&mut answer).unwrap(), 0);
    });
    server.join().unwrap();
}
