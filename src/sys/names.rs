//! Names of hosts, services and interfaces: what std does not offer.

use std::ffi::{CStr, CString};
use std::io;
use std::mem;
use std::net::SocketAddr;

/// The names of an address and its port, by `getnameinfo`. Blocks.
///
/// `required`: an address without a name is an error; else its numbers are the answer.
pub(crate) fn name_info(address: &SocketAddr, required: bool) -> io::Result<(String, String)> {
    let (storage, length) = to_sockaddr(address);
    // The sizes that glibc's headers give (NI_MAXHOST, NI_MAXSERV).
    let (mut host, mut service) = ([0_u8; 1025], [0_u8; 32]);
    let flags = if required { libc::NI_NAMEREQD } else { 0 };
    // SAFETY: `storage` holds an address of that length; both buffers are valid for their lengths, which getnameinfo keeps to.
    let result = unsafe {
        libc::getnameinfo(
            (&raw const storage).cast(),
            length,
            host.as_mut_ptr().cast(),
            host.len() as _,
            service.as_mut_ptr().cast(),
            service.len() as _,
            flags,
        )
    };
    match result {
        0 => Ok((text(&host), text(&service))),
        libc::EAI_SYSTEM => Err(io::Error::last_os_error()),
        code => {
            // SAFETY: gai_strerror gives a text that lives forever, for any number.
            let why = unsafe { CStr::from_ptr(libc::gai_strerror(code)) }.to_string_lossy();
            let kind = if code == libc::EAI_NONAME { io::ErrorKind::NotFound } else { io::ErrorKind::Other };
            Err(io::Error::new(kind, format!("no name for {}: {why}", address.ip())))
        }
    }
}

/// What stands before the zero.
fn text(buffer: &[u8]) -> String {
    let end = buffer.iter().position(|&byte| byte == 0).unwrap_or(buffer.len());
    String::from_utf8_lossy(&buffer[..end]).into_owned()
}

fn to_sockaddr(address: &SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeros is a valid value of this plain C struct.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let length = match address {
        SocketAddr::V4(v4) => {
            // SAFETY: as above.
            let mut raw: libc::sockaddr_in = unsafe { mem::zeroed() };
            raw.sin_family = libc::AF_INET as libc::sa_family_t;
            raw.sin_port = v4.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            // SAFETY: sockaddr_storage is made to hold every kind of address, in size and alignment.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let mut raw: libc::sockaddr_in6 = unsafe { mem::zeroed() };
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = v6.port().to_be();
            raw.sin6_addr.s6_addr = v6.ip().octets();
            raw.sin6_flowinfo = v6.flowinfo();
            raw.sin6_scope_id = v6.scope_id();
            // SAFETY: as above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}

/// The number of a network interface; `None` if there is none of that name.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: a C string. Asks the kernel, which knows: this does not block.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}
