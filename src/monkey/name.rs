//! Names of hosts: looked up on threads of the pool of [`dns`], since libc's resolver waits within libc.
//!
//! A thread of the pool gets copies of the arguments, and its answer is copied back, so that a greenlet which is killed
//! or runs out of time may leave it alone. Then a call fails as for an error of the system, with `errno` saying which.
//! What libc keeps per thread for its resolver (`_res`) is that of the thread of the pool.
//!
//! Addresses in numbers need no thread.
//!
//! `gethostbyname` and its like give what stays as it is until the same *greenlet* calls the next of
//! them (libc: until anybody does).

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr};
use std::ptr;

use libc::{addrinfo, c_char, c_int, c_void, hostent, size_t, sockaddr, sockaddr_storage, socklen_t};

use super::{errno, file, originals as real, set_errno};
use crate::dns;
use crate::hub::Hub;
use crate::task::Reason;

const BY_NAME: Reason = Reason::new("name lookup");
const BY_ADDRESS: Reason = Reason::new("reverse name lookup");

/// `h_errno`: see `errno`.
const NETDB_INTERNAL: c_int = -1;

unsafe extern "C" {
    fn __h_errno_location() -> *mut c_int;
}

/// Whether it is an address, and no name.
fn is_numeric(host: &CStr) -> bool {
    let Ok(host) = host.to_str() else { return false };
    let is_scoped = || host.split_once('%').is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok());
    host.parse::<IpAddr>().is_ok() || is_scoped()
}

/// # Safety
///
/// A C string, or null.
unsafe fn copied(text: *const c_char) -> Option<CString> {
    // SAFETY: the caller's promise.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_owned())
}

fn pointer(text: &Option<CString>) -> *const c_char {
    text.as_ref().map_or(ptr::null(), |text| text.as_ptr())
}

/// The list that `getaddrinfo` gives, until it is handed to the caller.
struct List(*mut addrinfo);

// SAFETY: whoever has the list may free it, on any thread.
unsafe impl Send for List {}

impl List {
    fn hand_over(mut self) -> *mut addrinfo {
        std::mem::replace(&mut self.0, ptr::null_mut())
    }
}

impl Drop for List {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: by `getaddrinfo`, and nobody else has it.
            unsafe { libc::freeaddrinfo(self.0) };
        }
    }
}

/// Has a thread of the pool ask, which gives the result, `errno` and what was found; hands that
/// over if the result is 0.
fn look_up<T: Send + 'static>(
    hub: &Hub,
    reason: Reason,
    ask: impl FnOnce() -> (c_int, i32, T) + Send + 'static,
    hand_over: impl FnOnce(T),
) -> c_int {
    let (result, error) = match file::offload(hub, dns::threadpool(), reason, ask) {
        Ok((0, _, found)) => {
            hand_over(found);
            return 0;
        }
        Ok((result, error, _)) => (result, error),
        Err(error) => (libc::EAI_SYSTEM, error),
    };
    set_errno(error);
    result
}

pub(super) unsafe fn getaddrinfo(
    hub: &Hub,
    node: *const c_char,
    service: *const c_char,
    hints: *const addrinfo,
    found: *mut *mut addrinfo,
) -> c_int {
    // SAFETY: the caller's arguments, here and below.
    unsafe {
        let asks_nobody = || {
            node.is_null()
                || hints.as_ref().is_some_and(|hints| hints.ai_flags & libc::AI_NUMERICHOST != 0)
                || is_numeric(CStr::from_ptr(node))
        };
        if asks_nobody() {
            return real::getaddrinfo(node, service, hints, found);
        }
        let (node, service) = (copied(node), copied(service));
        // The other members are no arguments.
        let hints = hints.as_ref().map(|h| (h.ai_flags, h.ai_family, h.ai_socktype, h.ai_protocol));
        let lookup = move || {
            let hints = hints.map(|(flags, family, socktype, protocol)| {
                let mut hints: addrinfo = std::mem::zeroed();
                hints.ai_flags = flags;
                hints.ai_family = family;
                hints.ai_socktype = socktype;
                hints.ai_protocol = protocol;
                hints
            });
            let hints = hints.as_ref().map_or(ptr::null(), ptr::from_ref);
            let mut list = ptr::null_mut();
            let result = real::getaddrinfo(pointer(&node), pointer(&service), hints, &mut list);
            // What is there after an error, nobody has set.
            (result, errno(), List(if result == 0 { list } else { ptr::null_mut() }))
        };
        look_up(hub, BY_NAME, lookup, |list| *found = list.hand_over())
    }
}

/// More than any name needs.
const LONGEST_NAME: socklen_t = 1 << 16;

#[expect(clippy::too_many_arguments, reason = "they are libc's")]
pub(super) unsafe fn getnameinfo(
    hub: &Hub,
    address: *const sockaddr,
    len: socklen_t,
    host: *mut c_char,
    host_len: socklen_t,
    service: *mut c_char,
    service_len: socklen_t,
    flags: c_int,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        let wants_no_name = host.is_null() || host_len == 0 || flags & libc::NI_NUMERICHOST != 0;
        let size = len as usize;
        if wants_no_name || address.is_null() || size > size_of::<sockaddr_storage>() {
            return real::getnameinfo(address, len, host, host_len, service, service_len, flags);
        }
        let mut storage = MaybeUninit::<sockaddr_storage>::zeroed();
        ptr::copy_nonoverlapping(address.cast::<u8>(), storage.as_mut_ptr().cast::<u8>(), size);
        let wants_service = !service.is_null();
        let lookup = move || {
            let mut host = vec![0_u8; host_len.min(LONGEST_NAME) as usize];
            let mut service =
                vec![0_u8; if wants_service { service_len.min(LONGEST_NAME) as usize } else { 0 }];
            let result = real::getnameinfo(
                storage.as_ptr().cast(),
                len,
                host.as_mut_ptr().cast(),
                host.len() as socklen_t,
                if wants_service { service.as_mut_ptr().cast() } else { ptr::null_mut() },
                service.len() as socklen_t,
                flags,
            );
            (result, errno(), (host, service))
        };
        look_up(hub, BY_ADDRESS, lookup, |(host_found, service_found)| {
            put(&host_found, host);
            put(&service_found, service);
        })
    }
}

/// Copies the text in a buffer of ours into one of the caller's that is as long, or longer.
unsafe fn put(text: &[u8], to: *mut c_char) {
    if let Ok(text) = CStr::from_bytes_until_nul(text) {
        // SAFETY: it has a zero within the buffer, so also within the caller's.
        unsafe { ptr::copy_nonoverlapping(text.as_ptr(), to, text.count_bytes() + 1) };
    }
}

/// What `gethostbyname` and its like are asked.
enum Query {
    Name(CString, Option<c_int>),
    Address(Vec<u8>, c_int),
}

/// A [`hostent`] that is nobody's.
struct Host {
    name: CString,
    aliases: Vec<CString>,
    family: c_int,
    /// Of each address.
    length: c_int,
    addresses: Vec<Vec<u8>>,
}

struct Answer {
    host: Option<Host>,
    /// What the `_r` functions return.
    result: c_int,
    h_errno: c_int,
    errno: i32,
}

impl Query {
    /// # Safety
    ///
    /// A C string.
    unsafe fn name(name: *const c_char, family: Option<c_int>) -> Query {
        // SAFETY: the caller's promise.
        Query::Name(unsafe { CStr::from_ptr(name) }.to_owned(), family)
    }

    /// # Safety
    ///
    /// `address` has so many bytes.
    unsafe fn address(address: *const c_void, len: socklen_t, family: c_int) -> Query {
        let bytes = match len {
            0 => Vec::new(),
            // SAFETY: the caller's promise.
            len => unsafe { std::slice::from_raw_parts(address.cast::<u8>(), len as usize) }.to_vec(),
        };
        Query::Address(bytes, family)
    }

    fn ask(&self) -> Answer {
        // Words: glibc's lists are aligned only if the buffer is.
        let mut room = vec![0_usize; 128];
        loop {
            let mut host = MaybeUninit::<hostent>::zeroed();
            let (place, buf, len) = (host.as_mut_ptr(), room.as_mut_ptr().cast(), size_of_val(&room[..]));
            let mut found = ptr::null_mut();
            let mut h_errno = 0;
            // SAFETY: all of these are valid for the call.
            let result = unsafe {
                match self {
                    Query::Name(name, None) => {
                        real::gethostbyname_r(name.as_ptr(), place, buf, len, &mut found, &mut h_errno)
                    }
                    Query::Name(name, Some(family)) => real::gethostbyname2_r(
                        name.as_ptr(),
                        *family,
                        place,
                        buf,
                        len,
                        &mut found,
                        &mut h_errno,
                    ),
                    Query::Address(address, family) => real::gethostbyaddr_r(
                        address.as_ptr().cast(),
                        address.len() as socklen_t,
                        *family,
                        place,
                        buf,
                        len,
                        &mut found,
                        &mut h_errno,
                    ),
                }
            };
            let errno = errno();
            if result == libc::ERANGE && room.len() < 1 << 17 {
                room.resize(room.len() * 4, 0);
                continue;
            }
            // SAFETY: null, or a host in `room`.
            let host = unsafe { found.as_ref().map(|host| Host::read(host)) };
            return Answer { host, result, h_errno, errno };
        }
    }

    /// The answer, for which others run meanwhile.
    fn resolve(self, hub: &Hub) -> Answer {
        let reason = match &self {
            Query::Name(name, _) if is_numeric(name) => return self.ask(),
            Query::Name(..) => BY_NAME,
            Query::Address(..) => BY_ADDRESS,
        };
        match file::offload(hub, dns::threadpool(), reason, move || self.ask()) {
            Ok(answer) => answer,
            Err(error) => Answer { host: None, result: error, h_errno: NETDB_INTERNAL, errno: error },
        }
    }
}

impl Host {
    /// # Safety
    ///
    /// As libc gives it.
    unsafe fn read(host: &hostent) -> Host {
        // SAFETY: both lists end with a null; names are C strings, and each address has `h_length` bytes.
        unsafe {
            let list = |first: *mut *mut c_char| {
                let count = if first.is_null() {
                    0
                } else {
                    (0..).take_while(|&at| !(*first.add(at)).is_null()).count()
                };
                (0..count).map(move |at| *first.add(at))
            };
            let length = host.h_length as usize;
            let bytes =
                |address: *mut c_char| std::slice::from_raw_parts(address.cast::<u8>(), length).to_vec();
            Host {
                name: copied(host.h_name).unwrap_or_default(),
                aliases: list(host.h_aliases).filter_map(|alias| copied(alias)).collect(),
                family: host.h_addrtype,
                length: host.h_length,
                addresses: list(host.h_addr_list).map(bytes).collect(),
            }
        }
    }

    fn pointers(&self) -> usize {
        self.aliases.len() + 1 + self.addresses.len() + 1
    }

    /// How many bytes [`Host::write`] needs, in a buffer that is aligned for pointers.
    fn size(&self) -> usize {
        let texts = std::iter::once(&self.name).chain(&self.aliases);
        self.pointers() * size_of::<*mut c_char>()
            + self.addresses.iter().map(Vec::len).sum::<usize>()
            + texts.map(|text| text.count_bytes() + 1).sum::<usize>()
    }

    /// Puts it into `host`, and all that it points to into `buf`. `false`: that is too short.
    ///
    /// # Safety
    ///
    /// Both are valid for writes; `buf` has so many bytes.
    unsafe fn write(&self, host: *mut hostent, buf: *mut c_char, len: size_t) -> bool {
        let start = buf.align_offset(align_of::<*mut c_char>());
        if start.saturating_add(self.size()) > len {
            return false;
        }
        // SAFETY: the pointers come first, where they are aligned; addresses next, whose lengths are multiples of what
        // they are aligned to; then the texts. All of it is as long as `size` says.
        unsafe {
            let aliases = buf.add(start).cast::<*mut c_char>();
            let addresses = aliases.add(self.aliases.len() + 1);
            let mut free = aliases.add(self.pointers()).cast::<c_char>();
            let mut put = |bytes: &[u8]| {
                let at = free;
                ptr::copy_nonoverlapping(bytes.as_ptr().cast::<c_char>(), at, bytes.len());
                free = free.add(bytes.len());
                at
            };
            for (at, address) in self.addresses.iter().enumerate() {
                *addresses.add(at) = put(address);
            }
            *addresses.add(self.addresses.len()) = ptr::null_mut();
            for (at, alias) in self.aliases.iter().enumerate() {
                *aliases.add(at) = put(alias.as_bytes_with_nul());
            }
            *aliases.add(self.aliases.len()) = ptr::null_mut();
            host.write(hostent {
                h_name: put(self.name.as_bytes_with_nul()),
                h_aliases: aliases,
                h_addrtype: self.family,
                h_length: self.length,
                h_addr_list: addresses,
            });
        }
        true
    }
}

/// The host that a greenlet was given last, where libc has one static place.
struct Given {
    host: MaybeUninit<hostent>,
    /// Words, for the alignment.
    room: Vec<usize>,
}

crate::green_local! {
    static GIVEN: RefCell<Option<Box<Given>>> = RefCell::new(None);
}

/// Hands it out as the functions do that have no place for it from their caller.
fn give(answer: &Answer) -> *mut hostent {
    let Some(host) = &answer.host else {
        set_errno(answer.errno);
        // SAFETY: this thread's `h_errno`.
        unsafe { *__h_errno_location() = answer.h_errno };
        return ptr::null_mut();
    };
    let room = vec![0; host.size().div_ceil(size_of::<usize>())];
    let mut given = Box::new(Given { host: MaybeUninit::uninit(), room });
    let place = given.host.as_mut_ptr();
    // SAFETY: so much room is there.
    let fits =
        unsafe { host.write(place, given.room.as_mut_ptr().cast(), given.room.len() * size_of::<usize>()) };
    debug_assert!(fits);
    GIVEN.with(|last| *last.borrow_mut() = Some(given));
    place
}

/// Hands it out as the functions do whose caller has a place for it.
unsafe fn give_to(
    answer: &Answer,
    place: *mut hostent,
    buf: *mut c_char,
    len: size_t,
    found: *mut *mut hostent,
    error: *mut c_int,
) -> c_int {
    // SAFETY: the caller's pointers.
    unsafe {
        let is_written = answer.host.as_ref().map(|host| host.write(place, buf, len));
        let (result, errno, h_errno) = match is_written {
            Some(false) => (libc::ERANGE, libc::ERANGE, NETDB_INTERNAL),
            _ => (answer.result, answer.errno, answer.h_errno),
        };
        *found = if is_written == Some(true) { place } else { ptr::null_mut() };
        *error = h_errno;
        if is_written != Some(true) {
            set_errno(errno);
        }
        result
    }
}

/// A function that has a static place for its answer; and the one whose caller has a place.
macro_rules! host_functions {
    ($given:ident $given_to:ident($($arg:ident: $type:ty),*) = $query:expr) => {
        pub(super) unsafe fn $given(hub: &Hub, $($arg: $type),*) -> *mut hostent {
            // SAFETY: the caller's arguments, here and below.
            give(&unsafe { $query }.resolve(hub))
        }

        #[allow(clippy::too_many_arguments, reason = "they are libc's")]
        pub(super) unsafe fn $given_to(
            hub: &Hub,
            $($arg: $type,)*
            host: *mut hostent,
            buf: *mut c_char,
            len: size_t,
            found: *mut *mut hostent,
            error: *mut c_int,
        ) -> c_int {
            // SAFETY: as above.
            unsafe { give_to(&$query.resolve(hub), host, buf, len, found, error) }
        }
    };
}

host_functions!(gethostbyname gethostbyname_r(name: *const c_char) = Query::name(name, None));
host_functions!(gethostbyname2 gethostbyname2_r(name: *const c_char, family: c_int) = Query::name(name, Some(family)));
host_functions!(
    gethostbyaddr gethostbyaddr_r(address: *const c_void, address_len: socklen_t, family: c_int)
        = Query::address(address, address_len, family)
);
