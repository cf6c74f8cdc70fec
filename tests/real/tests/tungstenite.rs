//! `tungstenite`, both sides, on std's sockets.

use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Barrier};

use switchgrass::spawn;
use tungstenite::{Message, WebSocket};

/// A server in greenlets of this thread that sends back what comes.
fn echo() -> String {
    real::patched();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            spawn(move || {
                let mut socket = tungstenite::accept(stream).unwrap();
                loop {
                    match socket.read() {
                        Ok(message) if message.is_close() => {}
                        Ok(message) => socket.send(message).unwrap(),
                        Err(tungstenite::Error::ConnectionClosed) => return,
                        // A client that goes without a word.
                        Err(error) => return drop(error),
                    }
                }
            });
        }
    });
    address.to_string()
}

fn connect(address: &str) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    tungstenite::client(format!("ws://{address}/"), stream).unwrap().0
}

#[test]
fn a_hundred_conversations_of_greenlets_overlap() {
    let address = echo();
    let meeting = Arc::new(Barrier::new(100));
    real::all(100, move |number| {
        let mut socket = connect(&address);
        for round in 0..20 {
            let message = Message::text(format!("{number}:{round}"));
            socket.send(message.clone()).unwrap();
            if round == 10 {
                meeting.wait();
            }
            assert_eq!(socket.read().unwrap(), message);
        }
        socket.close(None).unwrap();
        while let Ok(message) = socket.read() {
            assert!(message.is_close());
        }
        assert!(!socket.can_read());
    });
}

#[test]
fn messages_of_a_megabyte_arrive() {
    let address = echo();
    real::all(20, move |number| {
        let mut socket = connect(&address);
        let message = Message::binary(vec![number as u8; 1_000_000]);
        socket.send(message.clone()).unwrap();
        assert!(socket.read().unwrap() == message);
    });
}

#[test]
fn a_peer_that_goes_away_is_an_error_to_its_greenlet_only() {
    let address = echo();
    let meeting = Arc::new(Barrier::new(20));
    let results = real::all(20, move |number| {
        let mut socket = connect(&address);
        socket.send(Message::text("hello")).unwrap();
        if number % 2 == 0 {
            socket.get_ref().shutdown(std::net::Shutdown::Both).unwrap();
        }
        meeting.wait();
        socket.read().is_ok()
    });
    assert!(results.iter().enumerate().all(|(number, is_well)| *is_well == (number % 2 == 1)), "{results:?}");
}
