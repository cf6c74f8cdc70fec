//! Conversions between our types, std's, and plain descriptors.

/// Implements them for a type with a field `io: Io<std's type>`.
macro_rules! descriptor {
    ($ours:ty, $stds:ty) => {
        impl From<$stds> for $ours {
            /// The descriptor becomes non-blocking, for all who share it.
            fn from(stds: $stds) -> Self {
                Self { io: crate::io::Io::adopt(stds) }
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

pub(super) use descriptor;
