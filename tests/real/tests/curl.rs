//! libcurl, by the `curl` crate's easy interface: C code that waits by `poll`.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use curl::easy::Easy;
use rustls::pki_types::PrivateKeyDer;

fn easy(url: &str) -> Easy {
    let mut easy = Easy::new();
    easy.url(url).unwrap();
    // Otherwise a proxy of the environment's.
    easy.noproxy("*").unwrap();
    easy
}

fn get(easy: &mut Easy) -> Result<String, curl::Error> {
    let mut body = Vec::new();
    let mut transfer = easy.transfer();
    transfer.write_function(|data| {
        body.extend_from_slice(data);
        Ok(data.len())
    })?;
    transfer.perform()?;
    drop(transfer);
    Ok(String::from_utf8(body).unwrap())
}

#[test]
fn a_hundred_slow_transfers_of_greenlets_overlap() {
    let server = real::serve(100);
    real::all(100, move |number| {
        let url = format!("http://{server}/{number}");
        assert_eq!(get(&mut easy(&url)).unwrap(), format!("/{number}"));
    });
}

#[test]
fn two_thousand_transfers_over_kept_connections_are_answered_right() {
    let server = real::serve(0);
    real::all(20, move |greenlet| {
        let mut easy = easy("");
        for number in 0..100 {
            let path = format!("/{greenlet}/{number}");
            easy.url(&format!("http://{server}{path}")).unwrap();
            assert_eq!(get(&mut easy).unwrap(), path);
        }
    });
}

#[test]
fn its_resolver_threads_are_waited_for() {
    real::all(20, move |number| {
        // Longer than a label may be: refused without asking a server.
        let url = format!("http://{}{number}/", "x".repeat(64));
        let error = get(&mut easy(&url)).unwrap_err();
        assert!(error.is_couldnt_resolve_host(), "{error}");
    });
}

#[test]
fn a_transfer_has_its_own_timeout() {
    // Nobody is answered before the last one comes.
    let server = real::serve(52);
    let url = format!("http://{server}/");
    let waiting = switchgrass::spawn({
        let url = url.clone();
        move || get(&mut easy(&url)).unwrap()
    });
    let last = url.clone();
    real::all(50, move |_| {
        let mut easy = easy(&url);
        easy.timeout(Duration::from_millis(200)).unwrap();
        let error = get(&mut easy).unwrap_err();
        assert!(error.is_operation_timedout(), "{error}");
    });
    assert_eq!(get(&mut easy(&last)).unwrap(), "/");
    assert_eq!(waiting.join().unwrap(), "/");
}

#[test]
fn a_kill_or_a_timeout_ends_a_transfer_with_an_error() {
    let (server, request) = real::silent();
    let url = format!("http://{server}/");
    for error in real::ended(move || get(&mut easy(&url)).unwrap_err(), request) {
        assert!(!error.is_operation_timedout(), "{error}");
    }
}

/// The system's libcurl does TLS by OpenSSL: C code below C code, with state of its own per connection and per thread. The server is `rustls`, on the same thread.
#[test]
fn a_hundred_handshakes_of_openssl_overlap() {
    let version = curl::Version::get().ssl_version().unwrap_or("none").to_owned();
    assert!(
        version.starts_with("OpenSSL"),
        "libcurl does TLS by {version} here: install libcurl4-openssl-dev"
    );
    let server = serve_tls(100);
    real::all(100, move |number| {
        let mut easy = easy(&format!("https://{server}/{number}"));
        // Its certificate is its own.
        easy.ssl_verify_peer(false).unwrap();
        easy.ssl_verify_host(false).unwrap();
        assert_eq!(get(&mut easy).unwrap(), format!("/{number}"));
    });
}

/// Answers each request with its path, when `together` connections have come: in greenlets of this thread.
fn serve_tls(together: usize) -> SocketAddr {
    real::patched();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let configuration = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let (configuration, meeting) = (Arc::new(configuration), Arc::new(Barrier::new(together)));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    switchgrass::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let (configuration, meeting) = (Arc::clone(&configuration), Arc::clone(&meeting));
            switchgrass::spawn(move || {
                meeting.wait();
                let connection = rustls::ServerConnection::new(configuration).unwrap();
                let mut input = BufReader::new(rustls::StreamOwned::new(connection, stream));
                let head: Vec<_> =
                    (&mut input).lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
                let path = head[0].split(' ').nth(1).unwrap();
                let mut stream = input.into_inner();
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{path}",
                    path.len()
                )
                .unwrap();
                stream.conn.send_close_notify();
                stream.flush().unwrap();
            });
        }
    });
    address
}
