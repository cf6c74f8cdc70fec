//! What a server answers: the part of the work that has nothing to do with the runtime.

const HELLO: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
const BAD: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// A connection: what has come of a request, and the answers to write.
pub(crate) struct Http {
    input: [u8; 4096],
    filled: usize,
    /// Write this, and then clear it.
    pub(crate) output: Vec<u8>,
}

impl Http {
    pub(crate) fn new() -> Http {
        Http { input: [0; 4096], filled: 0, output: Vec::with_capacity(4096) }
    }

    /// Where to read into. It is never empty.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.input[self.filled..]
    }

    /// `len` bytes have been read: answers all complete requests. `false`: the last one, close after writing.
    pub(crate) fn answer(&mut self, len: usize) -> bool {
        self.filled += len;
        let (mut done, mut open) = (0, true);
        while open {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut headers);
            match request.parse(&self.input[done..self.filled]) {
                Ok(httparse::Status::Complete(len)) => {
                    let hello = request.method == Some("GET") && request.path == Some("/");
                    self.output.extend_from_slice(if hello { HELLO } else { NOT_FOUND });
                    open = !request.headers.iter().any(|header| {
                        header.name.eq_ignore_ascii_case("connection")
                            && header.value.eq_ignore_ascii_case(b"close")
                    });
                    done += len;
                }
                Ok(httparse::Status::Partial) if done > 0 || self.filled < self.input.len() => break,
                _ => {
                    self.output.extend_from_slice(BAD);
                    open = false;
                }
            }
        }
        self.input.copy_within(done..self.filled, 0);
        self.filled -= done;
        open
    }
}
