//! One loop that asks each socket again and again whether something has come. It keeps a processor busy with that.

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};

pub(crate) fn download_all(addrs: &[SocketAddr]) -> io::Result<Vec<String>> {
    let mut streams = Vec::new();
    for addr in addrs {
        let stream = TcpStream::connect(addr)?;
        stream.set_nonblocking(true)?;
        streams.push(Some(stream));
    }
    let mut poems = vec![Vec::new(); streams.len()];
    while streams.iter().any(Option::is_some) {
        for (slot, poem) in streams.iter_mut().zip(&mut poems) {
            let Some(stream) = slot else { continue };
            let mut buffer = [0; 1024];
            match stream.read(&mut buffer) {
                Ok(0) => *slot = None,
                Ok(len) => poem.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
    poems.into_iter().map(|poem| String::from_utf8(poem).map_err(io::Error::other)).collect()
}
