//! The functions that stand in for libc's, and the real ones.
//!
//! One line each in the tables below: which part it belongs to, its signature, and who does it.
//!
//! - What *waits* goes to libc if no greenlet can wait here.
//! - What *opens* is libc's, and gives a descriptor whose number may have been another one's before.
//! - What *notes* is always ours, since it keeps right what is known of descriptors, locks and handlers.
//! - Of what is listed under *only*, the real function is needed.
//!
//! Variadic functions have fixed arguments here, which come in the same registers on the platforms
//! that `cfg(interpose)` stands for.

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{
    FILE, addrinfo, c_char, c_int, c_long, c_uint, c_ulong, c_void, clockid_t, epoll_event, fd_set, hostent,
    id_t, idtype_t, iovec, mmsghdr, msghdr, nfds_t, off_t, pid_t, pollfd, pthread_barrier_t,
    pthread_barrierattr_t, pthread_cond_t, pthread_mutex_t, pthread_rwlock_t, pthread_t, rusage, sem_t,
    siginfo_t, sigset_t, size_t, sockaddr, socklen_t, ssize_t, timespec, timeval, useconds_t,
};

use super::{Parts, file, fortified, gate, name, note, process, ready, signal, socket, thread, time};
use crate::sys;

/// A function of libc's, looked up when it is first called.
pub(super) struct Original {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Original {
    const fn new(name: &'static CStr) -> Self {
        Original { name, address: AtomicPtr::new(std::ptr::null_mut()) }
    }

    #[inline(always)]
    fn get(&self) -> *mut c_void {
        let address = self.address.load(Ordering::Relaxed);
        if address.is_null() { self.find() } else { address }
    }

    #[cold]
    fn find(&self) -> *mut c_void {
        let mut address = self.find_newer();
        if address.is_null() {
            // SAFETY: a name that ends with a zero.
            address = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        }
        if address.is_null() {
            sys::abort(&format!("this libc has no function {:?}", self.name));
        }
        self.address.store(address, Ordering::Relaxed);
        address
    }

    /// Of the functions for conditions, glibc on x86-64 has two sets, for `pthread_cond_t` was another
    /// type before 2.3.2. What programs are linked with is the newer one; but `dlsym` with `RTLD_NEXT`
    /// gave the older one until glibc 2.36.
    fn find_newer(&self) -> *mut c_void {
        #[cfg(all(target_env = "gnu", target_arch = "x86_64"))]
        if self.name.to_bytes().starts_with(b"pthread_cond_") {
            // SAFETY: names that end with a zero.
            return unsafe { libc::dlvsym(libc::RTLD_NEXT, self.name.as_ptr(), c"GLIBC_2.3.2".as_ptr()) };
        }
        std::ptr::null_mut()
    }
}

/// One interposed function.
pub(super) struct Symbol {
    pub(super) name: &'static CStr,
    pub(super) part: Parts,
    pub(super) ours: fn() -> *const c_void,
}

macro_rules! interpose {
    (
        waits { $($part:ident fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty = $hook:path;)* }
        opens { $($dpart:ident fn $dname:ident($($darg:ident: $dtype:ty),*) -> $dresult:ty;)* }
        only { $(fn $oname:ident($($oarg:ident: $otype:ty),*) -> $oresult:ty;)* }
        notes { $($npart:ident fn $nname:ident($($narg:ident: $ntype:ty),*) -> $nresult:ty = $nhook:path;)* }
    ) => {
        /// The real functions of libc, which block the OS thread, whatever is patched.
        ///
        /// # Safety
        ///
        /// As libc's. (The arguments of variadic functions are given in full: what a call does
        /// not need may be anything.)
        pub mod originals {
            use super::*;
            $(original!($name($($arg: $type),*) -> $result);)*
            $(original!($dname($($darg: $dtype),*) -> $dresult);)*
            $(original!($oname($($oarg: $otype),*) -> $oresult);)*
            $(original!($nname($($narg: $ntype),*) -> $nresult);)*
        }

        #[cfg(interpose)]
        mod exported {
            use super::*;
            $(
                #[unsafe(no_mangle)]
                unsafe extern "C" fn $name($($arg: $type),*) -> $result {
                    match gate::gate(Parts::$part) {
                        // SAFETY: the caller's arguments, which are libc's.
                        Some(hub) => unsafe { $hook(hub, $($arg),*) },
                        // SAFETY: as above.
                        None => unsafe { originals::$name($($arg),*) },
                    }
                }
            )*
            $(
                #[unsafe(no_mangle)]
                unsafe extern "C" fn $dname($($darg: $dtype),*) -> $dresult {
                    // SAFETY: as above.
                    note::opened(unsafe { originals::$dname($($darg),*) })
                }
            )*
            $(
                #[unsafe(no_mangle)]
                unsafe extern "C" fn $nname($($narg: $ntype),*) -> $nresult {
                    // SAFETY: as above.
                    unsafe { $nhook($($narg),*) }
                }
            )*

            pub(in super::super) static SYMBOLS: &[Symbol] = &[
                $(Symbol { name: name(concat!(stringify!($name), "\0")), part: Parts::$part, ours: || $name as *const c_void },)*
                $(Symbol { name: name(concat!(stringify!($dname), "\0")), part: Parts::$dpart, ours: || $dname as *const c_void },)*
                $(Symbol { name: name(concat!(stringify!($nname), "\0")), part: Parts::$npart, ours: || $nname as *const c_void },)*
            ];
        }
    };
}

macro_rules! original {
    ($name:ident($($arg:ident: $type:ty),*) -> $result:ty) => {
        #[doc = concat!("libc's `", stringify!($name), "`.")]
        ///
        /// # Safety
        ///
        /// As libc's.
        #[inline]
        #[allow(clippy::too_many_arguments)]
        pub unsafe fn $name($($arg: $type),*) -> $result {
            static ORIGINAL: Original = Original::new(name(concat!(stringify!($name), "\0")));
            // SAFETY: libc's function of that name has this signature.
            let function = unsafe {
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) -> $result>(ORIGINAL.get())
            };
            // SAFETY: the caller's arguments.
            unsafe { function($($arg),*) }
        }
    };
}

const fn name(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("a name ends with a zero"),
    }
}

interpose! {
    waits {
        TIME fn sleep(seconds: c_uint) -> c_uint = time::sleep;
        TIME fn usleep(micros: useconds_t) -> c_int = time::usleep;
        TIME fn nanosleep(request: *const timespec, rest: *mut timespec) -> c_int = time::nanosleep;
        TIME fn clock_nanosleep(clock: clockid_t, flags: c_int, request: *const timespec, rest: *mut timespec) -> c_int = time::clock_nanosleep;
        SIGNALS fn pause() -> c_int = time::pause;
        SIGNALS fn sigwait(set: *const sigset_t, signal: *mut c_int) -> c_int = signal::sigwait;
        SIGNALS fn sigwaitinfo(set: *const sigset_t, information: *mut siginfo_t) -> c_int = signal::sigwaitinfo;
        SIGNALS fn sigtimedwait(set: *const sigset_t, information: *mut siginfo_t, timeout: *const timespec) -> c_int = signal::sigtimedwait;
        TIME fn sched_yield() -> c_int = time::sched_yield;

        SOCKETS fn connect(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int = socket::connect;
        SOCKETS fn recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t = socket::recv;
        SOCKETS fn recvfrom(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int, address: *mut sockaddr, address_len: *mut socklen_t) -> ssize_t = socket::recvfrom;
        SOCKETS fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t = socket::recvmsg;
        SOCKETS fn recvmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int = socket::recvmmsg;
        SOCKETS fn send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t = socket::send;
        SOCKETS fn sendto(fd: c_int, buf: *const c_void, len: size_t, flags: c_int, address: *const sockaddr, address_len: socklen_t) -> ssize_t = socket::sendto;
        SOCKETS fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t = socket::sendmsg;
        SOCKETS fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int = socket::sendmmsg;

        STREAMS fn read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t = socket::read;
        STREAMS fn readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t = socket::readv;
        STREAMS fn write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t = socket::write;
        STREAMS fn writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t = socket::writev;
        STREAMS fn sendfile(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t = socket::sendfile;
        STREAMS fn sendfile64(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t = socket::sendfile;
        STREAMS fn splice(from: c_int, from_offset: *mut i64, to: c_int, to_offset: *mut i64, len: size_t, flags: c_uint) -> ssize_t = socket::splice;

        FILES fn pread(fd: c_int, buf: *mut c_void, len: size_t, offset: off_t) -> ssize_t = file::pread;
        FILES fn pread64(fd: c_int, buf: *mut c_void, len: size_t, offset: off_t) -> ssize_t = file::pread;
        FILES fn pwrite(fd: c_int, buf: *const c_void, len: size_t, offset: off_t) -> ssize_t = file::pwrite;
        FILES fn pwrite64(fd: c_int, buf: *const c_void, len: size_t, offset: off_t) -> ssize_t = file::pwrite;
        FILES fn preadv(fd: c_int, iov: *const iovec, count: c_int, offset: off_t) -> ssize_t = file::preadv;
        FILES fn preadv64(fd: c_int, iov: *const iovec, count: c_int, offset: off_t) -> ssize_t = file::preadv;
        FILES fn pwritev(fd: c_int, iov: *const iovec, count: c_int, offset: off_t) -> ssize_t = file::pwritev;
        FILES fn pwritev64(fd: c_int, iov: *const iovec, count: c_int, offset: off_t) -> ssize_t = file::pwritev;
        STREAMS fn flock(fd: c_int, operation: c_int) -> c_int = file::flock;
        STREAMS fn lockf(fd: c_int, command: c_int, len: off_t) -> c_int = file::lockf;
        STREAMS fn lockf64(fd: c_int, command: c_int, len: off_t) -> c_int = file::lockf;

        READY fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int = ready::poll;
        READY fn ppoll(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int = ready::ppoll;
        READY fn select(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *mut timeval) -> c_int = ready::select;
        READY fn pselect(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *const timespec, mask: *const sigset_t) -> c_int = ready::pselect;
        READY fn epoll_wait(epfd: c_int, events: *mut epoll_event, count: c_int, timeout: c_int) -> c_int = ready::epoll_wait;
        READY fn epoll_pwait(epfd: c_int, events: *mut epoll_event, count: c_int, timeout: c_int, mask: *const sigset_t) -> c_int = ready::epoll_pwait;
        READY fn epoll_pwait2(epfd: c_int, events: *mut epoll_event, count: c_int, timeout: *const timespec, mask: *const sigset_t) -> c_int = ready::epoll_pwait2;

        STREAMS fn __read_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t) -> ssize_t = fortified::read;
        SOCKETS fn __recv_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t, flags: c_int) -> ssize_t = fortified::recv;
        SOCKETS fn __recvfrom_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t, flags: c_int, address: *mut sockaddr, address_len: *mut socklen_t) -> ssize_t = fortified::recvfrom;
        READY fn __poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, size: size_t) -> c_int = fortified::poll;
        READY fn __ppoll_chk(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t, size: size_t) -> c_int = fortified::ppoll;

        NAMES fn getaddrinfo(node: *const c_char, service: *const c_char, hints: *const addrinfo, found: *mut *mut addrinfo) -> c_int = name::getaddrinfo;
        NAMES fn getnameinfo(address: *const sockaddr, len: socklen_t, host: *mut c_char, host_len: socklen_t, service: *mut c_char, service_len: socklen_t, flags: c_int) -> c_int = name::getnameinfo;
        NAMES fn gethostbyname(name: *const c_char) -> *mut hostent = name::gethostbyname;
        NAMES fn gethostbyname2(name: *const c_char, family: c_int) -> *mut hostent = name::gethostbyname2;
        NAMES fn gethostbyaddr(address: *const c_void, len: socklen_t, family: c_int) -> *mut hostent = name::gethostbyaddr;
        NAMES fn gethostbyname_r(name: *const c_char, host: *mut hostent, buf: *mut c_char, len: size_t, found: *mut *mut hostent, error: *mut c_int) -> c_int = name::gethostbyname_r;
        NAMES fn gethostbyname2_r(name: *const c_char, family: c_int, host: *mut hostent, buf: *mut c_char, len: size_t, found: *mut *mut hostent, error: *mut c_int) -> c_int = name::gethostbyname2_r;
        NAMES fn gethostbyaddr_r(address: *const c_void, address_len: socklen_t, family: c_int, host: *mut hostent, buf: *mut c_char, len: size_t, found: *mut *mut hostent, error: *mut c_int) -> c_int = name::gethostbyaddr_r;

        PROCESSES fn wait(status: *mut c_int) -> pid_t = process::wait;
        PROCESSES fn waitpid(pid: pid_t, status: *mut c_int, options: c_int) -> pid_t = process::waitpid;
        PROCESSES fn wait3(status: *mut c_int, options: c_int, usage: *mut rusage) -> pid_t = process::wait3;
        PROCESSES fn wait4(pid: pid_t, status: *mut c_int, options: c_int, usage: *mut rusage) -> pid_t = process::wait4;
        PROCESSES fn waitid(kind: idtype_t, id: id_t, information: *mut siginfo_t, options: c_int) -> c_int = process::waitid;
        PROCESSES fn system(command: *const c_char) -> c_int = process::system;
        PROCESSES fn pclose(stream: *mut FILE) -> c_int = process::pclose;
        LOCKS fn pthread_join(thread: pthread_t, value: *mut *mut c_void) -> c_int = process::pthread_join;
        LOCKS fn pthread_timedjoin_np(thread: pthread_t, value: *mut *mut c_void, until: *const timespec) -> c_int = process::pthread_timedjoin_np;
        LOCKS fn pthread_clockjoin_np(thread: pthread_t, value: *mut *mut c_void, clock: clockid_t, until: *const timespec) -> c_int = process::pthread_clockjoin_np;
        LOCKS fn sem_wait(sem: *mut sem_t) -> c_int = thread::sem_wait;
        LOCKS fn sem_timedwait(sem: *mut sem_t, time: *const timespec) -> c_int = thread::sem_timedwait;
        LOCKS fn sem_clockwait(sem: *mut sem_t, clock: clockid_t, time: *const timespec) -> c_int = thread::sem_clockwait;
    }
    opens {
        SOCKETS fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
        STREAMS fn eventfd(value: c_uint, flags: c_int) -> c_int;
        STREAMS fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int;
        STREAMS fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int;
        STREAMS fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int;
        STREAMS fn openat64(dir: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int;
        STREAMS fn creat(path: *const c_char, mode: c_uint) -> c_int;
        STREAMS fn creat64(path: *const c_char, mode: c_uint) -> c_int;
        STREAMS fn __open_2(path: *const c_char, flags: c_int) -> c_int;
        STREAMS fn __open64_2(path: *const c_char, flags: c_int) -> c_int;
        STREAMS fn __openat_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int;
        STREAMS fn __openat64_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int;
        STREAMS fn timerfd_create(clock: clockid_t, flags: c_int) -> c_int;
        STREAMS fn inotify_init() -> c_int;
        STREAMS fn inotify_init1(flags: c_int) -> c_int;
        STREAMS fn epoll_create(size: c_int) -> c_int;
        STREAMS fn epoll_create1(flags: c_int) -> c_int;
        STREAMS fn memfd_create(name: *const c_char, flags: c_uint) -> c_int;
        STREAMS fn dup(fd: c_int) -> c_int;
    }
    only {
        fn pthread_tryjoin_np(thread: pthread_t, value: *mut *mut c_void) -> c_int;
        fn sem_trywait(sem: *mut sem_t) -> c_int;
        fn pthread_rwlock_tryrdlock(rwlock: *mut pthread_rwlock_t) -> c_int;
        fn pthread_rwlock_trywrlock(rwlock: *mut pthread_rwlock_t) -> c_int;
        fn preadv2(fd: c_int, iov: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t;
        fn pwritev2(fd: c_int, iov: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t;
    }
    notes {
        SOCKETS fn socketpair(domain: c_int, kind: c_int, protocol: c_int, fds: *mut c_int) -> c_int = note::socketpair;
        SOCKETS fn accept(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int = note::accept;
        SOCKETS fn accept4(fd: c_int, address: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int = note::accept4;
        SOCKETS fn setsockopt(fd: c_int, level: c_int, option: c_int, value: *const c_void, len: socklen_t) -> c_int = note::setsockopt;
        SOCKETS fn shutdown(fd: c_int, how: c_int) -> c_int = socket::shutdown;
        STREAMS fn pipe(fds: *mut c_int) -> c_int = note::pipe;
        STREAMS fn pipe2(fds: *mut c_int, flags: c_int) -> c_int = note::pipe2;
        STREAMS fn signalfd(fd: c_int, mask: *const sigset_t, flags: c_int) -> c_int = note::signalfd;
        STREAMS fn fclose(file: *mut FILE) -> c_int = note::fclose;
        STREAMS fn close(fd: c_int) -> c_int = note::close;
        STREAMS fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int = note::close_range;
        STREAMS fn closefrom(first: c_int) -> () = note::closefrom;
        STREAMS fn dup2(fd: c_int, to: c_int) -> c_int = note::dup2;
        STREAMS fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int = note::dup3;
        STREAMS fn fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int = note::fcntl;
        STREAMS fn fcntl64(fd: c_int, command: c_int, argument: c_long) -> c_int = note::fcntl64;
        STREAMS fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int = note::ioctl;
        LOCKS fn pthread_mutex_lock(mutex: *mut pthread_mutex_t) -> c_int = thread::pthread_mutex_lock;
        LOCKS fn pthread_mutex_timedlock(mutex: *mut pthread_mutex_t, time: *const timespec) -> c_int = thread::pthread_mutex_timedlock;
        LOCKS fn pthread_mutex_clocklock(mutex: *mut pthread_mutex_t, clock: clockid_t, time: *const timespec) -> c_int = thread::pthread_mutex_clocklock;
        LOCKS fn pthread_mutex_trylock(mutex: *mut pthread_mutex_t) -> c_int = thread::pthread_mutex_trylock;
        LOCKS fn pthread_mutex_unlock(mutex: *mut pthread_mutex_t) -> c_int = thread::pthread_mutex_unlock;
        LOCKS fn pthread_cond_wait(cond: *mut pthread_cond_t, mutex: *mut pthread_mutex_t) -> c_int = thread::pthread_cond_wait;
        LOCKS fn pthread_cond_timedwait(cond: *mut pthread_cond_t, mutex: *mut pthread_mutex_t, time: *const timespec) -> c_int = thread::pthread_cond_timedwait;
        LOCKS fn pthread_cond_clockwait(cond: *mut pthread_cond_t, mutex: *mut pthread_mutex_t, clock: clockid_t, time: *const timespec) -> c_int = thread::pthread_cond_clockwait;
        LOCKS fn pthread_cond_signal(cond: *mut pthread_cond_t) -> c_int = thread::pthread_cond_signal;
        LOCKS fn pthread_cond_broadcast(cond: *mut pthread_cond_t) -> c_int = thread::pthread_cond_broadcast;
        LOCKS fn pthread_rwlock_rdlock(rwlock: *mut pthread_rwlock_t) -> c_int = thread::pthread_rwlock_rdlock;
        LOCKS fn pthread_rwlock_timedrdlock(rwlock: *mut pthread_rwlock_t, time: *const timespec) -> c_int = thread::pthread_rwlock_timedrdlock;
        LOCKS fn pthread_rwlock_clockrdlock(rwlock: *mut pthread_rwlock_t, clock: clockid_t, time: *const timespec) -> c_int = thread::pthread_rwlock_clockrdlock;
        LOCKS fn pthread_rwlock_wrlock(rwlock: *mut pthread_rwlock_t) -> c_int = thread::pthread_rwlock_wrlock;
        LOCKS fn pthread_rwlock_timedwrlock(rwlock: *mut pthread_rwlock_t, time: *const timespec) -> c_int = thread::pthread_rwlock_timedwrlock;
        LOCKS fn pthread_rwlock_clockwrlock(rwlock: *mut pthread_rwlock_t, clock: clockid_t, time: *const timespec) -> c_int = thread::pthread_rwlock_clockwrlock;
        LOCKS fn pthread_rwlock_unlock(rwlock: *mut pthread_rwlock_t) -> c_int = thread::pthread_rwlock_unlock;
        LOCKS fn pthread_barrier_init(barrier: *mut pthread_barrier_t, attributes: *const pthread_barrierattr_t, count: c_uint) -> c_int = thread::pthread_barrier_init;
        LOCKS fn pthread_barrier_destroy(barrier: *mut pthread_barrier_t) -> c_int = thread::pthread_barrier_destroy;
        LOCKS fn pthread_barrier_wait(barrier: *mut pthread_barrier_t) -> c_int = thread::pthread_barrier_wait;
        LOCKS fn sem_post(sem: *mut sem_t) -> c_int = thread::sem_post;
        LOCKS fn syscall(number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long) -> c_long = note::syscall;
        SIGNALS fn sigaction(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int = signal::sigaction;
        SIGNALS fn signal(signal: c_int, handler: libc::sighandler_t) -> libc::sighandler_t = signal::signal;
    }
}

#[cfg(interpose)]
pub(super) use exported::SYMBOLS;
#[cfg(not(interpose))]
pub(super) static SYMBOLS: &[Symbol] = &[];
