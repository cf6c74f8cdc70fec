//! One after the other.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};

pub(crate) fn download_all(addrs: &[SocketAddr]) -> io::Result<Vec<String>> {
    addrs.iter().map(|&addr| download(addr)).collect()
}

pub(crate) fn download(addr: SocketAddr) -> io::Result<String> {
    let mut poem = String::new();
    TcpStream::connect(addr)?.read_to_string(&mut poem)?;
    Ok(poem)
}
