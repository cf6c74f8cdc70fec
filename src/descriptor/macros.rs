//! What sockets and pipes have, written once: for types with a field `io: Io<std's type>`.

/// `try_clone`, `set_nonblocking`, `Debug`, and the conversions from and into std's type and plain descriptors.
macro_rules! descriptor {
    ($ours:ident, $stds:ty) => {
        impl $ours {
            /// A second handle on the same descriptor. Each may have a greenlet that waits.
            ///
            /// Timeouts and `set_nonblocking` are copied, and from then on each handle's own.
            ///
            /// # Errors
            ///
            /// As std's: too many descriptors are open.
            pub fn try_clone(&self) -> std::io::Result<$ours> {
                Ok($ours { io: self.io.duplicate(<$stds>::try_clone)? })
            }

            /// With `true`, what would wait gives `WouldBlock` instead. Of this handle, not of its clones.
            ///
            /// # Errors
            ///
            /// Never; the signature is std's.
            pub fn set_nonblocking(&self, nonblocking: bool) -> std::io::Result<()> {
                self.io.set_nonblocking(nonblocking);
                Ok(())
            }
        }

        impl std::fmt::Debug for $ours {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.io.get().fmt(f)
            }
        }

        impl From<$stds> for $ours {
            /// The descriptor becomes non-blocking, for all who share it.
            fn from(stds: $stds) -> Self {
                Self { io: crate::descriptor::Io::adopt(stds) }
            }
        }

        impl From<$ours> for $stds {
            /// The descriptor becomes blocking again (unless `set_nonblocking(true)` was called).
            fn from(ours: $ours) -> Self {
                ours.io.into_inner()
            }
        }

        impl From<std::os::fd::OwnedFd> for $ours {
            /// The descriptor becomes non-blocking, for all who share it.
            fn from(fd: std::os::fd::OwnedFd) -> Self {
                <$stds>::from(fd).into()
            }
        }

        impl From<$ours> for std::os::fd::OwnedFd {
            /// The descriptor becomes blocking again (unless `set_nonblocking(true)` was called).
            fn from(ours: $ours) -> Self {
                ours.io.into_inner().into()
            }
        }

        impl std::os::fd::AsFd for $ours {
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                self.io.as_fd()
            }
        }

        impl std::os::fd::AsRawFd for $ours {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                std::os::fd::AsRawFd::as_raw_fd(&self.io.as_fd())
            }
        }

        #[allow(unsafe_code, reason = "the trait is unsafe to call, as in std")]
        impl std::os::fd::FromRawFd for $ours {
            /// The descriptor becomes non-blocking, for all who share it.
            unsafe fn from_raw_fd(fd: std::os::fd::RawFd) -> Self {
                // SAFETY: the caller's promise, which is the same.
                unsafe { <$stds as std::os::fd::FromRawFd>::from_raw_fd(fd) }.into()
            }
        }

        impl std::os::fd::IntoRawFd for $ours {
            /// The descriptor becomes blocking again (unless `set_nonblocking(true)` was called).
            fn into_raw_fd(self) -> std::os::fd::RawFd {
                std::os::fd::IntoRawFd::into_raw_fd(self.io.into_inner())
            }
        }
    };
}

/// Methods that pass on to std's, which do not wait.
macro_rules! as_std {
    ($ours:ident, $stds:ty: $(
        fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;
    )*) => {
        impl $ours {$(
            #[doc = concat!("See [`", stringify!($stds), "::", stringify!($name), "`].")]
            ///
            /// # Errors
            ///
            /// As std's.
            pub fn $name(&self, $($argument: $type),*) -> std::io::Result<$result> {
                self.io.get().$name($($argument),*)
            }
        )*}
    };
}

/// `shutdown`.
macro_rules! shutdown {
    ($ours:ident, $stds:ty) => {
        impl $ours {
            #[doc = concat!("See [`", stringify!($stds), "::shutdown`].")]
            /// Wakes greenlets that wait for this socket.
            ///
            /// # Errors
            ///
            /// As std's.
            pub fn shutdown(&self, how: std::net::Shutdown) -> std::io::Result<()> {
                self.io.get().shutdown(how)?;
                self.io.poke();
                Ok(())
            }
        }
    };
}

/// The limits on how long an operation may take.
macro_rules! timeouts {
    ($ours:ident) => {
        impl $ours {
            /// Limits how long one operation that reads may take. Of this handle, not of its clones.
            ///
            /// # Errors
            ///
            /// `InvalidInput` for zero.
            pub fn set_read_timeout(&self, timeout: Option<std::time::Duration>) -> std::io::Result<()> {
                self.io.set_timeout(crate::descriptor::Direction::Read, timeout)
            }

            /// Limits how long one operation that writes (one `write_all`, say) may take. Of this handle, not of its clones.
            ///
            /// # Errors
            ///
            /// `InvalidInput` for zero.
            pub fn set_write_timeout(&self, timeout: Option<std::time::Duration>) -> std::io::Result<()> {
                self.io.set_timeout(crate::descriptor::Direction::Write, timeout)
            }

            /// The limit set by [`set_read_timeout`](Self::set_read_timeout).
            ///
            /// # Errors
            ///
            /// Never; the signature is std's.
            pub fn read_timeout(&self) -> std::io::Result<Option<std::time::Duration>> {
                Ok(self.io.timeout(crate::descriptor::Direction::Read))
            }

            /// The limit set by [`set_write_timeout`](Self::set_write_timeout).
            ///
            /// # Errors
            ///
            /// Never; the signature is std's.
            pub fn write_timeout(&self) -> std::io::Result<Option<std::time::Duration>> {
                Ok(self.io.timeout(crate::descriptor::Direction::Write))
            }
        }
    };
}

/// `Read`, on the type and on references to it. `$read`: the way of [`Io`](crate::descriptor::Io) to read from such a stream.
macro_rules! byte_reader {
    ($ours:ident, $read:ident) => {
        impl std::io::Read for &$ours {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                self.io.$read("read of fd", buf.len(), |mut stream| stream.read(buf))
            }

            fn read_vectored(&mut self, bufs: &mut [std::io::IoSliceMut<'_>]) -> std::io::Result<usize> {
                let len = bufs.iter().map(|buf| buf.len()).sum();
                self.io.$read("read of fd", len, |mut stream| stream.read_vectored(bufs))
            }
        }

        impl std::io::Read for $ours {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                (&*self).read(buf)
            }

            fn read_vectored(&mut self, bufs: &mut [std::io::IoSliceMut<'_>]) -> std::io::Result<usize> {
                (&*self).read_vectored(bufs)
            }
        }
    };
}

/// `Write`, on the type and on references to it.
macro_rules! byte_writer {
    ($ours:ident) => {
        impl std::io::Write for &$ours {
            fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
                self.io.write_stream("write of fd", buf.len(), None, |mut stream| stream.write(buf))
            }

            fn write_vectored(&mut self, bufs: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
                let len = bufs.iter().map(|buf| buf.len()).sum();
                self.io.write_stream("write of fd", len, None, |mut stream| stream.write_vectored(bufs))
            }

            fn write_all(&mut self, buf: &[u8]) -> std::io::Result<()> {
                self.io.write_all("write of fd", buf, |mut stream, buf| stream.write(buf))
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        impl std::io::Write for $ours {
            fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
                (&*self).write(buf)
            }

            fn write_vectored(&mut self, bufs: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
                (&*self).write_vectored(bufs)
            }

            fn write_all(&mut self, buf: &[u8]) -> std::io::Result<()> {
                (&*self).write_all(buf)
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
    };
}

pub(crate) use {as_std, byte_reader, byte_writer, descriptor, shutdown, timeouts};
