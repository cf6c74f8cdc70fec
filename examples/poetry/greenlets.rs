//! A greenlet each. `download` is that of `blocking.rs`, with the `TcpStream` of another crate.

use std::io::{self, Read};
use std::net::SocketAddr;

use switchgrass::net::TcpStream;
use switchgrass::spawn;

pub(crate) fn download_all(addrs: &[SocketAddr]) -> io::Result<Vec<String>> {
    let downloads: Vec<_> = addrs.iter().map(|&addr| spawn(move || download(addr))).collect();
    downloads.into_iter().map(|download| download.join().expect("no panic")).collect()
}

fn download(addr: SocketAddr) -> io::Result<String> {
    let mut poem = String::new();
    TcpStream::connect(addr)?.read_to_string(&mut poem)?;
    Ok(poem)
}
