//! `getaddrinfo` and its relatives.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};
use std::io;
use std::mem::zeroed;
use std::net::ToSocketAddrs;
use std::ptr;
use std::rc::Rc;
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use libc::{c_char, c_int, c_void, hostent, socklen_t};
use switchgrass::monkey::originals as real;
use switchgrass::{dns, joinall, spawn, timeout, yield_now};

use crate::util::{all_at_once, patched};

unsafe extern "C" {
    fn gethostbyname(name: *const c_char) -> *mut hostent;
    fn gethostbyname2(name: *const c_char, family: c_int) -> *mut hostent;
    fn gethostbyaddr(address: *const c_void, len: socklen_t, family: c_int) -> *mut hostent;
    fn gethostbyname_r(
        name: *const c_char,
        host: *mut hostent,
        buf: *mut c_char,
        len: usize,
        found: *mut *mut hostent,
        error: *mut c_int,
    ) -> c_int;
    fn gethostbyaddr_r(
        address: *const c_void,
        address_len: socklen_t,
        family: c_int,
        host: *mut hostent,
        buf: *mut c_char,
        len: usize,
        found: *mut *mut hostent,
        error: *mut c_int,
    ) -> c_int;
    fn __h_errno_location() -> *mut c_int;
}

/// Lookups that do not end, on so many threads of the pool, until this is dropped.
struct Slow {
    go: Option<mpsc::Sender<()>>,
    jobs: Vec<switchgrass::threadpool::Job<()>>,
    _alone: MutexGuard<'static, ()>,
}

fn slow(count: usize) -> Slow {
    static ALONE: Mutex<()> = Mutex::new(());
    patched();
    let alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = std::sync::Arc::new(Mutex::new(may_go));
    let job = |_| {
        let may_go = std::sync::Arc::clone(&may_go);
        dns::threadpool().spawn(move || assert!(may_go.lock().unwrap().recv().is_err()))
    };
    let jobs = (0..count).map(job).collect();
    Slow { go: Some(go), jobs, _alone: alone }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.go = None;
        self.jobs.drain(..).for_each(|job| job.join().unwrap());
    }
}

fn resolve() {
    let addresses: Vec<_> = "localhost:80".to_socket_addrs().unwrap().collect();
    assert!(!addresses.is_empty());
    assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 80));
}

#[test]
fn a_hundred_greenlets_resolve_at_once() {
    let slow = Rc::new(RefCell::new(Some(slow(10))));
    let waiting = Rc::new(Cell::new(0));
    all_at_once(100, move |_| {
        waiting.set(waiting.get() + 1);
        if waiting.get() == 100 {
            // All the others wait for a thread.
            let slow = slow.take();
            spawn(move || drop(slow));
        }
        resolve();
    });
}

#[test]
fn slow_lookups_hold_up_nobody() {
    let slow = slow(9);
    let greenlets: Vec<_> = (0..20).map(|_| spawn(resolve)).collect();
    joinall(&greenlets);
    greenlets.into_iter().for_each(|greenlet| greenlet.join().unwrap());
    drop(slow);
}

#[test]
fn a_kill_and_a_timeout_end_a_lookup() {
    let slow = slow(10);
    let found = Rc::new(RefCell::new(None));
    let theirs = Rc::clone(&found);
    let greenlet = spawn(move || *theirs.borrow_mut() = Some("localhost:80".to_socket_addrs().map(drop)));
    yield_now();
    assert_eq!(dns::threadpool().len(), 11);
    greenlet.kill();
    let error = found.take().unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));

    let late = timeout(Duration::from_millis(5), || {
        let error = "localhost:80".to_socket_addrs().map(drop).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
        // And everything else, until it is raised.
        // SAFETY: a C string.
        assert!(unsafe { gethostbyname(c"localhost".as_ptr()) }.is_null());
        // SAFETY: this thread's.
        assert_eq!(unsafe { *__h_errno_location() }, -1);
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::ETIMEDOUT));
        yield_now();
    });
    assert!(late.is_err());
    // Both were taken back.
    assert_eq!(dns::threadpool().len(), 10);
    drop(slow);
}

#[test]
fn numbers_need_no_thread() {
    let slow = slow(10);
    spawn(|| {
        for host in [Some(c"127.0.0.1"), Some(c"::1"), Some(c"fe80::1%1"), None] {
            let mut found = ptr::null_mut();
            // SAFETY: C strings or null, and a place for the list, which is freed.
            unsafe {
                let host = host.map_or(ptr::null(), CStr::as_ptr);
                assert_eq!(libc::getaddrinfo(host, c"80".as_ptr(), ptr::null(), &mut found), 0);
                libc::freeaddrinfo(found);
            }
        }
        // SAFETY: a C string, and the host is not touched by others.
        let host = unsafe { read(gethostbyname(c"10.1.2.3".as_ptr())) };
        assert_eq!(host, Some((c"10.1.2.3".to_owned(), vec![], libc::AF_INET, vec![vec![10, 1, 2, 3]])));
        let mut hints: libc::addrinfo = unsafe_zeroed();
        hints.ai_flags = libc::AI_NUMERICHOST;
        let mut found = ptr::null_mut();
        // SAFETY: as above.
        let result = unsafe { libc::getaddrinfo(c"localhost".as_ptr(), ptr::null(), &hints, &mut found) };
        assert_eq!(result, libc::EAI_NONAME);
    })
    .join()
    .unwrap();
    drop(slow);
}

fn unsafe_zeroed<T>() -> T {
    // SAFETY: used for plain structs of C only.
    unsafe { zeroed() }
}

unsafe fn getaddrinfo(
    host: *const c_char,
    service: *const c_char,
    hints: *const libc::addrinfo,
    found: *mut *mut libc::addrinfo,
) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe { libc::getaddrinfo(host, service, hints, found) }
}

type GetAddrInfo =
    unsafe fn(*const c_char, *const c_char, *const libc::addrinfo, *mut *mut libc::addrinfo) -> c_int;

fn ask(
    function: GetAddrInfo,
    host: &CStr,
    service: &CStr,
    flags: c_int,
    family: c_int,
) -> (c_int, Vec<(c_int, c_int, Vec<u8>)>) {
    let mut hints: libc::addrinfo = unsafe_zeroed();
    (hints.ai_flags, hints.ai_family) = (flags, family);
    let mut found = ptr::null_mut();
    let mut all = Vec::new();
    // SAFETY: C strings, hints, and a list that is freed.
    unsafe {
        let result = function(host.as_ptr(), service.as_ptr(), &hints, &mut found);
        if result == 0 {
            let mut next = found;
            while let Some(entry) = next.as_ref() {
                let address =
                    std::slice::from_raw_parts(entry.ai_addr.cast::<u8>(), entry.ai_addrlen as usize);
                all.push((entry.ai_family, entry.ai_socktype, address.to_vec()));
                next = entry.ai_next;
            }
            libc::freeaddrinfo(found);
        }
        (result, all)
    }
}

#[test]
fn what_is_found_is_what_libc_finds() {
    let _alone = slow(0);
    spawn(|| {
        for (host, service, flags, family) in [
            (c"localhost", c"80", 0, libc::AF_UNSPEC),
            (c"localhost", c"80", 0, libc::AF_INET),
            (c"localhost", c"no-such-service", 0, libc::AF_UNSPEC),
            (c"localhost", c"80", 1 << 30, libc::AF_UNSPEC),
            (c"localhost", c"80", 0, 77),
        ] {
            let ours = ask(getaddrinfo, host, service, flags, family);
            assert_eq!(ours, ask(real::getaddrinfo, host, service, flags, family), "{host:?} {service:?}");
        }
    })
    .join()
    .unwrap();
}

#[test]
fn getnameinfo_gives_what_libc_gives() {
    let _alone = slow(0);
    spawn(|| {
        let mut address: libc::sockaddr_in = unsafe_zeroed();
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_port = 80_u16.to_be();
        address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        let len = size_of::<libc::sockaddr_in>() as socklen_t;
        for (host_len, service_len, flags, address_len) in [
            (256, 32, 0, len),
            (256, 0, libc::NI_NAMEREQD, len),
            (2, 32, 0, len),
            (256, 1, libc::NI_NUMERICSERV, len),
            (256, 32, libc::NI_NUMERICHOST, len),
            (u32::MAX, 32, 0, len),
            (256, 32, 0, 3),
        ] {
            let call = |is_real: bool| {
                let (mut host, mut service) = ([1_u8; 256], [1_u8; 32]);
                let at = (&raw const address).cast();
                let (host_at, service_at) = (host.as_mut_ptr().cast(), service.as_mut_ptr().cast());
                // SAFETY: the address is there, and so are the buffers. (Where more is said, there is more than this name needs.)
                let result = unsafe {
                    match is_real {
                        true => real::getnameinfo(
                            at,
                            address_len,
                            host_at,
                            host_len,
                            service_at,
                            service_len,
                            flags,
                        ),
                        false => libc::getnameinfo(
                            at,
                            address_len,
                            host_at,
                            host_len,
                            service_at,
                            service_len,
                            flags,
                        ),
                    }
                };
                (result, if result == 0 { (host.to_vec(), service.to_vec()) } else { Default::default() })
            };
            assert_eq!(call(false), call(true), "{host_len} {service_len} {flags}");
        }
    })
    .join()
    .unwrap();
}

type Host = (CString, Vec<CString>, c_int, Vec<Vec<u8>>);

/// A copy of it.
///
/// # Safety
///
/// Null, or as libc gives it.
unsafe fn read(host: *const hostent) -> Option<Host> {
    // SAFETY: the caller's promise.
    unsafe {
        let host = host.as_ref()?;
        let list = |first: *mut *mut c_char| {
            (0..).map(move |at| *first.add(at)).take_while(|entry| !entry.is_null())
        };
        let length = host.h_length as usize;
        Some((
            CStr::from_ptr(host.h_name).to_owned(),
            list(host.h_aliases).map(|alias| CStr::from_ptr(alias).to_owned()).collect(),
            host.h_addrtype,
            list(host.h_addr_list)
                .map(|address| std::slice::from_raw_parts(address.cast::<u8>(), length).to_vec())
                .collect(),
        ))
    }
}

/// Longer than any that could be asked for.
fn impossible() -> CString {
    CString::new("x".repeat(300)).unwrap()
}

#[test]
fn gethostbyname_gives_what_libc_gives() {
    let _alone = slow(0);
    spawn(|| {
        let impossible = impossible();
        // SAFETY: C strings and addresses; what is given is read before the next call. `h_errno` is this thread's.
        unsafe {
            for name in [c"localhost", c"127.0.0.1", &impossible] {
                let name = name.as_ptr();
                let ours = read(gethostbyname(name)).ok_or_else(|| *__h_errno_location());
                assert_eq!(ours, read(real::gethostbyname(name)).ok_or_else(|| *__h_errno_location()));
                for family in [libc::AF_INET, libc::AF_INET6] {
                    let ours = read(gethostbyname2(name, family));
                    assert_eq!(ours, read(real::gethostbyname2(name, family)));
                }
            }
            let address = [127_u8, 0, 0, 1];
            let ours = read(gethostbyaddr(address.as_ptr().cast(), 4, libc::AF_INET));
            assert_eq!(ours, read(real::gethostbyaddr(address.as_ptr().cast(), 4, libc::AF_INET)));
        }
    })
    .join()
    .unwrap();
}

#[test]
fn what_gethostbyname_gives_stays_for_its_greenlet() {
    let _alone = slow(0);
    patched();
    let numbers: Vec<_> = (1..=20_u8)
        .map(|number| {
            spawn(move || {
                let name = CString::new(format!("10.0.0.{number}")).unwrap();
                // SAFETY: a C string; the host stays until the next call of this greenlet.
                unsafe {
                    let host = gethostbyname(name.as_ptr());
                    yield_now();
                    assert_eq!(read(host).unwrap().3, [vec![10, 0, 0, number]]);
                }
            })
        })
        .collect();
    joinall(&numbers);
    numbers.into_iter().for_each(|greenlet| greenlet.join().unwrap());
}

#[test]
fn gethostbyname_r_uses_the_callers_buffer() {
    let _alone = slow(0);
    spawn(|| {
        let address = [127_u8, 0, 0, 1];
        let impossible = impossible();
        for (name, len) in
            [(Some(c"localhost"), 512), (None, 512), (Some(c"localhost"), 8), (Some(&impossible), 512)]
        {
            let call = |is_real: bool, shift: usize| {
                let mut buf = vec![0x55 as c_char; 1024];
                let mut host: hostent = unsafe_zeroed();
                let mut found = ptr::null_mut();
                let mut error = 0;
                // SAFETY: valid for the call, with at least that many bytes.
                unsafe {
                    let at = buf.as_mut_ptr().add(shift);
                    let result = match (name, is_real) {
                        (Some(name), true) => {
                            real::gethostbyname_r(name.as_ptr(), &mut host, at, len, &mut found, &mut error)
                        }
                        (Some(name), false) => {
                            gethostbyname_r(name.as_ptr(), &mut host, at, len, &mut found, &mut error)
                        }
                        (None, true) => real::gethostbyaddr_r(
                            address.as_ptr().cast(),
                            4,
                            libc::AF_INET,
                            &mut host,
                            at,
                            len,
                            &mut found,
                            &mut error,
                        ),
                        (None, false) => gethostbyaddr_r(
                            address.as_ptr().cast(),
                            4,
                            libc::AF_INET,
                            &mut host,
                            at,
                            len,
                            &mut found,
                            &mut error,
                        ),
                    };
                    assert!(found.is_null() || ptr::eq(found, &host));
                    assert!(buf[shift + len..].iter().all(|byte| *byte == 0x55), "beyond the buffer");
                    (result, read(found), if result == 0 { 0 } else { error })
                }
            };
            for shift in 0..8 {
                // glibc gives lists that are not aligned, in a buffer that is not.
                assert_eq!(call(false, shift), call(true, 0), "{name:?} {len}");
            }
        }
    })
    .join()
    .unwrap();
}
